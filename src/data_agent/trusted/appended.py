"""A data set of trusted rows becomes the end of the training data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch.utils.data import ConcatDataset

from data_agent.errors import InputError
from data_agent.loading.indexed import ForwardsAttributes
from data_agent.trusted.classes import check_same_classes
from data_agent.trusted.layout import check_same_layout
from data_agent.trusted.overlap import warn_of_overlap
from data_agent.trusted.rows import check_rows


def append_trusted(dataset: Any, trusted: Any, *, evaluation: Any = None) -> tuple[Any, range]:
    """The training data with trusted rows behind them, and where these are.

        train_set, rows = append_trusted(train_set, trusted_set, evaluation=test_set)
        agent = DataAgent(num_samples=len(train_set), epochs=..., trusted=rows)
        loader = selection_loader(train_set, agent, batch_size=...)

    Attributes that are read, but for methods, are those of the training data; what is set (a
    transform) is set there, and on the trusted data if they have it too. `set_epoch` reaches both.

    Args:
        dataset: map-style, N samples.
        trusted: map-style, T samples of the same layout: they look like what the model will be
            judged on, and their labels are right.
        evaluation: what the model will be judged on, if it is at hand, a map-style dataset or
            several in a dict: a warning says how many trusted rows are in it, see
            `warn_of_overlap`.

    Returns:
        A map-style dataset of N + T samples, and their last T positions.

    Raises:
        InputError: one of the two is no map-style dataset or empty, a trusted sample is made of
            other things than one of the training data, or both count their classes differently.
    """
    for name, data in (("training", dataset), ("trusted", trusted)):
        check_rows(data, name)
        if not len(data):
            raise InputError(f"the {name} data are empty; expected at least one sample.")
    check_same_classes(dataset, trusted)
    check_same_layout(dataset, trusted)
    if evaluation is not None:
        warn_of_overlap(trusted, evaluation)
    joined = _Appended(dataset, trusted)
    return joined, range(len(dataset), len(joined))


class _Appended(ForwardsAttributes, ConcatDataset[Any]):
    """Reads many samples at a time where the data can, as tables of `datasets` do."""

    def __init__(self, dataset: Any, trusted: Any) -> None:
        super().__init__([dataset, trusted])
        self.wrapped = dataset

    def __getattr__(self, name: str) -> Any:
        if name == "set_epoch" and "wrapped" in vars(self):
            found = [getattr(data, name) for data in self.datasets if hasattr(data, name)]
            if found:
                return partial(_call_all, found)
        value = super().__getattr__(name)
        if getattr(value, "__self__", None) is self.wrapped:  # as select and map of a table
            raise AttributeError(
                f"{name}() of the training data would leave trusted rows out. Call it before "
                "append_trusted."
            )
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name not in vars(self) and hasattr(self.datasets[1], name):
            setattr(self.datasets[1], name, value)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        start, size = self.cumulative_sizes
        places = [i + size if i < 0 else i for i in indices]
        if outside := [place for place in places if not 0 <= place < size]:
            raise IndexError(f"there is no sample {outside[0]}, of {size}.")
        samples: dict[int, Any] = {}
        for data, offset, wanted in (
            (self.datasets[0], 0, [i for i in places if i < start]),
            (self.datasets[1], start, [i for i in places if i >= start]),
        ):
            own = [i - offset for i in wanted]
            fetch = getattr(data, "__getitems__", None)
            found = fetch(own) if fetch and own else [data[i] for i in own]
            samples.update(zip(wanted, found, strict=True))
        return [samples[i] for i in places]


def _call_all(calls: Sequence[Callable[..., Any]], *args: Any, **options: Any) -> None:
    for call in calls:
        call(*args, **options)
