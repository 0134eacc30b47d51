"""The rows that the regression is fitted on: trusted and uniformly drawn ones of late steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_agent.errors import CheckpointError
from data_agent.runtime.distributed import gather_rows, rows_to_resume

POOL, TRUSTED, HELD_BACK = 0, 1, 2  # kinds of rows


class WindowRows(NamedTuple):
    """Rows on the host.

    Args:
        signals: float32 `[R, S]`.
        classes: int64 `[R]`, -1 for none.
        kind: int64 `[R]`: drawn uniformly (`POOL`), trusted, or trusted and not fitted on.
        step: int64 `[R]`, the batch each row came in.
    """

    signals: Tensor
    classes: Tensor
    kind: Tensor
    step: Tensor

    def at(self, rows: Tensor) -> WindowRows:
        """Some of the rows."""
        return WindowRows(*(column[rows] for column in self))


class Window:
    """Rows of the last steps; trusted and other rows stay equally long, whatever their number.

    Both kinds must come from the same steps: else a regression between them learns how far
    training was. Rows that this rank adds count once `share` has made them everybody's.

    Args:
        num_steps: rows of so many last steps stay.
        max_rows: of each kind at most so many, the newest.
    """

    def __init__(self, num_steps: int, max_rows: int) -> None:
        self._num_steps = num_steps
        self._max_rows = max_rows
        self._new: list[WindowRows] = []
        self._shared: WindowRows | None = None

    def add(self, rows: WindowRows) -> None:
        """Add rows of this rank."""
        if len(rows.kind):
            self._new.append(rows)

    def share(self, step: int) -> WindowRows | None:
        """The rows of all ranks up to `step`, equal on every rank; a collective call.

        None while no rank has added any.
        """
        new = self._gathered(_joined(self._new))
        self._new.clear()
        both = [rows for rows in (self._shared, new) if rows is not None]
        if both:
            self._shared = self._trimmed(WindowRows(*map(torch.cat, zip(*both, strict=True))), step)
        return self._shared

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
        width = 0 if own is None else own.signals.shape[1]
        width = int(gather_rows(torch.tensor([width]))[0].max())
        if not width:
            return None
        if own is None:
            none = torch.empty(0, dtype=torch.int64)
            own = WindowRows(torch.empty(0, width), none, none, none)
        return WindowRows(*gather_rows(*own))

    def _trimmed(self, rows: WindowRows, step: int) -> WindowRows:
        stays = rows.step > step - self._num_steps
        for kinds in ((POOL,), (TRUSTED, HELD_BACK)):
            of_kind = torch.isin(rows.kind, torch.tensor(kinds)) & stays
            newest = of_kind.nonzero().squeeze(1)[-self._max_rows :]
            stays = stays & ~of_kind
            stays[newest] = True
        return rows.at(stays)


def _joined(parts: list[WindowRows]) -> WindowRows | None:
    return WindowRows(*map(torch.cat, zip(*parts, strict=True))) if parts else None


def _checked(columns: list[Tensor] | None) -> WindowRows | None:
    if columns is None:
        return None
    rows = WindowRows(*columns)
    size = len(rows.kind)
    whole = (rows.classes, rows.kind, rows.step)
    if (
        rows.signals.dtype != torch.float32
        or rows.signals.ndim != 2
        or len(rows.signals) != size
        or any(c.dtype != torch.int64 or c.shape != (size,) for c in whole)
        or not rows.signals.isfinite().all()
        or (size and not (int(rows.kind.min()) >= 0 and int(rows.kind.max()) <= HELD_BACK))
    ):
        raise CheckpointError("the rows that the trusted reward learns from are damaged.")
    return rows
