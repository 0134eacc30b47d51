from __future__ import annotations

import pytest
import torch
from torch import nn

from data_agent import DataAgentError
from data_agent_lab.training.models import build_model


@pytest.mark.parametrize(
    ("name", "size", "channels", "num_features"),
    [
        ("cnn", 8, 1, 128),
        ("resnet-tiny", 16, 3, 64),
        ("resnet-small", 32, 3, 64),
        ("resnet-18", 16, 3, 512),
        ("resnet-50", 16, 1, 2048),
    ],
)
def test_the_head_sees_features_and_gives_logits(
    name: str, size: int, channels: int, num_features: int
) -> None:
    model = build_model(name, in_channels=channels, num_classes=7, image_size=size)
    seen: list[tuple[int, ...]] = []
    model.head.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    logits = model(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 7)
    assert seen == [(2, num_features)]
    assert isinstance(model.head, nn.Linear)


# Numbers of parameters as published for these ResNets on CIFAR-10: 11.17, 21.28 and 23.52 million.
@pytest.mark.parametrize(
    ("name", "millions"), [("resnet-18", 11.17), ("resnet-34", 21.28), ("resnet-50", 23.52)]
)
def test_the_resnets_have_the_published_sizes(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = build_model(name, in_channels=3, num_classes=10, image_size=32)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_width_sets_the_channels_of_the_first_stage() -> None:
    wide = build_model("resnet-small", in_channels=3, num_classes=10, image_size=32, width=24)
    assert wide.head.in_features == 96


def test_a_seed_gives_the_same_model_again() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        model = build_model("cnn", in_channels=1, num_classes=10, image_size=8)
        weights.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*weights)


def test_an_unknown_model_is_answered_with_those_there_are() -> None:
    with pytest.raises(
        DataAgentError, match=r"model 'vgg' is unknown.*cnn, resnet-tiny, resnet-small, resnet-18"
    ):
        build_model("vgg", in_channels=3, num_classes=10, image_size=32)


def test_images_too_small_for_a_model_are_refused() -> None:
    with pytest.raises(DataAgentError, match=r"takes at least 16 pixels; --image-size is 8"):
        build_model("resnet-18", in_channels=3, num_classes=10, image_size=8)


def test_a_resnet_too_narrow_for_torchs_kernels_is_refused() -> None:
    with pytest.raises(DataAgentError, match=r"--width is 4; resnet-small needs at least 16"):
        build_model("resnet-small", in_channels=1, num_classes=10, image_size=8, width=4)
