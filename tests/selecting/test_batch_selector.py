"""The exact budget of methods that choose inside batches, over any number of ranks."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import join_group, run_ranks
from torch.utils.data import TensorDataset

from data_agent import Feedback, selection_loader
from data_agent.baselines.selective_backprop import SelectiveBackprop
from data_agent.budget.rounds import share_of
from data_agent.selecting.batch_selector import round_quota


@given(
    rest=st.integers(0, 40),
    rounds=st.integers(1, 12),
    batch_size=st.integers(2, 16),
    world=st.integers(1, 5),
    keep_ratio=st.floats(0.05, 1.0),
)
def test_an_epoch_takes_exactly_its_share_and_every_rank_two_of_each_pool_that_has_them(
    rest, rounds, batch_size, world, keep_ratio
):
    keep_ratio = max(keep_ratio, 2 / batch_size)  # pools that can spare a sample
    full = batch_size * world
    rest = rest % full
    rest = 0 if rest < world else rest  # which a loader leaves out
    total = rounds * full + rest
    taken = 0
    for start in range(0, total, full):
        size = min(full, total - start)
        rounds = {"total": total, "keep_ratio": keep_ratio, "world": world, "full": full}
        quota = round_quota(start, size, **rounds)
        shares = [share_of(quota, rank, world) for rank in range(world)]
        pools = [share_of(size, rank, world) for rank in range(world)]
        assert sum(shares) == quota
        assert all(1 <= share <= pool for share, pool in zip(shares, pools, strict=True))
        if total * keep_ratio >= 2 * world * math.ceil(total / full):  # the budget has as many
            assert all(min(2, pool) <= share for share, pool in zip(shares, pools, strict=True))
        if size == full:
            assert abs(quota - keep_ratio * size) <= 2 * world + 1
        taken += quota
    assert taken == math.floor(keep_ratio * total + 0.5)


def test_by_hand():
    # Half of 11 in pools of 4: 2, 2, and of the last three the two that make it 6 (5.5 rounded up).
    of_eleven = {"total": 11, "keep_ratio": 0.5, "world": 1, "full": 4}
    assert [round_quota(s, n, **of_eleven) for s, n in ((0, 4), (4, 4), (8, 3))] == [2, 2, 2]
    # Half of 9: the second pool leaves one for the last, which alone would get none.
    of_nine = {"total": 9, "keep_ratio": 0.5, "world": 1, "full": 4}
    assert [round_quota(s, n, **of_nine) for s, n in ((0, 4), (4, 4), (8, 1))] == [2, 2, 1]
    # On two ranks of pools of 4, half of 18: each of the last two pools of one is trained on.
    of_two = {"total": 18, "keep_ratio": 0.5, "world": 2, "full": 8}
    assert [round_quota(s, n, **of_two) for s, n in ((0, 8), (8, 8), (16, 2))] == [4, 3, 2]
    # A quarter of 35 in pools of 8 is 9; of the last three samples one were to come, but two are
    # left for them, by the pool before and, as that needs two itself, by those before it.
    of_35 = {"total": 35, "keep_ratio": 0.25, "world": 1, "full": 8}
    rounds = ((0, 8), (8, 8), (16, 8), (24, 8), (32, 3))
    assert [round_quota(s, n, **of_35) for s, n in rounds] == [2, 2, 2, 2, 1]  # 9 do not suffice
    of_35["keep_ratio"] = 0.3  # 10.5, rounded up: 2.4 a pool
    assert [round_quota(s, n, **of_35) for s, n in rounds] == [2, 3, 2, 2, 2]


SIZE, EPOCHS, POOL = 107, 3, 12  # over all ranks


def choose(rank, stop):
    """What a rank trains on: `(epoch, chosen, pool)`; `stop` saves behind so many pools."""
    if rank is not None:
        join_group()
    world = 1 if rank is None else torch.distributed.get_world_size()
    log: list[Any] = []
    saved: Any = None
    for state in (None,) if stop is None else (None, "restored"):
        selector = SelectiveBackprop(num_samples=SIZE, epochs=EPOCHS, keep_ratio=0.5)
        loader = selection_loader(
            TensorDataset(torch.arange(SIZE)), selector, batch_size=POOL // world
        )
        if state is not None:
            selector.load_state_dict(saved)
            log = log[:stop]
        for epoch in selector.epochs():
            for _, index in loader:
                losses = torch.rand(SIZE, generator=torch.Generator().manual_seed(epoch))[index]
                keep = selector.select_batch(Feedback(index, losses))
                selector.observe(Feedback(index[keep], losses[keep]))
                log.append((epoch, index[keep].tolist(), len(index)))
                if len(log) == stop:
                    saved = selector.state_dict()
    return log


def test_the_budget_is_the_same_on_any_number_of_ranks(tmp_path):
    alone = [choose(None, None)]
    two = run_ranks(choose, tmp_path, 13)
    three = run_ranks(choose, tmp_path, None, world=3)
    for ranks in (alone, two, three):
        assert len({len(log) for log in ranks}) == 1  # equal steps
        for epoch in range(EPOCHS):
            chosen = [i for log in ranks for e, batch, _ in log if e == epoch for i in batch]
            assert len(chosen) == len(set(chosen)) == 54  # 53.5, rounded
            assert sum(n for log in ranks for e, _, n in log if e == epoch) == SIZE


@pytest.mark.parametrize(("size", "batch_size"), [(101, 16), (83, 16), (52, 8), (205, 8)])
def test_no_batch_of_a_single_sample_where_the_loader_of_all_makes_none(size, batch_size):
    """A batch normalisation in training cannot take one."""
    selector = SelectiveBackprop(num_samples=size, epochs=1, keep_ratio=0.26)
    model, x = torch.nn.BatchNorm1d(3), torch.randn(size, 3)
    visits = 0
    for _ in selector.epochs():
        for rows, index in selection_loader(TensorDataset(x), selector, batch_size=batch_size):
            keep = selector.select_batch(Feedback(index, torch.rand(len(index))))
            losses = model(rows[keep]).mean(1)
            selector.learn(losses, index[keep])
            visits += len(losses)
    assert visits == math.floor(0.26 * size + 0.5)


@pytest.mark.parametrize("drop_last", [False, True])
def test_the_summary_compares_visits_with_planned_visits(drop_last):
    selector = SelectiveBackprop(num_samples=41, epochs=3, keep_ratio=0.25)
    data = TensorDataset(torch.zeros(41))
    loader = selection_loader(data, selector, batch_size=8, drop_last=drop_last)
    for _ in selector.epochs():
        for _, index in loader:
            offered = Feedback(index, torch.rand(len(index)))
            kept = index[selector.select_batch(offered)]
            selector.observe(Feedback(kept, torch.rand(len(kept))))
    # A quarter of 41 or of 40 samples is 10 visits an epoch.
    cost = "56.9%" if drop_last else "58.3%"
    assert (
        f"30 visits = 24.4% of a full run (plan: 24.4%, at {cost} of its cost with scoring)"
        in selector.summary()
    )
