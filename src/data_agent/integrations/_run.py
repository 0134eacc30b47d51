"""A run of a Hugging Face Trainer: what it may not set, its selector, and the selector's state."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch.utils.data import IterableDataset

from data_agent.errors import CheckpointError, DataAgentWarning, InputError, StateError
from data_agent.integrations._auto import AUTO, pick_method
from data_agent.integrations._batches import find_head
from data_agent.integrations._steps import check_observed_any
from data_agent.integrations._trusted import (
    check_joined,
    check_knows_trusted,
    knowing_trusted,
    warn_of_evaluated,
)
from data_agent.loading.indexed import IndexedDataset, IndexedStream
from data_agent.methods import make_selector, method_class
from data_agent.runtime import checkpoint as files
from data_agent.selecting.batch_selector import BatchSelector
from data_agent.selecting.selector import Selector

Given = Selector | Callable[..., Selector] | str
"""What the user hands over: a selector, a callable of `num_samples=` and `epochs=`, or a name."""

logger = logging.getLogger("data_agent")
_STATE_FILE = "data_agent.safetensors"
_BUILD_ONE = "selector=functools.partial(DataAgent, keep_ratio=0.5)"


def check_bases(kind: type, mixin: type, trainer: type, *, known: type | None) -> None:
    """Refuse a Trainer that hides `mixin`, or one of TRL whose loss is not that of `known`."""
    order = kind.__mro__
    if trainer in order and order.index(trainer) < order.index(mixin):
        raise InputError(
            f"{kind.__name__} lists SelectiveTrainerMixin behind a Trainer, whose methods hide "
            "it. Write it first: class MyTrainer(SelectiveTrainerMixin, TheirTrainer)."
        )
    for base in order:
        is_known = known and (issubclass(base, known) or issubclass(known, base))
        if base.__module__.startswith("trl.") and not is_known:
            raise InputError(
                f"{kind.__name__} has TRL's {base.__name__} among its bases. "
                "data_agent.integrations.trl.SelectiveSFTTrainer is for SFTTrainer and its "
                "subclasses; preference and reinforcement trainers do not train on one loss "
                "for each row of their dataset."
            )


def check_given(given: object, keep_ratio: float | None) -> None:
    """Refuse what no selector can be made of, and a keep ratio that would be ignored."""
    if keep_ratio is not None and not isinstance(given, str):
        raise InputError(
            f"keep_ratio={keep_ratio} goes with a method's name, but selector is {given!r}. Give "
            f"it there: {_BUILD_ONE}."
        )
    if not isinstance(given, str | Selector) and not callable(given):
        raise InputError(f"selector is {given!r}; expected a name, a callable or a Selector.")


def refuse_what_would_be_wrong(trainer: Any) -> None:
    """Refuse settings of a Trainer under which a selection would be another one."""
    args, world = trainer.args, trainer.accelerator.num_processes
    config = args.accelerator_config
    liger = args.liger_kernel_config or {}
    split = trainer.get_tp_size() * trainer.get_cp_size() * trainer.get_sp_size()
    wrong = {
        f"n_gpu is {args.n_gpu}: DataParallel's replicas cannot be watched. Start one process for "
        "each GPU (torchrun), or show the process one GPU (CUDA_VISIBLE_DEVICES=0)": args.n_gpu > 1,
        f"train_sampling_strategy is {args.train_sampling_strategy!r}, but the selector decides "
        "which samples come, and shuffles them. Leave it at 'random'": (
            args.train_sampling_strategy != "random"
        ),
        "dispatch_batches=True reads every batch on one process and loses the samples' index. "
        "Leave it at None": config.dispatch_batches,
        "split_batches=True shares each batch among the processes, but an epoch's budget is kept "
        "in whole batches a process. Set it to False, and per_device_train_batch_size": (
            config.split_batches and world > 1
        ),
        "even_batches=False lets processes make different numbers of steps. Set it to True": (
            not config.even_batches and world > 1
        ),
        "dataloader_in_order=False lets workers' batches overtake each other, and a resumed run "
        "would skip others than those that were trained on. Set it to True": (
            args.dataloader_num_workers > 0 and not getattr(args, "dataloader_in_order", True)
        ),
        "enable_jit_checkpoint=True may save between batches and their optimizer step: a resumed "
        "run trains on them twice. Use save_steps": args.enable_jit_checkpoint,
        "use_liger_kernel=True fuses the loss into the head, so that there are no logits. Set "
        "liger_kernel_config={'fused_linear_cross_entropy': False}, or use_liger_kernel=False": (
            args.use_liger_kernel and liger.get("fused_linear_cross_entropy", True)
        ),
        "tensor, context or sequence parallelism gives several processes one batch. Use data "
        "parallelism": split > 1,
    }
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise InputError(f"{message}.")
    dataset = trainer.train_dataset
    if dataset is not None and not isinstance(dataset, IterableDataset):
        IndexedDataset(dataset)  # refuses what has no length


@contextmanager
def ending_run(trainer: Any) -> Generator[None]:
    """After the block settle the last rows, which tells what only they show; remove the hooks.

    The last epoch is closed, unless training stopped inside of one. A collective call.

    Raises:
        InputError: rows of the last steps were not finite.
        StateError: steps were taken, and no sample of them was observed.
    """
    try:
        yield
        selector: Selector | None = trainer.selector
        if selector is not None:
            check_observed_any(trainer)
            if selector.next_batch().epoch == selector.schedule.epochs:
                selector.close_epoch()
            else:
                selector.settle()
    finally:
        trainer._unhook()


def new_selector(trainer: Any, *, reads_labels: bool) -> Selector:
    """The selector of the run that a Trainer of ours begins, fitted to its loader.

    `reads_labels` tells whether the samples' terms come from "logits" and "labels".
    """
    check_joined(trainer)
    given: Given = trainer._given_selector
    if given == AUTO:
        given = _picked(trainer, reads_labels=reads_labels)
    selector = _built(trainer, given, trainer._keep_ratio, resumes=trainer._run_resumes)
    warn_of_evaluated(trainer, selector)
    return selector


def _picked(trainer: Any, *, reads_labels: bool) -> str:
    """A method's name in the place of "auto", which the log tells."""
    if trainer.trusted_rows:
        method = "data-agent"
        reason = f"its reward is learned from {len(trainer.trusted_rows)} trusted rows"
    else:
        model = trainer._inner_model()
        has_head = trainer._given_head is not None or find_head(model) is not None
        method, reason = pick_method(
            trainer.train_dataset, model, reads_labels=reads_labels, has_head=has_head
        )
    logger.info("selector='auto' picks %s: %s.", method, reason)
    return method


def _built(trainer: Any, given: Given, keep_ratio: float | None, *, resumes: bool) -> Selector:
    args, dataset = trainer.args, trainer.train_dataset
    world = trainer.accelerator.num_processes
    is_stream = isinstance(dataset, IterableDataset)
    # The Trainer's own batch size: auto_find_batch_size lowers it.
    per_step = args.gradient_accumulation_steps * trainer._train_batch_size * world
    if is_stream and args.max_steps <= 0:
        raise InputError(_no_end(dataset, args, round_size=trainer._train_batch_size * world))
    num_samples = args.max_steps * per_step if is_stream else len(dataset)

    def fitted(selector: Selector) -> Selector:
        _check_method(selector, is_stream=is_stream)
        selector.use_loader(
            trainer._train_batch_size,
            world=world,
            drop_last=args.dataloader_drop_last,
            last_rounds="filled" if world > 1 else "spread",  # as Accelerate fills it
        )
        return selector

    if isinstance(given, Selector):
        if given.epoch is not None and not resumes:
            raise StateError(
                f"a run begins, but the selector is in epoch {given.epoch} of another one. Hand "
                f"over a callable, which makes a selector for each run: {_BUILD_ONE}."
            )
        check_knows_trusted(given, trainer.trusted_rows)
        _check_size(fitted(given), num_samples, _num_epochs(given, args))
        return given
    make = given
    if isinstance(make, str):
        if is_stream:
            _check_class(method_class(make))
        seed = args.seed if args.data_seed is None else args.data_seed
        keep_ratio = 0.5 if keep_ratio is None else keep_ratio
        make = partial(make_selector, make, keep_ratio=keep_ratio, seed=seed)
    make = knowing_trusted(make, trainer.trusted_rows)
    epochs = 1 if is_stream else math.ceil(args.num_train_epochs)
    if args.max_steps > 0 and not is_stream:
        # How many epochs these steps are depends on the length of the selector's epochs.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataAgentWarning)
            longest = make(num_samples=num_samples, epochs=args.max_steps)
        epochs = _num_epochs(fitted(longest), args)
    return fitted(make(num_samples=num_samples, epochs=epochs))


def _no_end(stream: Any, args: Any, *, round_size: int) -> str:
    """What to do about a stream that only says how long a pass over it is."""
    steps = len(stream) // round_size // args.gradient_accumulation_steps
    return (
        f"train_dataset is a stream, and max_steps is {args.max_steps}: num_train_epochs does not "
        "say when a stream ends, even one with a length. Set max_steps, which counts in its place: "
        f"one pass over its {len(stream)} samples is max_steps={steps}; for more of them let it "
        "repeat itself (train_dataset.repeat(n) of datasets)."
    )


def indexed_rows(trainer: Any, dataset: Any) -> IndexedDataset | IndexedStream:
    """A Trainer's training data, whose samples carry their index."""
    if not isinstance(dataset, IterableDataset):
        return IndexedDataset(dataset, as_pairs=True)
    return _StreamOfRun(trainer, cast("IterableDataset[Any]", dataset))


class _StreamOfRun(IndexedStream):
    """A Trainer's stream, which is read once."""

    def __init__(self, trainer: Any, stream: IterableDataset[Any]) -> None:
        self.__trainer = trainer
        super().__init__(
            stream,
            trainer._begin_run(),
            batch_size=trainer._train_batch_size,
            as_pairs=True,
            skip_observed=False,  # Accelerate reads on one process for all, the Trainer skips
        )

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`; refuses a second one, for which a Trainer begins a stream anew.

        Raises:
            InputError: there is no such epoch.
        """
        args, step = self.__trainer.args, self.__trainer.state.global_step
        if epoch >= self.__trainer.selector.schedule.epochs:
            again = math.ceil(args.max_steps / step) if step else "n"
            raise InputError(
                f"the stream ended after {step} of max_steps={args.max_steps} steps. A selector "
                f"chooses from one pass over it: set max_steps={step}, or let the stream repeat "
                f"itself (train_dataset.repeat({again}) of datasets)."
            )
        super().set_epoch(epoch)

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes: without the Trainer."""
        return {**super().__getstate__(), "_StreamOfRun__trainer": None}


def save_selector(selector: Selector, folder: str, *, should_save: bool) -> None:
    """Write the selector's state; on every rank, one of which saves."""
    state = selector.state_dict()  # a collective call
    if should_save:
        # trainer_state.json comes later: no checkpoint looks complete without our file.
        Path(folder).mkdir(parents=True, exist_ok=True)
        files.save(Path(folder) / _STATE_FILE, state)


def load_selector(selector: Selector, folder: str, args: Any, global_step: int) -> None:
    """Restore the selector where the Trainer goes on, by its args, behind `global_step`."""
    if args.ignore_data_skip:
        raise InputError(
            "ignore_data_skip=True starts the interrupted epoch over, so its samples would count "
            "twice. Resume with ignore_data_skip=False."
        )
    path = Path(folder) / _STATE_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no {_STATE_FILE}: a Trainer without a selector saved it, or one with "
            "save_only_model=True. Resume from one of SelectiveTrainer without that, or load the "
            "model's weights alone and train without resume_from_checkpoint."
        )
    try:
        selector.load_state_dict(files.load(path))
    except CheckpointError as error:
        raise CheckpointError(
            f"{path}: {error} A Trainer's epochs follow from num_train_epochs or max_steps, the "
            "seed is data_seed or seed: a run goes on with those that it began with. To train "
            "longer, begin a new run from the model's weights."
        ) from error
    due, per_epoch = selector.next_batch(), _steps_of_epoch(selector, args)
    step = due.epoch * per_epoch + math.ceil(due.batch / args.gradient_accumulation_steps)
    if step != global_step:
        raise InputError(
            f"the checkpoint is of step {global_step}, but its selector stands at step {step}, "
            f"with {per_epoch} steps an epoch. Resume with the interrupted run's batch size, "
            "gradient_accumulation_steps and number of processes."
        )


def _steps_of_epoch(selector: Selector, args: Any) -> int:
    """Optimizer steps in an epoch, as the Trainer counts them."""
    return math.ceil(selector.schedule.steps(0) / args.gradient_accumulation_steps)


def _num_epochs(selector: Selector, args: Any) -> int:
    """Epochs of the run, as the Trainer counts them: it may end within the last one."""
    if args.max_steps > 0:
        return math.ceil(args.max_steps / _steps_of_epoch(selector, args))
    return math.ceil(args.num_train_epochs)


def _check_method(selector: object, *, is_stream: bool) -> None:
    if not isinstance(selector, Selector):
        raise InputError(f"selector= made {selector!r}; expected a Selector. Try {_BUILD_ONE}.")
    if is_stream:
        _check_class(type(selector))
    if selector.schedule.kind in ("paper", "floating"):
        raise InputError(
            f"the epochs of a {selector.schedule.kind!r} schedule differ in length, but the "
            "Trainer asks for it once and cuts longer ones. Use schedule='exact'."
        )


def _check_size(selector: Selector, num_samples: int, epochs: int) -> None:
    schedule = selector.schedule
    if (schedule.num_samples, schedule.epochs) != (num_samples, epochs):
        raise InputError(
            f"the selector was built for num_samples={schedule.num_samples} and "
            f"epochs={schedule.epochs}, but the Trainer has {num_samples} samples and trains "
            f"{epochs} epochs. Use these numbers, or a callable that is told them: {_BUILD_ONE}."
        )


def _check_class(method: type[Selector]) -> None:
    if not issubclass(method, BatchSelector):
        raise InputError(
            f"{method.name!r} selects epochs, but train_dataset is a stream, whose samples come "
            "once. Choose inside each batch: selector='data-agent-in-batch', and a "
            "per_device_train_batch_size of 1 / keep_ratio times what a step shall train on."
        )
