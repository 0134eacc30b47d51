"""How well wrong labels are found: the numbers of one training beside the usual detectors.

    python benchmarks/audit.py --data-root data                    # all tasks, two seeds
    python benchmarks/audit.py --tasks cifar10-noise30 --seeds 0   # one of them
    python benchmarks/audit.py --tasks cifar10-duplicates --kinds duplicates --seeds 0

Each detector ranks the training samples of a task whose wrong labels are known. All use the same
network, data, recipe and seed:

- `ours`: `suspicion` of the columns of `Selector.table()`; once of full training, and once of a run
  that trained on half of the samples in each epoch (`label-aware`);
- `mean loss`, `mean probability`, `margin`, `last loss`: single columns of the same tables;
- `aum`: the area under the margin of the logits (Pleiss et al. 2020);
- `five folds`: out-of-sample self-confidence of five trainings, each on four fifths, as cleanlab
  asks for; cost: five trainings on 80 %.

With `--kinds duplicates` near-duplicates are planted instead: a tenth of the images again, cropped
(90 to 100 % of a side, made larger again), mirrored, darker or brighter (by up to 30 %) or as JPEG
(quality 40 to 80), at 32 pixels. Pairs that are found are compared with those that were planted;
"among planted" counts pairs with a copy in them, as CIFAR-10 has near-duplicates of its own. Beside
it stands the processor time of looking for them, and that of full training of the task.

It prints, and writes to JSON, area under the ROC curve, precision among the first k (k the true
number of wrong labels) and among the first 200, and how often our suggested label is the true one.
A training that is in the JSON file already is not made again.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from PIL.Image import Resampling
from sklearn.metrics import roc_auc_score
from transformers import DataCollatorWithPadding

from data_agent import Feedback, Selector
from data_agent.duplicates import (
    IMAGE_LIKENESS,
    are_same_picture,
    image_sketches,
    small_images,
)
from data_agent.runtime.files import write_json
from data_agent.suspicion import suspicion
from data_agent_lab.auditing.duplicates import near_duplicates
from data_agent_lab.data.image_data import ImageData, corrupt_labels
from data_agent_lab.recipes import ImageRecipe, RunConfig
from data_agent_lab.runs.environment import describe_environment
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.tasks import load_task, recipe_for, suite_recipes
from data_agent_lab.training.engine import Engine
from data_agent_lab.training.images import ImageEngine
from data_agent_lab.training.ranks import choose_device
from data_agent_lab.training.text import TextEngine

TASKS = ("cifar10n-worse", "cifar10n-aggregate", "cifar10-noise30", "sst2-noise30")
FOLDS = 5
FIRST = 200
KINDS = ("full", "label-aware", "folds", "duplicates")
PLANTED = 0.1  # of the images
Columns = dict[str, NDArray[Any]]


class Detected:
    """A task with labels of which some are wrong, and trainings on it."""

    def __init__(self, task: str, seed: int, root: Path, epochs: int | None) -> None:
        recipe = _recipe(task, root)
        data: Any = load_task(recipe)
        is_image = isinstance(data, ImageData)
        labels = data.train_labels if is_image else torch.tensor(data.train["labels"])
        true = labels
        if is_image and data.clean_labels is not None:
            true = data.clean_labels
        num_classes = len(data.class_names)
        labels = corrupt_labels(labels, recipe.label_noise, num_classes=num_classes, seed=seed)
        self.labels, self.true, self.seed = labels, true.numpy(), seed
        self.train_cpu_seconds = 0.0  # of the last training
        self.data = _with_labels(data, labels)
        # The labels are made wrong here, so that folds have the same ones.
        self.recipe = replace(recipe, label_noise=0.0, num_evaluations=1)
        if epochs is not None:
            self.recipe = replace(self.recipe, epochs=epochs)
        self.is_wrong = labels.numpy() != self.true

    def train(self, method: str, rows: NDArray[np.int64] | None = None) -> tuple[Engine, Columns]:
        """Train on all samples or some; the engine, and the table with "aum" in it."""
        data = self.data if rows is None else _only(self.data, rows)
        config = RunConfig(recipe=self.recipe, method=method, keep_ratio=0.5, seed=self.seed)
        kind = ImageEngine if isinstance(self.recipe, ImageRecipe) else TextEngine
        device = choose_device(self.recipe.device)
        torch.set_num_threads(self.recipe.num_threads or torch.get_num_threads())
        with tempfile.TemporaryDirectory() as path, recorded(len(data_labels(data))) as aum:
            engine = kind(config, data, RunFolder(Path(path)), device=device)
            engine.train(lambda _: False)
            table = engine.selector.table()
        self.train_cpu_seconds = engine.ledger.training.cpu_seconds
        return engine, {**table, "aum": aum / np.maximum(table["visits"], 1)}

    def out_of_sample(self) -> NDArray[np.float64]:
        """Each label's probability by a network that was not trained on its sample: `[N]`."""
        found = np.zeros(len(self.labels))
        order = np.random.default_rng(self.seed).permutation(len(self.labels))
        for fold in np.array_split(order, FOLDS):
            engine, _ = self.train("full", np.setdiff1d(order, fold))
            found[fold] = self._probabilities(engine, fold)
        return found

    @torch.no_grad()
    def _probabilities(self, engine: Engine, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        engine.model.eval()
        labels = self.labels[rows]
        parts = []
        for at in torch.arange(len(rows)).split(256):
            logits = self._logits(engine, rows[at.numpy()]).float()
            parts.append(logits.softmax(1).cpu().gather(1, labels[at][:, None])[:, 0])
        return torch.cat(parts).double().numpy()

    def _logits(self, engine: Engine, rows: NDArray[np.int64]) -> torch.Tensor:
        with engine.autocast():
            if isinstance(engine, ImageEngine):
                return engine.model(engine.batches.evaluation(torch.from_numpy(rows)))
            collate = DataCollatorWithPadding(self.data.tokenizer)
            batch: Any = collate([self.data.train[int(row)] for row in rows])
            batch.pop("labels")
            return engine.model(**batch.to(engine.device)).logits


@contextmanager
def recorded(num_samples: int) -> Generator[NDArray[np.float64]]:
    """Add up the margin of the label's logit at each visit of a sample: float64 `[N]`."""
    total, observe = np.zeros(num_samples), Selector.observe

    def observing(self: Selector, feedback: Feedback) -> None:
        if feedback.logits is not None and feedback.labels is not None:
            logits, at = feedback.logits.float(), feedback.labels.unsqueeze(1)
            others = logits.scatter(1, at, -torch.inf).amax(1)
            margin = logits.gather(1, at).squeeze(1) - others
            total[feedback.index.numpy()] += margin.double().cpu().numpy()
        observe(self, feedback)

    with patch.object(Selector, "observe", observing):
        yield total


def cropped(image: Image.Image, draws: np.random.Generator) -> Image.Image:
    """The image less a part of its edges, as large as before."""
    side = round(image.width * draws.uniform(0.9, 1.0))
    left, top = draws.integers(0, image.width - side + 1, size=2)
    return image.crop((left, top, left + side, top + side)).resize(image.size, Resampling.BILINEAR)


def mirrored(image: Image.Image, draws: np.random.Generator) -> Image.Image:
    """Left is right."""
    del draws
    return ImageOps.mirror(image)


def relit(image: Image.Image, draws: np.random.Generator) -> Image.Image:
    """Darker or brighter."""
    return ImageEnhance.Brightness(image).enhance(draws.uniform(0.7, 1.3))


def compressed(image: Image.Image, draws: np.random.Generator) -> Image.Image:
    """What JPEG keeps of it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(draws.integers(40, 80)))
    return Image.open(file).convert("RGB")


COPIES = (cropped, mirrored, relit, compressed)


def planted(images: torch.Tensor, seed: int) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Images uint8 `[N, 3, H, W]` with copies behind them, and of each copy its original."""
    draws = np.random.default_rng(seed)
    originals = draws.permutation(len(images))[: round(PLANTED * len(images))]
    copies = [
        COPIES[place % len(COPIES)](Image.fromarray(images[own].permute(1, 2, 0).numpy()), draws)
        for place, own in enumerate(originals)
    ]
    stacked = torch.stack([torch.from_numpy(np.array(copy)).permute(2, 0, 1) for copy in copies])
    return torch.cat([images, stacked]), originals


def detect_duplicates(of: Detected) -> dict[str, Any]:
    """How well planted near-duplicates are found, and what that costs beside training."""
    data: Any = load_task(replace(of.recipe, image_size=32, duplicates=0.0))
    images, originals = planted(data.train_images, of.seed)
    start, count = time.process_time(), data.num_train
    small = small_images(images)
    confirm = partial(are_same_picture, small)
    groups = near_duplicates(image_sketches(small), IMAGE_LIKENESS, confirm)
    seconds = time.process_time() - start
    found = {pair for group in groups for pair in combinations(group.members.tolist(), 2)}
    true = {(int(own), count + place) for place, own in enumerate(originals)}
    right, with_copy = found & true, {pair for pair in found if pair[1] >= count}
    of.train("full")
    kinds = [{pair for pair in true if (pair[1] - count) % len(COPIES) == k} for k in range(4)]
    return {
        "precision": len(right) / max(1, len(found)),
        "precision_among_planted": len(right) / max(1, len(with_copy)),
        "recall": len(right) / len(true),
        "recall_by_kind": {
            copy.__name__: len(right & own) / len(own)
            for copy, own in zip(COPIES, kinds, strict=True)
        },
        "found": len(found),
        "planted": len(true),
        "cpu_seconds": seconds,
        "train_cpu_seconds": of.train_cpu_seconds,
    }


def data_labels(data: Any) -> Any:
    """The training labels of images or texts."""
    return data.train_labels if isinstance(data, ImageData) else data.train["labels"]


def _recipe(task: str, root: Path) -> Any:
    if task == "digits":
        return replace(recipe_for("digits"), label_noise=0.3)
    if task == "cifar10n-aggregate":
        worse = suite_recipes(None, tasks=["cifar10n-worse"], root=root)[0]
        file = str(getattr(worse, "train_labels", "")).rpartition(":")[0]
        return replace(worse, task=task, train_labels=f"{file}:aggre_label")
    return suite_recipes(None, tasks=[task], root=root)[0]


def _with_labels(data: Any, labels: torch.Tensor) -> Any:
    if isinstance(data, ImageData):
        return replace(data, train_labels=labels)
    rows = data.train.remove_columns("labels").add_column("labels", labels.tolist())
    return replace(data, train=rows)


def _only(data: Any, rows: NDArray[np.int64]) -> Any:
    """These samples to train on, and of images all of them to look at."""
    if isinstance(data, ImageData):
        every = {"eval_images": data.train_images, "eval_labels": data.train_labels}
        return replace(data.at(torch.from_numpy(rows)), **every)
    return replace(data, train=data.train.select(rows))


def quality(suspicion: NDArray[Any], is_wrong: NDArray[np.bool_]) -> dict[str, float]:
    """How well the highest values are the wrong labels; samples without a value come last."""
    suspicion = np.nan_to_num(suspicion.astype(np.float64), nan=-1e30)
    order, count = np.argsort(-suspicion, kind="stable"), int(is_wrong.sum())
    return {
        "auroc": float(roc_auc_score(is_wrong, suspicion)),
        "precision_at_k": float(is_wrong[order[:count]].mean()),
        f"precision_at_{FIRST}": float(is_wrong[order[:FIRST]].mean()),
    }


def detect(of: Detected, kind: str) -> dict[str, Any]:
    """The detectors that one kind of training feeds, by name."""
    start = time.process_time()
    if kind == "duplicates":
        return {"duplicates": detect_duplicates(of)}
    if kind == "folds":
        found = {"five folds": quality(-of.out_of_sample(), of.is_wrong)}
    else:
        _, table = of.train(kind)
        ranked = {
            "ours": suspicion({n: table[n] for n in ("mean_loss", "margin", "loss")}),
            "mean loss": table["mean_loss"],
            "mean probability": -table["mean_probability"],
            "margin": -table["margin"],
            "last loss": table["loss"],
            "aum": -table["aum"],
        }
        found = {f"{n}, {kind}": quality(values, of.is_wrong) for n, values in ranked.items()}
        is_right = table["suggested_label"] == of.true
        found[f"ours, {kind}"]["suggestion_right"] = float(is_right[of.is_wrong].mean())
    return {"detectors": found, "cpu_seconds": time.process_time() - start}


def show(results: Mapping[str, Any]) -> None:
    """Print a table of means over seeds."""
    by_task: dict[tuple[str, str], list[dict[str, float]]] = {}
    for key, result in results.items():
        for name, values in result.get("detectors", {}).items():
            by_task.setdefault((key.partition("/")[0], name), []).append(values)
    print(f"{'task':20} {'detector':20} seeds   AUROC     P@k   P@{FIRST}")
    for (task, name), values in sorted(by_task.items()):
        means = [np.mean([v[m] for v in values]) for m in list(values[0])[:3]]
        print(f"{task:20} {name:20} {len(values):5}  " + "  ".join(f"{m:.4f}" for m in means))
    for key, result in results.items():
        if "duplicates" in result:
            print(key, result["duplicates"])


def main() -> None:
    """Train what is missing, show all, write JSON after each training."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--kinds", default=",".join(KINDS[:3]), help=", ".join(KINDS))
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--epochs", type=int, help="others than the task's own, for a trial")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/audit.json"))
    options = parser.parse_args()
    content: dict[str, Any] = {"results": {}}
    if options.output.exists():
        content = json.loads(options.output.read_text())
    content["environment"] = describe_environment("cpu")
    for task in options.tasks.split(","):
        for seed in map(int, options.seeds.split(",")):
            of = None
            for kind in options.kinds.split(","):
                key = f"{task}/seed{seed}/{kind}/epochs{options.epochs or 'own'}"
                if key in content["results"]:
                    continue
                of = of or Detected(task, seed, options.data_root, options.epochs)
                found = detect(of, kind)
                content["results"][key] = {**found, "num_wrong": int(of.is_wrong.sum())}
                options.output.parent.mkdir(parents=True, exist_ok=True)
                write_json(options.output, content)
                print(f"{key}: {time.process_time():.0f} s of processor time so far", flush=True)
    show(content["results"])


if __name__ == "__main__":
    main()
