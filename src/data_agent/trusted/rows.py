"""What holds rows at positions, as trusted rows need it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any, cast

from torch.utils.data import DataLoader, Dataset, IterableDataset

from data_agent.errors import InputError


def check_rows(data: Any, name: str) -> None:
    """Refuse what is no map-style dataset; `name` says whose the rows are ("trusted").

    Raises:
        InputError: it is not; the message says what to hand over.
    """
    kind = type(data).__name__
    if isinstance(data, Mapping):
        names = ", ".join(map(repr, cast("Mapping[Any, Any]", data)))
        raise InputError(f"the {name} data are a {kind} of {names}; hand one of these over.")
    if isinstance(data, DataLoader):
        raise InputError(
            f"the {name} data are a DataLoader, which makes batches; hand its dataset over: "
            "loader.dataset."
        )
    has_items = hasattr(data, "__getitem__") and not isinstance(data, IterableDataset)
    if not has_items and isinstance(data, Iterable):
        raise InputError(
            f"the {name} data are a stream ({kind}), whose rows have no positions. Read them into "
            "a list first: list(data)."
        )
    if not has_items or not isinstance(data, Sized):
        raise InputError(
            f"the {name} data are {'None' if data is None else f'a {kind}'}; expected a map-style "
            "dataset, which has data[i] and len(data)."
        )
    if isinstance(data, list | tuple) and data and _is_dataset(cast("Any", data)[0]):
        raise InputError(
            f"the {name} data are a {kind} of datasets. Join them: "
            "torch.utils.data.ConcatDataset(data)."
        )


def _is_dataset(sample: object) -> bool:
    """Whether this holds samples itself, as those of torch and of `datasets` do."""
    return isinstance(sample, Dataset) or hasattr(sample, "column_names")
