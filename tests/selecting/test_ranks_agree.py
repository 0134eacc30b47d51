"""What ranks must have alike, and what they go on from: two real processes."""

import pytest
import torch
import torch.nn.functional as F
from ranks import join_group, run_ranks
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import Feedback, make_selector, selection_loader
from data_agent.errors import InputError
from data_agent.testing.runs import equal_states

SIZE, EPOCHS = 57, 4


def data():
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(SIZE, 6, generator=draws)
    return TensorDataset(x, x[:, :3].argmax(1))


def unlike(rank, method):
    join_group()
    try:
        selector = make_selector(
            method, num_samples=SIZE, epochs=EPOCHS, keep_ratio=0.5, seed=3 + rank
        )
        selector.begin_epoch(0)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.distributed
def test_selectors_that_ranks_build_with_seeds_of_their_own_are_refused_on_every_rank(tmp_path):
    for said in run_ranks(unlike, tmp_path, "random"):
        assert "the selectors of the 2 ranks differ in seed: each would choose" in said


def build(name, **options):
    return make_selector(name, num_samples=SIZE, epochs=EPOCHS, keep_ratio=0.5, **options)


def learn(selector, model, x, y, index):
    """A step of a batch selector: look at the pool, train on the best of it."""
    with torch.no_grad():
        logits = model(x)
        losses = F.cross_entropy(logits, y, reduction="none")
    pool = Feedback(index, losses, logits=logits, features=x, labels=y)
    keep = selector.select_batch(pool)
    losses = F.cross_entropy(model(x[keep]), y[keep], reduction="none")
    selector.learn(losses, index[keep], labels=y[keep]).backward()


def trained(name, *, state=None, until=None):
    """The batches of this rank, and the state behind so many of them."""
    torch.manual_seed(0)
    selector, model = build(name), nn.Linear(6, 3)
    loader = selection_loader(data(), selector, batch_size=4)
    if state is not None:
        selector.load_state_dict(state)
    seen = []
    for _ in selector.epochs():
        for x, y, index in loader:
            learn(selector, model, x, y, index)
            seen.append(index.tolist())
            if len(seen) == until:
                return seen, selector.state_dict()
    return seen, selector.state_dict()


def stops_and_goes_on(rank, name):
    join_group()
    whole, end = trained(name)
    first, state = trained(name, until=9)
    rest, last = trained(name, state=state)
    return state["method"], whole == first + rest, {**end, "overhead_seconds": 0}, last


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["selective-backprop", "divbs", "data-agent-in-batch"])
def test_a_state_is_that_of_all_ranks_and_each_goes_on_from_its_own_part(name, tmp_path):
    (method, is_same, end, last), (other_method, other_is_same, other_end, _) = run_ranks(
        stops_and_goes_on, tmp_path, name
    )
    assert is_same
    assert other_is_same
    assert equal_states(method, other_method)
    assert equal_states(end, other_end)
    assert equal_states(end["method"], last["method"])


def uneven(rank):
    """The first round is the last one: eleven samples are pools of six and five."""
    join_group()
    selector = make_selector("data-agent-in-batch", num_samples=11, epochs=60, keep_ratio=0.5)
    model, draws = nn.Linear(6, 3), torch.Generator().manual_seed(1)
    x = torch.randn(11, 6, generator=draws)
    loader = selection_loader(TensorDataset(x, x[:, :3].argmax(1)), selector, batch_size=8)
    for _ in selector.epochs():
        for inputs, labels, index in loader:
            learn(selector, model, inputs, labels, index)
    return selector.state_dict()["visits"]


@pytest.mark.distributed
def test_ranks_whose_first_pools_differ_in_size_update_at_the_same_steps(tmp_path):
    first, second = run_ranks(uneven, tmp_path)
    assert first == second


def test_rows_left_out_of_the_first_batch_after_a_restore_are_no_batches_skipped_twice():
    """The first sample that is learned from is then not the first of the batch."""

    def observe(selector, size, first):
        batch = next(iter(selection_loader(data(), selector, batch_size=size)))
        index = batch[-1][first:]
        selector.observe(Feedback(index, torch.ones(len(index))))

    selector = build("random")
    selector.begin_epoch(0)
    observe(selector, 4, 0)
    resumed = build("random")
    resumed.load_state_dict(selector.state_dict())
    observe(resumed, 16, 4)
    assert resumed.visits == 4 + 12
