"""The tables of a report as HTML that sorts and filters; their texts are those of `results`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_agent_lab.page.markup import Markup, tag
from data_agent_lab.page.styles import Style
from data_agent_lab.results.tables import Table

_TEXTS = ("method", "metric")  # columns that are sorted as words
_FEW = 4  # rows that need no filter


def table_of(table: Table, styles: Mapping[str, Style]) -> Markup:
    """A table with a button to sort in every column head, and a filter where rows are many."""
    heads = [
        tag(
            "th",
            tag("button", column, type="button"),
            scope="col",
            class_="text" if column in _TEXTS else None,
        )
        for column in table.columns
    ]
    methods = table.columns.index("method")
    rows = [_row(row, table.columns, styles.get(row[methods])) for row in table.rows]
    search = tag(
        "label",
        "Filter ",
        tag("input", type="search", placeholder="rows that contain \N{HORIZONTAL ELLIPSIS}"),
        class_="filter",
    )
    return tag(
        "div",
        search if len(rows) > _FEW else None,
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


def _row(row: Sequence[str], columns: Sequence[str], style: Style | None) -> Markup:
    cells = [
        tag("td", typeset(text), class_="text" if column in _TEXTS else None)
        for column, text in zip(columns, row, strict=True)
    ]
    number = None if style is None else style.number
    return tag("tr", *cells, class_=f"m {style.colour}" if style else None, data_m=number)


def typeset(text: str) -> str:
    """A text of the terminal with the signs that print has for its own."""
    text = text.replace(" +- ", "\N{NO-BREAK SPACE}\N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}")
    text = text.replace("+-", "\N{PLUS-MINUS SIGN}").replace(" %", "\N{NO-BREAK SPACE}%")
    return "\N{EN DASH}" if text == "-" else text
