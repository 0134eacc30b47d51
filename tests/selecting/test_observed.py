"""What `learn` gets must be what this epoch delivered, once, in the order of the batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import DataAgent, Feedback, make_selector, selection_loader
from data_agent.errors import DataAgentError, DataAgentWarning, InputError, StateError

SIZE, BATCH = 200, 16


def data():
    x = torch.randn(SIZE, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, torch.arange(SIZE) % 3)


def loop(change, *, keep_ratio=0.5, epochs=6, name="data-agent", **options):
    """The README's loop, with an index that `change(index, step)` makes of the right one."""
    head = nn.Linear(4, 3)
    agent = make_selector(
        name, num_samples=SIZE, epochs=epochs, keep_ratio=keep_ratio, seed=0, **options
    )
    agent.watch(head)
    step = 0
    for _ in agent.epochs():
        for x, y, index in selection_loader(data(), agent, batch_size=BATCH):
            losses = F.cross_entropy(head(x), y, reduction="none")
            agent.learn(losses, change(index, step), labels=y).backward()
            step += 1
    return agent


def test_the_right_index_passes_at_every_keep_ratio():
    for keep_ratio in (0.3, 0.5, 1.0):
        assert loop(lambda index, _: index, keep_ratio=keep_ratio).visits


@pytest.mark.parametrize("keep_ratio", [0.5, 1.0])
@pytest.mark.parametrize(
    "change",
    [
        lambda index, _: torch.arange(len(index)),
        lambda index, step: (torch.arange(len(index)) + step * BATCH) % SIZE,
        lambda index, _: (index + 1) % SIZE,
        lambda index, _: index.flip(0),
        lambda index, _: index[torch.randperm(len(index))],
        lambda index, _: index[:1].expand(len(index)),
        lambda index, _: torch.randint(SIZE, (len(index),)),
    ],
    ids=["arange(B)", "counter", "shifted", "flipped", "shuffled", "one sample", "random"],
)
def test_an_index_that_is_not_the_batchs_is_refused_within_an_epoch(change, keep_ratio):
    with pytest.raises(DataAgentError, match=r"samples .* that came|came as .* in another order"):
        loop(change, keep_ratio=keep_ratio, epochs=3)


@pytest.mark.parametrize(
    "change",
    [
        lambda index, step: (torch.arange(len(index)) + step * BATCH) % SIZE,
        lambda index, _: (index + 1) % SIZE,
        lambda index, _: SIZE - 1 - index,
    ],
    ids=["counter", "shifted", "turned"],
)
def test_samples_that_were_not_given_out_yet_are_refused_in_the_first_batches(change):
    steps = []

    def counts(index, step):
        steps.append(step)
        return change(index, step)

    with pytest.raises(InputError, match=r"samples .* were not given out by the loader yet"):
        loop(counts, keep_ratio=1.0)
    assert len(steps) <= 2


def test_what_is_refused_changes_nothing_and_the_right_index_goes_on():
    head = nn.Linear(4, 3)
    agent = DataAgent(SIZE, 6, keep_ratio=0.5)
    agent.watch(head)
    agent.begin_epoch(0)
    loader = iter(selection_loader(data(), agent, batch_size=BATCH))
    x, y, index = next(loader)
    losses = F.cross_entropy(head(x), y, reduction="none")
    for wrong, text in (
        (torch.arange(BATCH), "not among the 100 that epoch 0 delivers"),
        (index.flip(0), "in another order than the loader gave them out"),
        (index[[0] * BATCH], "observed already in epoch 0"),
    ):
        with pytest.raises(DataAgentError, match=text):
            agent.learn(losses, wrong)
        assert agent.visits == 0
        losses = F.cross_entropy(head(x), y, reduction="none")
    agent.learn(losses, index).backward()
    with pytest.raises(StateError, match="LBFGS"):
        agent.learn(F.cross_entropy(head(x), y, reduction="none"), index)
    assert agent.visits == BATCH


def test_losses_put_back_in_the_order_of_the_batch_are_the_remedy_that_is_named():
    def sorted_rows(index, _):
        return index

    assert loop(sorted_rows).visits
    losses, order = torch.rand(5), torch.randperm(5)
    assert torch.equal(losses[order][order.argsort()], losses)


def test_a_batch_may_be_learned_from_in_parts_and_with_rows_left_out():
    head = nn.Linear(4, 3)
    agent = DataAgent(SIZE, 6, keep_ratio=0.5)
    agent.watch(head)

    def train():
        for _ in agent.epochs():
            for x, y, index in selection_loader(data(), agent, batch_size=20):
                for rows in (slice(0, 5), slice(6, None)):
                    losses = F.cross_entropy(head(x[rows]), y[rows], reduction="none")
                    agent.learn(losses, index[rows]).backward()

    with pytest.warns(DataAgentWarning, match="5 of the 100 samples of epoch"):
        train()


def test_what_an_epoch_left_out_comes_first_in_the_next_one():
    agent = DataAgent(SIZE, 12, keep_ratio=0.5, seed=0)
    agent.begin_epoch(0)
    index = agent.select(0).index
    trained, missed = index[:30], index[30:]
    agent.observe(feedback(trained))
    with pytest.warns(DataAgentWarning, match=r"70 of the 100 samples of epoch 0 were not trained"):
        agent.begin_epoch(1)
    assert torch.isin(missed, agent.select(1).index).all()
    second = agent.select(1).index
    agent.observe(feedback(second))
    agent.begin_epoch(2)  # what 0 displaced from 1 comes now: the warm-up still sees every sample
    seen = torch.cat([trained, second, agent.select(2).index])
    assert len(seen.unique()) == SIZE
    assert len(agent.select(2)) == 100


@pytest.mark.parametrize("name", ["data-agent", "random", "label-aware", "top-loss", "infobatch"])
def test_epochs_that_are_always_left_early_see_everything_in_the_end(name):
    seen = torch.zeros(SIZE)
    agent = make_selector(name, num_samples=SIZE, epochs=24, keep_ratio=0.5)

    def train():
        for epoch in agent.epochs():
            index = agent.select(epoch).index
            assert len(index) == 100
            order = index[torch.randperm(len(index))][:40]
            seen[order] += 1
            agent.observe(feedback(order))

    with pytest.warns(DataAgentWarning, match="were not trained on"):
        train()
    assert seen.min() > 0


@pytest.mark.parametrize("restores", [False, True])
@pytest.mark.parametrize(("keep_ratio", "most"), [(0.5, 3), (0.7, 4), (1.0, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_the_oldest_that_was_left_out_comes_first_so_that_all_are_seen_alike(
    keep_ratio, most, seed, restores
):
    base = {"num_samples": SIZE, "epochs": 12, "keep_ratio": keep_ratio, "seed": seed}
    agent = make_selector("random", **base)
    seen = torch.zeros(SIZE)

    def train():
        for _ in agent.epochs():
            for step, (_, _, index) in enumerate(selection_loader(data(), agent, batch_size=10)):
                if step == 4:
                    break  # with a batch that was given out and is not learned from
                seen[index] += 1
                agent.observe(feedback(index))
            if restores:
                agent.load_state_dict(agent.state_dict())

    kept = round(keep_ratio * SIZE)
    with pytest.warns(DataAgentWarning, match=f"{kept - 40} of the {kept} samples of epoch"):
        train()
    assert seen.min() >= 2  # 480 visits of 200 samples
    assert seen.max() <= most


@pytest.mark.parametrize("restores", [False, True])
def test_what_was_left_out_stands_at_the_front_of_the_next_epoch(restores):
    agent = DataAgent(SIZE, 12, keep_ratio=0.5, seed=0)
    agent.begin_epoch(0)
    index = agent.select(0).index
    missed = index[torch.randperm(len(index))[:40]]
    agent.observe(feedback(index[~torch.isin(index, missed)]))
    with pytest.warns(DataAgentWarning, match="40 of the 100 samples of epoch 0"):
        agent.begin_epoch(1)
    if restores:
        state = agent.state_dict()
        agent = DataAgent(SIZE, 12, keep_ratio=0.5, seed=0)
        agent.load_state_dict(state)
    order = torch.cat([i for _, _, i in selection_loader(data(), agent, batch_size=BATCH)])
    assert torch.equal(order[:40].sort().values, missed.sort().values)


def test_a_run_that_stops_and_goes_on_knows_what_was_left_out():
    agents = []
    for restores in (False, True):
        agent = DataAgent(SIZE, 12, keep_ratio=0.5, seed=0)
        agent.begin_epoch(0)
        agent.observe(feedback(agent.select(0).index[:30]))
        if restores:
            state = agent.state_dict()
            agent = DataAgent(SIZE, 12, keep_ratio=0.5, seed=0)
            agent.load_state_dict(state)
        with pytest.warns(DataAgentWarning, match="were not trained on"):
            agent.begin_epoch(1)
        agents.append(agent)
    one, other = agents
    assert torch.equal(one.select(1).index, other.select(1).index)


def test_a_loader_that_gives_batches_out_of_order_is_resumed_with_what_is_left():
    first = DataAgent(SIZE, 3, keep_ratio=0.5)
    first.begin_epoch(0)
    index = first.select(0).index
    observed = index[torch.randperm(len(index))[:48]]
    first.observe(feedback(observed))
    second = DataAgent(SIZE, 3, keep_ratio=0.5)
    second.load_state_dict(first.state_dict())
    rest = torch.cat([i for _, _, i in selection_loader(data(), second, batch_size=BATCH)])
    assert torch.equal(torch.cat([observed, rest]).sort().values, index)


def feedback(index):
    size = len(index)
    features = torch.randn(size, 4)
    labels = index % 3
    return Feedback(index, torch.rand(size), torch.randn(size, 3), features, labels)
