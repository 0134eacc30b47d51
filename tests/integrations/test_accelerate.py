"""The real Accelerate: its loops train as without us, on the samples that were chosen."""

import importlib.util
import subprocess
import sys
from functools import partial
from itertools import chain, islice
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

pytest.importorskip("accelerate", reason="needs Accelerate: pip install '.[accelerate]'")

from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DataLoaderConfiguration,
    DistributedType,
    ParallelismConfig,
    gather_object,
)
from ranks import run_ranks
from replay import Replay, flat_weights

import data_agent
from data_agent import (
    DataAgent,
    DataAgentConfig,
    Feedback,
    IndexedDataset,
    SelectionSampler,
    make_selector,
)
from data_agent.errors import InputError, StateError
from data_agent.integrations.accelerate import _DealtSampler, selection_loader
from data_agent.trusted import TrustedConfig

SIZE, EPOCHS, BATCH_SIZE = 90, 8, 8  # half of it: 45 samples, 5 full batches and one of 5


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """Accelerate keeps its state in singletons."""
    yield
    forget_accelerate()


def forget_accelerate():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Revealing(Dataset):
    """Samples (x, label, own index)."""

    def __init__(self, size=SIZE):
        self.x = torch.randn(size, 6, generator=torch.Generator().manual_seed(0))
        self.y = (self.x[:, 0] * self.x[:, 1] > 0).long()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index], torch.tensor(index)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Revealing())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.body(x))


class Run:
    """A training script up to its loop."""

    def __init__(
        self,
        *,
        dataset=None,
        loader_options=None,
        config=None,
        accumulation=1,
        precision="no",
        agent_config=None,
        **agent,
    ):
        self.accelerator = Accelerator(
            cpu=True,
            mixed_precision=precision,
            gradient_accumulation_steps=accumulation,
            dataloader_config=config,
        )
        agent_config = agent_config or DataAgentConfig(update_every=2, rollout_rows=24)
        options = {"keep_ratio": 0.5, "config": agent_config, **agent}
        self.agent = DataAgent(num_samples=SIZE, epochs=EPOCHS, **options)
        # A loader draws a seed whenever iteration starts: not from the generator of dropout.
        options = {"batch_size": BATCH_SIZE, "generator": torch.Generator()}
        options |= loader_options or {}
        loader = selection_loader(dataset or Revealing(), self.agent, self.accelerator, **options)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(model, optimizer, loader)
        self.agent.watch(self.accelerator.unwrap_model(self.model).head)
        torch.manual_seed(7 + self.accelerator.process_index)

    def steps(self):
        """Train; yields (epoch, indices) after each step."""
        for epoch in self.agent.epochs():
            for x, y, own, index in self.loader:
                assert torch.equal(own, index)
                with self.accelerator.accumulate(self.model):
                    losses = F.cross_entropy(self.model(x), y, reduction="none")
                    self.accelerator.backward(self.agent.learn(losses, index))
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                yield epoch, index.tolist()

    def weights(self):
        net = self.accelerator.unwrap_model(self.model)
        return flat_weights(net)


def weights_without(orders, *, accumulation=1, precision="no", config=None, loader_options=None):
    """The same script without us, over given orders."""
    accelerator = Accelerator(
        cpu=True,
        mixed_precision=precision,
        gradient_accumulation_steps=accumulation,
        dataloader_config=config,
    )
    options = {"batch_size": BATCH_SIZE, "generator": torch.Generator()} | (loader_options or {})
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = DataLoader(Revealing(), sampler=Replay(orders), **options)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    torch.manual_seed(7 + accelerator.process_index)
    for _ in orders:
        for x, y, _ in loader:
            with accelerator.accumulate(model):
                losses = F.cross_entropy(model(x), y, reduction="none")
                accelerator.backward(losses.mean())
                optimizer.step()
                optimizer.zero_grad()
    net = accelerator.unwrap_model(model)
    return flat_weights(net)


def orders_of(steps):
    """The indices of each epoch, in the order in which they were visited."""
    orders = [[] for _ in range(EPOCHS)]
    for epoch, index in steps:
        orders[epoch] += index
    return orders


WORKERS = {"num_workers": 1, "persistent_workers": True, "prefetch_factor": 3}
LOOPS = {
    "plain": {},
    "accumulation": {"accumulation": 4},
    "bf16": {"precision": "bf16"},
    "workers": {"loader_options": WORKERS},
    "split batches": {"config": DataLoaderConfiguration(split_batches=True)},
    "dispatched batches": {"config": DataLoaderConfiguration(dispatch_batches=True)},
    "seedable sampler": {"config": DataLoaderConfiguration(use_seedable_sampler=True)},
}


@pytest.mark.parametrize("keep_ratio", [1.0, 0.5])
@pytest.mark.parametrize("loop", LOOPS)
def test_with_us_equals_without_us(loop, keep_ratio):
    run = Run(keep_ratio=keep_ratio, **LOOPS[loop])
    orders = orders_of(run.steps())
    random_state = torch.get_rng_state()
    assert all(len(order) == len(set(order)) == SIZE * keep_ratio for order in orders)
    forget_accelerate()
    assert torch.equal(run.weights(), weights_without(orders, **LOOPS[loop]))
    assert torch.equal(random_state, torch.get_rng_state())


def test_all_loops_select_the_same_samples_as_the_plain_one():
    run = Run()
    orders = orders_of(run.steps())
    agent = DataAgent(
        num_samples=SIZE,
        epochs=EPOCHS,
        keep_ratio=0.5,
        config=DataAgentConfig(update_every=2, rollout_rows=24),
    )
    options = {"batch_size": BATCH_SIZE, "generator": torch.Generator()}
    loader = data_agent.selection_loader(Revealing(), agent, **options)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    agent.watch(net.head)
    torch.manual_seed(7)
    for epoch in agent.epochs():
        order = []
        for x, y, _, index in loader:
            agent.learn(F.cross_entropy(net(x), y, reduction="none"), index).backward()
            optimizer.step()
            optimizer.zero_grad()
            order += index.tolist()
        assert order == orders[epoch]


# An epoch has 6 steps. Of an unfinished group of accumulated gradients Accelerate saves nothing.
@pytest.mark.parametrize(
    ("stop_at", "loop"),
    [*((n, "plain") for n in (1, 4, 6, 17, 24, 47)), (10, "accumulation"), (3, "workers")],
)
def test_a_run_stopped_anywhere_goes_on_as_if_it_had_not(stop_at, loop, tmp_path):
    whole = Run(**LOOPS[loop])
    steps = list(whole.steps())
    forget_accelerate()

    first = Run(**LOOPS[loop])
    assert list(islice(first.steps(), stop_at)) == steps[:stop_at]
    first.accelerator.save_state(str(tmp_path))
    forget_accelerate()

    second = Run(**LOOPS[loop])
    second.accelerator.load_state(str(tmp_path))
    assert list(second.steps()) == steps[stop_at:]
    assert torch.equal(second.weights(), whole.weights())
    assert torch.equal(second.agent.expected_actions(), whole.agent.expected_actions())


def test_with_trusted_rows_a_run_goes_on_as_if_it_had_not_been_stopped(tmp_path):
    rows = range(80, SIZE)
    build = partial(Run, trusted=rows, agent_config=TrustedConfig(update_every=3))
    run = build()
    steps = list(run.steps())
    assert set(rows) <= set(orders_of(steps)[-1])
    assert "ranks a trusted row" in run.agent.summary()
    forget_accelerate()
    stopped = build()
    for _ in islice(stopped.steps(), 20):
        pass
    stopped.accelerator.save_state(str(tmp_path))
    forget_accelerate()
    resumed = build()
    resumed.accelerator.load_state(str(tmp_path))
    assert list(resumed.steps()) == steps[20:]
    assert torch.equal(resumed.weights(), run.weights())
    assert resumed.agent.describe() == run.agent.describe()


def test_a_run_may_go_back_to_its_state_as_often_as_it_likes(tmp_path):
    run = Run()
    steps = run.steps()
    assert len(list(islice(steps, 9))) == 9
    run.accelerator.save_state(str(tmp_path))
    rest = list(steps)
    weights = run.weights()
    for _ in range(2):  # Accelerate's loader has counted on to another epoch
        run.accelerator.load_state(str(tmp_path))
        assert list(run.steps()) == rest
        assert torch.equal(run.weights(), weights)


# What Accelerate read ahead does not count as a forgotten learn().
@pytest.mark.filterwarnings("ignore:5 of the 45 samples of epoch . were not trained on")
def test_an_epoch_left_early_is_followed_by_the_next():
    run = Run()
    seen = []
    for epoch in run.agent.epochs():
        for step, (x, y, _, index) in enumerate(run.loader):
            run.agent.learn(F.cross_entropy(run.model(x), y, reduction="none"), index)
            seen.append(epoch)
            if step == 4:
                break
    assert seen == [epoch for epoch in range(EPOCHS) for _ in range(5)]


def test_a_dataset_that_counts_epochs_is_told_the_agents(tmp_path):
    class Counting(Revealing):
        epochs = ()

        def set_epoch(self, epoch):
            self.epochs += (epoch,)

    dataset = Counting()
    run = Run(dataset=dataset)
    list(islice(run.steps(), 8))
    run.accelerator.save_state(str(tmp_path))
    run.accelerator.load_state(str(tmp_path))
    list(run.steps())
    assert dataset.epochs == (0, 1, *range(1, EPOCHS))


def test_looking_at_a_batch_before_training_changes_nothing():
    expected = list(Run().steps())
    forget_accelerate()
    run = Run()
    next(iter(run.loader))
    list(run.loader)
    assert list(run.steps()) == expected


def test_gather_for_metrics_keeps_all_samples_of_an_epoch():
    # 90 samples leave a rest of 2 in batches of 8, the 45 that are selected one of 5.
    run = Run()
    for epoch in run.agent.epochs():
        gathered = []
        for x, y, _, index in run.loader:
            run.agent.learn(F.cross_entropy(run.model(x), y, reduction="none"), index)
            gathered.append(run.accelerator.gather_for_metrics(index))
        assert torch.equal(torch.cat(gathered).sort().values, run.agent.select(epoch).index)


def test_a_state_loads_without_pickle_and_a_second_registration_is_harmless(tmp_path):
    run = Run()
    run.accelerator.register_for_checkpointing(run.agent)
    list(islice(run.steps(), 8))
    run.accelerator.save_state(str(tmp_path))
    state = torch.load(tmp_path / "custom_checkpoint_0.pkl", weights_only=True)
    assert state["running"]["position"] == 2 * BATCH_SIZE
    run.accelerator.load_state(str(tmp_path))
    assert len(list(run.steps())) == EPOCHS * 6 - 8


def test_an_existing_loader_keeps_its_settings():
    accelerator = Accelerator(cpu=True)
    selector = make_selector("random", num_samples=SIZE, epochs=4, keep_ratio=0.5)
    old = DataLoader(Revealing(), batch_size=8, shuffle=True, drop_last=True, num_workers=1)
    new = accelerator.prepare(selection_loader(old, selector, accelerator))
    assert new.num_workers == 1
    assert len(new) == 5
    assert selector.schedule.num_kept == 40


def refused(match, data=None, *, batch_size=BATCH_SIZE, **configuration):
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**configuration))
    selector = make_selector("random", num_samples=SIZE, epochs=4, keep_ratio=0.5)
    with pytest.raises(InputError, match=match):
        selection_loader(data or Revealing(), selector, accelerator, batch_size=batch_size)


def test_settings_that_would_go_wrong_are_refused():
    refused("use_stateful_dataloader=True", use_stateful_dataloader=True)
    refused("Pass the dataset itself", Accelerator(cpu=True).prepare(DataLoader(Revealing())))
    refused("do not prepare it", Stream())
    with pytest.raises(InputError, match="the third argument is the Accelerator"):
        selection_loader(
            Revealing(), make_selector("random", num_samples=SIZE, epochs=4, keep_ratio=1), None
        )


def test_a_loader_that_was_never_prepared_is_an_error():
    run = Run()
    unprepared = selection_loader(Revealing(), run.agent, run.accelerator, batch_size=BATCH_SIZE)
    assert len(unprepared) == 6
    with pytest.raises(StateError, match=r"loader = accelerator\.prepare\(loader\)"):
        next(iter(unprepared))


def test_a_loop_that_begins_no_epoch_is_an_error():
    run = Run()
    x, y, _, index = next(iter(run.loader))
    run.loader.set_epoch(1)
    with pytest.raises(StateError, match="no epoch has begun"):
        run.agent.learn(F.cross_entropy(run.model(x), y, reduction="none"), index)


def test_batches_that_were_observed_are_not_skipped_again(tmp_path):
    run = Run()
    list(islice(run.steps(), 8))
    run.accelerator.save_state(str(tmp_path))
    forget_accelerate()
    run = Run()
    run.accelerator.load_state(str(tmp_path))
    run.loader = run.accelerator.skip_first_batches(run.loader, 2)
    with pytest.raises(StateError, match="batches were skipped twice"):
        next(run.steps())


@pytest.mark.parametrize("num_kept", [3, 4, 7, 8, 9, 16, 17, 23, 24])
@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_the_last_round_is_filled_as_accelerate_fills_it(num_kept, num_processes):
    selector = make_selector("random", num_samples=num_kept, epochs=2, keep_ratio=1.0)
    data = IndexedDataset(Revealing(num_kept))
    dealt = _DealtSampler(selector, data, 4, num_processes, drop_last=False)
    selector.begin_epoch(0)
    order = list(SelectionSampler(selector, batch_size=4, rank=None, world=num_processes))
    assert len(dealt) == len(list(dealt))
    for rank in range(num_processes):
        ours, theirs = (
            BatchSamplerShard(BatchSampler(indices, 4, drop_last=False), num_processes, rank)
            for indices in (dealt, order)
        )
        assert list(ours) == list(theirs) if num_processes > 1 else list(dealt) == order
        assert len(ours) == len(list(ours))


# Two processes. One start of them runs all that needs them; the tests look at what they report.


def two_processes(rank, folder):
    """Everything that needs two processes, by name."""
    del rank
    return {
        "run": report(Run()),
        "without": replayed(Run()),
        "split": report(
            Run(
                config=DataLoaderConfiguration(split_batches=True),
                loader_options={"batch_size": 16},
            )
        ),
        "dispatched": report(Run(config=DataLoaderConfiguration(dispatch_batches=True))),
        "accumulation": report(Run(accumulation=4)),
        "metrics": metrics(Run()),
        "resumed": [resumed(f"{folder}/{stop_at}", stop_at) for stop_at in (1, 5, 6, 10)],
        "refused": refused_by_two(),
        "dealt twice": dealt_twice(),
        "example": run_example(f"{folder}/example"),  # the last: it leaves the group
    }


def report(run):
    steps = list(run.steps())
    state = run.agent.state_dict()
    return {
        "steps": steps,
        "weights": run.weights(),
        "selections": [run.agent.schedule.num_kept, len(run.loader)],
        "policy": {"weights": state["method"]["learner"]["weights"]},
        "visits": run.agent.visits,
    }


def replayed(run):
    """The weights without us, where Accelerate itself repeats samples in the last round."""
    rounds = [[[], []] for _ in range(EPOCHS)]
    for epoch, index in run.steps():
        for rank, batch in enumerate(gather_object([index])):
            rounds[epoch][rank].append(batch)
    orders = [list(chain(*chain(*zip(*r, strict=True))))[:45] for r in rounds]
    assert all(len(set(order)) == 45 for order in orders)
    return orders, weights_without(orders)


def metrics(run):
    gathered = []
    for epoch in run.agent.epochs():
        order = []
        for x, y, _, index in run.loader:
            run.agent.learn(F.cross_entropy(run.model(x), y, reduction="none"), index)
            order.append(run.accelerator.gather_for_metrics(index))
        gathered.append((torch.cat(order), run.agent.select(epoch).index))
    return gathered


def resumed(folder, stop_at):
    run = Run()
    list(islice(run.steps(), stop_at))
    run.accelerator.save_state(folder)
    run.accelerator.wait_for_everyone()
    run = Run()
    run.accelerator.load_state(folder)
    return stop_at, list(run.steps()), run.weights()


def dealt_twice():
    """The core's loader, which shares an epoch among ranks itself, in `prepare`."""
    accelerator = Accelerator(cpu=True)
    agent = make_selector("random", num_samples=SIZE, epochs=4, keep_ratio=0.5)
    loader = data_agent.selection_loader(Revealing(), agent, batch_size=BATCH_SIZE)
    with pytest.raises(StateError, match="dealt out again by a framework") as raised:
        observe_all(agent, accelerator.prepare(loader))
    return agent.epoch, str(raised.value)


def observe_all(agent, loader):
    for _ in agent.epochs():
        for batch in loader:
            agent.observe(Feedback(batch[-1], torch.ones(len(batch[-1]))))


def refused_by_two():
    refused("even_batches=False forbids", even_batches=False)
    refused("must be a multiple of that", split_batches=True, batch_size=9)
    even = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(even_batches=False))
    selector = make_selector("random", num_samples=SIZE, epochs=4, keep_ratio=0.5)
    return len(selection_loader(Revealing(), selector, even, batch_size=8, drop_last=True)) // 2


def run_example(folder):
    AcceleratorState._reset_state()  # the example has another precision
    return example()[1](folder, epochs=2)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    return folder, run_ranks(two_processes, folder, str(folder))


@pytest.mark.distributed
@pytest.mark.parametrize("loop", ["run", "split", "dispatched", "accumulation"])
def test_two_processes_share_each_epoch(pair, loop):
    first, second = (result[loop] for result in pair[1])
    # All loops deal in the same way: nothing is chosen in the first two epochs.
    assert first["steps"][:6] == pair[1][0]["run"]["steps"][:6]
    orders = [orders_of(process["steps"]) for process in (first, second)]
    for mine, yours in zip(*orders, strict=True):
        assert len(mine) == len(yours) == 24
        assert len({*mine, *yours}) == 45  # all that was selected
        assert mine[:16] + yours[:16] != yours[:16] + mine[:16]
    assert first["selections"] == [45, 3]
    assert first["visits"] == EPOCHS * 48  # of which 3 an epoch are repeats
    assert torch.equal(first["weights"], second["weights"])
    for name, tensor in first["policy"].items():
        assert torch.equal(tensor, second["policy"][name])


@pytest.mark.distributed
def test_two_processes_train_as_without_us(pair):
    for result in pair[1]:
        assert torch.equal(result["run"]["weights"], result["without"][1])


@pytest.mark.distributed
def test_gather_for_metrics_drops_what_was_repeated(pair):
    for gathered, selected in pair[1][0]["metrics"]:
        assert torch.equal(gathered.sort().values, selected)


@pytest.mark.distributed
def test_two_stopped_processes_go_on_as_if_they_had_not(pair):
    for result in pair[1]:
        whole = result["run"]
        for stop_at, steps, weights in result["resumed"]:
            assert steps == whole["steps"][stop_at:], stop_at
            assert torch.equal(weights, whole["weights"])


@pytest.mark.distributed
def test_what_two_processes_cannot_share_is_refused(pair):
    for result in pair[1]:
        assert result["refused"] == 2  # with drop_last, two rounds are left
        epoch, message = result["dealt twice"]
        assert epoch == 0
        assert "Use the selection_loader of data_agent.integrations" in message


@pytest.mark.distributed
def test_the_state_of_two_processes_goes_on_in_one(pair):
    folder, (first, second) = pair
    state = torch.load(folder / "5" / "custom_checkpoint_0.pkl", weights_only=True)
    run = Run()
    run.agent.load_state_dict(state)
    seen = list(chain(*(index for epoch, index in run.steps() if epoch == 1)))
    before = [i for result in (first, second) for e, i in result["run"]["steps"][:5] if e == 1]
    assert sorted([*seen, *chain(*before)]) == run_selection(first, second, 1)
    assert run.agent.visits == 5 * 16 + 13 + 6 * 45


def run_selection(first, second, epoch):
    """The samples of an epoch, over both processes."""
    return sorted(
        {i for r in (first, second) for e, index in r["run"]["steps"] for i in index if e == epoch}
    )


def example():
    path = Path(__file__).parents[2] / "examples" / "accelerate_loop.py"
    spec = importlib.util.spec_from_file_location("accelerate_loop", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return path, module.main


def test_the_example_learns_and_goes_on_where_it_stopped(tmp_path, capsys):
    path, main = example()
    assert len(path.read_text().splitlines()) <= 60
    folder = str(tmp_path / "state")
    main(folder, stop_after=2, epochs=4)
    assert "2,000 visits" in capsys.readouterr().out
    forget_accelerate()
    assert main(folder, epochs=4) > 0.6
    assert "4,000 visits" in capsys.readouterr().out


@pytest.mark.distributed
def test_the_example_runs_in_two_processes(pair):
    first, second = (result["example"] for result in pair[1])
    assert first == second > 0.4


def test_a_missing_framework_names_the_extra():
    script = """
import sys
sys.modules["accelerate"] = None
import data_agent
try:
    import data_agent.integrations.accelerate
except ImportError as error:
    print(error)
"""
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "pip install '.[accelerate]'" in found.stdout


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("parallelism_config", ParallelismConfig(tp_size=2), "tp_size=2.*Only data parallelism"),
        ("distributed_type", DistributedType.MEGATRON_LM, "Megatron-LM computes the loss"),
    ],
)
def test_parallelism_that_shares_a_batch_is_refused(name, value, match, monkeypatch):
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(Accelerator, name, value)  # neither starts on a CPU
    selector = make_selector("random", num_samples=SIZE, epochs=4, keep_ratio=0.5)
    with pytest.raises(InputError, match=match):
        selection_loader(Revealing(), selector, accelerator, batch_size=8)
