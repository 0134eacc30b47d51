"""Which order the reads of samples tell: the last pass, whatever is looked at around it."""

import random

import pytest

from data_agent.loading.reads import orders_of

AS_IT_WAS = [0, 1, 2, 3]


def found(places, *, count=4, listed=AS_IT_WAS):
    size = 4
    is_changed = list(listed) != AS_IT_WAS
    return orders_of(places, size, count, listed, is_changed=is_changed)


@pytest.mark.parametrize(
    ("places", "order"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([0, 1, 2, 3, 2, 0, 3, 1], [2, 0, 3, 1]),  # sorted by what was read first
        ([0, 1, 2, 3, 3, 0, 1, 2], [3, 0, 1, 2]),  # which may end with the one it begins with
        ([0, 0, 1, 2, 3], [0, 1, 2, 3]),  # a look at the first one
        ([0, 1, 0, 1, 2, 3], [0, 1, 2, 3]),
        ([0, 2, 0, 3, 1], [2, 0, 3, 1]),
        ([0, 1, 2, 3, 0], [0, 1, 2, 3]),  # a look behind the pass
        ([0, 1, 2, 3, 0, 1], [0, 1, 2, 3]),
        ([0, 1, 2, 3, 3], [0, 1, 2, 3]),
        ([0, 1, 2, 3, 2], [0, 1, 2, 3]),
        ([0, 1, 2, 3, 0, 1, 2, 3, 0], [0, 1, 2, 3]),  # DataCollatorForSeq2Seq
        ([0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 2, 3]),  # `sample[k] if sample[k] else ...`
        ([0, 1, 2, 3, 0, 0, 1, 1, 2, 2, 3, 3, 0, 1, 2, 3], [0, 1, 2, 3]),
        ([0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 0, 0, 1, 1, 2, 2], [3, 0, 1, 2]),
    ],
)
def test_the_last_pass_is_the_order_of_the_rows(places, order):
    assert found(places) == {tuple(order)}


@pytest.mark.parametrize(
    ("places", "listed", "orders"),
    [
        ([0, 1, 2, 3, 0], [0, 1, 2, 3], {(0, 1, 2, 3)}),
        ([0, 1, 2, 3, 0], [1, 2, 3, 0], {(1, 2, 3, 0)}),  # looked at the first, shuffled the list
        ([3, 0, 1, 2, 3], [0, 1, 2, 3], {(0, 1, 2, 3)}),  # looked at the last one first
        ([0, 1, 2, 3, 2, 0, 1, 3, 2], [2, 0, 1, 3], {(2, 0, 1, 3)}),
        ([0, 1, 2, 3, 2, 0, 1, 3, 2], [0, 1, 2, 3], {(2, 0, 1, 3), (0, 1, 3, 2)}),
        ([0, 3, 2, 1, 0], [0, 1, 2, 3], {(0, 3, 2, 1), (3, 2, 1, 0)}),
        ([0, 1, 2, 3, 0, 2, 1, 3, 0], [0, 1, 2, 3], {(0, 2, 1, 3), (2, 1, 3, 0)}),
        ([0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3], {(0, 1, 2, 3), (3, 0, 1, 2)}),  # more than a look
    ],
)
def test_the_list_as_it_was_left_settles_what_a_look_at_the_end_leaves_open(places, listed, orders):
    assert found(places, listed=listed) == orders


@pytest.mark.parametrize(
    ("places", "orders"),
    [
        ([0, 1, 2, 3, 0, 2, 3], {(0, 2, 3)}),
        ([0, 1, 2, 3, 3, 0, 2], {(3, 0, 2)}),
        ([0, 1, 2, 3, 0, 2, 3, 0], {(0, 2, 3)}),
        ([0, 1, 2, 3, 0, 2, 3, 2], {(0, 2, 3)}),
        ([0, 1, 2, 0, 1, 2, 3], set()),  # left out by a mask, behind what is seen
        ([0, 1, 2, 3], set()),
    ],
)
def test_of_samples_left_out_nothing_is_read_again(places, orders):
    assert found(places, count=3) == orders


@pytest.mark.parametrize("places", [[], [0], [0, 2, 0, 2], [0, 1, 2, 3, 0, 2, 3, 0]])
def test_what_is_no_pass_over_all_tells_nothing(places):
    """The last one leaves a sample out and fills up with another, which reads as many."""
    assert found(places) == set()


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_passes_without_looks_are_followed_whatever_their_order(size):
    draws = random.Random(size)
    for _ in range(500):
        passes = [draws.sample(range(size), size) for _ in range(draws.randint(1, 3))]
        doubled = [draws.choice([1, 1, 2]) for _ in passes]
        places = [
            place
            for one, times in zip(passes, doubled, strict=True)
            for place in one
            for _ in range(times)
        ]
        is_changed = draws.random() < 0.5
        listed = passes[-1] if is_changed else [*range(size)]
        orders = orders_of(places, size, size, listed, is_changed=is_changed)
        assert tuple(passes[-1]) in orders
