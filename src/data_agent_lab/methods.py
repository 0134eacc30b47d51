"""How the name of a method becomes a run: the only place that knows one method from another.

A method is a selector (of the library, or "module:Class" of one's own) at the recipe's keep ratio,
or one of the two controls:

    full        every sample in every epoch
    full-short  every sample in every epoch, in as many optimizer steps as the keep ratio's budget
                has, with the learning rate decayed over just these: what the same money buys
                without selecting anything
"""

from __future__ import annotations

from dataclasses import dataclass

from data_agent.errors import InputError
from data_agent.methods import METHODS, method_class
from data_agent_lab.rules import unknown

FULL = "full"
FULL_SHORT = "full-short"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a method trains on.

    Args:
        selector: name for `make_selector`.
        keep_ratio: of the selector, in (0, 1].
        epochs: of the selector.
        max_steps: optimizer steps after which the run ends; None means at its schedule's end.
    """

    selector: str
    keep_ratio: float
    epochs: int
    max_steps: int | None = None


def plan_run(
    method: str,
    *,
    num_samples: int,
    epochs: int,
    keep_ratio: float,
    batch_size: int,
    accumulation: int,
    world: int = 1,
) -> Plan:
    """The plan of a method under a budget of `epochs` at `keep_ratio`.

    Args:
        method: a selector's name, full or full-short.
        num_samples: training samples.
        epochs: of the recipe.
        keep_ratio: of the recipe, in (0, 1].
        batch_size: samples in a batch, over all ranks.
        accumulation: batches in an optimizer step.
        world: number of ranks, which may leave out the rest of an epoch.
    """
    if method == FULL:
        return Plan(selector=FULL, keep_ratio=1.0, epochs=epochs)
    if method != FULL_SHORT:
        return Plan(selector=method, keep_ratio=keep_ratio, epochs=epochs)

    from data_agent import SelectionSchedule  # imports torch, for which `--help` need not wait

    def num_steps(keep_ratio: float, epochs: int, world: int = 1) -> int:
        schedule = SelectionSchedule(num_samples=num_samples, epochs=epochs, keep_ratio=keep_ratio)
        schedule = schedule.for_loader(batch_size // world, world=world, drop_last=False)
        return schedule.total_steps(accumulation=accumulation)

    # The same epochs on any number of ranks, so that a run can go on on another one.
    short = -(-num_steps(keep_ratio, epochs) // num_steps(1.0, 1))
    budget = num_steps(keep_ratio, epochs, world)
    return Plan(selector=FULL, keep_ratio=1.0, epochs=short, max_steps=budget)


def ignores_keep_ratio(method: str) -> bool:
    """Whether a method's cost is its own: full training, and methods with a floating schedule."""
    if method == FULL_SHORT:
        return False
    return method == FULL or method_class(method).default_schedule == "floating"


def is_batch_selector(method: str) -> bool:
    """Whether a method chooses inside each batch, of pools that the loader delivers."""
    from data_agent import BatchSelector

    return method not in (FULL, FULL_SHORT) and issubclass(method_class(method), BatchSelector)


def needs(method: str) -> tuple[str, ...]:
    """What a method must be given of every sample before it begins: labels, groups or scores."""
    return () if method == FULL_SHORT else method_class(method).required


def check_fits_language(method: str, *, has_labels: bool) -> None:
    """Raise `InputError` if a method has no place in a Trainer, or needs what is made for images.

    Args:
        method: its name.
        has_labels: whether samples have a class each.
    """
    missing = [name for name in needs(method) if not (name == "labels" and has_labels)]
    if missing:
        raise InputError(
            f"method {method!r} starts from {', '.join(missing)} of every sample, which the lab "
            "makes for images only. Take another method for language."
        )
    if method != FULL_SHORT and method_class(method).default_schedule == "floating":
        raise InputError(
            f"the epochs of {method!r} have no fixed length, which a Trainer has no place for. "
            "Take its exact budget (infobatch)."
        )


def expected_cost(method: str, keep_ratio: float, *, epochs: int) -> float:
    """What a run will cost, as a share of full training.

    An upper bound for floating schedules, and without what it costs to make the scores that some
    methods must be given.
    """
    from data_agent import BatchSelector, SelectionSchedule

    if method in (FULL, FULL_SHORT):
        return 1.0 if method == FULL else keep_ratio
    if is_batch_selector(method):
        return BatchSelector.forward_cost + keep_ratio
    kind = method_class(method)
    schedule = SelectionSchedule(
        num_samples=1000,
        epochs=epochs,
        keep_ratio=1.0 if kind.default_schedule == "floating" else keep_ratio,
        kind=kind.default_schedule,
    )
    return schedule.total_visits / (1000 * epochs)


def check_method(method: str) -> None:
    """Raise `InputError` if a method is unknown, or one of the user's own cannot be imported."""
    if ":" in method:
        method_class(method)
    elif method not in (known := (*METHODS, FULL_SHORT)):
        raise unknown("method", method, known, other=", or module:Class for one of your own")
