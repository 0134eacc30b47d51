"""Lightning and Fabric, the real ones: the same samples and weights as loops without us."""

import csv
import logging
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ranks import run_ranks
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from data_agent import (
    DataAgent,
    DataAgentConfig,
    SelectionSampler,
    make_selector,
    selection_loader,
)
from data_agent.errors import (
    CheckpointError,
    DataAgentError,
    DataAgentWarning,
    InputError,
    StateError,
)
from data_agent.runtime.shards import Shard
from data_agent.selecting import selector as selector_module

L = pytest.importorskip("lightning.pytorch", reason="needs .[lightning]")

from lightning.fabric import Fabric  # noqa: E402
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging  # noqa: E402
from lightning.pytorch.loggers import CSVLogger  # noqa: E402
from lightning.pytorch.strategies import SingleDeviceStrategy  # noqa: E402

from data_agent.integrations.lightning import SelectionCallback  # noqa: E402
from data_agent.trusted import TrustedConfig  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    *(
        pytest.mark.filterwarnings(f"ignore:{message}")
        for message in (
            ".isinstance.treespec, LeafSpec.. is deprecated",  # Lightning 2.6 beside torch 2.13
            "The 'train_dataloader' does not have many workers",
            "The 'val_dataloader' does not have many workers",
            "Consider setting `persistent_workers=True`",
            "The number of training batches",
            "GPU available but not used",
            "You're resuming from a checkpoint that ended before the epoch ended",
            "Be aware that when using `ckpt_path`",
            "Starting from v1.9.0, `tensorboardX` has been removed",
            "Checkpoint directory .* exists and is not empty",
            r"`torch\.jit\.",
        )
    ),
]
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZE, EPOCHS, BATCH_SIZE = 60, 8, 6  # half of it: 5 batches an epoch


def dataset():
    x = torch.randn(SIZE, 6, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x[:, 0] > 0).long(), torch.arange(SIZE))


def build_agent(**options):
    config = DataAgentConfig(update_every=5, rollout_rows=12)
    return DataAgent(num_samples=SIZE, epochs=EPOCHS, seed=3, config=config, **options)


def network(dropout=0.0):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))


class Module(L.LightningModule):
    """Says where and on what it was trained."""

    def __init__(self, agent=None, *, dropout=0.0, **loader_options):
        super().__init__()
        self.agent, self.loader_options, self.seen = agent, loader_options, []
        self.net = network(dropout)
        if agent is not None:
            agent.watch(self.net[3])

    def train_dataloader(self) -> Any:
        options = {"batch_size": BATCH_SIZE, **self.loader_options}
        return selection_loader(dataset(), self.agent, **options)

    def val_dataloader(self):
        return DataLoader(dataset(), batch_size=SIZE)

    def training_step(self, batch, batch_idx):
        x, y, own, index = batch
        assert torch.equal(own, index)
        self.seen.append((self.trainer.current_epoch, batch_idx, index.tolist()))
        return self.agent.learn(F.cross_entropy(self.net(x), y, reduction="none"), index)

    def validation_step(self, batch, batch_idx):
        self.net(batch[0])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 3)]


class InOrder(torch.utils.data.Sampler):
    """The indices of a run, epoch by epoch."""

    def __init__(self, epochs):
        self.epochs, self.epoch = epochs, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.epochs[self.epoch])

    def __iter__(self):
        return iter(self.epochs[self.epoch])


class Plain(Module):
    """The same module without us, over the order of a run with us."""

    def __init__(self, seen, **options):
        super().__init__(None, **options)
        self.order = [
            [i for epoch, _, index in seen if epoch == e for i in index] for e in range(EPOCHS)
        ]

    def train_dataloader(self):
        options = {"batch_size": BATCH_SIZE, **self.loader_options}
        return DataLoader(dataset(), sampler=InOrder(self.order), **options)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1], reduction="none").mean()


def build_trainer(folder, *callbacks, **options):
    quiet = {
        **{"logger": False, "enable_progress_bar": False, "enable_model_summary": False},
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
    }
    base = {"max_epochs": EPOCHS, "accelerator": "cpu", "devices": 1, "default_root_dir": folder}
    return L.Trainer(callbacks=list(callbacks), **{**base, **quiet, **options})


def fit(folder, module, *callbacks, ckpt_path=None, **options):
    ours = [] if module.agent is None else [SelectionCallback(module.agent)]
    trainer = build_trainer(folder, *ours, *callbacks, **options)
    trainer.fit(module, ckpt_path=ckpt_path)
    return module


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def plain_loop(agent):
    """What a plain loop over the same selector visits, and the weights it ends with."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    agent.watch(net[3])
    loader = selection_loader(dataset(), agent, batch_size=BATCH_SIZE)
    seen = []
    for epoch in agent.epochs():
        for number, (x, y, _, index) in enumerate(loader):
            losses = F.cross_entropy(net(x), y, reduction="none")
            agent.learn(losses, index).backward()
            optimizer.step()
            optimizer.zero_grad()
            seen.append((epoch, number, index.tolist()))
        scheduler.step()
    return net, seen


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbs."""
    return fit(tmp_path_factory.mktemp("whole"), Module(build_agent()))


@pytest.mark.parametrize(
    ("trainer_options", "loader_options"),
    [
        ({}, {"num_workers": 2, "persistent_workers": True}),
        ({"accumulate_grad_batches": 3}, {}),
        ({"precision": "bf16-mixed"}, {}),
    ],
)
def test_with_us_equals_without_us(tmp_path, trainer_options, loader_options):
    torch.manual_seed(7)
    options = {"dropout": 0.3, **loader_options}
    ours = fit(tmp_path, Module(build_agent(keep_ratio=1.0), **options), **trainer_options)
    random_state = torch.get_rng_state()
    assert len(ours.seen) == EPOCHS * SIZE / BATCH_SIZE
    torch.manual_seed(7)
    theirs = fit(tmp_path, Plain(ours.seen, **options), **trainer_options)
    assert torch.equal(weights(ours), weights(theirs))
    assert torch.equal(random_state, torch.get_rng_state())


def test_the_same_samples_and_weights_as_a_plain_loop(whole):
    agent = build_agent()
    net, seen = plain_loop(agent)
    assert whole.seen == seen
    assert torch.equal(weights(whole), weights(net))
    assert torch.equal(whole.agent.expected_actions(), agent.expected_actions())


@pytest.mark.parametrize(
    ("trainer_options", "loader_options"),
    [
        ({}, {"num_workers": 2, "prefetch_factor": 3}),
        ({"val_check_interval": 2}, {}),
        ({"limit_val_batches": 0}, {}),
        ({"reload_dataloaders_every_n_epochs": 1}, {}),
    ],
)
def test_workers_validation_and_reloading_leave_no_trace(
    whole, tmp_path, trainer_options, loader_options
):
    again = fit(tmp_path, Module(build_agent(), **loader_options), **trainer_options)
    assert again.seen == whole.seen
    assert torch.equal(weights(again), weights(whole))


def test_a_data_module_and_a_loader_that_is_passed_to_fit(whole, tmp_path):
    class Data(L.LightningDataModule):
        def train_dataloader(self):
            return selection_loader(dataset(), agent, batch_size=BATCH_SIZE)

        def val_dataloader(self):
            return DataLoader(dataset(), batch_size=SIZE)

    for source in ("datamodule", "train_dataloaders"):
        agent = build_agent()
        given = Data() if source == "datamodule" else Data().train_dataloader()
        module = Module(agent)
        trainer = build_trainer(tmp_path, SelectionCallback(agent))
        trainer.fit(module, **{source: given})
        assert module.seen == whole.seen


def test_manual_optimisation(whole, tmp_path):
    class Manual(Module):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

        def on_train_epoch_end(self):
            self.lr_schedulers().step()

    assert torch.equal(weights(fit(tmp_path, Manual(build_agent()))), weights(whole))


def check_resumed(module, whole):
    assert module.seen == whole.seen[len(whole.seen) - len(module.seen) :]
    assert torch.equal(weights(module), weights(whole))
    assert torch.equal(module.agent.expected_actions(), whole.agent.expected_actions())
    assert module.agent.visits == whole.agent.visits == EPOCHS * SIZE // 2


@pytest.mark.parametrize(
    ("saving", "trainer_options", "at"),
    [
        ({"every_n_train_steps": 1}, {}, (1, 12, 15, 40)),
        ({"every_n_train_steps": 2}, {"val_check_interval": 2}, (14,)),  # before, and ...
        ({"every_n_epochs": 1}, {"val_check_interval": 2}, (17,)),  # ... after a validation
        ({"every_n_epochs": 1}, {}, (5, 35)),
        ({"save_on_train_epoch_end": False}, {}, (10,)),  # by the validation that ends an epoch
        ({"save_on_train_epoch_end": False}, {"check_val_every_n_epoch": 2}, (40,)),
    ],
)
def test_every_checkpoint_resumes_to_the_same_end(whole, tmp_path, saving, trainer_options, at):
    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **saving)
    fit(tmp_path, Module(build_agent()), keep, **trainer_options)
    for step in at:
        path = tmp_path / f"step={step}.ckpt"
        check_resumed(
            fit(tmp_path, Module(build_agent()), ckpt_path=path, **trainer_options), whole
        )


def test_with_trusted_rows_a_run_resumes_to_the_same_end(tmp_path):
    def agent():
        config = TrustedConfig(update_every=3)
        return DataAgent(SIZE, EPOCHS, seed=3, config=config, trusted=range(50, SIZE))

    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    whole = fit(tmp_path, Module(agent()), keep)
    in_last = [i for epoch, _, index in whole.seen if epoch == EPOCHS - 1 for i in index]
    assert set(range(50, SIZE)) <= set(in_last)
    assert "ranks a trusted row" in whole.agent.summary()
    for step in (12, 35):
        path = tmp_path / f"step={step}.ckpt"
        check_resumed(fit(tmp_path, Module(agent()), ckpt_path=path), whole)


def test_workers_that_read_ahead_resume_and_so_does_drop_last(tmp_path):
    options = {"num_workers": 2, "batch_size": 7, "drop_last": True}
    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=9)
    undisturbed = fit(tmp_path, Module(build_agent(), **options), keep)
    assert undisturbed.agent.schedule.num_kept == 28
    resumed = fit(tmp_path, Module(build_agent(), **options), ckpt_path=tmp_path / "step=9.ckpt")
    assert resumed.seen == undisturbed.seen[9:]
    assert torch.equal(weights(resumed), weights(undisturbed))


class Stop(L.Callback):
    def __init__(self, hook, step):
        self.step = step
        setattr(self, hook, self.stop)

    def stop(self, trainer, *_):
        if trainer.global_step == self.step and not trainer.sanity_checking:
            raise RuntimeError("stopped")


@pytest.mark.parametrize(
    "hook", ["on_train_batch_start", "on_before_backward", "on_validation_start"]
)
def test_a_checkpoint_written_by_an_exception_trains_each_sample_once(whole, tmp_path, hook):
    keep = ModelCheckpoint(tmp_path, filename="last", save_on_exception=True, save_top_k=0)
    with pytest.raises(RuntimeError, match="stopped"):
        fit(tmp_path, Module(build_agent()), Stop(hook, 10), keep)
    module = fit(tmp_path, Module(build_agent()), ckpt_path=tmp_path / "last.ckpt")
    assert len(module.seen) == len(whole.seen) - 10
    assert module.agent.visits == whole.agent.visits
    trained = sorted(i for epoch, _, index in module.seen if epoch == 2 for i in index)
    assert trained == sorted(i for epoch, _, index in whole.seen if epoch == 2 for i in index)


class Late(SingleDeviceStrategy):
    """Restores when FSDP and DeepSpeed do: behind configure_optimizers."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True


class Counting(Module):
    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches == EPOCHS * 5
        return super().configure_optimizers()


def test_strategies_that_restore_late(whole, tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=12)
    fit(tmp_path, Counting(build_agent()), keep)
    path = tmp_path / "step=12.ckpt"
    check_resumed(fit(tmp_path, Counting(build_agent()), ckpt_path=path), whole)
    for kind in (Module, Counting):
        agent = build_agent()
        trainer = build_trainer(tmp_path, SelectionCallback(agent), strategy=Late("cpu"))
        if kind is Module:
            trainer.fit(module := kind(agent), ckpt_path=path)
            check_resumed(module, whole)
        else:
            with pytest.raises(StateError, match=r"Late Lightning restores after .*total_steps"):
                trainer.fit(kind(agent), ckpt_path=path)


def test_testing_from_a_checkpoint_leaves_the_agent_alone(tmp_path):
    agent = build_agent()
    module = Module(agent)
    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=10)
    trainer = build_trainer(tmp_path, SelectionCallback(agent), keep)
    trainer.fit(module)
    trainer.validate(module, ckpt_path=tmp_path / "step=10.ckpt", verbose=False)
    assert agent.visits == EPOCHS * SIZE // 2


def test_metrics_reach_the_log(tmp_path):
    logger = CSVLogger(tmp_path, name="run", version=0)
    agent = build_agent()
    trainer = build_trainer(tmp_path, SelectionCallback(agent), logger=logger)
    trainer.fit(Module(agent))
    path = tmp_path / "run" / "version_0" / "metrics.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    epochs = [float(row["data_agent/epoch"]) for row in rows if row.get("data_agent/epoch")]
    assert epochs == list(range(EPOCHS))
    assert trainer.callback_metrics["data_agent/visits"] == EPOCHS * SIZE / 2


def test_fast_dev_run_runs_and_finds_a_forgotten_learn(tmp_path):
    module = fit(tmp_path, Module(build_agent(), num_workers=2), fast_dev_run=True)
    assert len(module.seen) == 1
    with pytest.raises(StateError, match="not one batch was observed"):
        fit(tmp_path, Forgetful(build_agent()), fast_dev_run=True)
    with pytest.raises(StateError, match=r"A new training run needs a new selector"):
        fit(tmp_path, module)


class Forgetful(Module):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])


class Several(Module):
    def train_dataloader(self):
        return {"a": super().train_dataloader(), "b": DataLoader(dataset())}


class Unselected(Module):
    def train_dataloader(self):
        return DataLoader(dataset(), shuffle=True)


class Streamed(Module):
    def train_dataloader(self):
        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self):
                return iter(dataset())

        return selection_loader(Stream(), self.agent, batch_size=BATCH_SIZE)


class Foreign(Module):
    def train_dataloader(self):
        return selection_loader(dataset(), build_agent(), batch_size=BATCH_SIZE)


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Module, {"max_epochs": 9}, r"max_epochs=9, max_steps=-1.*epochs=8.*max_epochs=8"),
        (Module, {"max_epochs": -1, "max_steps": 40}, r"max_steps=40.*max_epochs=8 and no max"),
        (Module, {"max_steps": 40}, "behind an epoch that it never trained"),
        (Module, {"limit_train_batches": 0.5}, r"cuts each epoch's 5 batches to 2.*keep_ratio"),
        (Module, {"overfit_batches": 2}, r"overfit_batches=2\) replaces the sampler"),
        (Several, {}, r"came as dict; a selection needs one loader"),
        (Unselected, {}, "samples by RandomSampler, which is not a selection"),
        (Foreign, {}, "which is another selector's"),
    ],
)
def test_what_would_change_the_selection_is_refused(tmp_path, kind, options, message):
    with pytest.raises(InputError, match=message):
        fit(tmp_path, kind(build_agent()), **options)


class Normalised(Module):
    def __init__(self, agent):
        super().__init__(agent)
        self.net.insert(0, nn.BatchNorm1d(6))


def test_averaging_weights_adds_an_epoch_for_batch_norm_that_the_selector_must_plan(tmp_path):
    def averaging():
        return StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=0.5)

    with pytest.raises(InputError, match=r"epochs=9, beside max_epochs=8"):
        fit(tmp_path, Normalised(build_agent()), averaging())
    agent = DataAgent(num_samples=SIZE, epochs=9)
    fit(tmp_path, Normalised(agent), averaging())
    assert agent.visits == agent.schedule.total_visits


def test_streams_are_refused_with_where_they_work(tmp_path):
    agent = make_selector("data-agent-in-batch", num_samples=SIZE, epochs=1, keep_ratio=0.5)
    with pytest.raises(InputError, match="Lightning does not tell streams when an epoch begins"):
        fit(tmp_path, Streamed(agent), max_epochs=1)


def test_a_forgotten_callback_is_told_when_training_goes_on(whole, tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=5)
    build_trainer(tmp_path, keep).fit(Module(build_agent()))
    with pytest.warns(
        DataAgentWarning, match="epoch 2 is the first one that begins.*SelectionCall"
    ):
        build_trainer(tmp_path).fit(Module(build_agent()), ckpt_path=tmp_path / "step=10.ckpt")


def test_an_optimizer_that_sees_a_batch_several_times_is_told(tmp_path):
    class Several(Module):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), max_iter=4)

    with pytest.raises(StateError, match="calls its closure several times"):
        fit(tmp_path, Several(build_agent()))


def test_a_forgotten_learn_is_an_error_in_the_last_epoch_too(tmp_path):
    selector = make_selector("random", num_samples=SIZE, epochs=1, keep_ratio=1.0)
    module = Forgetful(selector)
    trainer = build_trainer(tmp_path, SelectionCallback(selector), max_epochs=1)
    with pytest.raises(StateError, match="not one batch was observed"):
        trainer.fit(module)


@pytest.mark.parametrize("steps", [7, 20], ids=["inside an epoch", "at the end of one"])
def test_rows_of_the_last_step_that_an_accelerator_found_not_finite_are_told(tmp_path, steps):
    class RefuseLast(L.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == steps:
                agent._recorder.staging.refuse(torch.tensor([5]))
                trainer.should_stop = True

    agent = build_agent()
    trainer = build_trainer(tmp_path, SelectionCallback(agent), RefuseLast())
    with pytest.raises(InputError, match=r"non-finite .* for 1 sample\(s\): 5"):
        trainer.fit(Module(agent))


def test_a_state_in_pieces_is_refused(monkeypatch):
    monkeypatch.setattr(selector_module, "own_shard", lambda: Shard(0, 2))
    with pytest.raises(InputError, match="Lightning writes that of rank 0 only"):
        SelectionCallback(build_agent(sharded=True))


def test_other_mistakes_are_told(tmp_path, whole):
    with pytest.raises(InputError, match="a selector is needed"):
        SelectionCallback("agent")
    with pytest.raises(StateError, match="the selector stands at batch 0 of epoch 8"):
        fit(tmp_path, whole)
    agent = build_agent()
    trainer = build_trainer(tmp_path, SelectionCallback(agent), Stop("on_train_batch_start", 12))
    module = Module(agent)
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.fit(module)
    with pytest.raises(StateError, match=r"at batch 2 of epoch 2, the Trainer .* at batch 0 of"):
        trainer.fit(module)
    keep = ModelCheckpoint(tmp_path, filename="plain", every_n_train_steps=3)
    fit(tmp_path, Plain(whole.seen), keep)
    with pytest.raises(CheckpointError, match="written by a Trainer without SelectionCallback"):
        fit(tmp_path, Module(build_agent()), ckpt_path=tmp_path / "plain.ckpt")


def test_the_classes_of_pytorch_lightning_work_too(tmp_path, whole):
    other = pytest.importorskip("pytorch_lightning", reason="the package's older name")
    names = {k: v for k, v in vars(Module).items() if k not in ("__dict__", "__weakref__")}
    del names["__init__"]

    class Older(other.LightningModule):
        def __init__(self, agent):
            super().__init__()
            self.agent, self.loader_options, self.seen = agent, {}, []
            self.net = network()
            agent.watch(self.net[3])

    for name in ("train_dataloader", "val_dataloader", "training_step", "validation_step"):
        setattr(Older, name, names[name])
    Older.configure_optimizers = names["configure_optimizers"]
    agent = build_agent()
    module = Older(agent)
    base = {"accelerator": "cpu", "devices": 1, "default_root_dir": tmp_path, "logger": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    other.Trainer(
        callbacks=[SelectionCallback(agent)],
        max_epochs=EPOCHS,
        enable_checkpointing=False,
        **base,
        **quiet,
    ).fit(module)
    assert module.seen == whole.seen


def fabric_without_us(fabric, seen):
    """The weights of Fabric's own loop over the same batches of this rank."""
    net = network()
    model, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), lr=0.1))
    data = dataset()
    for _, index in seen:
        x, y, _ = data[torch.tensor(index)]
        fabric.backward(F.cross_entropy(model(x), y, reduction="none").mean())
        optimizer.step()
        optimizer.zero_grad()
    return weights(net)


def fabric_loop(fabric, path=None, stop=None, num_workers=0, **options):
    """The plain loop under Fabric; `stop` saves to `path` behind that many batches of this call."""
    net, agent = network(), build_agent(**options)
    agent.watch(net[3])
    model, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), lr=0.1))
    plain = selection_loader(dataset(), agent, batch_size=BATCH_SIZE, num_workers=num_workers)
    loader = fabric.setup_dataloaders(plain)
    state = {"model": model, "optimizer": optimizer, "agent": agent}
    if path and stop is None:
        fabric.load(path, state)
    seen = []
    for epoch in agent.epochs():
        for x, y, own, index in loader:
            assert torch.equal(own, index)
            losses = F.cross_entropy(model(x), y, reduction="none")
            fabric.backward(agent.learn(losses, index))
            optimizer.step()
            optimizer.zero_grad()
            seen.append((epoch, index.tolist()))
            if len(seen) == stop:
                fabric.save(path, state)
    return weights(net), seen, agent.visits


@pytest.mark.parametrize(("stop", "num_workers"), [(5, 0), (12, 0), (12, 2)])
def test_fabric_saves_the_agent_and_goes_on(tmp_path, stop, num_workers):
    fabric = Fabric(accelerator="cpu", devices=1)
    end, seen, visits = fabric_loop(fabric, tmp_path / "f.ckpt", stop, num_workers)
    resumed, rest, same = fabric_loop(fabric, tmp_path / "f.ckpt", num_workers=num_workers)
    assert rest == seen[stop:]
    assert torch.equal(resumed, end)
    assert same == visits == EPOCHS * SIZE // 2


def test_fabric_with_us_equals_fabric_without_us():
    fabric = Fabric(accelerator="cpu", devices=1)
    end, seen, _ = fabric_loop(fabric, keep_ratio=1.0)
    assert len(seen) == EPOCHS * SIZE / BATCH_SIZE
    assert torch.equal(end, fabric_without_us(fabric, seen))


def on_two_ranks(rank, folder):
    """All that takes two processes, in one start of them."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    together = {"devices": 2, "strategy": "ddp", "limit_val_batches": 0}
    results = {}
    for wrap in (True, False):
        saving = {"save_top_k": -1, "every_n_train_steps": 2}
        keep = ModelCheckpoint(folder, filename=f"{wrap}-{{step}}", **saving)
        options = {**together, "use_distributed_sampler": wrap}
        module = fit(folder, Module(build_agent()), keep, **options)
        path = f"{folder}/{wrap}-step=4.ckpt"  # inside the second epoch of three batches
        resumed = fit(folder, Module(build_agent()), ckpt_path=path, **options)
        results[wrap] = [(m.seen, weights(m), m.agent.visits) for m in (module, resumed)]
    agent = build_agent()
    try:
        build_trainer(folder, SelectionCallback(agent), **together).fit(
            Module(agent), train_dataloaders=built_before(agent)
        )
    except DataAgentError as error:
        results["before"] = str(error)
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    path = f"{folder}/fabric.ckpt"
    results["fabric"] = [fabric_loop(fabric, path, 4), fabric_loop(fabric, path)]
    end, seen, _ = fabric_loop(fabric, keep_ratio=1.0)
    results["as fabric"] = torch.equal(end, fabric_without_us(fabric, seen))
    ours = fit(folder, Module(build_agent(keep_ratio=1.0)), **together)
    theirs = fit(folder, Plain(ours.seen), **together, use_distributed_sampler=False)
    results["as lightning"] = torch.equal(weights(ours), weights(theirs))
    return results


def built_before(agent):
    """A loader as it comes out where no process group exists yet."""
    sampler = SelectionSampler(agent, batch_size=BATCH_SIZE)
    return DataLoader(dataset(), batch_size=BATCH_SIZE, sampler=sampler)


@pytest.mark.distributed
def test_two_processes(tmp_path):
    first, second = run_ranks(on_two_ranks, tmp_path, str(tmp_path))
    for wrap in (True, False):
        (seen, end, visits), (rest, resumed_end, same) = first[wrap]
        (others, other_end, _), (other_rest, _, _) = second[wrap]
        for epoch in range(EPOCHS):
            batches = [b for e, _, b in (*seen, *others) if e == epoch]
            together = [i for batch in batches for i in batch]
            assert len(batches) == 6
            assert len(together) == len(set(together)) == SIZE // 2
        assert torch.equal(end, other_end)
        assert torch.equal(end, resumed_end)
        assert (rest, other_rest) == (seen[4:], others[4:])
        assert visits == same == EPOCHS * SIZE // 2
    assert first[True][0][0] == first[False][0][0]
    for results in (first, second):
        assert results["as fabric"]
        assert results["as lightning"]
        assert "was built for 1 process(es), but DDPStrategy trains 2" in results["before"]
        (end, seen, visits), (resumed_end, rest, same) = results["fabric"]
        assert torch.equal(end, resumed_end)
        assert rest == seen[4:]
        assert visits == same == EPOCHS * SIZE // 2


def test_a_missing_framework_is_named_with_its_extra():
    code = "import sys; sys.modules['lightning'] = None; import data_agent.integrations.lightning"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: data_agent.integrations.lightning needs" in result.stderr
    assert "pip install '.[lightning]'" in result.stderr


@pytest.mark.parametrize("name", ["lightning_module", "fabric_loop"])
def test_examples(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text().splitlines()) <= 60
    agent = runpy.run_path(str(path))["main"](tmp_path)
    assert agent.visits == 10 * 256
    assert "epoch 10/10" in capsys.readouterr().out
