"""The engine of detection tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data_agent.runtime import distributed
from data_agent_lab.data.boxes import DetectionData, Objects
from data_agent_lab.detection_recipe import DetectionRecipe
from data_agent_lab.methods import check_fits_boxes
from data_agent_lab.recipes import RunConfig
from data_agent_lab.runs.result import Metric
from data_agent_lab.runs.samples import kept_rows
from data_agent_lab.training.box_batches import BoxBatches
from data_agent_lab.training.detector import (
    Detector,
    Found,
    Outputs,
    detect,
    image_losses,
    uncertainty_of,
)
from data_agent_lab.training.loop import Inputs, LoopEngine, Shown, checksum
from data_agent_lab.training.precision import average_precision, sufficiency
from data_agent_lab.training.ranks import added_up, share_buffers

MAP, MAP50 = Metric("mAP", "%", "higher"), Metric("mAP50", "%", "higher")


def check_detection(config: RunConfig[DetectionRecipe]) -> None:
    """Raise `InputError` if a method has no place where images have boxes instead of a class."""
    check_fits_boxes(config.method)


class DetectionEngine(LoopEngine):
    """Trains a detector from scratch; see `Engine`.

    Its signals are the loss of each image, how unsure the detector is of what it finds, and the
    deepest features of the backbone.
    """

    model: Detector
    data: DetectionData
    recipe: DetectionRecipe

    @property
    def metric(self) -> Metric:
        """MAP as COCO defines it."""
        return MAP

    def take_data(self) -> int:
        """Leave out what is not kept."""
        recipe = self.recipe
        self.labels = self.true_labels = None  # images have no class
        if recipe.keep_index is not None:
            path, data = Path(recipe.keep_index), self.data
            rows = kept_rows(path, data.num_train, data.num_trusted)
            self.data = data.at(torch.from_numpy(rows))
        data = self.data
        self.batches = BoxBatches(data, recipe, seed=self.config.seed, device=self.device)
        return checksum(data.train_images, *data.train_objects)

    def make_model(self) -> Detector:
        """The recipe's detector, freshly drawn from torch's global generator."""
        model = Detector(
            self.data.train_images.shape[1],
            len(self.data.class_names),
            width=int(self.recipe.model.removeprefix("detector-")),
        ).to(self.device)
        # The layout convolutions are fast in; torch's type stubs leave this overload out.
        return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def options(self, selector: str) -> dict[str, Any]:
        """The trusted samples."""
        del selector
        rows = self.data.trusted(self.recipe)
        return {} if rows is None else {"trusted": rows}

    def inputs(self, index: Tensor, *, epoch: int) -> Inputs:
        """Images, boxes and classes."""
        images, objects = self.batches.training(index, epoch=epoch)
        return images, *objects

    def show(self, model: nn.Module, inputs: Inputs) -> Shown:
        """Losses, uncertainty and features of images."""
        images, boxes, classes = inputs
        outputs: Outputs = model(images)
        signals = {
            "uncertainty": uncertainty_of(outputs.logits.detach()),
            "features": outputs.features.detach(),
        }
        return Shown(image_losses(outputs, Objects(boxes, classes)), signals)

    def goodness(self, index: Tensor) -> Tensor:
        """The lower of precision and recall."""
        images, objects = self.batches.training(index, epoch=None)
        return sufficiency(objects, detect(self.model(images)))

    def evaluate(self, limit: int | None = None) -> dict[str, Any]:
        """The mean loss of images, mAP and mAP50 in percent; ranks share the images."""
        share_buffers(self.model)
        count = min(limit or self.data.num_eval, self.data.num_eval)
        parts: list[tuple[Found, Objects]] = []
        loss_sum = 0.0
        with self.evaluating():
            for batch in torch.arange(count).split(self.eval_batch):
                index = batch.tensor_split(distributed.world_size())[distributed.rank()]
                images, objects = self.batches.evaluation(index)
                outputs = self.model(images)
                loss_sum += float(image_losses(outputs, objects).sum())
                parts.append((detect(outputs), objects))
        (loss_sum,) = added_up(loss_sum)
        found, objects = (_joined(part) for part in zip(*parts, strict=True))
        precision = average_precision(
            Objects(*objects), Found(*found), num_classes=len(self.data.class_names)
        )
        return {
            "loss": loss_sum / count,
            MAP.name: precision.mean,
            MAP50.name: precision.at_half,
            "class_accuracy": precision.by_class,
        }

    def facts(self, last: Mapping[str, Any]) -> dict[str, Any]:
        """What the result says about images with boxes."""
        trusted = self.selector.trusted
        half = {"value": last[MAP50.name], "unit": MAP50.unit, "direction": MAP50.direction}
        return {
            "evaluation": self.data.evaluation,
            "num_noisy_labels": 0,
            "num_trusted_rows": 0 if trusted is None else int(trusted.sum()),
            "further_metrics": {MAP50.name: half},
        }


def _joined(parts: Any) -> list[Tensor]:
    """Rows of all batches and ranks, on the CPU; a collective call."""
    rows = [torch.cat(column).cpu() for column in zip(*parts, strict=True)]
    return list(distributed.gather_rows(*rows))
