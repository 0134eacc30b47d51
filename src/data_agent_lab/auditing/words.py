"""An audit for a person who reads a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_agent_lab.auditing.audit import Audit, kept_index
from data_agent_lab.auditing.findings import Kind

_SHOWN = 5
_TITLES: Mapping[Kind, str] = {
    "wrong-label": "labels likely wrong, those most likely first",
    "never-learned": "samples never learned",
    "redundant": "near-duplicates beyond one of each group",
}


def in_words(audit: Audit, *, drop: Sequence[Kind] = ()) -> list[str]:
    """Lines: how many findings of each kind, the first of them, classes confused, what is kept."""
    lines: list[str] = []
    for kind, title in _TITLES.items():
        found = audit.of_kind(kind)
        if kind == "redundant" and audit.sketches is None:
            lines.append("Near-duplicates were not looked for.")
            continue
        lines.append(f"{len(found)} {title}{':' if found else '.'}")
        for finding in found[:_SHOWN]:
            label = "" if finding.label is None else f" ({finding.label})"
            lines.append(f"  sample {finding.index}{label}: {finding.reason}.")
    if audit.confusions:
        most = [
            f"{c.label} for {c.believed} ({c.count}, {c.share:.0%})"
            for c in audit.confusions[:_SHOWN]
        ]
        lines.append(f"Classes taken for others most: {', '.join(most)}.")
    if drop:
        num_kept = len(kept_index(audit, drop))
        is_trusted = audit.numbers.trusted is not None and audit.numbers.trusted.any()
        also = ", all trusted ones among them" if is_trusted else ""
        lines.append(f"{num_kept} of {len(audit.numbers)} samples are kept{also}.")
    return lines
