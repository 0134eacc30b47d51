"""The data in memory: statistics, splits, wrong labels, long tails, near-copies, the digits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from data_agent import DataAgentError
from data_agent_lab.data.digits import load_digits
from data_agent_lab.data.image_data import (
    ImageData,
    channel_statistics,
    choose_rows,
    corrupt_labels,
    hold_out,
    long_tail,
    stratified,
    with_near_copies,
)
from data_agent_lab.recipes import ImageRecipe
from data_agent_lab.tasks import load_task, recipe_for


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


def test_a_stratified_choice_is_the_same_every_time() -> None:
    labels = labels_of(60, 40)
    assert torch.equal(stratified(labels, 20), stratified(labels, 20))
    assert not torch.equal(stratified(labels, 20), torch.arange(20))


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


def recipe(**changes: Any) -> ImageRecipe:
    digits: Any = recipe_for("digits")
    return replace(digits, **changes)


def counts(labels: torch.Tensor, rows: torch.Tensor) -> list[int]:
    assert torch.equal(rows, rows.unique())
    return torch.bincount(labels[rows]).tolist()


def smooth_data(size: int) -> ImageData:
    """Images that are a brightness of their own with a slope: copies can be traced back."""
    level = torch.linspace(20, 220, size).round()[:, None, None, None]
    slope = torch.arange(8.0) * 2
    images = (level + slope[:, None] + slope[None, :]).to(torch.uint8)
    labels = torch.arange(size) % 3
    return ImageData(
        train_images=images,
        train_labels=labels,
        eval_images=images[:2],
        eval_labels=labels[:2],
        class_names=("a", "b", "c"),
        evaluation="made up",
        clean_labels=(labels + (torch.arange(size) == 0)) % 3,
    )


def test_a_long_tail_has_a_given_total_by_largest_remainders() -> None:
    # Weights 1, 1/3, 1/9 (imbalance 9, three classes) sum to 13/9. Of 100: 69.23, 23.08, 7.69,
    # rounded down 69 + 23 + 7 = 99, and the largest remainder is the last one's.
    labels = labels_of(100, 100, 100)
    assert counts(labels, long_tail(labels, 9, count=100)) == [69, 23, 8]


def test_a_long_tail_takes_all_of_the_first_class_unless_told_how_many() -> None:
    labels = labels_of(90, 90, 90)
    assert counts(labels, long_tail(labels, 9, count=None)) == [90, 30, 10]
    # The second class has 20 of the 30 that its part would be: all shrink by a third.
    labels = labels_of(90, 20, 90)
    assert counts(labels, long_tail(labels, 9, count=None)) == [60, 20, 6]


def test_a_long_tail_is_the_same_every_time() -> None:
    labels = labels_of(50, 50)
    assert torch.equal(long_tail(labels, 5, count=30), long_tail(labels, 5, count=30))


def test_a_long_tail_that_the_data_cannot_give_is_refused() -> None:
    labels = labels_of(50, 50)
    with pytest.raises(DataAgentError, match=r"ask for 60 samples of class 0, which has 50.*of at"):
        long_tail(labels, 5, count=72)
    with pytest.raises(DataAgentError, match="leaves class 1 without a sample"):
        long_tail(labels, 1000, count=40)


def test_rows_without_a_regime_are_all_and_a_subset_keeps_proportions() -> None:
    labels = labels_of(60, 40)
    rows, num_copies = choose_rows(labels, recipe())
    assert (counts(labels, rows), num_copies) == ([60, 40], 0)
    rows, num_copies = choose_rows(labels, recipe(subset=50))
    assert (counts(labels, rows), num_copies) == ([30, 20], 0)


@pytest.mark.parametrize(
    ("changes", "originals", "copies"),
    [
        ({"duplicates": 0.6}, [24, 16], 60),  # of all 100
        ({"duplicates": 0.6, "subset": 50}, [12, 8], 30),
        ({"duplicates": 0.25, "subset": 10}, [4, 3], 3),  # floor(2.5 + 0.5)
        ({"duplicates": 0.5, "imbalance": 4.0, "subset": 40}, [16, 4], 20),
    ],
)
def test_copies_replace_their_share_of_the_originals(
    changes: dict[str, Any], originals: list[int], copies: int
) -> None:
    labels = labels_of(60, 40)
    rows, num_copies = choose_rows(labels, recipe(**changes))
    assert (counts(labels, rows), num_copies) == (originals, copies)


def test_copies_are_made_evenly_of_a_pool_of_five_percent() -> None:
    # 40 originals, each a class of its own, and 60 copies: the pool is 5 originals, 12 copies each.
    data = smooth_data(40)
    data = replace(data, train_labels=torch.arange(40), class_names=tuple(map(str, range(40))))
    found = with_near_copies(data, 60)
    assert found.train_images.shape == (100, 1, 8, 8)
    assert found.train_images.dtype == torch.uint8
    sizes = torch.bincount(found.train_labels, minlength=40)
    assert sizes.sort().values.tolist() == [1] * 35 + [13] * 5
    for label in range(40):
        mine = found.train_images[found.train_labels == label]
        assert bool((mine == data.train_images[label]).all((1, 2, 3)).any()), "no original"
        assert float((mine.float() - data.train_images[label].float()).abs().mean()) < 12


def test_originals_and_copies_are_shuffled() -> None:
    data = smooth_data(40)
    found = with_near_copies(data, 60).train_images
    assert not torch.equal(found[:40], data.train_images)


def test_copies_carry_the_labels_of_their_originals_clean_and_noisy() -> None:
    data = smooth_data(1)
    found = with_near_copies(data, 9)
    assert found.train_labels.tolist() == [0] * 10
    assert found.clean_labels is not None
    assert found.clean_labels.tolist() == [1] * 10
    assert found.num_noisy(found.train_labels) == 10


def test_a_copy_moves_by_at_most_a_pixel_and_its_edge_is_repeated() -> None:
    image = torch.full((1, 1, 8, 8), 100, dtype=torch.uint8)
    image[0, 0, 4, 4] = 250
    data = replace(smooth_data(1), train_images=image)
    found = with_near_copies(data, 200).train_images[:, 0].float()
    places = found.flatten(1).argmax(1)
    rows, columns = places // 8, places % 8
    assert set(rows.tolist()) == set(columns.tolist()) == {3, 4, 5}
    # Black padding would show: the edge is as bright as the rest, up to 5 % and the noise.
    assert float(found[:, 0, 0].min()) > 80
    brightness = found[:, 0].mean(1)
    assert float(brightness.min()) > 93
    assert float(brightness.max()) < 107
    assert float(brightness.std()) > 1.5  # uniform in 95 to 105: 2.9
    noise = found[:, 0] - brightness[:, None]
    assert float(noise.std()) == pytest.approx(2.0, abs=0.25)


def test_copies_are_the_same_every_time_and_no_copies_change_nothing() -> None:
    data = smooth_data(40)
    once, again = (with_near_copies(data, 60).train_images for _ in range(2))
    assert torch.equal(once, again)
    assert with_near_copies(data, 0) is data


def test_regimes_leave_the_evaluation_samples_alone() -> None:
    plain: Any = load_task(recipe())
    data: Any = load_task(recipe(imbalance=5.0, duplicates=0.5, subset=100))
    assert len(data.train_labels) == 100
    assert torch.equal(data.eval_images, plain.eval_images)
