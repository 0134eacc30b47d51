"""Near-duplicates by sketches, on planted ones."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from data_agent import duplicates
from data_agent.duplicates import (
    FEATURE_LIKENESS,
    IMAGE_LIKENESS,
    TEXT_LIKENESS,
    are_same_picture,
    are_same_text,
    feature_groups,
    image_groups,
    image_sketches,
    small_images,
    stars,
    text_groups,
    text_sketches,
    token_pairs,
)
from data_agent.errors import InputError
from data_agent_lab.auditing.duplicates import near_duplicates
from data_agent_lab.data.image_data import ImageData, with_near_copies


def pictures(count, size=16):
    """Smooth images, as photographs are: noise of low frequencies."""
    draws = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 5, generator=draws)
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (255 * fine).to(torch.uint8)


def copied_pictures():
    """600 pictures and 300 copies; the label says which picture it is."""
    number = torch.arange(600)
    data = ImageData(
        train_images=pictures(600),
        train_labels=number,
        eval_images=pictures(1),
        eval_labels=torch.zeros(1, dtype=torch.int64),
        class_names=tuple(map(str, range(600))),
        evaluation="",
    )
    return with_near_copies(data, 300)


def test_planted_copies_are_found_and_nothing_else():
    copied = copied_pictures()
    origin = copied.train_labels.numpy()
    small = small_images(copied.train_images)
    confirm = partial(are_same_picture, small)
    groups = near_duplicates(image_sketches(small), IMAGE_LIKENESS, confirm)
    flagged = sum(len(group.members) - 1 for group in groups)
    right = sum(int((origin[g.members[1:]] == origin[g.members[0]]).sum()) for g in groups)
    assert right / flagged >= 0.95
    assert right / 300 >= 0.95


def test_images_of_any_size_are_made_small_and_one_is_like_itself_only():
    for size in (8, 16, 40):
        small = small_images(pictures(20, size))
        assert small.shape == (20, 3, 16, 16)
    pair = are_same_picture(small, torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert pair.tolist() == [True, False]


def test_texts_with_a_word_changed_are_near_duplicates():
    draws = np.random.default_rng(0)
    texts = [draws.integers(0, 1000, size=80) for _ in range(50)]
    changed = texts[7].copy()
    changed[40] = 1001
    pairs = token_pairs([*texts, changed, np.empty(0, np.int64), np.array([3])])
    confirm = partial(are_same_text, pairs)
    groups = near_duplicates(text_sketches(pairs), TEXT_LIKENESS, confirm)
    assert [group.members.tolist() for group in groups] == [[7, 50]]


@pytest.mark.parametrize("length", [300, 2_000, 20_000])
def test_long_texts_are_near_duplicates_of_their_copies_alone(length):
    draws = np.random.default_rng(0)
    texts = [draws.integers(0, 30_000, size=length) for _ in range(50)]
    changed, longer = texts[7].copy(), np.append(texts[9], texts[8][:20])
    changed[draws.permutation(length)[:5]] = 30_001
    assert text_groups(texts).tolist() == list(range(50))
    groups = text_groups([*texts, changed, longer, texts[3], texts[3]])
    assert groups.tolist() == [*range(50), 7, 9, 3, 3]


def test_a_prompt_that_all_texts_begin_with_makes_them_no_near_duplicates():
    draws = np.random.default_rng(0)
    prompt = draws.integers(0, 30_000, size=800)
    texts = [np.append(prompt, draws.integers(0, 30_000, size=60)) for _ in range(50)]
    changed = texts[7].copy()
    changed[-20] = 30_001
    groups = text_groups([*texts, changed, prompt, prompt])
    assert groups.tolist() == [*range(50), 7, 51, 51]
    assert text_groups([prompt] * 50).tolist() == [0] * 50


def test_groups_of_an_audit_join_nothing_that_is_alike_by_way_of_others_only(monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK", 2)  # pairs lie in several blocks
    angle = torch.tensor([0.0, 1.5, 0.1, 3.0, 0.2, 0.3, 1.51])
    sketches = torch.stack([angle.cos(), angle.sin()], 1)
    groups = near_duplicates(sketches, float(torch.tensor(0.11).cos()))
    assert [group.members.tolist() for group in groups] == [[1, 6], [0, 2, 4]]  # 5 is like 4 only
    assert [group.centres.tolist() for group in groups] == [[1, 6], [2]]
    none = near_duplicates(sketches, 0.9, lambda first, second: first != first)
    assert none == []


def test_too_many_samples_are_refused(monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_SAMPLES", 3)
    with pytest.raises(InputError, match="4 samples cannot be compared"):
        near_duplicates(torch.eye(4), FEATURE_LIKENESS)


def test_in_a_group_of_the_library_all_are_alike_to_one():
    first, second = torch.tensor([0, 1, 2, 4]), torch.tensor([1, 2, 3, 5])
    assert stars(first, second, 7).tolist() == [1, 1, 1, 3, 4, 4, 6]  # 3 is like 2 alone
    none = torch.empty(0, dtype=torch.int64)
    assert stars(none, none, 3).tolist() == [0, 1, 2]


def test_groups_of_images_are_those_of_planted_copies():
    copied = copied_pictures()
    groups = image_groups(copied.train_images)
    size = len(groups)
    together = groups[:, None] == groups
    planted = copied.train_labels[:, None] == copied.train_labels
    apart = ~torch.eye(size, dtype=torch.bool)
    assert (together & planted & apart).sum() / (together & apart).sum() >= 0.95
    assert (together & planted & apart).sum() / (planted & apart).sum() >= 0.9


def test_groups_of_texts_and_of_embeddings():
    text = np.arange(40)
    texts = [text, text + 500, np.append(text, 7)]
    assert text_groups(texts).tolist() == [0, 1, 0]
    near = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.05]])
    assert feature_groups(near).tolist() == [0, 1, 0]


def test_groups_of_other_things_are_refused():
    with pytest.raises(InputError, match=r"images came as torch.float32 \[2, 3, 4, 4\]; expected"):
        image_groups(torch.rand(2, 3, 4, 4))
    with pytest.raises(InputError, match=r"features came as torch.int64 \[3\]; expected floats"):
        feature_groups(torch.arange(3))
    with pytest.raises(InputError, match=r"features came as ndarray .torch.from_numpy makes a"):
        feature_groups(np.ones((3, 2)))
    with pytest.raises(InputError, match=r"images came as ndarray .*; expected torch.uint8"):
        image_groups(np.zeros((2, 3, 4, 4), np.uint8))
    with pytest.raises(InputError, match=r"text 1 came as \['a b'\]; expected its token numbers"):
        text_groups([[1, 2], ["a b"]])
    with pytest.raises(InputError, match="text 0 came as 'a b'; expected its token numbers"):
        text_groups(["a b"])


def test_of_nothing_there_are_no_groups():
    assert text_groups([]).tolist() == []
    assert image_groups(torch.empty(0, 3, 8, 8, dtype=torch.uint8)).tolist() == []
    assert feature_groups(torch.empty(0, 4)).tolist() == []


def test_pictures_that_differ_by_parts_of_a_pixel_are_laid_exactly():
    draws = torch.Generator().manual_seed(0)
    coarse = torch.rand(40, 3, 10, 10, generator=draws)
    resize = partial(torch.nn.functional.interpolate, size=(64, 64), mode="bicubic")
    images = 255 * resize(coarse).clamp(0, 1)
    moved = images.roll((1, 1), (2, 3))  # by a quarter of one of 16 pixels
    small = small_images(torch.cat([images, moved]).round().to(torch.uint8))
    first = torch.arange(40)
    assert are_same_picture(small, first, first + 40).all()
    assert not are_same_picture(small, first, 40 + first.roll(1)).any()
