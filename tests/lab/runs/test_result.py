"""The one schema of results reads what every version wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_agent_lab.runs.result import RunResult

ARCHIVES = sorted((Path(__file__).parents[3] / "benchmarks" / "results").glob("*/runs.jsonl"))


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.parent.name)
def test_archived_results_fit_the_schema(archive: Path) -> None:
    for line in archive.read_text(encoding="utf-8").splitlines():
        content = json.loads(line)["result"]
        result = RunResult(**content)
        assert result.as_dict().items() >= content.items()
        assert result.direction == ("higher" if result.metric in ("accuracy", "mAP") else "lower")
