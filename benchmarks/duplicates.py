"""Where near-duplicates can be found: in the features of the network in training, or in the inputs?

    python benchmarks/duplicates.py --data-root data

4,096 images of CIFAR-10 and 6,144 near-copies of 512 of them, as in `cifar10-duplicates`, are
trained on as `random` does at keep ratio 0.5. What a watched head gives at each visit is
standardised batch by batch, since the network moves; after one, two and four passes over the data
the mean over a sample's visits is its sketch, whitened within its class. All pairs of a class are
ranked by the cosine of their sketches; given is the share of the true pairs that is found where
half and where nine tenths of the pairs found are true. Beside it stands what `image_groups` finds
in the inputs, and how large its groups are on data into which nothing was planted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from data_agent import Feedback, Selector
from data_agent.duplicates import image_groups
from data_agent.runtime.files import write_json
from data_agent_lab.data.image_data import with_near_copies
from data_agent_lab.recipes import RunConfig
from data_agent_lab.runs.environment import describe_environment
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.tasks import load_task, suite_recipes
from data_agent_lab.training.images import ImageEngine

NUM_IMAGES, NUM_COPIES = 4096, 6144
PASSES = (1, 2, 4)
PRECISIONS = (0.5, 0.9)
NOTHING_PLANTED = ("cifar10-underfit", "mnist", "tiny-imagenet")
LEAST_VARIANCE = 0.1  # of the largest, that is added where features are whitened


class _EnoughError(Exception):
    """As many passes were seen as are wanted."""


@contextmanager
def sketched(size: int, passes: int) -> Generator[list[Tensor]]:
    """Sums of the standardised features of each visit, `[N, D]`, one after each pass."""
    sums, observe = [], Selector.observe

    def observing(self: Selector, feedback: Feedback) -> None:
        assert feedback.features is not None
        number = (self.epoch or 0) * self.schedule.num_kept // size
        if number == passes:
            raise _EnoughError
        features = feedback.features.float()
        if len(sums) == number:
            sums.append(sums[-1].clone() if sums else torch.zeros(size, features.shape[1]))
        sums[-1][feedback.index] += (features - features.mean(0)) / (features.std(0) + 1e-4)
        observe(self, feedback)

    with patch.object(Selector, "observe", observing):
        yield sums


def whitened(sketch: Tensor, labels: Tensor) -> Tensor:
    """Centred in each class, then decorrelated: `[N, D]`."""
    for label in labels.unique():
        sketch = torch.where(
            (labels == label)[:, None], sketch - sketch[labels == label].mean(0), sketch
        )
    variance, axes = torch.linalg.eigh(sketch.T @ sketch / len(sketch))
    return (sketch @ axes) / (variance + LEAST_VARIANCE * variance[-1]).sqrt()


def recalls(sketch: Tensor, labels: Tensor, origin: Tensor) -> dict[str, float]:
    """Of the true pairs of a class the share that is found, at each of `PRECISIONS`."""
    unit = F.normalize(sketch, dim=1)
    cosine, is_true = [], []
    for label in labels.unique():
        rows = (labels == label).nonzero().squeeze(1)
        pairs = torch.triu_indices(len(rows), len(rows), 1)
        cosine.append((unit[rows] @ unit[rows].T)[pairs[0], pairs[1]])
        is_true.append(origin[rows[pairs[0]]] == origin[rows[pairs[1]]])
    order = torch.cat(cosine).argsort(descending=True)
    right = torch.cat(is_true)[order].cumsum(0)
    precision = right / torch.arange(1, len(right) + 1)
    found = {p: (precision >= p).nonzero().flatten() for p in PRECISIONS}
    return {
        f"recall_at_{p}": float(right[at[-1]] / right[-1]) if len(at) else 0.0
        for p, at in found.items()
    }


def by_groups(groups: Tensor, origin: Tensor) -> dict[str, float]:
    """Precision and recall of the pairs that lie in one group."""
    same, true = groups[:, None] == groups, origin[:, None] == origin
    same.fill_diagonal_(False)
    true.fill_diagonal_(False)
    both = int((same & true).sum())
    return {"precision": both / int(same.sum()), "recall": both / int(true.sum())}


def sizes(groups: Tensor) -> dict[str, Any]:
    """How many groups have more than one member, of how many samples, and the largest."""
    count = torch.bincount(groups)
    shared = count[count > 1]
    return {
        "num_samples": len(groups),
        "num_groups": len(shared),
        "num_in_groups": int(shared.sum()),
        "largest": int(count.max()),
    }


def measure(root: Path, seed: int) -> dict[str, Any]:
    """What features tell after each pass, and what inputs tell before training."""
    recipe: Any = suite_recipes(None, tasks=["cifar10-duplicates"], root=root)[0]
    plain: Any = load_task(replace(recipe, duplicates=0.0, subset=NUM_IMAGES))
    numbered = replace(plain, train_labels=torch.arange(NUM_IMAGES))
    copied = with_near_copies(numbered, NUM_COPIES)
    origin = copied.train_labels
    labels = plain.train_labels[origin]
    data = replace(copied, train_labels=labels, clean_labels=None)
    start = time.process_time()
    groups = image_groups(data.train_images)
    found: dict[str, Any] = {"inputs": by_groups(groups, origin) | sizes(groups)}
    found["inputs"]["cpu_seconds"] = time.process_time() - start
    torch.set_num_threads(1)
    config = RunConfig(recipe=recipe, method="random", keep_ratio=0.5, seed=seed)
    with tempfile.TemporaryDirectory() as path, sketched(len(labels), max(PASSES)) as sums:
        engine = ImageEngine(config, data, RunFolder(Path(path)), device=torch.device("cpu"))
        with suppress(_EnoughError):
            engine.train(lambda _: False)
    for passes in PASSES:
        sketch = whitened(sums[passes - 1], labels)
        found[f"features, {passes} passes"] = recalls(sketch, labels, origin)
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/duplicates.json"))
    options = parser.parse_args()
    found: dict[str, Any] = {"environment": describe_environment("cpu")}
    found["planted"] = measure(options.data_root, options.seed)
    for task in NOTHING_PLANTED:
        data: Any = load_task(suite_recipes(None, tasks=[task], root=options.data_root)[0])
        found[task] = sizes(image_groups(data.train_images))
    write_json(options.output, found)
    for name, values in {**found.pop("planted"), **found}.items():
        print(name, values)


if __name__ == "__main__":
    main()
