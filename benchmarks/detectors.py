"""What reading each image's loss costs a detector of transformers, in operations that are counted.

python benchmarks/detectors.py               # table, and benchmarks/results/detectors.json

Counted is what a training step dispatches, forward and backward, alone and read by
`DetectorLosses` once its terms agreed: no times, so that a busy machine gives the same.
"""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from detectors import target  # noqa: E402

from data_agent.losses import DetectorLosses  # noqa: E402
from data_agent_lab.runs.environment import describe_environment  # noqa: E402

SIDE, BATCH, BOXES = 64, 16, 7  # the number of operations does not depend on the images' size


class Counting(TorchDispatchMode):
    """Counts what is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the call, and make it."""
        self.number += 1
        return func(*args, **(kwargs or {}))


def detr() -> Any:
    """ResNet-50, six layers with auxiliary losses."""
    backbone = transformers.ResNetConfig(out_features=["stage4"])
    config = transformers.DetrConfig(backbone_config=backbone, num_labels=80, auxiliary_loss=True)
    return transformers.DetrForObjectDetection(config)


def yolos() -> Any:
    """YOLOS-tiny: twelve layers."""
    sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    config = transformers.YolosConfig(**sizes, image_size=[SIDE, SIDE], num_labels=3)
    return transformers.YolosForObjectDetection(config)


def rt_detr() -> Any:
    """ResNet-18, three layers with denoising queries."""
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[128, 256, 512],
        num_labels=80,
        decoder_layers=3,
        num_queries=80,
    )
    return transformers.RTDetrForObjectDetection(config)


def operations(model: Any, images: Tensor) -> int:
    """What a training step dispatches; noise of denoising queries is always the same."""
    torch.manual_seed(0)
    model.zero_grad(set_to_none=True)
    draws = torch.Generator().manual_seed(0)
    labels = [target(BOXES, draws) for _ in range(len(images))]
    with Counting() as counting:
        model(pixel_values=images, labels=labels).loss.backward()
    return counting.number


def measure(make: Callable[[], Any]) -> dict[str, int]:
    """Operations of a step alone, and read."""
    model = make().train()
    images = torch.randn(BATCH, 3, SIDE, SIDE)
    operations(model, images)  # what is made once, as anchors
    alone = operations(model, images)
    reader = DetectorLosses(model)
    operations(model, images)  # in which its terms are compared with the plain way
    read = operations(model, images)
    reader.remove()
    return {"alone": alone, "read": read}


def main() -> None:
    """Count, print a table, write JSON."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = {make.__name__: measure(make) for make in (detr, yolos, rt_detr)}
    for name, row in rows.items():
        print(f"{name:10s} alone {row['alone']:6,}  read {row['read']:6,}")
    environment = describe_environment("cpu") | {"transformers": transformers.__version__}
    result = {"environment": environment, "batch": BATCH, "operations": rows}
    path = ROOT / "benchmarks" / "results" / "detectors.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
