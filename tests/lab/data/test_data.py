from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from data_agent import DataAgentError
from data_agent_lab.data.digits import load_digits
from data_agent_lab.data.image_data import (
    ImageData,
    channel_statistics,
    corrupt_labels,
    hold_out,
    stratified,
)
from data_agent_lab.tasks import recipe_for


def labels_of(*sizes: int) -> torch.Tensor:
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def test_channel_statistics_equal_those_of_the_pixels() -> None:
    images = torch.randint(0, 256, (30, 3, 5, 4), dtype=torch.uint8)
    mean, deviation = channel_statistics(images)
    pixels = (images.double() / 255).transpose(0, 1).flatten(1)
    assert torch.allclose(mean.double(), pixels.mean(1), atol=1e-6)
    assert torch.allclose(deviation.double(), pixels.std(1, correction=0), atol=1e-6)


def test_a_constant_channel_has_a_usable_deviation() -> None:
    _, deviation = channel_statistics(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    assert deviation.item() == pytest.approx(1 / 255)


@pytest.mark.parametrize("count", [1, 7, 50, 99, 100])
def test_a_stratified_choice_keeps_the_proportions(count: int) -> None:
    labels = labels_of(60, 30, 10)
    chosen = stratified(labels, count)
    assert len(chosen) == count
    assert torch.equal(chosen, chosen.unique())
    found = torch.bincount(labels[chosen], minlength=3)
    for number, size in zip(found.tolist(), (60, 30, 10), strict=True):
        assert abs(number - count * size / 100) < 1


def test_a_stratified_choice_follows_its_seed() -> None:
    labels = labels_of(60, 40)
    assert torch.equal(stratified(labels, 20, seed=1), stratified(labels, 20, seed=1))
    assert not torch.equal(stratified(labels, 20, seed=1), stratified(labels, 20, seed=2))


def test_a_subset_larger_than_the_data_is_refused() -> None:
    with pytest.raises(DataAgentError, match=r"11 samples were asked for \(--subset\), of 10"):
        stratified(labels_of(5, 5), 11)


def test_held_out_samples_are_a_tenth_of_each_class_and_no_others() -> None:
    labels = labels_of(50, 30)
    kept, held = hold_out(labels)
    assert torch.bincount(labels[held]).tolist() == [5, 3]
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(80))


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.3, 150), (0.0011, 1), (0.999, 500)])
def test_label_noise_changes_exactly_its_share(share: float, count: int) -> None:
    labels = labels_of(200, 200, 100)
    noisy = corrupt_labels(labels, share, num_classes=3, seed=0)
    assert int((noisy != labels).sum()) == count
    assert int(noisy.min()) >= 0
    assert int(noisy.max()) <= 2


def test_label_noise_is_uniform_over_the_other_classes() -> None:
    labels = torch.zeros(9000, dtype=torch.int64)
    noisy = corrupt_labels(labels, 0.999, num_classes=4, seed=1)
    counts = torch.bincount(noisy, minlength=4)[1:]
    assert (counts / counts.sum()).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)


def test_label_noise_follows_its_seed_and_spares_its_input() -> None:
    labels = labels_of(100, 100)
    before = labels.clone()
    first = corrupt_labels(labels, 0.5, num_classes=2, seed=1)
    assert torch.equal(first, corrupt_labels(labels, 0.5, num_classes=2, seed=1))
    assert not torch.equal(first, corrupt_labels(labels, 0.5, num_classes=2, seed=2))
    assert torch.equal(labels, before)


def test_one_class_is_no_classification() -> None:
    images, labels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(DataAgentError, match=r"1 class\(es\).*--label-column"):
        ImageData(
            train_images=images,
            train_labels=labels,
            eval_images=images,
            eval_labels=labels,
            class_names=("only",),
            evaluation="",
        )


DIGITS = recipe_for("digits")


def test_digits_are_split_the_same_way_every_time() -> None:
    data = load_digits(DIGITS)
    assert data.train_images.shape == (448, 1, 8, 8)
    assert data.eval_images.shape == (1349, 1, 8, 8)
    assert data.num_classes == 10
    assert int(data.train_images.max()) == 255
    assert torch.equal(data.train_images, load_digits(DIGITS).train_images)
    assert int(torch.bincount(data.train_labels).min()) >= 43


def test_digits_at_another_size_and_a_subset() -> None:
    data = load_digits(replace(DIGITS, image_size=12, subset=100))
    assert data.train_images.shape == (100, 1, 12, 12)
    assert len(data.eval_labels) == 1349
