"""The rows that the regression is fitted on: trusted and uniformly drawn ones of late steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.runtime.distributed import gather_rows, rows_to_resume

POOL = 0  # the kind of rows that were drawn uniformly
FOLDS = 5  # trusted rows are of the kinds 1 to 5, of which one at a time is not fitted on


class WindowRows(NamedTuple):
    """Rows on the host.

    Args:
        signals: float32 `[R, S]`.
        features: float32 `[R, D]`, D of 0 without any.
        classes: int64 `[R]`, -1 for none.
        kind: int64 `[R]`: `POOL` if drawn uniformly, a trusted row's fold from 1 on.
        step: int64 `[R]`, the batch each row came in.
    """

    signals: Tensor
    features: Tensor
    classes: Tensor
    kind: Tensor
    step: Tensor

    def at(self, rows: Tensor) -> WindowRows:
        """Some of the rows."""
        return WindowRows(*(column[rows] for column in self))


class Window:
    """Rows of the last steps; of trusted and other rows from the same steps, whatever their number.

    Both kinds must come from the same steps: else a regression between them learns how far
    training was. So where there are more rows than the window holds, each step loses some, and it
    tells nothing new where no rows were drawn uniformly. It is longer where so few rows are trusted
    that the last steps saw hardly any. Rows that this rank adds count once `share` has made them
    everybody's.

    Args:
        num_steps: rows of so many steps stay,
        least_trusted: or of as many more as so many visits of trusted rows took.
        max_rows: of each kind at most so many, as many of each step.
    """

    def __init__(self, num_steps: int, *, least_trusted: int, max_rows: int) -> None:
        self._num_steps = num_steps
        self._least_trusted = least_trusted
        self._max_rows = max_rows
        self._new: list[WindowRows] = []
        self._shared: WindowRows | None = None

    def add(self, rows: WindowRows) -> None:
        """Add rows of this rank."""
        if len(rows.kind):
            self._new.append(rows)

    def share(self) -> WindowRows | None:
        """The rows of all ranks, equal on every rank; a collective call.

        None where no rank has added a row that was drawn uniformly since the last call: what such
        rows tell is known by then.
        """
        new = self._gathered(_joined(self._new))
        self._new.clear()
        if new is None:
            return None
        both = [new] if self._shared is None else [self._shared, new]
        self._shared = self._trimmed(WindowRows(*map(torch.cat, zip(*both, strict=True))))
        return self._shared if (new.kind == POOL).any() else None

    def state_dict(self) -> dict[str, Any]:
        """The shared rows, and those that ranks added since, in rank order. A collective call."""
        own = _joined(self._new)
        (sizes,) = gather_rows(torch.tensor([0 if own is None else len(own.kind)]))
        new = self._gathered(own)
        return {
            "shared": None if self._shared is None else [c.clone() for c in self._shared],
            "new": None if new is None else [c.clone() for c in new],
            "sizes": sizes.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over this rank's part of what `state_dict` returned.

        Raises:
            CheckpointError: columns that do not belong together.
        """
        shared, new = _checked(state["shared"]), _checked(state["new"])
        self._shared, self._new = shared, []
        if new is not None:
            self.add(WindowRows(*(rows_to_resume(column, state["sizes"]) for column in new)))

    def _gathered(self, own: WindowRows | None) -> WindowRows | None:
        """All ranks' rows; a rank without any learns from the others how wide they are."""
        widths = [0, 0] if own is None else [own.signals.shape[1], own.features.shape[1]]
        width, num_features = gather_rows(torch.tensor([widths]))[0].amax(0).tolist()
        if not width:
            return None
        if own is None:
            none = torch.empty(0, dtype=torch.int64)
            empty = torch.empty(0, width), torch.empty(0, num_features)
            own = WindowRows(*empty, none, none, none)
        return WindowRows(*gather_rows(*own))

    def _trimmed(self, rows: WindowRows) -> WindowRows:
        is_pool, newest = rows.kind == POOL, int(rows.step.max())
        seen = rows.step[~is_pool].sort(descending=True).values
        first = newest - self._num_steps + 1
        if self._least_trusted > len(seen):
            first = 0
        elif self._least_trusted:
            first = min(first, int(seen[self._least_trusted - 1]))
        first = max(first, int(rows.step.min()))
        num_steps = newest - first + 1
        stride = 2 ** math.ceil(math.log2(max(1, num_steps / self._max_rows)))
        of_step = ~is_pool | (rows.step % stride == 0) | (rows.step == newest)
        stays = rows.at((rows.step >= first) & of_step)
        return _thinned(stays, self._max_rows // math.ceil(num_steps / stride))


def _thinned(rows: WindowRows, most: int) -> WindowRows:
    """At most so many rows of each step, of the trusted ones and of the others, the first ones."""
    group = 2 * rows.step + (rows.kind == POOL)
    order = group.argsort(stable=True)
    _, group_of, sizes = torch.unique_consecutive(
        group[order], return_inverse=True, return_counts=True
    )
    place = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[group_of]
    stays = torch.empty(len(order), dtype=torch.bool)
    stays[order] = place < most
    return rows.at(stays)


def _joined(parts: list[WindowRows]) -> WindowRows | None:
    return WindowRows(*map(torch.cat, zip(*parts, strict=True))) if parts else None


def _checked(columns: list[Tensor] | None) -> WindowRows | None:
    if columns is None:
        return None
    if len(columns) != len(WindowRows._fields):
        raise CheckpointError(
            f"the rows that the trusted reward learns from have {len(columns)} columns; expected "
            f"{len(WindowRows._fields)}: the state is of another version of data_agent. Begin the "
            "run anew, or go on with the version that saved it."
        )
    rows = WindowRows(*columns)
    size = len(rows.kind)
    whole = (rows.classes, rows.kind, rows.step)
    shown = (rows.signals, rows.features)
    if (
        any(c.dtype != torch.float32 or c.ndim != 2 or len(c) != size for c in shown)
        or any(c.dtype != torch.int64 or c.shape != (size,) for c in whole)
        or not all(c.isfinite().all() for c in shown)
        or (size and not (int(rows.kind.min()) >= 0 and int(rows.kind.max()) <= FOLDS))
    ):
        raise CheckpointError("the rows that the trusted reward learns from are damaged.")
    return rows
