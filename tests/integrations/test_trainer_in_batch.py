"""Choosing inside a Trainer's batches: of datasets and of streams."""

import re
from functools import partial

import datasets
import pytest
import torch
from ranks import run_ranks

transformers = pytest.importorskip("transformers", reason="needs the extra [transformers]")

from torch.utils.data import IterableDataset  # noqa: E402
from trainers import (  # noqa: E402
    Ours,
    Texts,
    Theirs,
    arguments,
    bert,
    llama,
    train,
    weights,
)

from data_agent import DataAgent, DataAgentConfig  # noqa: E402
from data_agent.agent.in_batch import InBatchAgent  # noqa: E402
from data_agent.errors import InputError, StateError  # noqa: E402
from data_agent.integrations.transformers import SelectiveTrainer  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*'pin_memory' argument is set as true.*:UserWarning"),
]
SIZE, POOL, STEPS = 40, 4, 5
CONFIG = DataAgentConfig(update_every=2, rollout_rows=16)


class Noting(InBatchAgent):
    """Notes which samples were offered and which of them were trained on."""

    def __init__(self, **options):
        super().__init__(config=CONFIG, **options)
        self.offered, self.chosen = [], []

    def select_batch(self, feedback):
        self.offered.append(feedback.index.tolist())
        return super().select_batch(feedback)

    def observe(self, feedback):
        super().observe(feedback)
        self.chosen.append(feedback.index.tolist())


half = partial(Noting, keep_ratio=0.5)


class Stream(IterableDataset):
    """Reads the texts one after the other."""

    def __init__(self, labels="class", size=SIZE):
        self.texts = Texts(labels, size)

    def __iter__(self):
        return (self.texts[i] for i in range(len(self.texts)))


def short(folder, **changes):
    return arguments(folder, per_device_train_batch_size=POOL, num_train_epochs=2, **changes)


class Checked(Ours):
    """Notes how many rows the model gets with gradients, and whether they are the chosen ones."""

    def _loss_and_outputs(self, model, inputs, num_items):
        if torch.is_grad_enabled():
            self.trained = [*getattr(self, "trained", []), inputs["input_ids"][:, 0].tolist()]
        return super()._loss_and_outputs(model, inputs, num_items)


@pytest.mark.parametrize(("build", "labels"), [(bert, "class"), (llama, "tokens")])
def test_every_pool_is_scored_and_its_best_half_trained_on(build, labels, tmp_path):
    ours = train(build(), Texts(labels), short(tmp_path), selector=half, kind=Checked)
    agent = ours.selector
    assert sorted(i for pool in agent.offered for i in pool) == sorted([*range(SIZE)] * 2)
    assert [len(rows) for rows in ours.trained] == [POOL // 2] * 20
    assert [sorted(rows) for rows in ours.trained] == [sorted(rows) for rows in agent.chosen]
    assert all(set(c) < set(o) for c, o in zip(agent.chosen, agent.offered, strict=True))
    assert ours.state.global_step == 20
    assert agent.metrics()["planned_cost"] == pytest.approx(1 / 3 + 1 / 2)
    assert agent.policy.num_updates == 5  # 20 pools of 4, 16 rows each


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("build", "labels"), [(bert, "class"), (llama, "tokens")])
def test_at_keep_ratio_one_the_weights_are_the_trainers(build, labels, accumulation, tmp_path):
    args = partial(short, tmp_path, gradient_accumulation_steps=accumulation)
    every = partial(Noting, keep_ratio=1.0)
    ours = train(build(), Texts(labels), args(), selector=every)
    theirs = Theirs(model=build(), args=args(), train_dataset=Texts(labels))
    theirs.order = [
        [i for pool in ours.selector.offered[epoch * 10 : epoch * 10 + 10] for i in pool]
        for epoch in range(2)
    ]
    theirs.train()
    assert torch.equal(weights(ours), weights(theirs))


def test_the_loss_is_the_mean_over_the_chosen_tokens(tmp_path):
    class Alone(Checked):
        def compute_loss(self, model, inputs, *args, num_items_in_batch=None, **kwargs):
            loss = super().compute_loss(
                model, inputs, *args, num_items_in_batch=num_items_in_batch, **kwargs
            )
            rows = torch.stack([Texts("tokens").tokens[i] for i in self.selector.chosen[-1]])
            labels = torch.stack([Texts("tokens")[i]["labels"] for i in self.selector.chosen[-1]])
            with torch.no_grad():
                expected = model(input_ids=rows, labels=labels).loss
            torch.testing.assert_close(loss.detach(), expected)
            return loss

    train(llama(), Texts("tokens"), short(tmp_path), selector=half, kind=Alone)


ROWS = [Texts()[i] for i in range(SIZE)]


def rows():
    yield from ROWS


def mapped():
    return datasets.Dataset.from_list(ROWS).to_iterable_dataset(num_shards=2).map(lambda row: row)


STREAMS = {
    "torch": Stream,
    "datasets": lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(num_shards=2),
    # These do not know their columns.
    "mapped": mapped,
    "generated": lambda: datasets.IterableDataset.from_generator(rows),
}


@pytest.mark.parametrize(
    ("kind", "num_workers"),
    [
        *(("torch", 0), ("datasets", 0), ("datasets", 2)),
        *(("mapped", 0), ("mapped", 2), ("generated", 0)),
    ],
)
def test_a_stream_is_chosen_from_until_max_steps(kind, num_workers, tmp_path):
    args = short(tmp_path, max_steps=STEPS, dataloader_num_workers=num_workers)
    stream = STREAMS[kind]()
    ours = train(bert(), stream, args, selector=half, kind=Checked)
    assert [i for pool in ours.selector.offered for i in pool] == list(range(STEPS * POOL))
    assert [len(rows) for rows in ours.trained] == [POOL // 2] * STEPS
    assert ours.selector.visits == STEPS * POOL // 2


def test_a_batch_size_that_is_found_makes_the_plan_of_a_stream(tmp_path):
    class OutOfMemory(Ours):
        def training_step(self, model, inputs, *args, **kwargs):
            if len(inputs["labels"]) > POOL // 2:
                raise RuntimeError("CUDA out of memory.")
            return super().training_step(model, inputs, *args, **kwargs)

    args = short(tmp_path, max_steps=STEPS, auto_find_batch_size=True)
    ours = OutOfMemory(
        **{"model": bert(), "args": args, "train_dataset": Stream()},
        **{"selector": "data-agent-in-batch", "keep_ratio": 0.5},
    )
    ours.train()
    assert ours.selector.schedule.num_samples == STEPS * ours._train_batch_size
    assert ours.selector.metrics()["visits_of_full_run"] == pytest.approx(0.5, abs=0.1)


def test_a_stream_goes_on_where_it_stopped(tmp_path):
    args = partial(short, tmp_path, max_steps=STEPS, save_strategy="steps", save_steps=2)
    whole = train(bert(), Stream(), args(), selector=half)
    resumed = Ours(model=bert(), args=args(), train_dataset=Stream(), selector=half)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.selector.chosen == whole.selector.chosen[2:]
    assert resumed.selector.offered == whole.selector.offered[2:]
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.selector.visits == whole.selector.visits


def share_a_stream(rank, folder):
    ours = train(bert(), Stream(), short(folder, max_steps=STEPS), selector=half, kind=Checked)
    return ours.selector.offered, ours.trained, ours.selector.chosen, weights(ours)


@pytest.mark.distributed
def test_two_processes_choose_from_one_stream(tmp_path):
    first, second = run_ranks(share_a_stream, tmp_path, str(tmp_path))
    offered = [i for result in (first, second) for pool in result[0] for i in pool]
    assert sorted(offered) == list(range(2 * STEPS * POOL))
    for _, trained, chosen, _ in (first, second):
        assert [sorted(rows) for rows in trained] == [sorted(rows) for rows in chosen]
    assert torch.equal(first[3], second[3])


def test_what_cannot_choose_from_a_stream_is_refused(tmp_path):
    args = partial(short, tmp_path, max_steps=STEPS)
    with pytest.raises(InputError, match=r"'data-agent' selects epochs.*data-agent-in-batch"):
        train(bert(), Stream(), args())
    with pytest.raises(InputError, match="'data-agent' selects epochs, but train_dataset is a st"):
        train(bert(), Stream(), args(), selector=partial(DataAgent, keep_ratio=1.0))


class Twice(SelectiveTrainer):
    """Asks for the loss of each batch twice, as R-Drop does."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        first = super().compute_loss(model, dict(inputs), *args, **kwargs)
        return first + super().compute_loss(model, dict(inputs), *args, **kwargs)


def test_a_pool_is_chosen_from_once(tmp_path):
    with pytest.raises(
        StateError, match=r"Twice.compute_loss called super\(\).compute_loss\(\) tw"
    ):
        train(bert(), Texts(), short(tmp_path), selector=half, kind=Twice)
    ours = train(bert(), Texts(), short(tmp_path), selector="random", kind=Twice)
    assert ours.selector.visits == 40  # observed once


def test_rows_that_are_no_samples_are_refused(tmp_path):
    class Flat(SelectiveTrainer):
        def _loss_and_outputs(self, model, inputs, num_items):
            table = {k: v for k, v in inputs.items() if k != "table"}
            return super()._loss_and_outputs(model, table, num_items)

    def collate(samples):
        return {**transformers.default_data_collator(samples), "table": torch.ones(3, 2)}

    args = short(tmp_path, remove_unused_columns=False)
    data = [{k: v for k, v in Texts()[i].items() if k != "unused"} for i in range(SIZE)]
    with pytest.raises(InputError, match=r"'table' has shape \[3, 2\]: its rows are not samples"):
        train(bert(), data, args, selector=half, kind=Flat, data_collator=collate)


def endless(size):
    return datasets.Dataset.from_list(ROWS[:size]).to_iterable_dataset()


# Of workers it stays in the worker.
@pytest.mark.filterwarnings("ignore:the stream ended:data_agent.errors.DataAgentWarning")
@pytest.mark.parametrize(
    ("size", "accumulation", "num_workers"), [(8, 1, 0), (11, 1, 0), (16, 2, 0), (8, 1, 1)]
)
def test_a_stream_that_is_too_short_says_how_it_is_long_enough(
    size, accumulation, num_workers, tmp_path
):
    args = partial(short, tmp_path, gradient_accumulation_steps=accumulation)
    args = partial(args, dataloader_num_workers=num_workers)
    data = endless(size)
    with pytest.raises(InputError, match="the stream ended after") as refused:
        train(bert(), data, args(max_steps=STEPS), selector=half)
    said = re.search(r"(\d) of max_steps=5 .* set max_steps=(\d).*repeat\((\d)\)", str(refused))
    steps, again = said[2], said[3]
    assert steps == said[1]
    whole = train(bert(), data.repeat(int(again)), args(max_steps=STEPS), selector=half)
    assert whole.state.global_step == STEPS
    once = train(bert(), data, args(max_steps=int(steps)), selector=half)
    assert sorted(i for pool in once.selector.offered for i in pool) == list(range(size))


class Long(Stream):
    """Knows its length."""

    def __len__(self):
        return SIZE


def test_a_stream_with_a_length_needs_steps_all_the_same(tmp_path):
    with pytest.raises(InputError, match=r"max_steps is -1.*40 samples is max_steps=10;"):
        train(bert(), Long(), short(tmp_path), selector=half)
    ours = train(bert(), Long(), short(tmp_path, max_steps=10), selector=half)
    assert sorted(i for pool in ours.selector.offered for i in pool) == list(range(SIZE))
