"""The image models by name, and which images they take. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping

from data_agent.errors import InputError
from data_agent_lab.rules import unknown

IMAGE_MODELS: Mapping[str, int] = {
    "cnn": 2,
    "resnet-tiny": 3,
    "resnet-small": 2,
    "resnet-18": 3,
    "resnet-34": 3,
    "resnet-50": 3,
}
"""By image model, how often it halves the side of its images."""

# torch 2.13 writes outside of its memory in the backward pass of a strided 1x1 convolution (a
# shortcut's, in the layout channels_last) of fewer channels than the processor handles at once:
# 16 with AVX-512, else 8.
LEAST_WIDTH = 16


def check_model(name: str, *, image_size: int, width: int | None = None) -> None:
    """Raise `InputError` for an unknown model, too small an image or too narrow a model."""
    if name not in IMAGE_MODELS:
        raise unknown("model", name, IMAGE_MODELS)
    least = 2 * 2 ** IMAGE_MODELS[name]
    if image_size < least:
        raise InputError(
            f"model {name!r} halves its images {IMAGE_MODELS[name]} times, which takes at least "
            f"{least} pixels; --image-size is {image_size}. Use larger images or a smaller model "
            "(cnn, resnet-small)."
        )
    if width is not None and width < LEAST_WIDTH and name != "cnn":
        raise InputError(
            f"--width is {width}; {name} needs at least {LEAST_WIDTH} channels. Use a larger "
            "width, or --model cnn."
        )
