"""Every method by its name. One file a method; a new one is a file and a line in this table."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from data_agent.errors import InputError
from data_agent.runtime.names import did_you_mean

if TYPE_CHECKING:
    from data_agent.selecting.selector import Selector

__all__ = ["METHODS", "make_selector", "method_class"]

METHODS: Mapping[str, str] = {
    "data-agent": "data_agent.agent.agent:DataAgent",
    "data-agent-in-batch": "data_agent.agent.in_batch:InBatchAgent",
    "label-aware": "data_agent.labels.label_aware:LabelAware",
    "noise-aware": "data_agent.labels.noise_aware:NoiseAware",
    "full": "data_agent.baselines.full:Full",
    "random": "data_agent.baselines.random:Random",
    "top-loss": "data_agent.baselines.top_loss:TopLoss",
    "selective-backprop": "data_agent.baselines.selective_backprop:SelectiveBackprop",
    "class-balanced-random": "data_agent.baselines.class_balanced_random:ClassBalancedRandom",
    "entropy": "data_agent.baselines.entropy:Entropy",
    "small-margin": "data_agent.baselines.small_margin:SmallMargin",
    "small-loss": "data_agent.baselines.small_loss:SmallLoss",
    "infobatch": "data_agent.baselines.infobatch:InfoBatch",
    "infobatch-published": "data_agent.baselines.infobatch:InfoBatchPublished",
    "afss": "data_agent.baselines.afss:AFSS",
    "seta": "data_agent.baselines.seta:SeTa",
    "static-random": "data_agent.baselines.static_random:StaticRandom",
    "el2n": "data_agent.baselines.el2n:EL2N",
    "grand": "data_agent.baselines.grand:GraNd",
    "forgetting": "data_agent.baselines.forgetting:Forgetting",
    "k-center": "data_agent.baselines.k_center:KCenter",
    "d2-pruning": "data_agent.baselines.d2_pruning:D2Pruning",
    "rl-selector": "data_agent.baselines.rl_selector:RLSelector",
    "cluster-balanced-random": "data_agent.baselines.cluster_balanced_random:ClusterBalancedRandom",
    "spread-over-duplicates": "data_agent.baselines.spread_over_duplicates:SpreadOverDuplicates",
    "ucb": "data_agent.baselines.ucb:UCB",
    "eps-greedy": "data_agent.baselines.eps_greedy:EpsGreedy",
    "rcap": "data_agent.baselines.rcap:RCAP",
    "divbs": "data_agent.baselines.divbs:DivBS",
}
"""The module and class of every method, by its name."""


def method_class(name: str) -> type[Selector]:
    """The class of the method called `name`: one of `METHODS`, or "module:Class" of one's own.

    Raises:
        InputError: an unknown name, or a class that cannot be imported or is no `Selector`.
    """
    if name not in METHODS and ":" not in name:
        raise InputError(
            f"method {name!r} is unknown; expected one of {', '.join(METHODS)}, or module:Class "
            f"for one of your own.{did_you_mean(name, METHODS)}"
        )
    from data_agent.selecting.selector import Selector  # imports torch; the names do not need it

    module, _, class_name = METHODS.get(name, name).partition(":")
    try:
        method = getattr(import_module(module), class_name)
    except Exception as error:  # whatever a module of one's own raises
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"method {name!r} cannot be imported ({what}).") from error
    if not (isinstance(method, type) and issubclass(method, Selector)):
        raise InputError(f"method {name!r} is not a subclass of data_agent.Selector.")
    return method


def make_selector(
    name: str,
    *,
    num_samples: int,
    epochs: int,
    keep_ratio: float,
    seed: int = 0,
    **options: Any,
) -> Selector:
    """The selector called `name`.

    Args:
        name: one of `METHODS`, or "module:Class" of one's own.
        num_samples: N, length of the training dataset.
        epochs: E, epochs in the whole run.
        keep_ratio: share of the dataset visited in an epoch, in (0, 1].
        seed: seed of every draw.
        options: further arguments of that method, see its `required`.

    Raises:
        InputError: an unknown name, an option that is missing or that the method does not have, a
            value out of range.
    """
    method = method_class(name)
    missing = [option for option in method.required if options.get(option) is None]
    if missing:
        raise InputError(
            f"method {name!r} needs {' and '.join(f'{option}=[N]' for option in missing)}: one "
            "value for each sample, in the order of the dataset."
        )
    try:
        return method(
            num_samples=num_samples, epochs=epochs, keep_ratio=keep_ratio, seed=seed, **options
        )
    except TypeError as error:
        raise InputError(f"method {name!r} does not take these options: {error}.") from error
