"""How a Hugging Face Trainer gets the selector of a run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.utils.data import IterableDataset

from data_agent.budget.rounds import LastRounds
from data_agent.errors import DataAgentWarning, InputError, StateError
from data_agent.methods import make_selector, method_class
from data_agent.selecting.batch_selector import BatchSelector
from data_agent.selecting.selector import Selector

_BUILD_ONE = "selector=functools.partial(DataAgent, keep_ratio=0.5)"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the user handed over, from which a selector is built for each run.

    Args:
        selector: a method's name, a callable of `num_samples=` and `epochs=`, or a selector.
        keep_ratio: share of the dataset visited in an epoch, in (0, 1]; None is 0.5. With a name.

    Raises:
        InputError: something else, or a keep ratio that would be ignored.
    """

    selector: Selector | Callable[..., Selector] | str
    keep_ratio: float | None

    def __post_init__(self) -> None:
        if self.keep_ratio is not None and not isinstance(self.selector, str):
            raise InputError(
                f"keep_ratio={self.keep_ratio} goes with a method's name, but selector is "
                f"{self.selector!r}. Give it there: {_BUILD_ONE}."
            )
        if not isinstance(self.selector, str | Selector) and not callable(self.selector):
            raise InputError(
                f"selector is {self.selector!r}; expected a name, a callable or a Selector."
            )

    def build(
        self,
        args: Any,
        *,
        num_samples: int,
        batch_size: int,
        world: int,
        is_stream: bool,
        resumes: bool,
    ) -> Selector:
        """The selector of a run, fitted to its loader.

        Args:
            args: the Trainer's.
            num_samples: N, length of the training dataset, or what a stream will offer.
            batch_size: samples a step on each process.
            world: number of processes.
            is_stream: whether samples come once and have no place in a dataset.
            resumes: whether a state will be loaded.

        Raises:
            InputError: it is for another run, or selects in a way that a Trainer has no place for.
            StateError: it was trained with already.
        """
        if is_stream and isinstance(self.selector, str):
            _check_class(method_class(self.selector))

        def fitted(selector: Selector) -> Selector:
            _check_method(selector, is_stream=is_stream)
            selector.use_loader(
                batch_size,
                world=world,
                drop_last=args.dataloader_drop_last,
                last_rounds=last_rounds_of(world),
            )
            return selector

        if isinstance(self.selector, Selector):
            _check_unused(self.selector, resumes=resumes)
            selector = fitted(self.selector)
            _check_size(selector, num_samples, _num_epochs(selector, args))
            return selector
        make = self.selector
        if isinstance(make, str):
            seed = args.seed if args.data_seed is None else args.data_seed
            keep_ratio = 0.5 if self.keep_ratio is None else self.keep_ratio
            make = partial(make_selector, make, keep_ratio=keep_ratio, seed=seed)
        epochs = 1 if is_stream else math.ceil(args.num_train_epochs)
        if args.max_steps > 0 and not is_stream:
            # How many epochs these steps are depends on the length of the selector's epochs.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataAgentWarning)
                longest = make(num_samples=num_samples, epochs=args.max_steps)
            epochs = _num_epochs(fitted(longest), args)
        return fitted(make(num_samples=num_samples, epochs=epochs))


def last_rounds_of(world: int) -> LastRounds:
    """What becomes of a rest under Accelerate: several processes fill it with repeats."""
    return "filled" if world > 1 else "spread"


def steps_of_epoch(selector: Selector, args: Any) -> int:
    """Optimizer steps in an epoch, as the Trainer counts them."""
    return math.ceil(selector.schedule.steps(0) / args.gradient_accumulation_steps)


def _num_epochs(selector: Selector, args: Any) -> int:
    """Epochs of the run, as the Trainer counts them: it may end within the last one."""
    if args.max_steps > 0:
        return math.ceil(args.max_steps / steps_of_epoch(selector, args))
    return math.ceil(args.num_train_epochs)


def num_samples_of(dataset: Any, args: Any, world: int) -> int:
    """Length of the training dataset; what a stream will offer until `max_steps`."""
    if not isinstance(dataset, IterableDataset):
        return len(dataset)
    steps: int = args.max_steps * args.gradient_accumulation_steps
    return steps * args.train_batch_size * world


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


def _check_class(method: type[Selector]) -> None:
    if not issubclass(method, BatchSelector):
        raise InputError(
            f"{method.name!r} selects epochs, but train_dataset is a stream, whose samples come "
            "once. Choose inside each batch: selector='data-agent-in-batch', and a "
            "per_device_train_batch_size of 1 / keep_ratio times what a step shall train on."
        )


def _check_unused(selector: Selector, *, resumes: bool) -> None:
    if selector.epoch is not None and not resumes:
        raise StateError(
            f"a run begins, but the selector is in epoch {selector.epoch} of another one. Hand "
            f"over a callable, which makes a selector for each run: {_BUILD_ONE}."
        )


def _check_size(selector: Selector, num_samples: int, epochs: int) -> None:
    schedule = selector.schedule
    if (schedule.num_samples, schedule.epochs) != (num_samples, epochs):
        raise InputError(
            f"the selector was built for num_samples={schedule.num_samples} and "
            f"epochs={schedule.epochs}, but the Trainer has {num_samples} samples and trains "
            f"{epochs} epochs. Use these numbers, or a callable that is told them: {_BUILD_ONE}."
        )
