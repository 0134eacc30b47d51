"""Labels as classes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_agent.labels import classes
from data_agent.labels.classes import Classes, distinct

labels = st.lists(st.one_of(st.integers(-1, 5), st.integers(2**31 - 4, 2**31 - 1)), min_size=1)


@settings(max_examples=100, deadline=None)
@given(labels)
def test_large_labels_are_numbered_as_a_sort_numbers_them(values):
    label = torch.tensor(values, dtype=torch.int32)
    of = Classes(label)
    known = label[label >= 0].unique().tolist()
    assert of.number.tolist() == [known.index(v) if v >= 0 else -1 for v in values]
    assert of.sizes(torch.ones(len(label), dtype=torch.bool))[0].tolist() == [
        values.count(v) for v in (-1, *known)
    ]
    assert of.number.tolist() == [known.index(v) if v >= 0 else -1 for v in values]  # as before


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-1, 6), min_size=1), st.randoms())
def test_small_labels_are_their_numbers_and_sets_of_samples_are_counted(values, random):
    label = torch.tensor(values, dtype=torch.int16)
    of = Classes(label)
    assert of.number.tolist() == values
    masks = [torch.tensor([random.random() < 0.5 for _ in values]) for _ in range(2)]
    for mask, sizes in zip(masks, of.sizes(*masks), strict=True):
        expected = [int((mask & (label == number)).sum()) for number in range(-1, max(values) + 1)]
        assert sizes.tolist() == expected
    with_one = {v for v, marked in zip(values, masks[0].tolist(), strict=True) if marked}
    assert of.with_any_of(masks[0]).tolist() == [v in with_one for v in values]


def test_distinct_values_of_many_blocks(monkeypatch):
    monkeypatch.setattr(classes, "BLOCK", 8)
    values = torch.randint(0, 300, (2000,), generator=torch.Generator().manual_seed(0)).int()
    assert distinct(values.numpy()).tolist() == values.unique().tolist()
    assert distinct(values.numpy()[:0]).tolist() == []
