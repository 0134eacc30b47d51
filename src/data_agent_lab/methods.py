"""What the name of a method means: the only place that knows one method from another.

A method is a selector (of the library, or "module:Class" of one's own) at the run's keep ratio, or
one of the two controls:

    full        every sample in every epoch
    full-short  every sample in every epoch, in as many optimizer steps as the keep ratio's budget
                has, with the learning rate decayed over just these: what the same cost buys
                without any selection
"""

from __future__ import annotations

import warnings

from data_agent.errors import DataAgentWarning, InputError
from data_agent.methods import METHODS, method_class
from data_agent_lab.rules import unknown

FULL = "full"
FULL_SHORT = "full-short"
RANDOM = "random"
PROMPT_METHODS = (
    *(RANDOM, "prompt-agent", "regression", "posterior", "filtering", "categories", "buckets"),
)
"""What prompt tasks compare, all at the same number of completions; random is uniform there."""


def ignores_keep_ratio(method: str) -> bool:
    """Whether a method's cost is its own: full training, and methods with a floating schedule."""
    return method == FULL or (
        method != FULL_SHORT and method_class(method).default_schedule == "floating"
    )


def is_batch_selector(method: str) -> bool:
    """Whether a method chooses inside each pool that the loader delivers."""
    from data_agent import BatchSelector  # imports torch, for which `--help` need not wait

    return method not in (FULL, FULL_SHORT) and issubclass(method_class(method), BatchSelector)


def needs(method: str) -> tuple[str, ...]:
    """What a method must be given of every sample before it begins: labels, groups or scores."""
    return () if method == FULL_SHORT else method_class(method).required


def check_fits_language(method: str, *, has_labels: bool) -> None:
    """Raise `InputError` if a Trainer cannot run a method, or only images have what it needs.

    `has_labels` tells whether samples have a class each.
    """
    if method == FULL_SHORT:
        return
    kind = method_class(method)
    if missing := [name for name in kind.required if not (name == "labels" and has_labels)]:
        raise InputError(
            f"method {method!r} starts from {', '.join(missing)} of every sample, which the lab "
            "makes for images only. Take another method for language."
        )
    if (kind.needs_labels or kind.needs_logits) and not has_labels:
        raise InputError(
            f"method {method!r} goes by the class label of every sample, and here samples have "
            "none. Take another method (data-agent, random), or --task text-classification."
        )
    check_not_refreshed(method)
    if kind.default_schedule == "floating":
        raise InputError(
            f"the epochs of {method!r} have no fixed length, which a Trainer needs. Take its exact "
            "budget (infobatch)."
        )


def check_not_refreshed(method: str) -> None:
    """Raise `InputError` if a method asks how good a model is on boxes, and there are none."""
    from data_agent.baselines.refreshed import Refreshed

    if method != FULL_SHORT and issubclass(method_class(method), Refreshed):
        raise InputError(
            f"method {method!r} goes by how many boxes of an image the model finds, which "
            "--task detection alone has. Take another method (data-agent, random)."
        )


def check_fits_boxes(method: str) -> None:
    """Raise `InputError` if a method goes by the class of a sample, where images have boxes."""
    if method == FULL_SHORT:
        return
    kind = method_class(method)
    if kind.required or kind.needs_labels or kind.needs_logits:
        what = f"{' and '.join(kind.required)} of every sample" if kind.required else "its class"
        raise InputError(
            f"method {method!r} goes by {what}, which the lab has where each image has one class; "
            "here an image has boxes. Take a method that goes by losses, uncertainty or features "
            "(data-agent, random, infobatch, top-loss, entropy, afss)."
        )


def expected_cost(method: str, keep_ratio: float, *, epochs: int) -> float:
    """What a run will cost, as a share of full training.

    An upper bound for floating schedules, and without what it costs to make what some methods must
    be given. Looks at all samples between epochs are in it.
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
    cost = schedule.total_visits / (1000 * epochs)
    return cost + cost_of_looks(method, keep_ratio, epochs=epochs)


def cost_of_looks(method: str, keep_ratio: float, *, epochs: int) -> float:
    """What it costs to tell a method how good the model is on every sample: of full training."""
    from data_agent import BatchSelector
    from data_agent.baselines.refreshed import Refreshed

    kind = None if method in (FULL, FULL_SHORT) else method_class(method)
    if kind is None or not issubclass(kind, Refreshed):
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataAgentWarning)  # who plans the run is warned elsewhere
        selector = kind(num_samples=1000, epochs=epochs, keep_ratio=keep_ratio)
    return BatchSelector.forward_cost * sum(map(selector.is_due, range(1, epochs))) / epochs


def check_method(method: str, *, of_prompts: bool = False) -> None:
    """Raise `InputError` if a method is unknown, or one of the user's own cannot be imported.

    Args:
        method: its name.
        of_prompts: whether prompts are chosen, which has methods of its own.
    """
    if of_prompts:
        if method not in PROMPT_METHODS:
            raise unknown("method", method, PROMPT_METHODS, other=": prompts have their own")
    elif ":" in method:
        method_class(method)
    elif method not in (known := (*METHODS, FULL_SHORT)):
        raise unknown("method", method, known, other=", or module:Class for one of your own")
