"""Rows of many batches, acted on at once: the same rows, in state, on any number of ranks."""

import copy

import pytest
import torch

from data_agent import DataAgent, DataAgentConfig, Feedback, Selector
from data_agent.errors import CheckpointError, InputError
from data_agent.selecting import block as block_module
from data_agent.selecting.block import MAX_BATCHES, Block, columns_of
from data_agent.testing.runs import equal_states, through_a_file

SIZE, BATCH = 400, 4


class Keeps(Selector):
    """Remembers losses, and notes what it was called with."""

    name = "keeps"

    def __init__(self, **base):
        self.calls = []
        super().__init__(num_samples=SIZE, epochs=4, keep_ratio=1.0, **base)

    def choose(self, epoch, count, excluded):
        return (~excluded).nonzero().squeeze(1)[:count]

    def record(self, feedback):
        self.calls.append(feedback)
        return feedback.losses.unsqueeze(1)


class KeepsMany(Keeps):
    """The same, with the rows of many batches."""

    reads = ("logits",)


def feedback(index, **changes):
    rows = torch.rand(len(index), 6, generator=torch.Generator().manual_seed(int(index[0])))
    columns = {"losses": rows[:, 0], "logits": rows[:, 1:4], "features": rows[:, 4:]}
    return Feedback(index, **{**columns, **changes})


def observed(selector, *, num_batches=None):
    selector.begin_epoch(0)
    for index in selector.select(0).index.split(BATCH)[:num_batches]:
        selector.observe(feedback(index))
    return selector


def test_a_method_that_says_what_it_reads_gets_many_batches_at_once_and_nothing_else():
    one, many = observed(Keeps()), observed(KeepsMany())
    assert [len(call) for call in one.calls] == [BATCH] * (SIZE // BATCH)
    assert one.calls[0].features is not None
    assert [len(call.sizes) for call in many.calls] == [MAX_BATCHES]
    for selector in (one, many):
        selector.begin_epoch(1)
    assert [len(call.sizes) for call in many.calls] == [MAX_BATCHES, SIZE // BATCH - MAX_BATCHES]
    assert many.calls[0].features is None
    assert many.calls[0].sizes == (BATCH,) * MAX_BATCHES
    for name in ("index", "losses", "logits"):
        columns = [[getattr(call, name) for call in s.calls] for s in (one, many)]
        assert torch.equal(torch.cat(columns[0]), torch.cat(columns[1]))


def test_losses_are_copied_whatever_the_model_computes_in():
    many = KeepsMany()
    many.begin_epoch(0)
    losses = torch.rand(BATCH, dtype=torch.bfloat16)
    many.observe(feedback(torch.arange(BATCH), losses=losses))
    expected = losses.float()
    losses.zero_()  # as outputs of a graph that is replayed
    many.settle()
    assert torch.equal(many.calls[0].losses, expected)


def test_a_batch_of_other_columns_or_widths_begins_a_new_block():
    many = KeepsMany()
    many.begin_epoch(0)
    parts = many.select(0).index.split(BATCH)
    for index, logits in zip(parts, [3, 3, 5, None, 3], strict=False):
        many.observe(feedback(index, logits=logits and torch.rand(BATCH, logits)))
    many.settle()
    assert [call.sizes for call in many.calls] == [(4, 4), (4,), (4,), (4,)]


def test_a_block_holds_batches_of_any_sizes_and_no_more_bytes_than_it_may(monkeypatch):
    monkeypatch.setattr(block_module, "MAX_BYTES", 16 * 30)  # 30 rows of 4 floats
    many = KeepsMany()
    many.begin_epoch(0)
    sizes = [4, 1, 9, 2, 13, 1, 29, 7, 100, 3]
    for index in many.select(0).index[: sum(sizes)].split(sizes):
        many.observe(feedback(index))
    many.settle()
    assert [call.sizes for call in many.calls] == [(4, 1, 9, 2, 13, 1), (29,), (7,), (100,), (3,)]
    for call in many.calls:
        for part, size in zip(call.losses.split(call.sizes), call.sizes, strict=True):
            assert len(part) == size
    staged = torch.cat([call.losses for call in many.calls])
    expected = [feedback(i).losses for i in many.select(0).index[: sum(sizes)].split(sizes)]
    assert torch.equal(staged, torch.cat(expected))


def test_the_state_in_the_middle_of_a_block_holds_its_rows():
    whole, stopped = KeepsMany(), observed(KeepsMany(), num_batches=7)
    observed(whole)
    state = through_a_file(stopped.state_dict())
    (part,) = state["block"]
    assert part["sizes"] == [BATCH] * 7
    assert set(part["columns"]) == {"losses", "logits"}
    restored = KeepsMany()
    restored.load_state_dict(copy.deepcopy(state))
    again = {**restored.state_dict(), "overhead_seconds": state["overhead_seconds"]}
    assert equal_states(state, again)
    for index in restored.select(0).index[7 * BATCH :].split(BATCH):
        restored.observe(feedback(index))
    assert [call.sizes for call in restored.calls] == [call.sizes for call in whole.calls]
    assert all(
        torch.equal(a.losses, b.losses) for a, b in zip(restored.calls, whole.calls, strict=True)
    )


def test_one_rank_goes_on_from_the_blocks_of_two_and_acts_where_they_do_not_fit_together():
    state = observed(KeepsMany(), num_batches=5).state_dict()
    other = KeepsMany()
    other.begin_epoch(0)
    for index in other.select(0).index[200:].split(BATCH)[:3]:
        other.observe(feedback(index, logits=torch.rand(BATCH, 9)))
    two = {**state, "block": [*state["block"], {}, *other.state_dict()["block"]]}
    restored = KeepsMany()
    restored.load_state_dict(two)
    assert [call.sizes for call in restored.calls] == [(BATCH,) * 5]
    restored.settle()
    assert [call.sizes for call in restored.calls] == [(BATCH,) * 5, (BATCH,) * 3]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("index",), torch.zeros(28)),
        (("index",), torch.full((28,), SIZE)),
        (("sizes",), [28, 1]),
        (("columns", "losses"), torch.zeros(27)),
        (("columns", "losses"), torch.zeros(28, dtype=torch.float64)),
        (("columns", "logits"), torch.zeros(28)),
        (("columns", "age"), torch.zeros(28)),
    ],
)
def test_a_damaged_block_is_refused_and_nothing_changes(path, value):
    selector = observed(KeepsMany(), num_batches=7)
    state = copy.deepcopy(selector.state_dict())
    place = state["block"][0]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    before = selector.state_dict()
    with pytest.raises(CheckpointError):
        selector.load_state_dict(state)
    assert equal_states(before, selector.state_dict())


def test_what_a_batch_is_refused_for_leaves_the_block_as_it_was():
    config = DataAgentConfig(signals=(lambda rows: rows.losses * 2,))
    agent = DataAgent(SIZE, 4, keep_ratio=1.0, config=config)
    agent.begin_epoch(0)
    first, second = agent.select(0).index.split(BATCH)[:2]
    agent.observe(feedback(first, losses=torch.linspace(0.2, 0.3, BATCH)))
    before = agent.state_dict()
    with pytest.raises(InputError, match=r"returned values in \[1.2, 1.4\]"):
        agent.observe(feedback(second, losses=torch.linspace(0.6, 0.7, BATCH)))
    with pytest.raises(InputError, match="features came 5 wide"):
        agent.observe(feedback(second, features=torch.ones(BATCH, 5)))
    after = {**agent.state_dict(), "overhead_seconds": before["overhead_seconds"]}
    assert equal_states(before, after)


def test_a_block_that_moves_keeps_its_rows():
    rows = feedback(torch.arange(BATCH))
    columns = columns_of(rows, ("logits",))
    block = Block(columns, torch.float32)
    block.add(rows.index, columns)
    block._move(3 * BATCH, columns)
    block.add(rows.index + BATCH, columns)
    together = block.feedback()
    assert together.sizes == (BATCH, BATCH)
    assert torch.equal(together.losses, torch.cat([rows.losses, rows.losses]))
