"""A Trainer's trusted rows: behind its training data, and what must hold before it trains."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sized
from functools import partial
from typing import Any, cast

from torch.utils.data import IterableDataset, Subset

from data_agent.errors import InputError
from data_agent.selecting.selector import Selector
from data_agent.trusted.appended import append_trusted
from data_agent.trusted.classes import check_same_classes
from data_agent.trusted.overlap import warn_of_overlap


def join_trusted(trainer: Any, trusted: Any) -> range:
    """Append trusted rows to a Trainer's training data; their positions.

    Raises:
        InputError: one of the two is a stream or not there, or the rows do not fit.
    """
    data = trainer.train_dataset
    if are_alike := _are_alike(data, trusted):
        check_same_classes(data, trusted)  # which a cast would rename
        trusted = _cast(trusted, data.features)
    joined, rows = append_trusted(data, trusted)
    if are_alike:  # one table, which Trainers know how to read
        joined = sys.modules["datasets"].concatenate_datasets([data, trusted])
    trainer.train_dataset = trainer._joined = joined
    return rows


def check_joined(trainer: Any) -> None:
    """Positions of trusted rows are those of the data to which they were appended.

    Raises:
        InputError: the Trainer has other training data by now.
    """
    rows = trainer.trusted_rows
    if rows and trainer.train_dataset is not trainer._joined:
        raise InputError(
            f"trusted_dataset= was appended to the train_dataset of this Trainer, at {rows.start} "
            f"to {rows.stop - 1}, but its train_dataset was replaced since: ordinary rows would be "
            "trusted. Build another Trainer with the new data and trusted_dataset=."
        )


def warn_of_evaluated(trainer: Any, selector: Selector) -> None:
    """Warn of rows that a Trainer's selector trusts and that are among its evaluation data."""
    given = trainer.eval_dataset
    if selector.trusted is None or given is None:
        return
    trusted = Subset(trainer.train_dataset, selector.trusted.nonzero().flatten().tolist())
    parts = given if isinstance(given, Mapping) else {"": given}
    is_stream = {
        name: isinstance(part, IterableDataset) or not isinstance(part, Sized)
        for name, part in cast("Mapping[Any, Any]", parts).items()
    }
    warn_of_overlap(trusted, {name: parts[name] for name in is_stream if not is_stream[name]})


def knowing_trusted(make: Any, rows: range) -> Any:
    """A callable that makes selectors, told of the trusted rows if there are some.

    Raises:
        InputError: it names trusted rows itself, or does not take them.
    """
    if not rows:
        return make
    if isinstance(make, partial) and "trusted" in make.keywords:
        raise InputError(
            "selector= names trusted= rows, and trusted_dataset= brings others. Leave out one of "
            "the two: with trusted_dataset the callable is told where its rows are."
        )
    try:
        inspect.signature(make).bind(num_samples=1, epochs=1, trusted=rows)
    except TypeError as error:
        raise InputError(
            "with trusted_dataset the callable of selector= is called with num_samples=, epochs= "
            f"and trusted= (positions of its rows), but {error}. Take it as an argument, such as "
            "functools.partial(DataAgent, keep_ratio=0.5) does."
        ) from error
    return partial(make, trusted=rows)


def check_knows_trusted(selector: Selector, rows: range) -> None:
    """A selector that is handed over must have been built with these trusted rows, if any.

    Raises:
        InputError: it was not.
    """
    known = selector.trusted
    if rows and (known is None or known.nonzero().flatten().tolist() != list(rows)):
        raise InputError(
            f"trusted_dataset appends its {len(rows)} rows behind the others, at {rows.start} to "
            f"{rows.stop - 1}, but the selector was built with "
            f"{'no' if known is None else 'other'} trusted rows. Build it with num_samples="
            f"{rows.stop} and trusted=range({rows.start}, {rows.stop}), or hand over a callable, "
            "which is told: selector=functools.partial(DataAgent, keep_ratio=0.5)."
        )


def _are_alike(data: Any, trusted: Any) -> bool:
    """Whether both are tables of `datasets` that read their rows alike."""
    library: Any = sys.modules.get("datasets")
    if library is None or not all(isinstance(d, library.Dataset) for d in (data, trusted)):
        return False
    # Formats that differ (a transform of one of them) would be lost.
    return data.format == trusted.format and set(data.column_names) == set(trusted.column_names)


def _cast(trusted: Any, features: Any) -> Any:
    """A table with these features."""
    if trusted.features == features:
        return trusted
    try:
        return trusted.cast(features)
    except Exception as error:  # of datasets and of Arrow
        raise InputError(
            f"the columns of trusted_dataset cannot become those of train_dataset: {error}"
        ) from error
