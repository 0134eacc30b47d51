from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lab_runs import assert_same_state, finish, run, stop_after, without_times

from data_agent import BatchSelector, DataAgentError
from data_agent.baselines.random import Random
from data_agent.errors import CheckpointError, InputError
from data_agent.runtime import checkpoint
from data_agent_lab.data.image_data import ImageData, trusted_rows
from data_agent_lab.recipes import ImageRecipe, RunConfig
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.tasks import load_task, recipe_for
from data_agent_lab.training import ledger, scoring
from data_agent_lab.training import run as run_module
from data_agent_lab.training.images import ImageEngine

METHODS = ("full", "full-short", "random", "data-agent")
# One that chooses within batches, one whose epochs have a size of their own, one that needs scores.
OTHERS = ("selective-backprop", "infobatch-published", "el2n")
NUM_SAMPLES, NUM_CLASSES = 62, 3


@pytest.fixture(scope="module")
def data() -> ImageData:
    """Three classes, each a noisy pattern of its own."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(NUM_SAMPLES + 30) % NUM_CLASSES
    patterns = torch.randint(0, 256, (NUM_CLASSES, 1, 8, 8), generator=generator)
    noise = torch.randint(-60, 61, (len(labels), 1, 8, 8), generator=generator)
    images = (patterns[labels] + noise).clamp(0, 255).to(torch.uint8)
    return ImageData(
        train_images=images[:NUM_SAMPLES],
        train_labels=labels[:NUM_SAMPLES],
        eval_images=images[NUM_SAMPLES:],
        eval_labels=labels[NUM_SAMPLES:],
        class_names=("a", "b", "c"),
        evaluation="made up",
    )


@pytest.fixture
def recipe() -> ImageRecipe:
    """Nine short epochs with dropout (the cnn has some), augmentation and label noise."""
    digits: Any = recipe_for("digits")
    return replace(
        digits,
        width=4,
        epochs=9,
        batch_size=8,
        augment="crop-flip",
        label_noise=0.1,
        device="cpu",
    )


def config_of(
    recipe: ImageRecipe, method: str, seed: int = 0, *, keep_ratio: float = 0.5, **changes: Any
) -> RunConfig:
    changed = replace(recipe, **changes)
    return RunConfig(recipe=changed, method=method, keep_ratio=keep_ratio, seed=seed)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("method", [*METHODS, *OTHERS])
def test_a_run_stopped_anywhere_and_resumed_equals_one_that_was_not(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe, method: str, accumulation: int
) -> None:
    config = config_of(recipe, method, accumulation=accumulation)
    expected = finish(tmp_path / "whole", config, data)

    # An epoch has 4 batches (8 in full epochs): in its middle, at its end, one step later, ...
    for steps in (3, 1, 4, 1, 2):
        result, _ = run(tmp_path / "parts", config, data, should_stop=stop_after(steps))
        torch.rand(steps)  # whatever a process did before it resumes must not matter
        if result is not None:
            break
    found = finish(tmp_path / "parts", config, data) if result is None else result

    assert without_times(found) == without_times(expected)
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    assert without_times(parts.metrics()) == without_times(whole.metrics())
    assert_same_state(
        without_times(checkpoint.load(parts.checkpoint)),
        without_times(checkpoint.load(whole.checkpoint)),
    )


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_kill_inside_a_long_epoch_costs_what_came_since_the_last_checkpoint(
    tmp_path: Path,
    data: ImageData,
    recipe: ImageRecipe,
    accumulation: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(recipe, "data-agent", accumulation=accumulation)
    expected = finish(tmp_path / "whole", config, data)
    monkeypatch.setattr(run_module, "CHECKPOINT_SECONDS", 0.0)  # one after every step
    killed_at = 4 * 4 + 3  # the third batch of the fifth epoch

    batches: list[int] = []

    def die(*_: Any) -> None:
        batches.append(1)
        if len(batches) == killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", config, data, progress=die)
    state = checkpoint.load(tmp_path / "parts" / "checkpoint.safetensors")
    inside = 0 if accumulation == 3 else 2  # an accumulation group of three was not over
    assert (state["position"]["epoch"], state["position"]["batch"]) == (4, inside)

    found = finish(tmp_path / "parts", config, data)
    assert without_times(found) == without_times(expected)
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    assert without_times(parts.metrics()) == without_times(whole.metrics())


def test_stopping_waits_for_the_end_of_an_accumulation_group(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    config = config_of(recipe, "full", accumulation=3)
    _, folder = run(tmp_path / "run", config, data, should_stop=stop_after(1))
    position = checkpoint.load(folder.checkpoint)["position"]
    assert (position["batch"], position["step"]) == (3, 1)


def test_a_run_killed_between_two_checkpoints_doubles_no_line(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    config = config_of(recipe, "random")
    _, folder = run(tmp_path / "run", config, data, should_stop=stop_after(6))
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 1, "step": 8}) + "\n" + '{"epoch": 2, "st')
    finish(tmp_path / "run", config, data)
    assert [line["epoch"] for line in folder.metrics()] == list(range(9))


def test_a_run_killed_before_its_result_only_writes_it(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    for method in METHODS:
        config = config_of(recipe, method)
        expected = finish(tmp_path / method, config, data)
        (tmp_path / method / "result.json").unlink()
        found, _ = run(tmp_path / method, config, data, should_stop=lambda: pytest.fail("trained"))
        assert found == expected


@pytest.mark.parametrize("method", METHODS)
def test_a_run_depends_on_its_seed_and_on_nothing_before_it(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe, method: str
) -> None:
    first = finish(tmp_path / "first", config_of(recipe, method), data)
    torch.manual_seed(123)
    again = finish(tmp_path / "again", config_of(recipe, method), data)
    other = finish(tmp_path / "other", config_of(recipe, method, seed=1), data)
    assert without_times(first) == without_times(again)
    assert first["train_loss"] != other["train_loss"]


def test_at_keep_ratio_one_every_method_is_full_training(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    models = []
    for method in (*METHODS, "selective-backprop"):
        _, folder = run(tmp_path / method, config_of(recipe, method, keep_ratio=1.0), data)
        models.append(checkpoint.load(folder.checkpoint)["model"])
    for model in models[1:]:
        assert_same_state(model, models[0])


@pytest.mark.parametrize("method", ["random", "data-agent"])
def test_selecting_costs_exactly_the_keep_ratio(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe, method: str
) -> None:
    result = finish(tmp_path / "run", config_of(recipe, method), data)
    assert result["num_forward"] == result["num_backward"] == 9 * 31
    assert result["cost"] == pytest.approx(0.5)
    state = checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")
    assert state["selector"]["visits"] == 9 * 31


def test_choosing_within_batches_costs_a_forward_pass_over_everything(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    result = finish(tmp_path / "run", config_of(recipe, "selective-backprop"), data)
    assert result["num_backward"] == 9 * 31
    assert result["num_forward"] == 9 * (62 + 31)
    assert result["cost"] == pytest.approx(0.5 + 1 / 3)
    # Pools of 16 of 62 leave batches of 8: as many steps as other methods make.
    assert (
        result["num_steps"]
        == finish(tmp_path / "r", config_of(recipe, "random"), data)["num_steps"]
    )


def test_scoring_a_pool_leaves_no_trace_in_the_model_or_the_random_generators(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    config = config_of(recipe, "selective-backprop")
    engine = ImageEngine(config, data, RunFolder(tmp_path), device=torch.device("cpu"))
    engine.selector.begin_epoch(0)
    engine.model.train()
    _, index = next(iter(engine.loader))
    inputs = engine.inputs(index, epoch=0)
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    generator = torch.get_rng_state()
    assert isinstance(engine.selector, BatchSelector)
    (images, labels), kept = engine.best_of_pool(engine.selector, inputs, index)
    assert [len(part) for part in (images, labels, kept)] == [8, 8, 8]
    assert torch.equal(images, inputs[0][torch.isin(index, kept)])
    assert_same_state(engine.model.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_floating_schedule_decays_over_the_epochs_it_has(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    config = config_of(recipe, "infobatch-published", schedule="cosine")
    result, folder = run(tmp_path / "run", config, data)
    assert result is not None
    assert 0.5 < result["cost"] < 1  # half of those below the mean are left out
    assert result["num_steps"] < 9 * 8
    assert result["schedule"] == "floating"
    lines = folder.metrics()
    steps = [line["step"] for line in lines]
    assert len(lines) == 9
    for epoch, (line, before) in enumerate(zip(lines, [0, *steps], strict=False)):
        # The last step of an epoch of n is at (epoch + (n - 1/2) / n) / 9 of the run.
        time = (epoch + 1 - 0.5 / (line["step"] - before)) / 9
        rate = recipe.learning_rate * (1 + math.cos(math.pi * time)) / 2
        assert line["learning_rate"] == pytest.approx(rate)


def test_making_scores_is_paid_for_and_done_once(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(recipe, "el2n")
    run(tmp_path / "run", config, data, should_stop=stop_after(2))
    monkeypatch.setattr(scoring, "prepare", lambda *_: pytest.fail("made again"))
    result = finish(tmp_path / "run", config, data)
    # Two networks of an epoch (9 // 10, at least one), a look of each, and nine half epochs.
    assert result["num_backward"] == 2 * 62 + 9 * 31
    assert result["num_forward"] == 4 * 62 + 9 * 31
    assert result["overhead_seconds"] > 0
    assert result["train_seconds"] > result["overhead_seconds"]
    preparation = checkpoint.load(tmp_path / "run" / "scores.safetensors")["preparation"]
    assert result["train_cpu_seconds"] > preparation["cpu_seconds"] > 0


class Labelled(Random):
    """A method of one's own that must be given the labels."""

    required = ("labels",)

    def __init__(self, *, labels: torch.Tensor, **base: Any) -> None:
        super().__init__(**base)
        self.labels = labels


def test_labels_that_a_method_needs_are_those_it_trains_on(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    config = config_of(recipe, f"{__name__}:Labelled", label_noise=0.2)
    engine = ImageEngine(config, data, RunFolder(tmp_path), device=torch.device("cpu"))
    assert data.num_noisy(engine.labels) == 12
    assert isinstance(engine.selector, Labelled)
    engine.selector.begin_epoch(0)
    for _, index in engine.loader:
        assert torch.equal(engine.selector.labels[index], engine.inputs(index, epoch=0)[1])


@pytest.mark.parametrize("method", ["data-agent", "random", "class-balanced-random", "full"])
def test_trusted_rows_have_true_labels_and_are_in_every_epoch_of_every_method(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe, method: str
) -> None:
    config = config_of(recipe, method, label_noise=0.4, trusted_rows=9)
    engine = ImageEngine(config, data, RunFolder(tmp_path), device=torch.device("cpu"))
    trusted = trusted_rows(data.train_labels, 9)
    assert torch.bincount(data.train_labels[trusted]).tolist() == [3, 3, 3]
    assert torch.equal(engine.labels[trusted], data.train_labels[trusted])
    engine.train(lambda _: False)
    assert engine.selector.epoch == recipe.epochs - 1
    assert torch.isin(trusted, engine.selector.select(recipe.epochs - 1).index).all()


def test_trusted_rows_can_err_and_be_of_other_class_shares_than_the_test(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    errors = {"trusted_rows": 9, "trusted_noise": 0.34, "trusted_imbalance": 4.0}
    config = config_of(recipe, "data-agent", label_noise=0.0, **errors)
    engine = ImageEngine(config, data, RunFolder(tmp_path), device=torch.device("cpu"))
    trusted = engine.selector.trusted
    assert trusted is not None
    assert torch.bincount(data.train_labels[trusted]).tolist() == [5, 3, 1]
    wrong = engine.labels != data.train_labels
    assert (int(wrong[trusted].sum()), int(wrong.sum())) == (3, 3)


def test_errors_of_trusted_rows_need_some_and_room(data: ImageData, recipe: ImageRecipe) -> None:
    with pytest.raises(InputError, match=r"--trusted-noise is 0.1 .* add --trusted-rows 500"):
        config_of(recipe, "random", trusted_noise=0.1)
    with pytest.raises(InputError, match="ask for 16 samples of a class of which half is 10"):
        trusted_rows(data.train_labels, 18, 50.0)


def test_a_run_records_how_many_trained_beside_it(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    _, folder = run(tmp_path / "run", config_of(recipe, "random"), data, jobs=3)
    assert [session["jobs"] for session in folder.sessions()] == [3]


def test_wrong_labels_are_counted_against_the_clean_ones(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    labels = data.train_labels.clone()
    labels[:5] = (labels[:5] + 1) % 3
    noisy = replace(data, train_labels=labels, clean_labels=data.train_labels)
    result = finish(tmp_path / "run", config_of(recipe, "random", label_noise=0.0), noisy)
    assert result["num_noisy_labels"] == 5


def test_speed_is_measured_in_a_moment(data: ImageData, recipe: ImageRecipe) -> None:
    speed = run_module.measure_speed(recipe, data, seconds=0.01)
    assert 0 < speed.eval_sample < speed.train_sample < 1


def test_full_training_costs_one(tmp_path: Path, data: ImageData, recipe: ImageRecipe) -> None:
    assert finish(tmp_path / "run", config_of(recipe, "full"), data)["cost"] == 1.0


@pytest.mark.parametrize("accumulation", [1, 3])
def test_full_short_makes_the_budgets_steps_and_decays_over_them(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe, accumulation: int
) -> None:
    short, folder = run(
        tmp_path / "short", config_of(recipe, "full-short", accumulation=accumulation), data
    )
    selected = finish(
        tmp_path / "random", config_of(recipe, "random", accumulation=accumulation), data
    )
    assert short is not None
    assert short["num_steps"] == selected["num_steps"] == 9 * (4 if accumulation == 1 else 2)
    assert folder.metrics()[-1]["learning_rate"] < 0.01 * recipe.learning_rate


def test_evaluations_are_spread_evenly_and_the_last_is_at_the_end(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    _, folder = run(tmp_path / "run", config_of(recipe, "random", num_evaluations=3), data)
    evaluated = [line["epoch"] for line in folder.metrics() if "accuracy" in line]
    assert evaluated == [2, 5, 8]


def test_training_time_leaves_evaluation_and_checkpoints_out(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On clocks that only move where we say: one second a step, and an hour for all else."""
    now = [0.0]
    clocks = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: 2 * now[0])

    def taking(seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def slowed(*args: Any, **kwargs: Any) -> Any:
            now[0] += seconds
            return function(*args, **kwargs)

        return slowed

    monkeypatch.setattr(ledger, "time", clocks)
    monkeypatch.setattr(ImageEngine, "_step", taking(1, ImageEngine._step))
    monkeypatch.setattr(ImageEngine, "evaluate", taking(3600, ImageEngine.evaluate))
    monkeypatch.setattr(checkpoint, "save", taking(3600, checkpoint.save))
    config = config_of(recipe, "random")
    run(tmp_path / "run", config, data, should_stop=stop_after(6))
    now[0] += 3600  # the pause before it is resumed
    result = finish(tmp_path / "run", config, data)
    assert result["train_seconds"] == result["num_steps"] == 36
    assert result["train_cpu_seconds"] == 72
    assert result["eval_seconds"] == 9 * 3600


def test_label_noise_reaches_the_training_labels_only(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    before = data.train_labels.clone(), data.eval_labels.clone()
    result = finish(tmp_path / "run", config_of(recipe, "random", label_noise=0.25), data)
    assert result["num_noisy_labels"] == 16  # floor(0.25 * 62 + 0.5)
    assert list(result["class_accuracy"]) == list(data.class_names)
    *_, last = RunFolder(tmp_path / "run").metrics()
    assert 0 <= last["visited"]["wrong_labels"] <= 16 / 31  # of the half of 62 that is visited
    assert torch.equal(before[0], data.train_labels)
    assert torch.equal(before[1], data.eval_labels)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"optimizer": "adamw", "learning_rate": 0.01, "schedule": "cosine"},
        {"label_smoothing": 0.1, "augment": "none", "momentum": 0.0},
    ],
    ids=lambda changes: next(iter(changes.values())),
)
def test_the_recipes_options_train(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe, changes: dict[str, Any]
) -> None:
    config = config_of(recipe, "data-agent", epochs=16, label_noise=0.0, **changes)
    _, folder = run(tmp_path / "run", config, data)
    losses = [line["train_loss"] for line in folder.metrics()]
    assert losses[-1] < 0.8 * losses[0]


def test_digits_are_learned(tmp_path: Path) -> None:
    recipe = replace(recipe_for("digits"), epochs=8, width=8, device="cpu")
    result = finish(tmp_path / "run", config_of(recipe, "full"), load_task(recipe))
    assert result["value"] > 85
    assert result["overhead_seconds"] < result["train_seconds"]


def test_divergence_is_an_error_that_names_the_learning_rate(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    config = config_of(recipe, "full", learning_rate=1e30)
    with pytest.raises(DataAgentError, match=r"learning.rate"):
        run(tmp_path / "run", config, data)
    assert RunFolder(tmp_path / "run").status(config.flat()) == "unfinished"


def test_a_checkpoint_of_other_data_is_refused(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    config = config_of(recipe, "random")
    run(tmp_path / "run", config, data, should_stop=stop_after(2))
    changed = replace(data, train_images=255 - data.train_images)
    with pytest.raises(CheckpointError, match="the data have changed"):
        run(tmp_path / "run", config, changed)


def test_a_damaged_checkpoint_is_refused_and_kept(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    config = config_of(recipe, "random")
    _, folder = run(tmp_path / "run", config, data, should_stop=stop_after(2))
    folder.checkpoint.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="is damaged"):
        run(tmp_path / "run", config, data)
    assert folder.checkpoint.read_bytes() == b"damaged"


def test_a_device_that_is_not_there_is_refused(
    tmp_path: Path, data: ImageData, recipe: ImageRecipe
) -> None:
    with pytest.raises(DataAgentError, match="--device nonsense cannot be used here"):
        run(tmp_path / "run", config_of(recipe, "full", device="nonsense"), data)
