"""DataCull (https://pypi.org/project/datacull/) beside ours: the same losses, whose samples?

It needs DataCull 1.0.2 in an environment that also sees ours, so that nothing here depends on it
(OURS is the site-packages folder of our environment):

    python3 -m venv /tmp/dc
    echo $OURS > /tmp/dc/lib/python3.11/site-packages/ours.pth
    /tmp/dc/bin/pip install datacull==1.0.2
    OMP_NUM_THREADS=1 /tmp/dc/bin/python benchmarks/datacull.py

It prints a table and writes benchmarks/results/datacull.json.

Both have three things: repeated random subsets (RS2), RCAP, and "keep the highest scores" (there
the loader of TDDS, here any static method). DataCull has no UCB, eps-greedy, InfoBatch, SeTa or
EL2N; its CCS, TDDS scores and MetriQ have no counterpart here.
"""

import importlib.metadata
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

ROOT = Path(__file__).parents[1]
# This file is called datacull.py too: its folder must not hide the package.
sys.path[:] = [
    str(ROOT / "src"),
    *(p for p in sys.path if Path(p).resolve() != ROOT / "benchmarks"),
]

import datacull  # noqa: E402

from data_agent import make_selector  # noqa: E402
from data_agent.baselines.rcap import class_counts  # noqa: E402
from data_agent_lab.runs.environment import describe_environment  # noqa: E402

NUM_SAMPLES, EPOCHS = 1000, 20
SIZES = (500, 250, 150, 100)  # of four classes, the first in the dataset first
NOBODY = torch.zeros(NUM_SAMPLES, dtype=torch.bool)


class Labelled(Dataset):
    """A dataset of labels, as DataCull wants it."""

    def __init__(self, labels):
        self.targets = labels.tolist()

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return index, self.targets[index]


def labels_and_losses():
    """Four classes sorted in the dataset, of losses 0.1, 0.3, 0.6 and 1.2 on average."""
    labels = torch.arange(4).repeat_interleave(torch.tensor(SIZES))
    draws = torch.rand(NUM_SAMPLES, generator=torch.Generator().manual_seed(0))
    return labels, torch.tensor([0.1, 0.3, 0.6, 1.2])[labels] * (0.5 + draws)


def ours(name, keep_ratio, **options):
    """A selector of ours."""
    return make_selector(
        name, num_samples=NUM_SAMPLES, epochs=EPOCHS, keep_ratio=keep_ratio, **options
    )


def compare_rate():
    """What `pruning_rate=0.2`, documented as the share removed, keeps of 1000."""
    labels, _ = labels_and_losses()
    loader = datacull.RS2DataLoader(datacull.DCDataset(Labelled(labels)), 0.2, batch_size=50)
    loader.resample(None)
    kept = len(loader.subset_indices)
    return {"pruning_rate": 0.2, "documented_kept": 800, "kept": kept, "ours_keep_ratio_0.2": 200}


def compare_random(keep_ratio):
    """Visits of 20 epochs without replacement, and the classes of the first epoch."""
    labels, _ = labels_and_losses()
    np.random.seed(0)  # noqa: NPY002 - DataCull draws from NumPy's global generator
    dataset = datacull.DCDataset(Labelled(labels))
    loader = datacull.RS2DataLoader(dataset, keep_ratio, batch_size=50)
    selector = ours("random", keep_ratio)
    theirs, mine = torch.zeros(NUM_SAMPLES), torch.zeros(NUM_SAMPLES)
    classes = []
    for epoch in range(EPOCHS):
        loader.resample(None)
        theirs[loader.subset_indices] += 1
        mine[selector.select(epoch).index] += 1
        if epoch == 0:
            for index in (torch.tensor(loader.subset_indices), selector.select(0).index):
                classes.append(torch.bincount(labels[index], minlength=4).tolist())
    spread = [(int(v.min()), int(v.max()), int(v.sum())) for v in (theirs, mine)]
    return {
        "keep_ratio": keep_ratio,
        "datacull_visits_min_max_sum": spread[0],
        "ours_visits_min_max_sum": spread[1],
        "datacull_first_epoch_classes": classes[0],
        "ours_first_epoch_classes": classes[1],
    }


def compare_highest(keep_ratio):
    """The highest of the same scores: equal sets?"""
    labels, losses = labels_and_losses()
    loader = datacull.TDDSDataLoader(datacull.DCDataset(Labelled(labels)), keep_ratio)
    loader.resample(losses.numpy())
    mine = set(ours("el2n", keep_ratio, scores=losses).select(0).index.tolist())
    theirs = set(loader.subset_indices)
    return {
        "keep_ratio": keep_ratio,
        "datacull_kept": len(theirs),
        "ours_kept": len(mine),
        "in_both": len(mine & theirs),
    }


def compare_rcap(keep_ratio, folder):
    """Counts of classes in the first epochs from the same losses, then the draw within a class."""
    labels, losses = labels_and_losses()
    np.random.seed(0)  # noqa: NPY002
    dataset = datacull.DCDataset(Labelled(labels))
    logger = datacull.DCLogger(f"{folder}/")
    importance = datacull.RCAPImportance(dataset, logger, beta=0.2)
    loader = datacull.RCAPDataLoader(dataset, keep_ratio, batch_size=50)
    selector = ours("rcap", keep_ratio, labels=labels, beta=0.2, schedule="static")
    count = selector.schedule.num_kept
    rows, chosen = [], []
    for epoch in range(4):
        weights = importance.compute_importance()
        local = loader.local_class_wise_indices  # those chosen last
        loader.resample(weights)
        theirs = torch.tensor(loader.subset_indices)
        mine = selector.choose(epoch, count, NOBODY)
        chosen = [theirs, mine]
        mass = torch.tensor([weights[index].sum() for index in local])
        rows.append(
            {
                "datacull": torch.bincount(labels[theirs], minlength=4).tolist(),
                "ours": torch.bincount(labels[mine], minlength=4).tolist(),
                "our_formula_of_their_mass": class_counts(
                    mass, torch.tensor(SIZES), count
                ).tolist(),
            }
        )
        logger.log_metric(epoch, theirs, losses[theirs])
        selector.merge(mine, losses[mine].unsqueeze(1))
    lift = [
        [round(float(losses[i[labels[i] == c]].mean() / losses[labels == c].mean()), 3)
         for c in range(4)]
        for i in chosen
    ]  # fmt: skip
    return {
        "keep_ratio": keep_ratio,
        "budget": count,
        "epochs": rows,
        "datacull_mean_loss_of_chosen_over_class": lift[0],
        "ours_mean_loss_of_chosen_over_class": lift[1],
    }


def seconds_of_an_epoch(folder):
    """What an epoch of 1000 samples in batches of 50 costs in bookkeeping: RCAP at ratio 0.5."""
    labels, losses = labels_and_losses()
    dataset = datacull.DCDataset(Labelled(labels))
    logger = datacull.DCLogger(f"{folder}/")
    start = time.perf_counter()
    for index in torch.arange(NUM_SAMPLES).split(50):
        logger.log_metric(99, index, losses[index])
    theirs = time.perf_counter() - start
    importance = datacull.RCAPImportance(dataset, logger, beta=1.0)
    importance.epoch = 99
    start = time.perf_counter()
    weights = importance.compute_importance()
    datacull.RCAPDataLoader(dataset, 0.5, batch_size=50).resample(weights)
    theirs += time.perf_counter() - start
    selector = ours("rcap", 0.5, labels=labels)
    start = time.perf_counter()
    selector.merge(torch.arange(NUM_SAMPLES), losses.unsqueeze(1))
    selector.choose(9, 500, NOBODY)
    return {"datacull": round(theirs, 4), "ours": round(time.perf_counter() - start, 4)}


DIFFERENCES = [
    "pruning_rate is documented as the share removed and used as the share kept.",
    "DataCull keeps ceil(rate N) samples, we floor(ratio N + 0.5). Its RCAP rounds every class up, "
    "and where a class is full it shares the rest by the whole budget instead of what is left of "
    "it: epochs hold up to twice the budget (see rcap). Ours hold exactly K.",
    "RS2: the first pass over the data is in the dataset's own order, so a dataset sorted by class "
    "shows few classes in the first epochs; where the subset's size does not divide N, what is "
    "left of a pass is dropped. Ours begins with a permutation and carries the rest over.",
    "RCAP: class counts there come from the softmax weights of the samples chosen last, which sum "
    "to at most one in each class: they say which part of a class was chosen, not how high its "
    "losses are, and swing from epoch to epoch. Ours come from the losses. Given their masses our "
    "closed form returns their counts up to rounding, as long as no class is full.",
    "DataCull draws from NumPy's global generator, writes each sample's metric as one appended "
    "file line, and saves no state; ours is a function of its seed and resumes.",
    "DataCull lets an importance be mixed with any sampler; ours are whole methods. Its CCS, TDDS "
    "scores and MetriQ have no counterpart here; UCB, eps-greedy, InfoBatch have none there.",
]


def main():
    """Compare, print, write JSON."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "environment": describe_environment("cpu"),
            "datacull": importlib.metadata.version("datacull"),
            "num_samples": NUM_SAMPLES,
            "class_sizes": SIZES,
            "rate": compare_rate(),
            "random": [compare_random(ratio) for ratio in (0.3, 0.5)],
            "highest": [compare_highest(ratio) for ratio in (0.2, 0.3, 0.5)],
            "rcap": [compare_rcap(ratio, folder) for ratio in (0.3, 0.5, 0.9)],
            "seconds_of_an_epoch": seconds_of_an_epoch(folder),
            "differences": DIFFERENCES,
        }
    for name in ("rate", "random", "highest", "rcap", "seconds_of_an_epoch"):
        print(name)
        rows = result[name] if isinstance(result[name], list) else [result[name]]
        for row in rows:
            print("  " + "  ".join(f"{key} {v}" for key, v in row.items() if key != "epochs"))
            for number, epoch in enumerate(row.get("epochs", [])):
                total = sum(epoch["datacull"])
                print(
                    f"    epoch {number}: {epoch}  (datacull {total} of {math.ceil(row['budget'])})"
                )
    path = ROOT / "benchmarks" / "results" / "datacull.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
