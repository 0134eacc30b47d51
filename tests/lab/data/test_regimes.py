from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from data_agent import DataAgentError
from data_agent_lab.data.image_data import ImageData
from data_agent_lab.data.regimes import choose_rows, long_tail, with_near_copies
from data_agent_lab.recipes import ImageRecipe
from data_agent_lab.tasks import load_task, recipe_for


def labels_of(*sizes: int) -> torch.Tensor:
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


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
