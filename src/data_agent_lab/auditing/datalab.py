"""What an audit hands over to cleanlab's Datalab, which is not needed for it.

given = np.load("datalab.npz")
lab = Datalab({"label": given["labels"]}, label_name="label")
lab.find_issues(pred_probs=given["pred_probs"], features=given["features"])
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_agent.errors import InputError
from data_agent.runtime.files import replacing
from data_agent_lab.auditing.audit import DATALAB, Audit
from data_agent_lab.auditing.numbers import SampleNumbers


def pred_probs(numbers: SampleNumbers) -> NDArray[np.float64]:
    """Probabilities of the classes on average over training, as far as they are known: `[N, C]`.

    The label has its mean probability. Where another class was believed more, that one has what the
    likeliest other classes had on average; what is left is shared by the rest. So self-confidence
    and margin of suspicious samples are right, and how the rest was shared is not known. A sample
    without a visit or a label has all classes alike.

    Raises:
        InputError: the numbers hold no labels with probabilities.
    """
    label, suggested, p, margin = (
        *(numbers.label, numbers.suggested_label, numbers.mean_probability),
        numbers.margin,
    )
    if label is None or (label < 0).all() or suggested is None or p is None or margin is None:
        raise InputError(
            "Datalab needs probabilities of classes, and these samples have none. They come with "
            "labels= and logits (watch() or logits=) of every batch."
        )
    size, num_classes = len(numbers), numbers.num_classes
    found = np.full((size, num_classes), 1 / num_classes)
    rows = np.flatnonzero((label >= 0) & np.isfinite(p))
    taken = p[rows]
    has_other = suggested[rows] != label[rows]
    other = np.where(has_other, p[rows] - margin[rows], 0.0)
    rest = np.clip(1 - taken - other, 0, 1) / np.maximum(num_classes - 1 - has_other, 1)
    found[rows] = rest[:, None]
    found[rows, label[rows]] = taken
    found[rows[has_other], suggested[rows[has_other]]] = other[has_other]
    return found / found.sum(1, keepdims=True)


def write_datalab(audit: Audit, folder: Path) -> str:
    """Write `datalab.npz`: index, labels, pred_probs and, where there are some, features.

    Samples without a label are left out, as Datalab takes none. Returns the file's name.
    """
    numbers = audit.numbers
    probabilities = pred_probs(numbers)
    assert numbers.label is not None
    rows = numbers.label >= 0
    content: dict[str, Any] = {
        "index": numbers.index[rows],
        "labels": numbers.label[rows],
        "pred_probs": probabilities[rows],
    }
    if audit.sketches is not None:
        content["features"] = audit.sketches.values.numpy()[rows]
    with replacing(folder / DATALAB) as temporary, temporary.open("wb") as file:
        np.savez(file, **content)
    return DATALAB
