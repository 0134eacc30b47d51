"""Lightning: a selector inside `lightning.pytorch.Trainer`. Fabric needs nothing from here.

The module returns `selection_loader(train_set, agent, batch_size=...)` from `train_dataloader` and
`agent.learn(losses, index)` from `training_step`; Lightning itself tells the loader's sampler when
an epoch begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from data_agent.errors import CheckpointError, InputError, StateError
from data_agent.loading.sampler import SelectionSampler, check_selector
from data_agent.runtime import distributed
from data_agent.selecting.selector import Selector

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import (
        BatchSizeFinder,
        LearningRateFinder,
        StochasticWeightAveraging,
    )
except ImportError as error:
    raise ImportError(
        "data_agent.integrations.lightning needs the package lightning (2.6 or newer), which "
        f"cannot be imported ({error}). In a checkout of "
        "data_agent: pip install '.[lightning]'"
    ) from error


__all__ = ["SelectionCallback"]


class SelectionCallback(Callback):
    """Carries a selector through `Trainer.fit`: checks, checkpoints, metrics.

    A checkpoint holds the selector's state; `fit(ckpt_path=...)` restores it, and torch's random
    states, which Lightning does not save, so that dropout too goes on as without the stop. Each
    epoch's `agent.metrics()` go to the module's log, named "data_agent/...". After a search for a
    learning rate (`Tuner.lr_find`) the selector is as before.

    Args:
        agent: the selector whose loader `train_dataloader` returns.

    Raises:
        InputError: at construction, not a selector; when training starts, a setting of the Trainer
            or a loader under which the planned epochs would not be trained as planned.
        StateError: when training starts, selector and Trainer stand at different places; when it
            ends, no batch of the last epoch was observed.
        CheckpointError: a checkpoint without this selector's state.
    """

    def __init__(self, agent: Selector) -> None:
        check_selector(agent)
        if agent.own.shard.is_part:
            raise InputError(
                "a sharded selector's state is in pieces, one a rank, and Lightning writes that of "
                "rank 0 only. Use Fabric or a loop of your own, or leave out sharded=True."
            )
        self.agent = agent
        self._device = torch.device("cpu")
        self._random_states: dict[str, Tensor] | None = None
        """Of a checkpoint that was loaded, until training begins."""
        self._first_iterator: object = None
        """What read the data when training went on from a checkpoint, until its first batch."""

    @property
    def state_key(self) -> str:
        """Where a checkpoint's "callbacks" hold the state."""
        return "data_agent"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a search that would train the selector on loaders of several batch sizes."""
        del pl_module
        if stage == "fit" and _searches(trainer, BatchSizeFinder):
            raise InputError(
                "scale_batch_size tries several batch sizes, but the selector's epochs are fitted "
                "to the batches of one loader. Search first, without a selection: in a Trainer "
                "without SelectionCallback, by a module whose train_dataloader returns a plain "
                "DataLoader; then build the selector and its loader with what was found."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that what follows is what the selector planned; let dropout draw on."""
        self._device = pl_module.device
        if self._random_states is not None:  # after the loader's first iterator has drawn from them
            _set_random_states(self._random_states, self._device)
            self._random_states, self._first_iterator = None, _iterator_of(trainer)
        _check_loader(trainer, self.agent)
        if not cast("Any", trainer).fast_dev_run:
            _check_length(trainer, self.agent)
        # Lightning counts epochs through: nothing is to be guessed from its first set_epoch().
        self.agent.shift_epochs(_check_position(trainer, self.agent))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw what an epoch's iterator does, if Lightning made it before the restore."""
        del pl_module, batch
        first, self._first_iterator = self._first_iterator, None
        if first is not None and batch_idx == 0 and first is _iterator_of(trainer):
            _draw_as_an_iterator(cast("DataLoader[Any]", trainer.train_dataloader))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the selector's metrics."""
        del trainer
        self.agent.shift_epochs(0)
        metrics = {f"data_agent/{name}": value for name, value in self.agent.metrics().items()}
        pl_module.log_dict(metrics, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the last epoch, which no other one follows: a forgotten learn() is an error.

        Where training stopped inside an epoch, only its last rows are settled.
        """
        del pl_module
        # In a trial workers read on behind its end.
        reads_on = cast("Any", trainer).fast_dev_run and self.agent.num_observed
        if trainer.is_last_batch and not reads_on:
            self.agent.close_epoch()
        else:
            self.agent.settle()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Count back a batch whose step was cut short; callbacks that save now run after this."""
        del pl_module, exception
        batch_size = self.agent.schedule.batch_size
        if batch_size is not None:
            num_trained = _num_trained(trainer) * batch_size
            self.agent.uncount(max(0, self.agent.num_observed - num_trained))

    def state_dict(self) -> dict[str, Any]:
        """The selector's state, and how its loader deals; Lightning asks on every rank."""
        schedule = self.agent.schedule
        return {
            "agent": self.agent.state_dict(),
            "batch_size": schedule.batch_size,
            "drop_last": schedule.drop_last,
            "last_rounds": schedule.last_rounds,
            "random": _random_states(self._device),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the selector, where training goes on: `validate` and `test` leave it alone."""
        del pl_module
        if trainer.state.fn != "fit":
            return
        state = checkpoint["callbacks"].get(self.state_key)
        if state is None:
            raise CheckpointError(
                "this checkpoint holds no state of a selector: it was written by a Trainer without "
                "SelectionCallback. Its weights can be loaded with load_from_checkpoint(), for a "
                "training run from the start."
            )
        if _searches(trainer, LearningRateFinder):  # it takes back its own steps
            self.agent.load_state_dict(state["agent"])
            self.agent.shift_epochs(0)
            return
        if trainer.train_dataloader is not None:
            raise StateError(
                f"with {type(trainer.strategy).__name__} Lightning restores after "
                "configure_optimizers(), where trainer.estimated_stepping_batches has already made "
                "the train loader begin. Use agent.schedule.total_steps(batch_size, "
                "accumulation=trainer.accumulate_grad_batches) there."
            )
        # A position is one in a loader's batches, and Lightning asks for the loader only later.
        if self.agent.schedule.batch_size is None and state["batch_size"] is not None:
            self.agent.use_loader(
                state["batch_size"],
                world=_num_replicas(trainer),
                drop_last=state["drop_last"],
                last_rounds=state.get("last_rounds", "spread"),
            )
        self.agent.load_state_dict(state["agent"])
        self._random_states = state.get("random")  # none in checkpoints of older versions


def _searches(trainer: Any, finder: type[Callback]) -> bool:
    """Whether the Trainer runs a search, by the Tuner or by a callback of the user's."""
    return any(isinstance(callback, finder) for callback in trainer.callbacks)


def _iterator_of(trainer: Any) -> object:
    return getattr(trainer.fit_loop._combined_loader, "_iterator", None)


def _num_replicas(trainer: Trainer) -> int:
    """Processes that train on different batches."""
    # A strategy such as tensor parallelism gives several processes the same batch.
    options = cast("dict[str, int] | None", trainer.distributed_sampler_kwargs)
    return 1 if options is None else options["num_replicas"]


def _check_loader(trainer: Any, agent: Selector) -> None:
    """The one train loader must be the selector's own, dealt for as many processes as train."""
    loader = cast("object", trainer.train_dataloader)
    if not isinstance(loader, DataLoader):
        raise InputError(
            f"train_dataloader came as {type(loader).__name__}; a selection needs one loader, "
            "selection_loader(dataset, agent, batch_size=...). Several loaders would repeat or cut "
            "its epochs: put the data sets together (ConcatDataset) and select from all of them."
        )
    sampler = cast("object", loader.sampler)
    if trainer.overfit_batches:
        raise InputError(
            f"Trainer(overfit_batches={trainer.overfit_batches}) replaces the sampler, so nothing "
            "would be selected. Select from a torch.utils.data.Subset of a few samples instead."
        )
    if isinstance(loader.dataset, IterableDataset):
        raise InputError(
            "the train loader reads a stream, and Lightning does not tell streams when an epoch "
            "begins. Use Fabric or the plain loop of docs/streaming.md; or make the data a "
            "map-style dataset, from which agents that choose inside batches may choose here."
        )
    if not isinstance(sampler, SelectionSampler) or sampler.selector is not agent:
        whose = "another selector's" if isinstance(sampler, SelectionSampler) else "not a selection"
        raise InputError(
            f"the train loader samples by {type(sampler).__name__}, which is {whose}. Return "
            "selection_loader(dataset, agent, batch_size=...) from train_dataloader(), with the "
            "agent given to SelectionCallback."
        )
    world = _num_replicas(trainer)
    if agent.schedule.world != world:
        raise InputError(
            f"the train loader was built for {agent.schedule.world} process(es), but "
            f"{type(trainer.strategy).__name__} trains {world} on different batches. Build it "
            "inside train_dataloader() of the module or data module, not before fit(): only there "
            "the processes know each other. Strategies that give several processes the same batch "
            "(tensor parallelism) are not supported."
        )


def _check_length(trainer: Trainer, agent: Selector) -> None:
    """The Trainer must run all epochs to their end, and no more."""
    epochs, num_batches = agent.schedule.epochs, len(cast("Sized", trainer.train_dataloader))
    if trainer.max_epochs == epochs + 1 and any(
        isinstance(callback, StochasticWeightAveraging)
        for callback in cast("Any", trainer).callbacks
    ):
        raise InputError(
            f"StochasticWeightAveraging makes the {epochs} epochs of the selector one more, in "
            "which it updates batch norm. Let the selector plan that one too: "
            f"epochs={epochs + 1}, beside max_epochs={epochs}."
        )
    if trainer.max_epochs != epochs or trainer.max_steps != -1:
        raise InputError(
            f"Trainer(max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}), but the "
            f"selector plans epochs={epochs}, on which warm-up and final phase depend. Use "
            f"max_epochs={epochs} and no max_steps, with which Lightning resumes behind an epoch "
            "that it never trained. To stop early: EarlyStopping, max_time, trainer.should_stop."
        )
    if trainer.num_training_batches < num_batches:
        raise InputError(
            f"Trainer(limit_train_batches={trainer.limit_train_batches}) cuts each epoch's "
            f"{num_batches} batches to {trainer.num_training_batches}, and what was selected would "
            "not be trained on. For a smaller budget lower the selector's keep_ratio."
        )


def _check_position(trainer: Any, agent: Selector) -> int:
    """Both must stand at one batch; 1 where the Trainer must first end the last epoch, else 0."""
    due, batch, is_whole = agent.next_batch()
    # Without a checkpoint, a second fit() begins an epoch that was stopped anew.
    trained = _num_trained(trainer) if trainer.fit_loop.restarting else 0
    num_batches = int(trainer.num_training_batches)
    epoch: int = trainer.fit_loop.epoch_progress.current.processed
    # Saved by the validation after an epoch's last batch: the Trainer ends that epoch first.
    ends_one = int(trained == num_batches and epoch == due - 1)
    if not is_whole or (due, batch) != (epoch + ends_one, trained % num_batches):
        raise StateError(
            f"the selector stands at batch {batch} of epoch {due}, the Trainer starts at batch "
            f"{trained} of epoch {epoch}. A new training run needs a new selector (also after "
            "fast_dev_run or a tuner). To go on with one pass fit(ckpt_path=...), which restores "
            "both; inside an epoch with the same batch size and number of processes."
        )
    return ends_one if agent.epoch == due else 0


def _num_trained(trainer: Any) -> int:
    """Batches of the running epoch that were trained on."""
    # Not `completed`, which is counted after the hooks that save a checkpoint.
    return trainer.fit_loop.epoch_loop.batch_progress.current.processed


def _random_states(device: torch.device) -> dict[str, Tensor]:
    """Torch's states on the host and on `device`, one row a rank: a collective call."""
    states = {"cpu": torch.get_rng_state()}
    if (module := _module_of(device)) is not None:
        states[device.type] = module.get_rng_state(device).cpu()
    rows = distributed.gather_rows(*(state.unsqueeze(0) for state in states.values()))
    return dict(zip(states, rows, strict=True))


def _set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Take over what `_random_states` returned; nothing where it is of another number of ranks."""
    if len(states["cpu"]) != distributed.world_size():
        return
    own = {name: rows[distributed.rank()].cpu().clone() for name, rows in states.items()}
    torch.set_rng_state(own["cpu"])
    if (module := _module_of(device)) is not None and device.type in own:
        module.set_rng_state(own[device.type], device)


def _module_of(device: torch.device) -> Any:
    """torch.cuda and the like; None where states are not kept by device."""
    return None if device.type in ("cpu", "mps") else torch.get_device_module(device)


def _draw_as_an_iterator(loader: DataLoader[Any]) -> None:
    """Draw from torch's state what `iter(loader)` draws from it, for its worker processes."""
    keeps_workers = loader.persistent_workers and loader.num_workers > 0
    if loader.generator is None and not keeps_workers:
        iter(DataLoader(TensorDataset(torch.zeros(1))))
