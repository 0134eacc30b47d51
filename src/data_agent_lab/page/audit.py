"""audit.html: what an audit found, to look at: the samples, what is wrong with them, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_agent.runtime.files import write_text
from data_agent_lab.auditing.audit import KINDS, Audit
from data_agent_lab.auditing.findings import Finding, Kind
from data_agent_lab.page.document import document
from data_agent_lab.page.gallery import picture_of, truly_wrong, what_is_true
from data_agent_lab.page.markup import Child, Markup, joined, named, tag
from data_agent_lab.page.pictures import Pictures, fitting, pictures_of
from data_agent_lab.page.tables import filter_of, table_of
from data_agent_lab.results.tables import Table
from data_agent_lab.runs.folder import RunFolder

PAGE = "audit.html"
_MOST_PAIRS = 50  # of classes in the table
_FEW = 12  # cards that need no filter


class _Part(NamedTuple):
    """A kind of findings on the page."""

    title: str
    counted: str  # what the sentence at the top calls them
    note: str
    most: int  # cards; all findings of the budget are in the files beside the page


_PARTS: Mapping[Kind, _Part] = {
    "wrong-label": _Part(
        "Labels likely wrong",
        "labels that are likely wrong",
        "Another class was believed on average over training; the most suspicious comes first, by "
        "mean loss, mean margin and last loss. A rare kind or an ambiguous sample can look the "
        "same: look before you drop.",
        200,
    ),
    "never-learned": _Part(
        "Never learned",
        "samples that were never learned",
        "After several visits the last one still cost more than guessing a class.",
        60,
    ),
    "redundant": _Part(
        "Near-duplicates",
        "near-duplicates of others",
        "Beside each stands the sample of its group that would stay; the largest groups come "
        "first.",
        60,
    ),
}


def write_audit_page(audit: Audit, source: Path, folder: Path, *, command: str) -> Path:
    """Write the page of an audit into a folder; returns its path.

    Args:
        audit: what was found.
        source: a run's folder, whose data are shown, or the file that the numbers came from.
        folder: where the page is to lie.
        command: that made it.
    """
    config = RunFolder(source).config() if source.is_dir() else {}
    pictures = None if audit.data is None else pictures_of(audit.data)
    text = page_of_audit(
        audit,
        fitting(pictures, len(audit.numbers)),
        name=source.resolve().name,
        facts={**_facts(config), "Command": command},
    )
    path = folder / PAGE
    write_text(path, text)
    return path


def _facts(config: Mapping[str, Any]) -> dict[str, str]:
    """What a run was, by title."""
    names = ("task", "data", "method", "keep_ratio", "seed", "model", "epochs", "label_noise")
    found = {name.replace("_", " ").capitalize(): config.get(name) for name in names}
    return {title: f"{value}" for title, value in found.items() if value is not None}


def page_of_audit(
    audit: Audit, pictures: Pictures | None, *, name: str, facts: Mapping[str, str]
) -> str:
    """The page as a text; `facts` say by title where its numbers come from."""
    kinds: list[Kind] = [kind for kind in KINDS if audit.of_kind(kind)]
    links = [tag("a", _PARTS[kind].title, href=f"#{kind}", class_="chip") for kind in kinds]
    if audit.confusions:
        links.append(tag("a", "Classes confused", href="#confused", class_="chip"))
    return document(
        f"audit of {name}",
        nav=tag("nav", *links, aria_label="Parts of the page") if links else None,
        main=tag(
            "main",
            tag("h1", f"Audit of {name}"),
            tag("p", _about(audit), class_="about"),
            tag("article", tag("div", tag("p", _lead(audit), class_="lead"), class_="hero")),
            *[_part(kind, audit, pictures) for kind in kinds],
            _confused(audit),
        ),
        footer=_origin(facts),
        numbers=_numbers(audit),
    )


def _about(audit: Audit) -> str:
    count, classes = len(audit.numbers), audit.numbers.num_classes
    of_classes = f" of {classes} classes" if classes else ""
    return f"{count:,} samples{of_classes}, ranked by what training showed of each."


def _lead(audit: Audit) -> Markup:
    """How much was found of each kind, and what nobody looked for, in sentences."""
    counts: dict[Kind, int] = {kind: len(found.ranked) for kind, found in audit.found.items()}
    parts = [f"{count:,} {_PARTS[kind].counted}" for kind, count in counts.items() if count]
    told: list[Child] = []
    if parts:
        *first, last = parts
        listed = f"{', '.join(first)} and {last}" if first else last
        told.append(f"To look at first: {listed}.")
        told += [
            joined(
                [
                    named(c.label),
                    " was taken for ",
                    named(c.believed),
                    f" most ({c.count:,} times).",
                ]
            )
            for c in audit.confusions[:1]
            if c.count > 1
        ]
    elif len(audit.not_sought) < len(KINDS):
        told.append("Nothing of what was looked for asks for a look.")
    return joined([*told, *audit.not_sought], " ")


def _part(kind: Kind, audit: Audit, pictures: Pictures | None) -> Markup:
    part, findings = _PARTS[kind], audit.of_kind(kind)
    shown = findings[: part.most]
    note = [part.note]
    if kind != "redundant":
        note.append(_how_many_are_wrong(shown, audit, pictures))
    if len(shown) < (total := len(audit.found[kind].ranked)):
        rest = "all are in findings.csv"
        if len(findings) < total:
            rest = f"findings.csv has the first {len(findings):,}, more with a higher --budget"
        note.append(f"The first {len(shown)} of {total:,}; {rest}.")
    return tag(
        "section",
        tag("h2", part.title),
        tag("p", " ".join(filter(None, note)), class_="note"),
        filter_of("cards") if len(shown) > _FEW else None,
        tag("ul", *[tag("li", _card(f, audit, pictures)) for f in shown], class_="cards"),
        id=kind,
        class_="group found",
    )


def _how_many_are_wrong(
    findings: Sequence[Finding], audit: Audit, pictures: Pictures | None
) -> str:
    index, labels = audit.numbers.index, audit.numbers.label
    if labels is None:
        return ""
    rows = np.flatnonzero(np.isin(index, [finding.index for finding in findings]))
    return truly_wrong(rows, np.arange(len(index)), labels, pictures)


def _card(finding: Finding, audit: Audit, pictures: Pictures | None) -> Markup:
    picture = _picture_of(finding.index, audit, pictures)
    if finding.same_as is not None:
        picture = tag("div", picture, _picture_of(finding.same_as, audit, pictures), class_="pair")
    said = (
        ("labelled", finding.label),
        ("suggested", finding.suggested),
        ("like sample", finding.same_as),
    )
    return tag(
        "figure",
        picture,
        tag(
            "figcaption",
            *[
                tag("span", f"{word} ", tag("b", named(str(text))))
                for word, text in said
                if text is not None
            ],
            *_what_is_true(finding, audit, pictures),
            tag("small", f"sample {finding.index}{_origin_of(finding)}: {finding.reason}."),
        ),
        class_="sample",
    )


def _origin_of(finding: Finding) -> str:
    return f" ({finding.origin})" if finding.origin else ""


def _picture_of(index: int, audit: Audit, pictures: Pictures | None) -> Markup:
    """Pictures are of what was trained on; without any the sample's number in the data stands."""
    return picture_of(index if pictures is None else audit.numbers.place_of(index), pictures)


def _what_is_true(finding: Finding, audit: Audit, pictures: Pictures | None) -> list[Markup]:
    labels = audit.numbers.label
    if labels is None:
        return []
    place = audit.numbers.place_of(finding.index)
    return what_is_true(place, int(labels[place]), pictures)


def _confused(audit: Audit) -> Markup | None:
    """The pairs of classes as a table that sorts."""
    if not audit.confusions:
        return None
    rows = [
        (pair.label, pair.believed, f"{pair.count:,}", f"{100 * pair.share:.1f}")
        for pair in audit.confusions[:_MOST_PAIRS]
    ]
    words = ("labelled", "believed")
    columns = (*words, "samples", "% of the label's samples")
    note = "How many samples of a class were taken for another one, on average over training."
    if len(rows) < len(audit.confusions):
        note += f" The first {len(rows)} of {len(audit.confusions):,}; all are in audit.json."
    return tag(
        "section",
        tag("h2", "Classes confused"),
        tag("p", note, class_="note"),
        table_of(Table("Pairs of classes", columns, rows), texts=words),
        id="confused",
    )


def _origin(facts: Mapping[str, str]) -> Markup:
    told = [part for title, text in facts.items() for part in (tag("dt", title), tag("dd", text))]
    return tag(
        "footer",
        tag("h2", "Where the numbers come from"),
        tag("dl", *told),
        tag("p", "Beside this page: findings.csv, findings.parquet and audit.json."),
    )


def _numbers(audit: Audit) -> dict[str, Any]:
    """audit.json, of findings those that are shown, without reasons, which the cards say."""
    content = audit.as_dict()
    content["findings"] = [
        {name: value for name, value in found.items() if name != "reason" and value is not None}
        for found in content["findings"]
        if found["rank"] < _PARTS[found["kind"]].most
    ]
    content["confusions"] = content["confusions"][:_MOST_PAIRS]
    return content
