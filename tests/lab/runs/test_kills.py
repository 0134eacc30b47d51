"""A handful of kills; benchmarks/kills.py makes a hundred in the same way."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

HARNESS = Path(__file__).parents[3] / "benchmarks" / "kills.py"
EPOCHS = 15


@pytest.fixture(scope="module")
def kills() -> Any:
    spec = importlib.util.spec_from_file_location("kills", HARNESS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(HARNESS.parent))  # where its other files are
    sys.modules["kills"] = module  # where its dataclasses look for their module
    spec.loader.exec_module(module)
    sys.path.remove(str(HARNESS.parent))
    return module


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("name", "kinds"),
    [("train", ["writing", "asked"]), ("loop", ["writing"]), ("ranks", ["rank", "writing"])],
)
def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one(
    tmp_path: Path, kills: Any, name: str, kinds: list[str]
) -> None:
    record, subject = kills.new_record(), replace(kills.subjects(EPOCHS)[name], kinds=kinds)
    kills.torment(name, subject, tmp_path, num_kills=len(kinds), seed=0, record=record)
    assert [kill["kind"] for kill in record["kills"][name]] == kinds
    assert record["kills"][name][kinds.index("writing")]["left_temporary"]
    assert all(end["differing"] == [] for end in record["ends"][name])
    assert record["ends"][name][-1]["num_kills"] == len(kinds)


def test_the_harness_finds_a_run_that_ends_otherwise(tmp_path: Path, kills: Any) -> None:
    """Half of a file that is left, another weight, a line of metrics that is lost."""
    subject = kills.subjects(EPOCHS)["train"]
    outcomes: list[dict[str, str]] = []
    for number, text in enumerate(['{"step": 1, "seconds": 1}\n', '{"step": 1, "seconds": 2}\n']):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "metrics.jsonl").write_text(text)
        outcomes.append(kills.outcome(subject.runs, folder))
    assert outcomes[0] == outcomes[1]  # clocks differ
    (folder / ".checkpoint.safetensors.1-00000000").touch()
    assert kills.outcome(subject.runs, folder).keys() != outcomes[0].keys()
    (folder / "metrics.jsonl").write_text("")
    assert kills.outcome(subject.runs, folder)["./metrics.jsonl"] != outcomes[0]["./metrics.jsonl"]
