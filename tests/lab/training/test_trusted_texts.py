"""Language tasks with trusted rows: of the training rows, or of a file of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data_agent.errors import DataAgentError, DataAgentWarning
from data_agent_lab.auditing.audit import audit_of
from data_agent_lab.auditing.inputs import sketches_of
from data_agent_lab.data.texts import load_language
from data_agent_lab.page.pictures import pictures_of
from data_agent_lab.planning.advice import skew_of
from data_agent_lab.planning.facts import facts_of
from data_agent_lab.planning.pilot import shortened
from data_agent_lab.planning.plan import plan_of
from data_agent_lab.recipes import RunConfig, TextRecipe
from data_agent_lab.results.report import summarise
from data_agent_lab.results.tables import describe
from data_agent_lab.runs.folder import RunFolder, open_run
from data_agent_lab.training.plan import sizes
from data_agent_lab.training.run import train_run
from data_agent_lab.training.text import TextEngine

SIZE = 40
WORDS = ["red", "green", "blue", "one", "two", "three", "cat", "dog"]


def row(i: int, kind: str, *, mark: str = "up") -> dict[str, Any]:
    words = [WORDS[i % 8], WORDS[i // 8 % 8], mark, *WORDS[: i % 3]]
    if kind == "sft":
        return {"prompt": f"say {' '.join(words)}", "completion": " ".join(words[::-1])}
    if kind == "lm":
        return {"text": " ".join(words * 3)}
    return {"text": " ".join(words), "label": "left" if i % 4 else "right"}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture
def recipe_of(tmp_path: Path) -> Any:
    def make(kind: str, **changes: Any) -> TextRecipe:
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        write(folder / "train.jsonl", [row(i, kind) for i in range(SIZE)])
        write(folder / "test.jsonl", [row(i, kind, mark="test") for i in range(8)])
        options = {
            **{"task": kind, "kind": kind, "data": str(folder), "vocab_size": 300},
            **{"model": "bert-32x1" if kind == "text-classification" else "llama-32x1"},
            **{"max_length": 24, "epochs": 3, "batch_size": 8, "learning_rate": 3e-3},
            **{"device": "cpu", "num_threads": 1, **changes},
        }
        return TextRecipe(**options)

    return make


def engine_of(tmp_path: Path, recipe: TextRecipe, method: str = "random") -> TextEngine:
    config = RunConfig(recipe=recipe, method=method)
    data = load_language(recipe)
    return TextEngine(config, data, RunFolder(tmp_path / method), device=torch.device("cpu"))


@pytest.mark.parametrize("kind", ["sft", "lm", "text-classification"])
def test_trusted_rows_of_the_training_rows_come_last_and_are_as_many_as_asked(
    recipe_of: Any, kind: str
) -> None:
    plain, data = (load_language(recipe_of(kind, trusted_rows=count)) for count in (0, 8))
    assert (plain.num_trusted, data.num_trusted) == (0, 8)
    assert sizes(recipe_of(kind), plain) == (0, 0)
    recipe = recipe_of(kind, trusted_rows=8)
    assert sizes(recipe, data) == (data.num_train, 8)
    if kind == "sft":
        assert sizes(replace(recipe, packing=True), data)[1] == 1  # of the packs that they fill
    assert data.num_train == plain.num_train
    assert data.trusted is not None
    rows = [json.dumps(r) for part in (data.train, data.trusted) for r in part]
    assert sorted(rows) == sorted(json.dumps(r) for r in plain.train)
    assert plain.in_words() == data.in_words()
    if kind == "text-classification":  # a fourth of the rows is of the other class
        assert sorted(data.trusted["labels"]) == [0] * 4 + [1] * 4


@pytest.mark.parametrize("kind", ["sft", "lm", "text-classification"])
def test_trusted_rows_of_a_file_are_added_to_the_training_rows(
    recipe_of: Any, tmp_path: Path, kind: str
) -> None:
    path = write(tmp_path / "few.jsonl", [row(i, kind, mark="good") for i in range(1, 7)])
    plain, data = load_language(recipe_of(kind)), load_language(recipe_of(kind, trusted=path))
    assert data.num_trusted > 0
    assert data.num_train == plain.num_train + data.num_trusted
    assert list(data.train) == list(plain.train)
    text = data.tokenizer.decode([i for ids in data.trusted["input_ids"] for i in ids])
    assert "good" in text.replace(" ", "")


@pytest.mark.parametrize(
    ("kind", "method", "changes"),
    [
        ("sft", "data-agent", {}),
        ("sft", "random", {"packing": True, "max_length": 48}),
        ("lm", "full-short", {}),
        ("text-classification", "class-balanced-random", {"label_noise": 0.25}),
        ("text-classification", "data-agent", {"label_noise": 0.25}),
    ],
)
def test_every_method_has_them_in_each_epoch_behind_the_first_pass_and_the_report_says_so(
    recipe_of: Any, tmp_path: Path, kind: str, method: str, changes: dict[str, Any]
) -> None:
    recipe = recipe_of(kind, trusted_rows=8, **changes)
    config, data = RunConfig(recipe=recipe, method=method), load_language(recipe)
    with open_run(tmp_path / "run", config.flat(), resume=False) as folder:
        result = train_run(config, data, folder)
    assert result is not None
    num_trusted = result["num_trusted_rows"]
    assert num_trusted == 8 or (recipe.packing and 0 < num_trusted < 8)
    assert result["num_noisy_labels"] == round(recipe.label_noise * (SIZE - 8))
    audit = audit_of(tmp_path / "run", budget=5)  # whose labels are those of the training
    assert len(audit.numbers) == result["num_train_samples"]
    plan = plan_of(config, data)
    assert plan.num_trusted == plan.phases[-1].num_trusted == 8
    if not recipe.packing:  # a plan knows no packs
        found = (result["num_train_samples"], result["num_steps"])
        assert (plan.num_samples, plan.num_steps) == found
    _, part = shortened(recipe, data, keep_ratio=0.5, runs=1)
    assert part.num_trusted == 8 * part.num_train // data.num_train > 0
    (task,) = summarise(tmp_path).tasks
    assert f"{num_trusted} of them trusted; every method had these" in describe(task)
    engine = engine_of(tmp_path, recipe, method)
    engine.train(lambda _: False)
    trusted = torch.tensor([*engine.trainer.trusted_rows])
    assert torch.isin(trusted, engine.selector.select(engine.selector.epoch or 0).index).all()
    if kind == "text-classification":  # with right labels
        assert engine.trainer.rows["labels"][SIZE - 8 :] == data.trusted["labels"][:]


def test_what_cannot_be_trusted_is_refused_or_warned_of(recipe_of: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "few.jsonl", [row(i, "sft", mark="test") for i in range(6, 12)])
    with pytest.warns(DataAgentWarning, match="2 of 6 trusted rows are among the evaluation"):
        load_language(recipe_of("sft", trusted=path))
    with pytest.raises(DataAgentError, match=r"--trusted .*--trusted-rows 4 .*one of the two"):
        recipe_of("sft", trusted=path, trusted_rows=4)
    with pytest.raises(DataAgentError, match="--trusted-rows is 30; half"):
        load_language(recipe_of("sft", trusted_rows=30))
    with pytest.raises(DataAgentError, match=r"^--trusted .*/no.jsonl does not exist"):
        load_language(recipe_of("sft", trusted=str(tmp_path / "no.jsonl")))
    empty = write(tmp_path / "none.jsonl", [{"text": "up", "label": "neither"}])
    with pytest.raises(DataAgentError, match=r"'neither' .* no class of the training data"):
        load_language(recipe_of("text-classification", trusted=empty))
    folder = tmp_path / "splits"
    folder.mkdir()
    for name in ("test", "validation"):
        write(folder / f"{name}.jsonl", [row(1, "sft")])
    with pytest.raises(DataAgentError, match="--trusted has the splits"):
        load_language(recipe_of("sft", trusted=str(folder)))
    recipe = replace(recipe_of("sft", trusted_rows=8), epochs=1)
    with pytest.raises(DataAgentError, match="chooses inside each batch"):
        engine_of(tmp_path, recipe, "data-agent-in-batch").train(lambda _: False)


def test_pages_plans_and_audits_number_texts_as_training_does(recipe_of: Any) -> None:
    recipe = recipe_of("text-classification", trusted_rows=8)
    data = load_language(recipe)
    pictures = pictures_of(data)
    assert pictures.count == len(pictures.true_labels or ()) == SIZE
    assert pictures.draw(SIZE - 1) != pictures.draw(0)
    sketches = sketches_of(RunConfig(recipe=recipe, method="random").flat(), data)
    assert sketches is not None
    assert len(sketches.values) == SIZE
    counts = [sum(label == name for label in data.samples["labels"]) for name in (0, 1)]
    assert facts_of(data).skew == pytest.approx(skew_of(counts))
