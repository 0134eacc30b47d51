"""The tables of a report as HTML that sorts and filters; their texts are those of `results`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_agent_lab.page.markup import Markup, tag
from data_agent_lab.page.styles import Style
from data_agent_lab.results.tables import Table

_TEXTS = ("method", "metric")  # columns that are sorted as words
_FEW = 4  # rows that need no filter


def table_of(
    table: Table, styles: Mapping[str, Style] | None = None, *, texts: Sequence[str] = _TEXTS
) -> Markup:
    """A table with a button to sort in every column head, and a filter where rows are many.

    Args:
        table: its texts.
        styles: by method, which the column of that name holds; None where there is none.
        texts: columns that are sorted as words.
    """
    heads = [
        tag(
            "th",
            tag("button", column, type="button"),
            scope="col",
            class_="text" if column in texts else None,
        )
        for column in table.columns
    ]
    rows = [_row(row, table.columns, styles or {}, texts) for row in table.rows]
    return tag(
        "div",
        filter_of("rows") if len(rows) > _FEW else None,
        tag(
            "div",
            tag(
                "table",
                tag("caption", table.title),
                tag("thead", tag("tr", *heads)),
                tag("tbody", *rows),
            ),
            class_="scroll",
            tabindex="0",
        ),
        class_="table",
    )


def filter_of(what: str) -> Markup:
    """A field that hides the rows or cards beside it that do not contain what is typed."""
    hint = f"{what} that contain \N{HORIZONTAL ELLIPSIS}"
    return tag("label", "Filter ", tag("input", type="search", placeholder=hint), class_="filter")


def _row(
    row: Sequence[str], columns: Sequence[str], styles: Mapping[str, Style], texts: Sequence[str]
) -> Markup:
    by_column = dict(zip(columns, row, strict=True))
    style = styles.get(by_column.get("method", ""))
    cells = [
        tag("td", typeset(text), class_="text" if column in texts else None)
        for column, text in by_column.items()
    ]
    number = None if style is None else style.number
    return tag("tr", *cells, class_=f"m {style.colour}" if style else None, data_m=number)


def typeset(text: str) -> str:
    """A text of the terminal with the signs that print has for its own."""
    text = text.replace(" +- ", "\N{NO-BREAK SPACE}\N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}")
    text = text.replace("+-", "\N{PLUS-MINUS SIGN}").replace(" %", "\N{NO-BREAK SPACE}%")
    return "\N{EN DASH}" if text == "-" else text
