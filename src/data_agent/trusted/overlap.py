"""Whether trusted rows are among the data that a model is judged on, told by their content."""

from __future__ import annotations

import logging
import pickle
import time
import warnings
from collections.abc import Iterator, Mapping, Sized
from hashlib import blake2b
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from data_agent.errors import DataAgentWarning
from data_agent.loading.looking import drawing_nothing, look_at
from data_agent.runtime.random import Purpose, permutation
from data_agent.trusted.rows import check_rows

logger = logging.getLogger("data_agent")

MOST_COMPARED = 10_000  # rows of each set; of more as many are looked at, drawn at random
MOST_SECONDS = 10.0  # that looking at them may take, half of it at trusted ones: images are decoded
_DISTINCT = 0.5  # share of the evaluation rows that must differ in what is compared
LABEL_NAMES = ("labels", "label", "label_ids")


class Overlap(NamedTuple):
    """How many trusted rows were found among evaluation rows, and how many were looked at."""

    num_found: int
    num_trusted: int
    num_compared: int  # evaluation rows that were looked at
    num_evaluation: int
    num_looked_at: int  # trusted rows that were

    @property
    def is_cut_short(self) -> bool:
        """Whether time ran out before all rows that should be were looked at."""
        wanted = (min(n, MOST_COMPARED) for n in (self.num_trusted, self.num_evaluation))
        return (self.num_looked_at, self.num_compared) != tuple(wanted)

    def in_words(self) -> str:
        """What was looked at."""
        if not self.is_cut_short and self.num_looked_at == self.num_trusted:
            return f"{self.num_compared} of {self.num_evaluation} rows were looked at"
        return (
            f"{self.num_looked_at} of {self.num_trusted} trusted rows and {self.num_compared} of "
            f"{self.num_evaluation} evaluation rows were looked at"
            + (", then time ran out" if self.is_cut_short else "")
        )


def warn_of_overlap(trusted: Any, evaluation: Any) -> None:
    """Warn, with the numbers, where trusted rows are among the evaluation data.

    Rows are compared by what is in them but for labels: in mappings the fields that both have,
    without "labels", "label" and "label_ids"; in tuples and lists all but the last element. Random
    augmentation hides an overlap. At most 10,000 rows of each are looked at, for ten seconds in
    all; the warning or the log says if these ran out.

    Args:
        trusted: map-style dataset of the trusted rows.
        evaluation: map-style dataset that the model will be judged on, or several in a dict.

    Raises:
        InputError: one of them is no map-style dataset.
    """
    is_dict = isinstance(evaluation, Mapping)
    parts = [*cast("Mapping[Any, Any]", evaluation).values()] if is_dict else [evaluation]
    for data, name in ((trusted, "trusted"), *((part, "evaluation") for part in parts)):
        check_rows(data, name)
    for part in parts:
        found = overlap(trusted, part, seconds=MOST_SECONDS / len(parts))
        if found.num_found:
            warnings.warn(
                f"{found.num_found} of {found.num_trusted} trusted rows are among the evaluation "
                f"data ({found.in_words()}): the model would be judged on rows that it is trained "
                "on. Leave them out of one of the two.",
                DataAgentWarning,
                stacklevel=3,
            )
        elif found.is_cut_short:
            logger.warning("no trusted row was found in the evaluation data: %s.", found.in_words())


def overlap(trusted: Any, evaluation: Any, *, seconds: float = MOST_SECONDS) -> Overlap:
    """The numbers that `warn_of_overlap` tells of two map-style datasets, in so many seconds."""
    num_trusted, size = len(cast("Sized", trusted)), len(cast("Sized", evaluation))
    none = Overlap(0, num_trusted, min(size, MOST_COMPARED), size, min(num_trusted, MOST_COMPARED))
    if not num_trusted or not size:
        return none
    samples = look_at(trusted), look_at(evaluation)
    shared = _fields(samples[0]) & _fields(samples[1])
    if not shared and any(isinstance(sample, Mapping) for sample in samples):
        return none
    start = time.monotonic()
    with drawing_nothing():
        own = _digests(trusted, shared, start + seconds / 2)
        others = _digests(evaluation, shared, start + seconds)
    found = set(others)
    # Fields that are alike in most rows do not tell rows apart.
    tells = len(found) >= _DISTINCT * len(others)
    num_found = sum(content in found for content in own) if tells else 0
    return Overlap(num_found, num_trusted, len(others), size, len(own))


def _digests(data: Any, fields: set[Any], end: float) -> list[bytes]:
    """Of as many rows as shall be looked at, or can be until then; of one at least."""
    digests: list[bytes] = []
    for i in permutation(len(data), 0, Purpose.SUBSET)[:MOST_COMPARED].tolist():
        digests.append(digest(_inputs(data[i], fields)))
        if time.monotonic() > end:
            break
    return digests


def digest(value: object) -> bytes:
    """16 bytes that are equal for equal contents: numbers, texts, tensors, images, nested."""
    result = blake2b(digest_size=16)
    for part in _parts(value):
        result.update(len(part).to_bytes(8))
        result.update(part)
    return result.digest()


def _fields(sample: object) -> set[Any]:
    """The fields of a mapping, but for labels."""
    if not isinstance(sample, Mapping):
        return set()
    return set(cast("Mapping[Any, Any]", sample)).difference(LABEL_NAMES)


def _inputs(sample: object, fields: set[Any]) -> object:
    """A sample without its label."""
    if isinstance(sample, Mapping):
        values = cast("Mapping[Any, Any]", sample)
        return {name: values[name] for name in fields}
    if isinstance(sample, tuple | list) and len(parts := cast("list[Any]", sample)) > 1:
        return list(parts[:-1])
    return sample


def _parts(value: object) -> Iterator[bytes]:
    if isinstance(value, Mapping):
        values = cast("Mapping[Any, Any]", value)
        for name in sorted(values, key=str):
            yield str(name).encode()
            yield from _parts(values[name])
    elif (array := _array_of(value)) is not None:
        yield f"{array.dtype} {array.shape}".encode()
        yield array.tobytes()
    elif isinstance(value, list | tuple):
        for element in cast("list[Any]", value):
            yield digest(element)
    elif callable(raw := getattr(value, "tobytes", None)):  # images
        yield str(getattr(value, "size", "")).encode()
        yield cast("bytes", raw())
    else:
        yield pickle.dumps(value)


def _array_of(value: object) -> np.ndarray | None:
    """Tensors, arrays and lists of numbers alike: a table may give its rows as any of them."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu()
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    if isinstance(value, np.ndarray):
        return None if value.dtype.hasobject else value
    if isinstance(value, list | tuple):
        numbers = cast("list[Any]", value)
        if numbers and all(isinstance(number, int | float) for number in numbers):
            return np.asarray(numbers)
    return None
