"""How likely a row is trusted rather than drawn from all data: a logistic regression, exactly.

With as much weight on the trusted rows as on the others, the regression's log-odds estimate the
log ratio of two densities, `D(s, y) = log p_trusted(s, y) - log p_all(s, y)`: what an agent gains
by choosing the row is read from no more than the feedback that comes anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.runtime.state import require_tensor

CLIP = 5.0  # standardised signals beyond five deviations tell no more
NEWTON_STEPS = 10  # at most; from the last fit two or three are enough
MOST_HALVINGS = 12
_LEAST_DEVIATION = 1e-4
_LEAST_CURVATURE = 1e-9
_LEAST_DECREMENT = 1e-5  # nats, over all rows
_LEAST_SUM = 1e-9  # of weights, where there are none


@dataclass(frozen=True, slots=True, eq=False)
class Likeness:
    """A fitted regression: `D(s, y) = w . z(s) + b + c_y` with z the standardised signals.

    Args:
        mean: float64 `[S]`, of the signals of the rows it was fitted on.
        deviation: float64 `[S]`, above zero.
        weight: float64 `[S + 1]`: w, then b.
        by_class: float64 `[C]`: c_y; a row without a class has none.
    """

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    by_class: Tensor

    def __call__(self, signals: Tensor, classes: Tensor) -> Tensor:
        """D of each row, float64 `[R]`.

        Args:
            signals: float `[R, S]`.
            classes: int64 `[R]`, -1 for rows without a class.
        """
        z = _with_one(_standardised(signals, self.mean, self.deviation))
        return z @ self.weight + _at_class(self.by_class, classes)

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {f.name: getattr(self, f.name).clone() for f in fields(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Likeness:
        """What `state_dict` was taken of.

        Raises:
            CheckpointError: tensors of other shapes or dtypes, or values that are not finite.
        """
        width = len(state["mean"])
        shapes = {"mean": width, "deviation": width, "weight": width + 1}
        shapes["by_class"] = len(state["by_class"])
        tensors = {
            name: require_tensor(state, name, shape=(size,), dtype=torch.float64)
            for name, size in shapes.items()
        }
        if not all(t.isfinite().all() for t in tensors.values()) or (
            width and float(tensors["deviation"].min()) <= 0
        ):
            raise CheckpointError("the regression of trusted rows is not finite.")
        return cls(**tensors)


def fit(
    signals: Tensor,
    classes: Tensor,
    is_trusted: Tensor,
    *,
    num_classes: int,
    ridge: float,
    num_features: int = 0,
    period: Tensor | None = None,
    group: Tensor | None = None,
    start: Likeness | None = None,
) -> Likeness:
    """The regression between trusted rows and the others, by Newton's method with backtracking.

    Minimises `sum_i q_i log(1 + exp(-t_i D_i)) + ridge/2 (|w|^2 + |c|^2)` with `t_i = +-1` and
    weights q that give both kinds the same sum in each period, see `balanced`: where trusted rows
    are denser late than early and others are not, a regression would learn how far training was. D
    features count as one signal: what they add together is expected to vary as much, so `|w|^2`
    counts theirs D times; else a few hundred rows would be learned by heart. The classes' block of
    the Hessian is diagonal, so a step costs `O(R S^2 + C S)` whatever C is.

    Args:
        signals: float `[R, S]`, rows of both kinds, from the same steps of training; features
            are the last of the columns.
        classes: int64 `[R]` in [0, num_classes), -1 for rows without a class.
        is_trusted: bool `[R]`, with some true and some false.
        num_classes: C, 0 or more.
        ridge: above 0; 1 stands for about one row of evidence that nothing differs.
        num_features: D, 0 or more.
        period: int64 `[R]`, 0 or more: of which part of the steps each row is; None is one part.
        group: int64 `[R]`, 0 or more: shares of these groups are not learned; None learns all.
        start: where to start from, such as the last fit.
    """
    signals = signals.double()
    mean = signals.mean(0)
    # What std() does, which takes four times as long.
    variance = (signals - mean).square().sum(0) / (len(signals) - 1)
    deviation = variance.sqrt().clamp_min(_LEAST_DEVIATION)
    z = _with_one(_standardised(signals, mean, deviation))
    half = z.float()
    trusted = is_trusted.double()
    q = balanced(is_trusted, torch.zeros_like(classes) if period is None else period, group)
    penalty = torch.full((z.shape[1],), ridge, dtype=torch.float64)
    penalty[len(mean) - num_features :] *= max(1, num_features)
    penalty[-1] = _LEAST_CURVATURE  # the intercept is free
    weight = torch.zeros(z.shape[1], dtype=torch.float64)
    by_class = torch.zeros(num_classes, dtype=torch.float64)
    if start is not None and start.weight.shape == weight.shape:
        weight, by_class = start.weight, _widened(start.by_class, num_classes)

    def objective(weight: Tensor, by_class: Tensor) -> Tensor:
        d = z @ weight + _at_class(by_class, classes)
        fit_to_rows = (q * (F.softplus(d) - trusted * d)).sum()
        return fit_to_rows + 0.5 * ((penalty * weight**2).sum() + ridge * (by_class**2).sum())

    nothing = (torch.zeros_like(weight), torch.zeros_like(by_class))
    reached = objective(weight, by_class)
    if objective(*nothing) < reached:  # the model has changed since
        (weight, by_class), reached = nothing, objective(*nothing)
    for _ in range(NEWTON_STEPS):
        p = torch.sigmoid(z @ weight + _at_class(by_class, classes))
        error, curvature = q * (p - trusted), q * p * (1 - p)
        gradient = z.T @ error + penalty * weight
        of_class = _summed_by_class(error.unsqueeze(1), classes, num_classes).squeeze(1)
        of_class = of_class + ridge * by_class
        bent = half * curvature.float().unsqueeze(
            1
        )  # the step's length is checked: float32 will do
        own = (bent.T @ half).double() + penalty.diag()
        both = _summed_by_class(bent, classes, num_classes)
        diagonal = _summed_by_class(curvature.unsqueeze(1), classes, num_classes) + ridge
        # The Schur complement of the classes' diagonal block.
        reduced = own - both.T @ (both / diagonal)
        step = torch.linalg.solve(reduced, gradient - both.T @ (of_class / diagonal.squeeze(1)))
        class_step = (of_class - both @ step) / diagonal.squeeze(1)
        decrement = float(gradient @ step + of_class @ class_step)  # twice what is left to gain
        # A whole step may overshoot where signals say almost the same: halved until it descends.
        for halvings in range(MOST_HALVINGS):
            share = 0.5**halvings
            trial = (weight - share * step, by_class - share * class_step)
            if (value := objective(*trial)) < reached:
                (weight, by_class), reached = trial, value
                break
        else:
            break
        if decrement < _LEAST_DECREMENT:  # it was the last step: the next gains its square
            break
    return Likeness(mean, deviation, weight, by_class)


def balanced(is_trusted: Tensor, period: Tensor, group: Tensor | None = None) -> Tensor:
    """Weights that give both kinds of rows the same sum in each period, float64 `[R]`.

    That sum is the number of rows of the kind that has fewer there: rows of a period that has one
    kind alone weigh nothing. Of weighted rows the effective number counts, `(sum w)^2 / sum w^2`
    (Kish 1965).

    Args:
        is_trusted: bool `[R]`.
        period: int64 `[R]`, 0 or more.
        group: int64 `[R]`, 0 or more: both kinds have the same shares of these too, see `matched`.
    """
    num_periods = int(period.max()) + 1
    weight = None if group is None else matched(is_trusted, group)
    sums, sizes = [], []
    for of in (is_trusted, ~is_trusted):
        own = None if weight is None else weight[of]
        total = size = torch.bincount(period[of], own, num_periods)
        if own is not None:
            squares = torch.bincount(period[of], own.square(), num_periods)
            size = total.square() / squares.clamp(min=_LEAST_SUM)
        sums.append(total.clamp(min=_LEAST_SUM))
        sizes.append(size)
    smaller = torch.minimum(*sizes).double()
    of_trusted, of_others = (smaller / total for total in sums)
    both = torch.where(is_trusted, of_trusted[period], of_others[period])
    return both if weight is None else weight * both


def matched(is_trusted: Tensor, group: Tensor) -> Tensor:
    """Weights that give trusted rows the other rows' shares of groups, float64 `[R]`.

    Rows of a group that has one kind alone weigh nothing.

    Args:
        is_trusted: bool `[R]`.
        group: int64 `[R]`, 0 or more.
    """
    num_groups = int(group.max()) + 1
    trusted, others = (
        torch.bincount(group[of], minlength=num_groups).double() for of in (is_trusted, ~is_trusted)
    )
    of_trusted = others / trusted.clamp(min=1)
    of_others = (trusted > 0).double()
    return torch.where(is_trusted, of_trusted[group], of_others[group])


def separation(
    score: Tensor,
    is_trusted: Tensor,
    period: Tensor | None = None,
    group: Tensor | None = None,
) -> float:
    """How well scores tell two kinds of rows apart: the area under the ROC curve, in [0, 1].

    The share of pairs in which the trusted row is above, ties counted half (Mann and Whitney
    1947); 0.5 is chance, and 0.5 where there is no pair.

    Args:
        score: float `[R]`.
        is_trusted: bool `[R]`.
        period: int64 `[R]`, 0 or more: pairs are of one period, and periods weigh as in
            `balanced`; None is one period.
        group: int64 `[R]`, 0 or more: pairs are of one group too; None is one group.
    """
    if not bool(is_trusted.any()) or bool(is_trusted.all()):
        return 0.5
    period = torch.zeros(len(score), dtype=torch.int64) if period is None else period
    if group is not None:
        period = period * (int(group.max()) + 1) + group
    weight, own = balanced(is_trusted, period)[is_trusted], period[is_trusted]
    # By period first, then by score: ranks, so that equal scores stay equal.
    place = period * len(score) + score.unique(return_inverse=True)[1]
    ordered, at = place[~is_trusted].sort().values, place[is_trusted]
    earlier = torch.searchsorted(ordered, own * len(score))
    below = torch.searchsorted(ordered, at) + torch.searchsorted(ordered, at, right=True)
    sizes = torch.bincount(period[~is_trusted], minlength=int(period.max()) + 1)[own]
    share = (below - 2 * earlier).double() / (2 * sizes.clamp(min=1))
    return float((weight * share).sum() / weight.sum()) if bool(weight.any()) else 0.5


def _standardised(signals: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    return ((signals.double() - mean) / deviation).clamp(-CLIP, CLIP)


def _with_one(z: Tensor) -> Tensor:
    return torch.cat([z, z.new_ones(len(z), 1)], dim=1)


def _at_class(by_class: Tensor, classes: Tensor) -> Tensor:
    """c_y of each row, zero for rows without a class or of one that was not there."""
    if not len(by_class):
        return torch.zeros(len(classes), dtype=torch.float64)
    is_known = (classes >= 0) & (classes < len(by_class))
    return torch.where(is_known, by_class[classes.clamp(0, len(by_class) - 1)], 0.0)


def _summed_by_class(rows: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """float64 `[C, W]`: sums of rows `[R, W]` by class; those without one are left out."""
    known = classes >= 0
    sums = torch.zeros(num_classes, rows.shape[1], dtype=torch.float64)
    return sums.index_add_(0, classes[known], rows[known].double()) if num_classes else sums


def _widened(by_class: Tensor, num_classes: int) -> Tensor:
    more = by_class.new_zeros(max(0, num_classes - len(by_class)))
    return torch.cat([by_class, more])[:num_classes]
