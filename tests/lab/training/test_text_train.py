"""Runs of language tasks, from rows on disk to a result, on models of a few thousand weights."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from data_agent import DataAgentError, make_selector
from data_agent_lab.cli import main
from data_agent_lab.data.texts import load_language
from data_agent_lab.recipes import RunConfig, TextRecipe
from data_agent_lab.runs.folder import RunFolder, open_run
from data_agent_lab.training import run as run_module
from data_agent_lab.training import text_trainers
from data_agent_lab.training.ledger import Ledger
from data_agent_lab.training.run import train_run
from data_agent_lab.training.text_evaluation import evaluate
from data_agent_lab.training.text_models import build_model
from data_agent_lab.training.text_trainers import training_rows

SIZE, EPOCHS = 48, 3
WORDS = ["red", "green", "blue", "one", "two", "three", "cat", "dog", "sun", "moon", "up", "down"]


def write_rows(folder: Path, kind: str) -> None:
    draw = random.Random(0)

    def row() -> dict[str, Any]:
        words = draw.choices(WORDS, k=draw.randint(3, 9))
        if kind == "sft":
            asked, answer = " ".join(words), " ".join(words[::-1])
            return {"prompt": f"Say backwards: {asked}", "completion": answer}
        if kind == "lm":
            return {"text": " ".join(words * 4)}
        return {"text": " ".join(words), "label": int("cat" in words)}

    for split, size in (("train", SIZE), ("validation", 16)):
        lines = [json.dumps(row()) for _ in range(size)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))


@pytest.fixture
def rows_of(tmp_path: Path):
    def write(kind: str, **changes: Any) -> TextRecipe:
        folder = tmp_path / kind
        folder.mkdir()
        write_rows(folder, kind)
        return TextRecipe(
            **{
                **{"task": kind, "kind": kind, "data": str(folder), "vocab_size": 300},
                **{"model": "bert-32x1" if kind == "text-classification" else "llama-32x1"},
                **{"max_length": 64, "epochs": EPOCHS, "batch_size": 8, "learning_rate": 3e-3},
                **{"device": "cpu", "num_threads": 1, **changes},
            }
        )

    return write


def run(
    path: Path,
    recipe: TextRecipe,
    method: str = "data-agent",
    *,
    seed: int = 0,
    stop_at: int | None = None,
) -> dict[str, Any] | None:
    config = RunConfig(recipe=recipe, method=method, seed=seed)
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        return stop_at is not None and len(asked) >= stop_at

    with open_run(path, config.flat(), resume=True) as folder:
        return train_run(config, load_language(recipe), folder, should_stop=should_stop)


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Metrics without what depends on the clock."""

    def plain(line: dict[str, Any]) -> dict[str, Any]:
        selector = {k: v for k, v in line["selector"].items() if not k.startswith("overhead")}
        return {k: v for k, v in line.items() if "seconds" not in k} | {"selector": selector}

    return [plain(line) for line in RunFolder(path).metrics()]


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model" / "model.safetensors")


@pytest.mark.parametrize(
    ("kind", "metric", "direction"),
    [
        ("sft", "loss", "lower"),
        ("lm", "loss", "lower"),
        ("text-classification", "accuracy", "higher"),
    ],
)
def test_a_run_keeps_its_budget_and_says_what_it_reached(
    rows_of: Any, tmp_path: Path, kind: str, metric: str, direction: str
) -> None:
    result = run(tmp_path / "run", rows_of(kind, num_evaluations=2))
    assert result is not None
    num_rows = result["num_train_samples"]
    num_kept = math.floor(num_rows / 2 + 0.5)
    assert result["num_forward"] == result["num_backward"] == EPOCHS * num_kept
    assert result["cost"] == pytest.approx(num_kept / num_rows)
    assert 0 < result["token_cost"] < 1
    assert result["num_steps"] == EPOCHS * math.ceil(num_kept / 8)
    assert (result["metric"], result["direction"]) == (metric, direction)
    lines = RunFolder(tmp_path / "run").metrics()
    assert [line["epoch"] for line in lines] == list(range(EPOCHS))
    assert sum("value" in line for line in lines) == 2
    chance = math.log(2 if metric == "accuracy" else 300)  # a new model knows nothing
    assert lines[0]["train_loss"] == pytest.approx(chance, abs=0.3)
    named = lines[-1]["eval_loss" if metric == "loss" else metric]
    assert result["value"] == lines[-1]["value"] == named
    assert result["eval_loss"] == lines[-1]["eval_loss"]
    if metric == "loss":
        perplexity = result["further_metrics"]["perplexity"]["value"]
        assert perplexity == pytest.approx(math.exp(result["value"]))
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    assert not (tmp_path / "run" / "trainer").exists()


@pytest.mark.parametrize("kind", ["sft", "text-classification"])
@pytest.mark.parametrize("stop_at", [2, 4])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    rows_of: Any, tmp_path: Path, kind: str, stop_at: int
) -> None:
    recipe = rows_of(kind)
    whole = run(tmp_path / "whole", recipe)
    assert run(tmp_path / "parts", recipe, stop_at=stop_at) is None
    parts = run(tmp_path / "parts", recipe)
    assert whole is not None
    assert parts is not None
    for name in ("value", "train_loss", "num_forward", "token_cost", "num_steps"):
        assert parts[name] == whole[name], name
    assert lines_of(tmp_path / "parts") == lines_of(tmp_path / "whole")
    ours, theirs = weights_of(tmp_path / "parts"), weights_of(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(
    rows_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = rows_of("sft")
    whole = run(tmp_path / "whole", recipe)
    monkeypatch.setattr(run_module, "CHECKPOINT_SECONDS", 0.0)  # one after every step
    assert run(tmp_path / "parts", recipe, stop_at=3) is None
    folders = sorted((tmp_path / "parts" / "trainer").glob("checkpoint-*"))
    assert len(folders) == 2
    (folders[-1] / "ledger.json").unlink()  # killed before it came
    parts = run(tmp_path / "parts", recipe)
    assert whole is not None
    assert parts is not None
    assert parts["value"] == whole["value"]
    assert lines_of(tmp_path / "parts") == lines_of(tmp_path / "whole")


def test_one_process_takes_over_what_all_ranks_had_paid() -> None:
    saved, taken = Ledger(torch.device("cpu")), Ledger(torch.device("cpu"))
    for paid in (3, 40):
        saved.count(paid, 10 * paid)
    saved.count(7, 70, is_backward=False)
    saved.training.seconds = 1.0
    state = {**saved.state(), "loss_sums": [0.5, 0.25], "num_losses": 3}  # of two ranks
    taken.load_state(json.loads(json.dumps(state)))
    assert (taken.num_forward, taken.num_backward_tokens) == (50, 430)
    assert (taken.training.seconds, taken.train_loss()) == (1.0, 0.25)


def test_full_short_ends_where_the_budget_does(rows_of: Any, tmp_path: Path) -> None:
    recipe = rows_of("sft")
    full = run(tmp_path / "full", recipe, "full")
    short = run(tmp_path / "short", recipe, "full-short")
    assert full is not None
    assert short is not None
    assert (full["cost"], full["token_cost"]) == (1.0, 1.0)
    assert short["num_steps"] == 9 == full["num_steps"] // 2
    assert short["cost"] == 0.5
    assert RunFolder(tmp_path / "short").metrics()[-1]["value"] == short["value"]


def test_a_single_epoch_is_chosen_from_inside_batches_and_the_scoring_is_paid(
    rows_of: Any, tmp_path: Path
) -> None:
    result = run(tmp_path / "run", rows_of("sft", epochs=1), "data-agent-in-batch")
    assert result is not None
    assert result["num_backward"] == SIZE / 2
    assert result["num_forward"] == SIZE + SIZE / 2
    assert result["cost"] == pytest.approx(1 / 3 + 1 / 2)
    assert 1 / 3 < result["token_cost"] < 4 / 3


def test_adapters_packs_and_checkpointed_gradients(rows_of: Any, tmp_path: Path) -> None:
    recipe = rows_of("sft", lora_rank=2, gradient_checkpointing=True, packing=True, accumulation=2)
    result = run(tmp_path / "run", recipe)
    assert result is not None
    assert result["num_trained_parameters"] < result["num_parameters"] / 2
    assert result["num_train_samples"] < SIZE  # packs
    assert result["cost"] == pytest.approx(0.5, abs=0.5 / result["num_train_samples"])
    assert (tmp_path / "run" / "model" / "adapter_config.json").is_file()


def test_wrong_labels_are_the_seeds_own_and_counted(rows_of: Any, tmp_path: Path) -> None:
    recipe = rows_of("text-classification", label_noise=0.25, epochs=1)
    result = run(tmp_path / "run", recipe, "full")
    assert result is not None
    assert result["num_noisy_labels"] == SIZE / 4
    rows = [
        training_rows(RunConfig(recipe=recipe, method="full", seed=seed), load_language(recipe))[
            "labels"
        ]
        for seed in (0, 0, 1)
    ]
    assert rows[0] == rows[1] != rows[2]


def test_the_held_out_loss_is_the_mean_over_all_tokens_that_count(rows_of: Any) -> None:
    recipe = rows_of("sft")
    data = load_language(recipe)
    torch.manual_seed(0)
    model: Any = build_model(recipe, data).train()
    losses: list[torch.Tensor] = []
    for ids, mask in zip(
        data.evaluation["input_ids"], data.evaluation["completion_mask"], strict=True
    ):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        per_token = F.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
        losses.append(per_token[torch.tensor(mask[1:], dtype=torch.bool)])
    expected = float(torch.cat(losses).mean())
    found = evaluate(model, data, autocast=torch.autocast("cpu", enabled=False))
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
    assert model.training


def test_compare_and_report_on_the_command_line(
    rows_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = rows_of("sft")
    argv = ["compare", "--task", "sft", "--data", str(recipe.data), "--model", recipe.model]
    argv += ["--vocab-size", "300", "--max-length", "64", "--batch-size", "8", "--epochs", "3"]
    argv += ["--device", "cpu", "--methods", "full,full-short,random", "--seeds", "2"]
    argv += ["--jobs", "1", "--output", str(tmp_path / "out")]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert "6 runs to do" in said.err
    assert "loss" in said.out
    report = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert len(report["tasks"]) == 1


def test_what_cannot_be_trained_is_said_before_anything_is(rows_of: Any, tmp_path: Path) -> None:
    recipe = rows_of("sft")
    with pytest.raises(DataAgentError, match=r"'el2n' starts from scores.*images only"):
        run(tmp_path / "run", recipe, "el2n")
    with pytest.raises(DataAgentError, match=r"'class-balanced-random' starts from labels"):
        run(tmp_path / "run", recipe, "class-balanced-random")
    with pytest.raises(DataAgentError, match=r"'label-aware' goes by the class label"):
        run(tmp_path / "run", recipe, "label-aware")
    with pytest.raises(DataAgentError, match=r"'infobatch-published' have no fixed length"):
        run(tmp_path / "run", recipe, "infobatch-published")
    with pytest.raises(DataAgentError, match="--packing joins them into one row"):
        run(tmp_path / "run", replace(recipe, packing=True), "data-agent-in-batch")
    with pytest.raises(DataAgentError, match="--label-noise is for text-classification"):
        replace(recipe, label_noise=0.1)
    with pytest.raises(
        DataAgentError, match="--max-length is 1; expected a whole number, 2 or more"
    ):
        replace(recipe, max_length=1)


def test_a_method_that_balances_classes_is_given_the_labels_it_trains_on(
    rows_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[int]] = []

    def make(name: str, *, labels: torch.Tensor, **options: Any) -> Any:
        given.append(labels.tolist())
        return make_selector(name, labels=labels, **options)

    monkeypatch.setattr(text_trainers, "make_selector", make)
    recipe = rows_of("text-classification", label_noise=0.25)
    result = run(tmp_path / "run", recipe, "class-balanced-random")
    assert result is not None
    assert result["cost"] == pytest.approx(0.5, abs=0.02)
    config = RunConfig(recipe=recipe, method="class-balanced-random", seed=0)
    rows = training_rows(config, load_language(recipe))
    assert given
    assert all(labels == rows["labels"] for labels in given)


def test_training_that_diverges_is_an_error_that_says_what_to_do(
    rows_of: Any, tmp_path: Path
) -> None:
    with pytest.raises(DataAgentError, match=r"diverged|not finite|non-finite"):
        run(tmp_path / "run", rows_of("sft", learning_rate=1e30), "random")
