"""Samples to look at: most and least chosen, never believed, most like the trusted ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from data_agent_lab.page.markup import Markup, named, tag
from data_agent_lab.page.pictures import Pictures
from data_agent_lab.page.samples import Columns, Group, groups_of


def gallery(
    columns: Columns, pictures: Pictures | None, *, has_trusted: bool = False
) -> Markup | None:
    """The groups of a run's samples; None without any."""
    groups = groups_of(columns, has_trusted=has_trusted)
    parts = [_group(group, columns, pictures) for group in groups]
    return tag("div", *parts, class_="gallery") if parts else None


def _group(group: Group, columns: Columns, pictures: Pictures | None) -> Markup:
    cards = [tag("li", _card(int(row), columns, pictures)) for row in group.rows]
    return tag(
        "section",
        tag("h4", group.title),
        tag("p", group.note, " ", _known(group, columns, pictures), class_="note"),
        tag("ul", *cards, class_="cards"),
        class_="group",
    )


def _known(group: Group, columns: Columns, pictures: Pictures | None) -> str:
    if "label" not in columns:
        return ""
    return truly_wrong(group.rows, columns["index"], columns["label"], pictures)


def truly_wrong(
    rows: np.ndarray, index: np.ndarray, labels: np.ndarray, pictures: Pictures | None
) -> str:
    """How many of some samples have a wrong label; empty where that is not known, or none has.

    Args:
        rows: places of these samples in the arrays of all samples.
        index: of all samples `[N]`.
        labels: of all samples `[N]`, negative or nan where there is none.
        pictures: which know what is true.
    """
    truth = None if pictures is None else pictures.true_labels
    if truth is None:
        return ""
    is_wrong = (labels >= 0) & (labels != np.asarray(truth)[index.astype(np.int64)])
    if not is_wrong.any():
        return ""
    count = int(is_wrong[rows].sum())
    of_all = f"of all samples, {is_wrong.mean():.0%}"
    return f"{count} of these {len(rows)} truly have a wrong label; {of_all}."


def _card(row: int, columns: Columns, pictures: Pictures | None) -> Markup:
    index = int(columns["index"][row])
    picture = picture_of(index, pictures)
    numbers = [
        _visits(value) if name == "visits" else f"{name} {_signed(value)}"
        for name in ("visits", "margin", "score", "loss")
        if name in columns and math.isfinite(value := float(columns[name][row]))
    ]
    return tag(
        "figure",
        picture,
        tag(
            "figcaption",
            *_labels(row, index, columns, pictures),
            *[tag("small", number) for number in numbers[:2]],
        ),
        class_="sample",
        title=f"sample {index}: {', '.join(numbers)}",
    )


def _labels(row: int, index: int, columns: Columns, pictures: Pictures | None) -> list[Markup]:
    """What it is labelled as, what training believes, and where it is known what it is."""
    names: Sequence[str] = () if pictures is None else pictures.class_names
    label = _of(columns, "label", row)
    if label is None:
        return []
    found = [tag("span", "labelled ", tag("b", named(_name(label, names))))]
    suggested = _of(columns, "suggested_label", row)
    if suggested is not None and suggested != label:
        found.append(tag("span", "believed ", tag("b", named(_name(suggested, names)))))
    return [*found, *what_is_true(index, label, pictures)]


def picture_of(index: int, pictures: Pictures | None) -> Markup:
    """What a sample looks like; its number where that is not known."""
    return tag("span", f"#{index}", class_="blank") if pictures is None else pictures.draw(index)


def what_is_true(index: int, label: int, pictures: Pictures | None) -> list[Markup]:
    """What a sample truly is, where that is known and not what its label says."""
    truth = None if pictures is None else pictures.true_labels
    if pictures is None or truth is None or truth[index] == label:
        return []
    told = ["foreign"]
    if truth[index] >= 0:
        told = ["truly ", named(_name(truth[index], pictures.class_names))]
    return [tag("span", "\N{MULTIPLICATION SIGN} ", *told, class_="wrong")]


def _visits(count: float) -> str:
    return f"{count:,.0f} visit{'' if count == 1 else 's'}"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _of(columns: Columns, name: str, row: int) -> int | None:
    value = float(columns[name][row]) if name in columns else math.nan
    return int(value) if math.isfinite(value) and value >= 0 else None


def _name(label: int, names: Sequence[str]) -> str:
    return str(names[label]) if label < len(names) else str(label)
