"""The models of the lab: a small convolutional net and ResNets for small images.

The ResNets are those of He et al. 2016 (arXiv 1512.03385) in the form usual for CIFAR: a 3x3
stem without pooling. `resnet-18/34/50` have four stages, `resnet-small` three with one block each,
`resnet-tiny` the same behind a stem that halves the image: a quarter of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from data_agent_lab.image_models import check_model


class Network(nn.Module):
    """A body that turns images `[B, C, H, W]` into features `[B, num_features]`, and a head."""

    def __init__(self, body: nn.Module, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, num_classes]` of images `[B, C, H, W]`."""
        return self.head(self.body(images))


class Block(nn.Module):
    """`relu(branch(x) + shortcut(x))` with `expansion * width` output channels.

    The branch has two convolutions, or as a bottleneck, where it expands, three.
    """

    def __init__(self, width_in: int, width: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        width_out = expansion * width
        if expansion == 1:
            layers = [conv_norm(width_in, width, stride=stride), nn.ReLU(), conv_norm(width, width)]
        else:
            layers = [
                conv_norm(width_in, width, kernel=1),
                nn.ReLU(),
                conv_norm(width, width, stride=stride),
            ]
            layers += [nn.ReLU(), conv_norm(width, width_out, kernel=1)]
        self.branch = nn.Sequential(*layers)
        self.shortcut = nn.Identity()
        if stride != 1 or width_in != width_out:
            self.shortcut = conv_norm(width_in, width_out, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways."""
        return (self.branch(x) + self.shortcut(x)).relu()


def conv_norm(width_in: int, width_out: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, then batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(width_in, width_out, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width_out),
    )


def _resnet(
    num_blocks: Sequence[int], in_channels: int, width: int, *, stem: int = 1, expansion: int = 1
) -> tuple[nn.Module, int]:
    """`num_blocks[i]` blocks in stage i; widths double and sizes halve per stage."""
    layers: list[nn.Module] = [conv_norm(in_channels, width, stride=stem), nn.ReLU()]
    width_in = width
    for stage, count in enumerate(num_blocks):
        for position in range(count):
            stride = 2 if stage > 0 and position == 0 else 1
            layers.append(Block(width_in, width * 2**stage, stride=stride, expansion=expansion))
            width_in = expansion * width * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width_in


def _cnn(in_channels: int, width: int) -> tuple[nn.Module, int]:
    """Three convolutions, the image halved twice, with a little dropout."""
    body = nn.Sequential(
        *(conv_norm(in_channels, width), nn.ReLU()),
        *(conv_norm(width, 2 * width, stride=2), nn.ReLU(), nn.Dropout(0.1)),
        *(conv_norm(2 * width, 4 * width, stride=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    return body, 4 * width


_MakeBody = Callable[[int, int], tuple[nn.Module, int]]  # (in_channels, width) -> body, features
_ARCHITECTURES: Mapping[str, tuple[_MakeBody, int]] = {  # default channels of the first stage
    "cnn": (_cnn, 32),
    "resnet-tiny": (partial(_resnet, [1, 1, 1], stem=2), 16),
    "resnet-small": (partial(_resnet, [1, 1, 1]), 16),
    "resnet-18": (partial(_resnet, [2, 2, 2, 2]), 64),
    "resnet-34": (partial(_resnet, [3, 4, 6, 3]), 64),
    "resnet-50": (partial(_resnet, [3, 4, 6, 3], expansion=4), 64),
}


def build_model(
    name: str, *, in_channels: int, num_classes: int, image_size: int, width: int | None = None
) -> Network:
    """A freshly initialised model; its weights follow torch's global generator.

    Args:
        name: one of `image_models.IMAGE_MODELS`.
        in_channels: 1 for grey images, 3 for colour.
        num_classes: at least 2.
        image_size: side of the square images, in pixels.
        width: channels of the first stage; None is the model's own.

    Raises:
        InputError: an unknown name, images too small for the model, or a width too small for it.
    """
    check_model(name, image_size=image_size, width=width)
    make_body, default_width = _ARCHITECTURES[name]
    body, num_features = make_body(in_channels, width or default_width)
    return Network(body, num_features, num_classes)
