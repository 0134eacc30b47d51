from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from data_agent import DataAgentError
from data_agent_lab.data.image_data import ImageData
from data_agent_lab.recipes import Augmentation
from data_agent_lab.tasks import recipe_for
from data_agent_lab.training.batches import Batches, augment
from data_agent_lab.training.ledger import Stopwatch
from data_agent_lab.training.ranks import choose_device

CPU = torch.device("cpu")


@pytest.fixture
def data() -> ImageData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 200, (50, 3, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.arange(50) % 2
    return ImageData(
        train_images=images[:40],
        train_labels=labels[:40],
        eval_images=images[40:],
        eval_labels=labels[40:],
        class_names=("a", "b"),
        evaluation="made up",
    )


def batches_of(data: ImageData, augmentation: Augmentation) -> Batches:
    recipe = replace(recipe_for("digits"), image_size=16, augment=augmentation)
    return Batches(data, recipe, seed=3, device=CPU)


def test_training_images_have_zero_mean_and_unit_variance(data: ImageData) -> None:
    pixels = batches_of(data, "none").training(torch.arange(40), epoch=0)
    assert pixels.dtype == torch.float32
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=1e-5)
    assert pixels.std((0, 2, 3), correction=0).tolist() == pytest.approx([1] * 3, abs=1e-5)


def test_evaluation_images_are_scaled_by_the_training_images_and_not_augmented(
    data: ImageData,
) -> None:
    index = torch.tensor([7, 2, 7])
    found = batches_of(data, "crop-flip").evaluation(index)
    training = data.train_images.float() / 255
    mean = training.mean((0, 2, 3), keepdim=True)
    deviation = training.std((0, 2, 3), correction=0, keepdim=True)
    expected = (data.eval_images[index].float() / 255 - mean) / deviation
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("augmentation", ["crop", "crop-flip"])
def test_training_images_are_augmented_by_their_index_and_epoch(
    data: ImageData, augmentation: Augmentation
) -> None:
    index = torch.tensor([5, 30, 11])
    # An eighth of 16 pixels is a shift by up to 2.
    moved = augment(
        data.train_images[index],
        index,
        seed=3,
        epoch=4,
        padding=2,
        flip=augmentation == "crop-flip",
    )
    batches, plain = batches_of(data, augmentation), batches_of(data, "none")
    expected = batches_of(replace(data, eval_images=moved), "none").evaluation(torch.arange(3))
    found = batches.training(index, epoch=4)
    assert torch.equal(found, expected)
    assert not torch.equal(found, batches.training(index, epoch=5))
    assert not torch.equal(found, plain.training(index, epoch=4))
    assert torch.equal(batches.training(index, epoch=None), plain.training(index, epoch=4))


def test_a_named_device_is_used_and_auto_finds_one() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["tpu", "", "cuda:99", "meta:x"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(DataAgentError, match=f"--device {name} cannot be used here: "):
        choose_device(name)


def test_a_stopwatch_adds_up_what_lies_between_start_and_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readings = iter([10.0, 12.5, 100.0, 101.0])
    cpu_readings = iter([1.0, 5.0, 7.0, 7.5])  # several threads: more than the clock's
    monkeypatch.setattr("data_agent_lab.training.ledger.time.perf_counter", lambda: next(readings))
    monkeypatch.setattr(
        "data_agent_lab.training.ledger.time.process_time", lambda: next(cpu_readings)
    )
    watch = Stopwatch(CPU)
    assert not watch.stop()  # not running: nothing to add
    watch.start()
    watch.stop()
    watch.start()
    watch.stop()
    watch.stop()
    assert (watch.seconds, watch.cpu_seconds) == (3.5, 4.5)
