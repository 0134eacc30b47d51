"""Instructions of several sources, of which one is wanted: what is mixed, trusted and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_agent.errors import InputError
from data_agent_lab.data.texts import LanguageData, load_language
from data_agent_lab.recipes import RunConfig, TextRecipe
from data_agent_lab.results.report import summarise
from data_agent_lab.results.tables import describe
from data_agent_lab.runs.folder import open_run
from data_agent_lab.training.run import train_run


def write(folder: Path, rows: list[dict[str, Any]], held: list[dict[str, Any]]) -> str:
    folder.mkdir()
    for name, part in (("train", rows), ("test", held)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    return str(folder)


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    own = [{"question": f"sum {i}", "answer": f"own {i}"} for i in range(40)]
    told = [{"instruction": f"tell {i}", "input": "", "output": f"told {i}"} for i in range(20)]
    said = [{"prompt": f"say {i} ", "completion": f"said {i}"} for i in range(20)]
    return {
        "own": write(tmp_path / "own", own[:32], own[32:]),
        "told": write(tmp_path / "told", told, told[:1]),
        "said": write(tmp_path / "said", said, said[:1]),
    }


def recipe(sources: dict[str, str], **changes: Any) -> TextRecipe:
    options = {
        **{"task": "mix", "kind": "sft", "data": sources["own"], "vocab_size": 300},
        **{"foreign_data": f"{sources['told']}, {sources['said']}", "foreign_share": 0.75},
        **{"subset": 28, "model": "llama-32x1", "max_length": 96, "epochs": 4, "batch_size": 7},
        **{"learning_rate": 3e-3, "device": "cpu", "num_threads": 1, **changes},
    }
    return TextRecipe(**options)


def answers(data: LanguageData, rows: Any) -> list[str]:
    texts = [data.tokenizer.decode(ids) for ids in rows["input_ids"]]
    return [next(word for word in ("own", "told", "said") if f"{word} " in t) for t in texts]


def test_sources_are_mixed_in_the_parts_that_were_asked_for(sources: dict[str, str]) -> None:
    data = load_language(recipe(sources))
    assert data.num_train == 28  # --subset counts all of them
    found = answers(data, data.train)
    assert [found.count(word) for word in ("own", "told", "said")] == [7, 11, 10]
    assert data.foreign is not None
    assert data.foreign.tolist() == [word != "own" for word in found]
    assert set(answers(data, data.evaluation)) == {"own"}
    assert "is_foreign" not in data.train.column_names
    assert "21 of them foreign" in data.in_words()
    assert load_language(recipe(sources)).train["input_ids"] == data.train["input_ids"]


def test_trusted_rows_are_of_the_task_itself(sources: dict[str, str]) -> None:
    data = load_language(recipe(sources, trusted_rows=3))
    assert data.trusted is not None
    assert answers(data, data.trusted) == ["own"] * 3
    assert "is_foreign" not in data.trusted.column_names
    assert data.foreign is not None
    assert int((~data.foreign).sum()) == 4  # the other three are behind
    assert (data.num_train, len(data.foreign)) == (28, 25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"foreign_share": 0.0}, "one means nothing without the other"),
        ({"foreign_data": None}, "one means nothing without the other"),
        ({"subset": 60, "foreign_share": 0.9}, "asks for 27 rows of .*told, which has 20 to"),
        ({"kind": "lm"}, "--foreign-data is for sft; mix is lm"),
    ],
)
def test_mixtures_that_cannot_be_made_are_refused(
    sources: dict[str, str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_language(recipe(sources, **changes))


def test_a_run_says_what_share_of_each_epoch_was_foreign(
    sources: dict[str, str], tmp_path: Path
) -> None:
    config = RunConfig(recipe=recipe(sources, trusted_rows=3), method="random")
    data = load_language(config.recipe)
    with open_run(tmp_path / "run", config.flat(), resume=False) as folder:
        train_run(config, data, folder)
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    visited = [line["visited"] for line in map(json.loads, metrics)]
    assert len(visited) == 4
    assert all(round(14 * shares["trusted"], 4) == 3 for shares in visited[1:])
    counts = [14 * shares["foreign"] for shares in visited]
    assert all(abs(count - round(count)) < 1e-4 and 0 < count <= 11 for count in counts)
    (task,) = summarise(tmp_path).tasks
    assert "75 % rows of other sources among these, 3 of them trusted" in describe(task)
