"""An audit for a person who reads a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data_agent_lab.auditing.audit import Audit, kept_index
from data_agent_lab.auditing.findings import Kind

_SHOWN = 5
_TITLES: Mapping[Kind, str] = {
    "wrong-label": "labels likely wrong",
    "never-learned": "samples never learned",
    "redundant": "near-duplicates beyond one of each group",
}


def in_words(audit: Audit, *, drop: Sequence[Kind] = ()) -> list[str]:
    """Lines: how much was found of each kind, the first of it, classes confused, what is kept."""
    lines: list[str] = []
    for kind, found in audit.found.items():
        if found.not_sought:
            lines.append(found.not_sought)
            continue
        count, title, shown = len(found.ranked), _TITLES[kind], found.findings[:_SHOWN]
        if len(shown) < count:
            lines.append(f"{title.capitalize()}, the first {len(shown)} of {count:,}:")
        else:
            lines.append(f"{count} {title}{':' if count else '.'}")
        for finding in shown:
            known = ", ".join(filter(None, (finding.label, finding.origin)))
            label = f" ({known})" if known else ""
            lines.append(f"  sample {finding.index}{label}: {finding.reason}.")
    if audit.confusions:
        most = [
            f"{c.label} for {c.believed} ({c.count}, {c.share:.0%})"
            for c in audit.confusions[:_SHOWN]
        ]
        lines.append(f"Classes taken for others most: {', '.join(most)}.")
    return lines + (_kept_in_words(audit, drop) if drop else [])


def _kept_in_words(audit: Audit, drop: Sequence[Kind]) -> list[str]:
    kept = kept_index(audit, drop)
    is_trusted = audit.numbers.trusted is not None and audit.numbers.trusted.any()
    also = ", all trusted ones among them" if is_trusted else ""
    lines = [f"{len(kept):,} of {len(audit.numbers):,} samples are kept{also}."]
    for kind in drop:
        found = audit.found[kind]
        beyond = int(np.isin(found.ranked[len(found.findings) :], kept).sum())
        if beyond:
            lines.append(
                f"Of {len(found.ranked):,} {_TITLES[kind]}, {beyond:,} are beyond the budget and "
                "stay; a higher --budget leaves out more."
            )
    return lines
