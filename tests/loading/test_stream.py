"""Streams: samples without a place in a dataset, chosen inside each batch."""

import pytest
import torch
import torch.nn.functional as F
from ranks import join_group, run_ranks
from torch import nn
from torch.utils.data import IterableDataset, get_worker_info

from data_agent import DataAgentConfig, Feedback, make_selector, selection_loader
from data_agent.agent.in_batch import InBatchAgent
from data_agent.errors import DataAgentWarning, InputError, StateError

NUM_SAMPLES, POOL = 96, 8


class Stream(IterableDataset):
    """Numbers; each worker process and each rank reads its own part."""

    def __init__(self, size=NUM_SAMPLES, rank=0, world=1):
        self.size, self.rank, self.world = size, rank, world

    def __iter__(self):
        worker = get_worker_info()
        number, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for value in range(number * self.world + self.rank, self.size, num_workers * self.world):
            yield torch.tensor(value)


def agent(num_samples=NUM_SAMPLES, keep_ratio=0.5, epochs=1, config=None):
    return InBatchAgent(
        num_samples=num_samples,
        epochs=epochs,
        keep_ratio=keep_ratio,
        config=config or DataAgentConfig(update_every=2, rollout_rows=16),
    )


def feedback(values):
    """What a model could have shown of these values."""
    draws = torch.rand(NUM_SAMPLES, 12, generator=torch.Generator().manual_seed(0))[
        values % NUM_SAMPLES
    ]
    return {"losses": draws[:, 0], "logits": draws[:, 1:4] * 3, "features": draws[:, 4:]}


def train(selector, loader, stop=None):
    """Offer each pool and observe what was chosen; the chosen values and all that came."""
    chosen, offered = [], []
    for _ in selector.epochs():
        for number, (values, index) in enumerate(loader):
            if number == stop:
                return chosen, offered
            keep = selector.select_batch(Feedback(index, **feedback(values)))
            selector.observe(Feedback(index[keep], **feedback(values[keep])))
            chosen.append(values[keep].tolist())
            offered.append(index.tolist())
    return chosen, offered


@pytest.mark.parametrize(("num_workers", "longer"), [(0, 0), (0, 40), (2, 0), (2, 40), (5, 80)])
def test_every_sample_carries_its_position_and_the_stream_ends_with_the_budget(num_workers, longer):
    selector = agent()
    loader = selection_loader(
        Stream(NUM_SAMPLES + longer), selector, batch_size=POOL, num_workers=num_workers
    )
    chosen, offered = train(selector, loader)
    assert [i for pool in offered for i in pool] == list(range(NUM_SAMPLES))
    assert [len(pool) for pool in chosen] == [POOL // 2] * (NUM_SAMPLES // POOL)
    assert selector.visits == NUM_SAMPLES // 2
    metrics = selector.metrics()
    assert metrics["planned_cost"] == pytest.approx(1 / 3 + 1 / 2)  # the forward pass is paid for
    assert metrics["policy_updates"] == 6


@pytest.mark.parametrize(("context", "stop"), [(None, 5), ("fork", 6), ("spawn", 6), ("fork", 5)])
def test_a_run_that_stops_and_goes_on_ends_like_the_undisturbed_one(context, stop):
    options = {"num_workers": 2, "multiprocessing_context": context} if context else {}

    def build():
        selector = agent()
        return selector, selection_loader(Stream(), selector, batch_size=POOL, **options)

    undisturbed, loader = build()
    whole = train(undisturbed, loader)
    stopped, loader = build()
    first = train(stopped, loader, stop=stop)
    restored, loader = build()
    restored.load_state_dict(stopped.state_dict())
    rest = train(restored, loader)
    if context and stop % 2:  # the loader begins with its first worker, whose turn it was not
        assert sorted([*first[1], *rest[1]]) == sorted(whole[1])
        return
    assert [*first[0], *rest[0]] == whole[0]
    assert [*first[1], *rest[1]] == whole[1]
    weights = [agent.policy.learner.networks.weights for agent in (undisturbed, restored)]
    assert torch.equal(*weights)


def test_the_policy_learns_to_choose_from_what_each_pool_showed():
    size = 64 * 400
    draws = torch.Generator().manual_seed(0)
    is_good = torch.rand(size, generator=draws) < 0.5
    features = torch.randn(size, 4, generator=draws) + 2 * is_good.unsqueeze(1)
    losses = torch.rand(size, generator=draws) + 3 * is_good

    selector = agent(size, config=DataAgentConfig())
    loader = selection_loader(Stream(size), selector, batch_size=64)
    shares = []
    for _ in selector.epochs():
        for values, index in loader:
            pool = Feedback(index, losses[values], features=features[values])
            assert pool.logits is None  # so the reward is difficulty alone
            keep = selector.select_batch(_with_uncertainty(pool))
            chosen = values[keep]
            rest = Feedback(index[keep], losses[chosen], features=features[chosen])
            selector.observe(_with_uncertainty(rest))
            shares.append(float(is_good[chosen].float().mean()))
    assert sum(shares[:5]) / 5 < 0.7
    assert sum(shares[-20:]) / 20 > 0.85


def _with_uncertainty(feedback):
    uncertainty = torch.full_like(feedback.losses, 0.5)
    return Feedback(
        feedback.index, feedback.losses, features=feedback.features, uncertainty=uncertainty
    )


def test_at_keep_ratio_one_the_weights_are_those_of_the_loop_without_us():
    def loop(batches, learn):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for values, index in batches:
            inputs = torch.stack([torch.sin(values * k) for k in range(1, 5)], dim=1).float()
            loss = learn(model, inputs, values % 3, index)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.weight

    def plain(model, inputs, labels, _):
        return F.cross_entropy(model(inputs), labels)

    def ours(model, inputs, labels, index):
        with torch.no_grad():
            logits = model(inputs)
            losses = F.cross_entropy(logits, labels, reduction="none")
        keep = selector.select_batch(Feedback(index, losses, logits=logits, features=inputs))
        logits = model(inputs[keep])
        losses = F.cross_entropy(logits, labels[keep], reduction="none")
        return selector.learn(losses, index[keep], logits=logits, features=inputs[keep])

    selector = agent(keep_ratio=1.0)
    loader = selection_loader(Stream(), selector, batch_size=POOL)
    batches = list(loader)
    selector.begin_epoch(0)
    assert torch.equal(loop(batches, plain), loop(batches, ours))


def test_a_stream_that_ends_early_says_what_is_left_of_the_budget():
    selector = agent()
    loader = selection_loader(Stream(40), selector, batch_size=POOL)
    with (
        pytest.warns(DataAgentWarning, match=r"56 of the 96 samples.*its budget is not used up"),
        pytest.warns(DataAgentWarning, match=r"ended after 40 samples.*num_samples=96"),
    ):
        train(selector, loader)


def test_what_cannot_be_right_is_refused():
    with pytest.raises(InputError, match="From a stream a batch selector chooses"):
        selection_loader(
            Stream(), make_selector("random", num_samples=96, epochs=1, keep_ratio=1.0)
        )
    with pytest.raises(InputError, match=r"a multiple of 20\. Use for example 80"):
        selection_loader(Stream(), agent(), batch_size=20, num_workers=2)
    with pytest.raises(InputError, match="leave it off"):
        selection_loader(
            Stream(), agent(epochs=2), batch_size=8, num_workers=2, persistent_workers=True
        )
    selector = agent()
    selector.begin_epoch(0)
    index = torch.arange(POOL)
    with pytest.raises(InputError, match="the policy sees features"):
        selector.select_batch(Feedback(index, torch.ones(POOL), logits=torch.ones(POOL, 2)))
    with pytest.raises(StateError, match="none was offered"):
        selector.observe(Feedback(index, **feedback(index)))


def test_a_second_pass_over_a_stream_is_another_epoch():
    selector = agent(epochs=2)
    chosen, offered = train(selector, selection_loader(Stream(), selector, batch_size=POOL))
    assert len(chosen) == 2 * NUM_SAMPLES // POOL
    assert offered[: len(offered) // 2] == offered[len(offered) // 2 :]


def share_a_stream(rank, _):
    join_group()
    selector = agent()
    loader = selection_loader(Stream(rank=rank, world=2), selector, batch_size=POOL)
    chosen, offered = train(selector, loader)
    return chosen, offered, selector.state_dict()["method"]


@pytest.mark.distributed
def test_ranks_choose_from_their_parts_of_a_stream_and_learn_one_policy(tmp_path):
    first, second = run_ranks(share_a_stream, tmp_path, None)
    assert sorted(i for _, o, _ in (first, second) for p in o for i in p) == list(range(96))
    assert [len(pool) for pool in first[0]] == [len(pool) for pool in second[0]] == [4] * 6
    assert first[2]["num_updates"] == 3
    assert torch.equal(first[2]["learner"]["weights"], second[2]["learner"]["weights"])
