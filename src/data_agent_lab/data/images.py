"""Loading a data set of images: splits, labels, and what is mixed in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from data_agent.errors import InputError
from data_agent_lab.data.decoding import Part, decoded
from data_agent_lab.data.folders import open_images
from data_agent_lab.data.image_data import (
    ImageData,
    choose_rows,
    hold_out,
    num_foreign,
    stratified,
    with_foreign,
    with_near_copies,
    with_trusted,
)
from data_agent_lab.data.labels import Labels, find_column, has_labels, read_labels
from data_agent_lab.data.origins import files_of
from data_agent_lab.data.pixels import Canvas
from data_agent_lab.data.sources import choose_splits, only_split
from data_agent_lab.progress import Progress
from data_agent_lab.recipes import ImageRecipe

_IMAGE_NAMES = ("image", "img")


def load_images(recipe: ImageRecipe, *, progress: Progress) -> ImageData:
    """Load a recipe's images with `datasets` and decode them into memory.

    Only the rows that the recipe uses are decoded, and cached; copies are made of them afterwards.
    Damaged images are refused, all in one message.

    Raises:
        InputError: data that cannot be found, read or understood; see the message.
    """
    if recipe.data is None:
        raise InputError(
            f"the task {recipe.task} needs --data: the name of a data set on the Hugging Face hub, "
            "a parquet file, a folder of parquet files, or an image folder."
        )
    splits = open_images(recipe.data)
    rows, eval_name = choose_splits(splits, lambda rows: has_labels(rows, recipe.label_column))
    train = _part(rows, "train", recipe.image_column)
    labels = _labels(rows, "split 'train'", recipe)
    names, clean = labels.class_names, labels.numbers
    if eval_name is not None:
        source, others = f"split {eval_name!r}", splits[eval_name]
        evaluation = _part(others, eval_name, recipe.image_column)
        eval_labels = _labels(others, source, recipe, names).numbers
    else:
        kept, held = hold_out(clean)
        train, evaluation = train._replace(rows=kept), train._replace(rows=held)
        source, eval_labels = f"{len(held)} samples held out of 'train' (10 %)", clean
    chosen, num_copies = choose_rows(clean[train.rows], recipe)
    train = train._replace(rows=train.rows[chosen])
    given = clean if recipe.train_labels is None else _other_labels(recipe.train_labels, labels)
    foreign = _foreign(recipe, num_own=len(chosen) + num_copies)
    trusted, trusted_labels = _trusted(recipe, names)
    parts = [train, evaluation, *foreign, *trusted]
    own, seen, *others = decoded(parts, Canvas(recipe.image_size, recipe.image_size), progress)
    data = ImageData(
        train_images=own,
        train_labels=given[train.rows],
        eval_images=seen,
        eval_labels=eval_labels[evaluation.rows],
        class_names=names,
        evaluation=source,
        clean_labels=clean[train.rows],
        rows=train.rows,
        files=files_of(train.images, recipe.data),
    )
    data = with_near_copies(data, num_copies)
    data = with_foreign(data, others[0]) if foreign else data
    return data if trusted_labels is None else with_trusted(data, others[-1], trusted_labels)


def _part(rows: datasets.Dataset, name: str, wanted: str | None) -> Part:
    """All images of a split; `wanted` names their column, None finds it."""
    column = find_column(rows, wanted, usual=_IMAGE_NAMES, fits=_is_image, what="image")
    images = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return Part(name, images, torch.arange(len(rows)))


def _labels(
    rows: datasets.Dataset, source: str, recipe: ImageRecipe, class_names: Sequence[str] = ()
) -> Labels:
    return read_labels(rows, recipe.label_column, source=source, class_names=class_names)


def _foreign(recipe: ImageRecipe, *, num_own: int) -> Sequence[Part]:
    """The images to mix in, drawn from the training split of the foreign data; none without."""
    if recipe.foreign_data is None:
        return ()
    count = num_foreign(recipe.foreign_share, num_own)
    splits = open_images(recipe.foreign_data, flag="--foreign-data")
    rows, _ = choose_splits(splits, lambda _: False)
    if count > len(rows):
        raise InputError(
            f"--foreign-share {recipe.foreign_share} asks for {count} images; "
            f"{recipe.foreign_data} has {len(rows)}. Use a smaller --foreign-share or --subset."
        )
    part = _part(rows, "train of the foreign data", None)
    return (part._replace(rows=stratified(torch.zeros(len(rows), dtype=torch.int64), count)),)


def _trusted(
    recipe: ImageRecipe, class_names: Sequence[str]
) -> tuple[Sequence[Part], Tensor | None]:
    """The trusted images and their labels, int64 `[T]`; none without."""
    if recipe.trusted is None:
        return (), None
    rows = only_split(open_images(recipe.trusted, flag="--trusted"), "--trusted")
    name = "the trusted data"
    labels = _labels(rows, name, recipe, class_names)
    return (_part(rows, name, recipe.image_column),), labels.numbers


def _is_image(kind: Any) -> bool:
    """True for images, and for the bytes that parquet files of other programs hold."""
    if isinstance(kind, dict):
        return kind.keys() == {"bytes", "path"}
    return isinstance(kind, datasets.Image) or kind == datasets.Value("binary")


def _other_labels(source: str, own: Labels) -> Tensor:
    """Labels of a file of its own (PARQUET:COLUMN), one for each row of the training data.

    They are names of classes, or numbers as the training data have them. int64 `[N]`.
    """
    name, _, column = source.rpartition(":")
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputError(f"--train-labels {source}: the file {path} does not exist.")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"--train-labels {source} could not be read: {error}.") from error
    if column not in table.column_names:
        columns = ", ".join(table.column_names)
        raise InputError(
            f"--train-labels {source}: {path} has no column {column!r}, but {columns}."
        )
    if len(table) != len(own.numbers):
        raise InputError(
            f"--train-labels {source} holds {len(table)} labels, but the training data has "
            f"{len(own.numbers)} rows; row i must belong to row i."
        )
    rows, names = datasets.Dataset(table.select([column])), own.class_names
    kind: Any = rows.features[column]
    if own.are_declared and isinstance(kind, datasets.Value) and "int" in kind.dtype:
        names = [str(i) for i in range(len(names))]
    return read_labels(rows, column, source=str(path), class_names=names).numbers
