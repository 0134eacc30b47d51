"""What label rules are: their settings, and the words for what is on and off."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from data_agent.errors import InputError
from data_agent.runtime.names import ChecksNames


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRules(ChecksNames):
    """Constraints that labels put on any ranking of the samples.

    Both rules stand back by themselves where there is nothing to do: equal shares of equal classes
    are what chance gives, and where the model ranks hardly any label last, hardly any is doubtful.

    Raises:
        InputError: a value outside its range; the message names it.
    """

    class_shares: bool = True
    """Choose equal shares of the classes, as far as they have samples."""

    doubtful_labels: bool = True
    """Leave out the labels that the model believes least, at most the estimated share of wrong
    labels."""

    fewest_classes: int = 10
    """Classes from which on labels are doubted, >= 2. Of fewer, a right one is easily last."""

    fewest_signs: int = 30
    """Labels that come last before they are taken for a share, >= 1."""

    least_share: float = 0.2
    """Share of doubtful labels in [0, 1] below which none is left out: a model that still knows
    little shows as much on right labels, and few wrong ones harm less than leaving out what is
    hard."""

    most_share: float = 0.5
    """The largest share of a class that is left out, in [0, 1]."""

    least_right: float = 0.4
    """Share in [0, 1] of the labels which the model would believe that it must rank first (among
    the likeliest tenth of the classes). With less it is near chance, and no label is doubted."""

    memory: float = 0.5
    """Weight in [0, 1) of what was known of a margin before a visit."""

    def __post_init__(self) -> None:
        for name in ("class_shares", "doubtful_labels"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}; expected True or False.")
        for name, low in (("fewest_classes", 2), ("fewest_signs", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"{name} is {value!r}; expected a whole number, {low} or more.")
        for name in ("least_share", "most_share", "least_right", "memory"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not isfinite(value) or not 0 <= value <= 1:
                raise InputError(f"{name} is {value!r}; expected a share in [0, 1].")
        if self.memory == 1:
            raise InputError("memory is 1, so no visit would count; expected a share below 1.")

    def in_words(self) -> str:
        """Which rules are on: "equal class shares, doubtful labels left out"."""
        rules = (
            *(("equal class shares",) if self.class_shares else ()),
            *(("doubtful labels left out",) if self.doubtful_labels else ()),
        )
        return ", ".join(rules) or "none"
