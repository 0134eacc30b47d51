"""Which samples of the running epoch came back: what `learn` gets must have been delivered."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_agent.errors import InputError, StateError
from data_agent.selecting.feedback import Selection, check_range

Array = NDArray[Any]
_BATCHES_KEPT = 256  # of those that a loader gave out and that were not observed yet
_NAMED = 5  # samples that a message names
OBSERVE_ONCE = (
    "observe each batch once. Where an optimizer calls its closure several times (LBFGS), let the "
    "closure backpropagate agent.weighted_mean(losses, index), and after step() call "
    "agent.observe(Feedback(index, losses, logits=logits, features=features)) with those of one "
    "more forward: unlike learn(), it takes none from a watched head"
)
_FROM_LOADER = (
    "The index must be the one that came with the batch, as the last element or under "
    '"sample_index" (loaders of selection_loader() put it there): a counter, arange(B) or a place '
    "in the batch is another sample's."
)


class Observed:
    """Marks of the running epoch's samples on this rank, one byte each.

    Args:
        selection: the epoch's samples, over all ranks.
        done: bool `[K]`, samples that all ranks together had observed before a restore.
    """

    def __init__(self, selection: Selection, done: Tensor | None = None) -> None:
        self._index = selection.index.numpy()
        marks = torch.zeros(len(selection), dtype=torch.bool) if done is None else done
        self._marks = marks.numpy()
        self._last: deque[Array] = deque(maxlen=_BATCHES_KEPT)
        self._given_out: deque[Array] = deque(maxlen=_BATCHES_KEPT)
        self._was_given: Array | None = None  # bool [K], where a loader tells
        self._num_twice = 0  # samples of the batch that was checked last which were seen before
        self.num_given_out = 0
        self.num_repeated = 0

    @property
    def marks(self) -> Tensor:
        """Bool `[K]`: those of the selection, in its order, that were observed."""
        return torch.from_numpy(self._marks)

    def give_out(self, index: Tensor) -> None:
        """A loader hands the batch `index` (int64 `[B]`) to the loop."""
        batch = index.numpy()
        if any((known == batch[0]).any() for known in self._given_out):  # another pass begins
            self._given_out.clear()
            self.num_given_out = 0
        self._given_out.append(batch)
        if self._was_given is None:
            self._was_given = np.zeros(len(self._index), dtype=bool)
        place, is_known = self._places(batch)
        self._was_given[place[is_known]] = True
        self.num_given_out += len(batch)

    def check(self, index: Tensor, *, epoch: int, num_samples: int, may_repeat: int) -> Array:
        """The places of `index` in the selection, if these samples may be observed now.

        Args:
            index: int64 `[B]`.
            epoch: for messages.
            num_samples: N.
            may_repeat: samples of this rank that a framework may deliver twice, to fill a round.

        Raises:
            InputError: samples outside of [0, N), or that the epoch does not deliver, or did not
                yet, or in another order than the loader gave them out; nothing is marked.
            StateError: samples that were observed already.
        """
        batch, self._num_twice = index.numpy(), 0
        if not len(batch):
            return batch
        place, is_known = self._places(batch)
        if not is_known.all():
            check_range(index, num_samples)
            raise InputError(
                f"{_some(batch[~is_known])} of the {len(batch)} samples that came are not among "
                f"the {len(self._index)} that epoch {epoch} delivers. {_FROM_LOADER}"
            )
        if self._was_given is not None and not self._was_given[place].all():
            raise InputError(
                f"{_some(batch[~self._was_given[place]])} of the {len(batch)} samples that came "
                f"were not given out by the loader yet in epoch {epoch}. {_FROM_LOADER}"
            )
        again = self._marks[place]
        self._num_twice = int(np.count_nonzero(again)) + _num_repeats(place[~again])
        if self._num_twice > max(0, may_repeat - self.num_repeated):
            raise StateError(
                f"{_some(batch[again] if again.any() else batch)} of the {len(batch)} samples that "
                f"came were observed already in epoch {epoch}. {_FROM_LOADER} Where the index is "
                f"right: {OBSERVE_ONCE}. Begin an epoch before each pass over the loader: loop "
                "over agent.epochs(). On several processes a loader that deals batches to ranks by "
                "itself must not be dealt out again by a framework. Use the selection_loader of "
                "data_agent.integrations there, or leave the loader as it is (no "
                "accelerator.prepare())."
            )
        self._check_order(batch)
        return place

    def mark(self, place: Array) -> None:
        """Mark samples as observed, by what `check` just returned."""
        self.num_repeated += self._num_twice
        self._marks[place] = True
        self._last.append(place)

    def unmark(self, count: int) -> None:
        """Take back the last `count` samples, whose training step was cut short."""
        while count > 0 and self._last:
            place = self._last.pop()
            cut = min(count, len(place))
            self._marks[place[len(place) - cut :]] = False
            if cut < len(place):
                self._last.append(place[: len(place) - cut])
            count -= cut

    def _places(self, batch: Array) -> tuple[Array, Array]:
        """Where samples stand in the selection, and which are in it."""
        place = self._index.searchsorted(batch)
        place[place == len(self._index)] = 0
        return place, self._index[place] == batch

    def _check_order(self, batch: Array) -> None:
        """Rows are in the order in which the loader gave them out, where it is known."""
        if not self._given_out:
            return
        if np.array_equal(self._given_out[0], batch):
            self._given_out.popleft()
            return
        known = np.concatenate(self._given_out)
        by_index = known.argsort()
        found = np.minimum(known[by_index].searchsorted(batch), len(known) - 1)
        place = by_index[found]
        if not np.array_equal(known[place], batch):
            return  # of another loader, or held back for long
        if (np.diff(place) <= 0).any():
            raise InputError(
                f"the samples came as {_first(batch)}, in another order than the loader gave them "
                f"out: {_first(known[np.isin(known, batch)])}. Each loss must stand where its "
                "sample stands in the index: pass both as they were delivered, or put the losses "
                "back in that order (losses[order.argsort()] undoes rows[order]). A collate "
                "function may reorder, in a loader of selection_loader(): the index follows it."
            )
        num_passed = int(place.max()) + 1  # batches before them were never observed, or are over
        while self._given_out and len(self._given_out[0]) <= num_passed:
            num_passed -= len(self._given_out.popleft())


def _num_repeats(place: Array) -> int:
    """How many of the places come again in the same batch."""
    return len(place) - len(set(place.tolist()))


def _first(index: Array) -> str:
    more = ", ..." if len(index) > _NAMED else ""
    return f"[{', '.join(map(str, index[:_NAMED].tolist()))}{more}]"


def _some(index: Array) -> str:
    more = f" and {len(index) - _NAMED} more" if len(index) > _NAMED else ""
    return f"samples {', '.join(map(str, index[:_NAMED].tolist()))}{more}"
