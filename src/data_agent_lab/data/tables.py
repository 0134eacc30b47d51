"""Tables of texts (.csv, .tsv), read as written: no row is joined, no word taken for a gap."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import datasets

from data_agent.errors import InputError

logger = logging.getLogger(__name__)

_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
_DECIMAL = re.compile(r"-?\d+\.\d*([eE][+-]?\d+)?")
_TEXTS = {  # usual names of texts, which stay texts where all of them are numbers
    *("text", "content", "document", "sentence", "sentence1", "sentence2", "text1", "text2"),
    *("prompt", "completion", "response", "instruction", "input", "context", "output"),
    *("question", "question1", "question2", "answer", "premise", "hypothesis", "review"),
}


def read_table(file: Path) -> datasets.Dataset:
    """The rows of a table, whose first line names the columns; commas (.csv) or tabs part cells.

    Cells may stand in double quotes, with a quotation mark in them doubled. Where reading them so
    would join lines that each have the right number of cells (as in files that know no quotes), or
    fails, a line is a row and quotation marks are part of the texts. Words such as "null" and "NA"
    are texts; columns of numbers become numbers, unless they are named as texts are, and empty
    cells of such columns are missing. The text is UTF-8, or UTF-16 with a byte order mark.

    Raises:
        InputError: a line has more or fewer cells than the first; the message names it.
    """
    content = file.read_bytes()
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{file}, line {line} is not UTF-8 ({error.reason}). Save the file as UTF-8."
        ) from error
    separator = "," if file.suffix.lower() == ".csv" else "\t"
    rows, problem = _parsed(text, separator, csv.QUOTE_MINIMAL)
    lines, problem_of_lines = _parsed(text, separator, csv.QUOTE_NONE)
    if not lines:
        raise InputError(f"{file} is empty; expected a line with names of columns, and rows.")
    are_joined = len(lines[0]) > 1 and len(rows) < len(lines)
    if not problem_of_lines and (problem or are_joined):
        logger.info("%s: a line is a row; quotation marks are part of the texts.", file)
        rows, problem = lines, ""
    if problem:
        raise InputError(
            f"{file}, {problem}. Every line has as many cells as the first; cells with a separator "
            'or a line break stand in double quotes, and a quotation mark in them is written "".'
        )
    names, *rows = rows
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{file} has several columns {twice[0]!r}. Rename or remove one.")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    return datasets.Dataset.from_dict(
        {name: cells if name in _TEXTS else _typed(cells) for name, cells in columns.items()}
    )


def _parsed(text: str, separator: str, quoting: Literal[0, 3]) -> tuple[list[list[str]], str]:
    """Rows that are not empty; and what is wrong in which line, if anything."""
    limit = csv.field_size_limit(sys.maxsize)  # cells may be documents
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)
    rows: list[list[str]] = []
    try:
        for cells in filter(None, reader):
            rows.append(cells)
            if len(cells) != len(rows[0]):
                return rows, f"line {reader.line_num} has {len(cells)} cells, not {len(rows[0])}"
    except csv.Error as error:
        return rows, f"line {reader.line_num} cannot be read ({error})"
    finally:
        csv.field_size_limit(limit)
    return rows, ""


def _typed(cells: Sequence[str]) -> Sequence[Any]:
    """Numbers, if all cells that are not empty are numbers; else the texts as they are."""
    full = [cell for cell in cells if cell]
    for pattern, convert in ((_WHOLE, int), (_DECIMAL, float)):
        if full and all(pattern.fullmatch(cell) for cell in full):
            return [convert(cell) if cell else None for cell in cells]
    return cells
