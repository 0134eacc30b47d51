"""A data set of trusted rows becomes the end of the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any, cast

from torch.utils.data import ConcatDataset

from data_agent.errors import InputError
from data_agent.loading.indexed import IndexedDataset
from data_agent.loading.looking import look_at
from data_agent.trusted.overlap import warn_of_overlap


def append_trusted(dataset: Any, trusted: Any, *, evaluation: Any = None) -> tuple[Any, range]:
    """The training data with trusted rows behind them, and where these are.

        train_set, rows = append_trusted(train_set, trusted_set, evaluation=test_set)
        agent = DataAgent(num_samples=len(train_set), epochs=..., trusted=rows)
        loader = selection_loader(train_set, agent, batch_size=...)

    Args:
        dataset: map-style, N samples.
        trusted: map-style, T samples of the same layout: they look like what the model will be
            judged on, and their labels are right.
        evaluation: what the model will be judged on, if it is a map-style dataset and at hand: a
            warning says how many trusted rows are in it, see `warn_of_overlap`.

    Returns:
        A map-style dataset of N + T samples, and their last T positions.

    Raises:
        InputError: one of the two is no map-style dataset or empty, or a trusted sample has
            another layout than one of the training data.
    """
    for name, data in (("training", dataset), ("trusted", trusted)):
        if not len(cast("Sized", IndexedDataset(data))):  # refuses streams, and what has no length
            raise InputError(f"the {name} data are empty; expected at least one sample.")
    ours, theirs = (_layout(look_at(data)) for data in (dataset, trusted))
    if ours != theirs:
        raise InputError(
            f"a sample of the trusted data is {theirs}, one of the training data {ours}. Give both "
            "the same layout: the same keys or elements, in the same order."
        )
    if evaluation is not None:
        warn_of_overlap(trusted, evaluation)
    joined = _Appended([dataset, trusted])
    return joined, range(len(dataset), len(joined))


class _Appended(ConcatDataset[Any]):
    """Reads many samples at a time where the data can, as tables of `datasets` do."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        start = self.cumulative_sizes[0]
        samples: dict[int, Any] = {}
        for data, offset, wanted in (
            (self.datasets[0], 0, [i for i in indices if i < start]),
            (self.datasets[1], start, [i for i in indices if i >= start]),
        ):
            own = [i - offset for i in wanted]
            fetch = getattr(data, "__getitems__", None)
            found = fetch(own) if fetch and own else [data[i] for i in own]
            samples.update(zip(wanted, found, strict=True))
        return [samples[i] for i in indices]


def _layout(sample: object) -> str:
    """What a sample is made of, in words."""
    if isinstance(sample, Mapping):
        names = sorted(map(str, cast("Mapping[Any, Any]", sample)))
        return f"a mapping of {', '.join(names)}"
    if isinstance(sample, tuple | list):
        return f"a {type(sample).__name__} of {len(cast('list[Any]', sample))}"
    return f"a {type(sample).__name__}"
