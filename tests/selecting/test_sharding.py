"""Tables that ranks share: what is chosen, equal steps, and pieces for other numbers of ranks."""

from itertools import chain

import pytest
import torch

from data_agent import DataAgent, DataAgentConfig, Feedback, make_selector, selection_loader
from data_agent.agent.config import DataAgentConfig as Config
from data_agent.errors import CheckpointError, InputError, StateError
from data_agent.labels import LabelRules
from data_agent.runtime.random import Purpose, derived_seed
from data_agent.runtime.shards import Shard
from data_agent.runtime.topk import highest_of_each
from data_agent.selecting import selector as selector_module
from data_agent.selecting.sharding import reshard
from data_agent.testing.runs import equal_states

SIZE, EPOCHS, BATCH = 203, 8, 8
CONFIG = {"update_every": 2, "rollout_rows": 24}


@pytest.fixture
def build(monkeypatch):
    """A rank's selector, built in this process as it would be there, and its loader's batches."""

    def build(rank, world, name="data-agent", size=SIZE, batch_size=BATCH, **options):
        shard = Shard(rank, world)
        monkeypatch.setattr(selector_module, "own_shard", lambda: shard)
        if name == "data-agent" and "config" not in options:
            options["config"] = DataAgentConfig(**CONFIG)
        budget = {"num_samples": size, "epochs": EPOCHS, "keep_ratio": 0.5, "seed": 3}
        selector = make_selector(name, **budget, sharded=True, **options)
        selector.use_loader(batch_size, world=world)
        return selector

    return build


def batches_of(selector):
    """The batches of the running epoch, in ascending order of their samples."""
    return selector.select(selector.epoch).index.split(BATCH)


def observe(selector, index):
    draws = torch.Generator().manual_seed(int(index.sum()))
    features = torch.randn(len(index), 6, generator=draws)
    logits = torch.randn(len(index), 3, generator=draws)
    selector.observe(Feedback(index, torch.rand(len(index), generator=draws), logits, features))


def run_epochs(selector, epochs):
    """Samples of each epoch, all observed."""
    seen = []
    for epoch in epochs:
        selector.begin_epoch(epoch)
        seen.append(selector.select(epoch).index)
        for index in batches_of(selector):
            observe(selector, index)
    return seen


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("name", ["random", "data-agent"])
def test_ranks_choose_their_shares_of_their_own_samples_in_equally_many_steps(build, name, world):
    ranks = [build(rank, world, name) for rank in range(world)]
    seen = [run_epochs(selector, range(EPOCHS)) for selector in ranks]
    for epoch in range(EPOCHS):
        parts = [seen[rank][epoch] for rank in range(world)]
        whole = torch.cat(parts)
        assert len(whole) == len(whole.unique()) == ranks[0].schedule.num_kept
        assert all(bool((part % world == rank).all()) for rank, part in enumerate(parts))
        assert len({-(-len(part) // BATCH) for part in parts}) == 1
    visits = torch.bincount(torch.cat(list(chain(*seen))), minlength=SIZE)
    assert visits.min() >= 1
    if name == "random":  # streams of permutations, one a rank
        for rank in range(world):
            own = visits[rank::world]
            assert own.max() - own.min() <= 1


def test_alone_a_sharded_selector_is_the_plain_one(build):
    budget = {"num_samples": SIZE, "epochs": EPOCHS, "keep_ratio": 0.5, "seed": 3}
    plain = DataAgent(**budget, config=DataAgentConfig(**CONFIG))
    plain.use_loader(BATCH)
    sharded = build(0, 1)
    for one, other in zip(*(run_epochs(s, range(EPOCHS)) for s in (plain, sharded)), strict=True):
        assert torch.equal(one, other)
    states = [selector.state_dict() for selector in (plain, sharded)]
    for state in states:
        del state["overhead_seconds"]
    assert equal_states(*states)


@pytest.mark.parametrize("world", [2, 4])
def test_together_they_choose_what_one_would_within_these_shares(build, world):
    """Equal actions are drawn by the same hash of the sample, whoever keeps it."""
    config = Config(**CONFIG, ranking="last-action")
    actions = torch.randint(0, 6, (SIZE,), generator=torch.Generator().manual_seed(1)) / 8
    chosen, counts = torch.zeros(SIZE, dtype=torch.bool), []
    excluded = torch.arange(SIZE) % 5 == 0
    for rank in range(world):
        agent = build(rank, world, config=config)
        agent.merge(torch.arange(agent.own.num_samples), actions[rank::world, None])
        counts.append(agent.own.num_kept)
        chosen[rank::world] = agent.choose(4, counts[-1], excluded[rank::world])
    plain = highest_of_each(
        actions,
        torch.tensor([0, *counts]),
        tie_seed=derived_seed(3, Purpose.TIE, 4),
        group=torch.arange(SIZE) % world,
        among=~excluded,
    )
    assert torch.equal(chosen, plain)


def test_shares_cost_few_of_the_best(build):
    """Of 100,000 scores the best half and the best of each share differ by 2 in a thousand."""
    size, world = 100_000, 4
    actions = torch.rand(size, generator=torch.Generator().manual_seed(1))
    chosen = torch.zeros(size, dtype=torch.bool)
    for rank in range(world):
        agent = build(rank, world, size=size, config=Config(**CONFIG, ranking="last-action"))
        own = agent.own.num_samples
        agent.merge(torch.arange(own), actions[rank::world, None])
        chosen[rank::world] = agent.choose(4, own // 2, torch.zeros(own, dtype=torch.bool))
    best = actions >= actions.sort(descending=True).values[size // 2 - 1]
    assert int(chosen.sum()) == size // 2
    assert int((chosen & ~best).sum()) < 0.004 * size // 2


def test_ranks_visit_unlike_places_in_unlike_orders(build):
    first, second = (build(rank, 2, "random") for rank in range(2))
    for selector in (first, second):
        selector.begin_epoch(0)
    places = [s.own.shard.places(s.select(0).index).tolist() for s in (first, second)]
    assert places[0] != places[1]
    assert first.order_seed != second.order_seed


@pytest.mark.parametrize("num_batches", [0, 3, 5])  # none, some, all
def test_a_run_that_stops_anywhere_goes_on_as_if_it_had_not(build, num_batches):
    def advance(agent, done):
        for index in batches_of(agent)[done:]:
            observe(agent, index)
        run_epochs(agent, range(agent.epoch + 1, 6))
        return agent.state_dict()

    whole, stopped = build(1, 3), build(1, 3)
    for agent in (whole, stopped):
        run_epochs(agent, range(4))
        agent.begin_epoch(4)
    for index in batches_of(stopped)[:num_batches]:
        observe(stopped, index)
    piece = stopped.state_dict()
    assert piece["shard"] == [1, 3]
    assert len(piece["method"]["table"]["parameters"]) == Shard(1, 3).size(SIZE)
    resumed = build(1, 3)
    resumed.load_state_dict(piece)
    # An epoch that was over when it stopped is followed by the next one as soon as it is loaded.
    assert resumed.epoch == (5 if num_batches == 5 else 4)
    states = [advance(whole, 0), advance(resumed, num_batches % 5)]
    for state in states:
        del state["overhead_seconds"]
    assert equal_states(*states)


def pieces_of(build, world, epochs=5):
    agents = [build(rank, world, size=208) for rank in range(world)]
    for agent in agents:
        run_epochs(agent, range(epochs))
    return agents, [agent.state_dict() for agent in agents]


@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 2), (2, 3)])
def test_pieces_of_other_numbers_of_ranks_hold_the_same(build, before, after):
    agents, pieces = pieces_of(build, before)
    others = [build(rank, after, size=208) for rank in range(after)]
    for agent, piece in zip(others, reshard(pieces, after), strict=True):
        agent.load_state_dict(piece)  # the epoch is over: the next one begins
        assert agent.epoch == 5
    for agent in agents:
        agent.begin_epoch(5)
    actions = [torch.empty(208), torch.empty(208)]
    for group, into in ((agents, actions[0]), (others, actions[1])):
        for rank, agent in enumerate(group):
            into[rank :: len(group)] = agent.expected_actions()
    assert torch.equal(*actions)
    chosen = torch.cat([agent.select(5).index for agent in others])
    assert len(chosen.unique()) == others[0].schedule.num_kept
    assert len({len(batches_of(agent)) for agent in others}) == 1
    for agent in others:
        run_epochs(agent, range(5, EPOCHS))


def test_there_and_back_nothing_is_lost(build):
    _, pieces = pieces_of(build, 2)
    back = reshard(reshard(pieces, 3), 2)
    for before, now in zip(pieces, back, strict=True):
        assert torch.equal(before["staged_index"].sort().values, now["staged_index"].sort().values)
        assert equal_states(before["running"], now["running"])
        assert equal_states(before["method"]["table"], now["method"]["table"])


@pytest.mark.filterwarnings("ignore:.*were not trained on")
def test_what_was_left_out_comes_first_on_its_rank_and_on_others(build):
    """A batch of epoch 4 comes in epoch 5; what 5 put off comes on other ranks in epoch 6."""
    agents = [build(rank, 2, size=208) for rank in range(2)]
    for agent in agents:
        run_epochs(agent, range(4))
        agent.begin_epoch(4)
        *batches, last = batches_of(agent)
        for index in batches:
            observe(agent, index)
        run_epochs(agent, [5])
        assert set(last.tolist()) <= set(agent.first_of(5).tolist())
        assert set(last.tolist()) <= set(agent.select(5).index.tolist())
    pieces = [agent.state_dict() for agent in agents]
    for rank, piece in enumerate(pieces):  # as if visits had been put off
        piece["running"]["displaced"] = torch.tensor([7 + rank, 3])
    due = {0: [], 1: [17], 2: [14, 6], 3: [7]}  # 2 * 7, 2 * 3; 2 * 8 + 1, 2 * 3 + 1
    others = [build(rank, 4, size=208) for rank in range(4)]
    for agent, piece in zip(others, reshard(pieces, 4), strict=True):
        agent.load_state_dict(piece)
        first = agent.first_of(6)
        assert ([] if first is None else first.tolist()) == due[agent.own.shard.rank]


def test_pieces_that_do_not_belong_together_are_refused(build):
    _, pieces = pieces_of(build, 2)
    with pytest.raises(CheckpointError, match="expected those of all ranks, in rank order"):
        reshard(pieces[::-1], 4)
    with pytest.raises(CheckpointError, match="of one moment"):
        reshard([pieces[0], pieces_of(build, 2, epochs=4)[1][1]], 4)
    with pytest.raises(InputError, match="world is 1"):
        reshard(pieces, 1)
    agent = build(0, 2, size=208)
    agent.begin_epoch(0)
    observe(agent, batches_of(agent)[0])
    other = build(1, 2, size=208)
    other.begin_epoch(0)
    observe(other, batches_of(other)[0])
    with pytest.raises(CheckpointError, match="in the middle of an epoch"):
        reshard([agent.state_dict(), other.state_dict()], 4)


def test_a_piece_of_another_rank_is_refused(build):
    _, pieces = pieces_of(build, 2)
    with pytest.raises(CheckpointError, match=r"shard was \[1, 2\], here it is \[0, 2\]"):
        build(0, 2, size=208).load_state_dict(pieces[1])


def test_an_epoch_ends_in_the_batches_it_began_in(build):
    """Other batches could be unlike in number on the ranks, which would wait for each other."""
    agent, other = build(0, 2), build(0, 2, batch_size=5)
    agent.begin_epoch(0)
    for index in batches_of(agent):
        piece = agent.state_dict()
        with pytest.raises(CheckpointError, match="in the same batches: of 8, not of 5"):
            other.load_state_dict(piece)
        observe(agent, index)
    other.load_state_dict(agent.state_dict())
    assert other.epoch == 1


def test_a_sample_of_another_rank_is_refused(build):
    agent = build(0, 2)
    agent.begin_epoch(0)
    with pytest.raises(InputError, match="are not among"):
        observe(agent, torch.tensor([1, 3]))


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("top-loss", {}, "compares all samples"),
        ("label-aware", {}, "compares all samples"),
        ("data-agent", {"config": Config(label_rules=LabelRules())}, "label rules and trusted"),
        ("data-agent", {"config": Config.paper()}, "in a 'paper' schedule"),
        ("data-agent", {"config": Config(schedule="to-the-end")}, "in a 'to-the-end' schedule"),
        ("data-agent", {"trusted": [0, 1], "config": None}, "label rules and trusted"),
    ],
)
def test_what_cannot_be_sharded_says_why(build, name, options, why):
    with pytest.raises(InputError, match=rf"{name} cannot be sharded as it is: .*{why}"):
        build(0, 2, name, **options)


def test_loaders_of_other_ranks_are_refused(build):
    agent = build(0, 2)
    with pytest.raises(StateError, match="sharded over 2 ranks, but the loader deals an epoch to"):
        selection_loader(torch.arange(SIZE), agent, batch_size=BATCH)
    with pytest.raises(InputError, match="num_samples is 3, and 4 ranks need one each"):
        build(0, 4, "random", size=3)
