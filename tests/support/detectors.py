"""The smallest detectors of transformers that train, from configuration; images with boxes."""

from typing import Any

import torch
import transformers
from torch import Tensor, nn

SIZE, CLASSES, QUERIES = 64, 3, 12


def _config(name: str, **options: Any) -> Any:
    return getattr(transformers, name)(**options)


def _resnet(kind: str = "ResNetConfig") -> Any:
    return _config(
        kind,
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )


def _hgnet() -> Any:
    return _config(
        "HGNetV2Config",
        stem_channels=[3, 8, 8],
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        stage_in_channels=[8, 8, 8, 8],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 8, 8, 8],
        stage_num_blocks=[1, 1, 1, 1],
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, False, False],
        stage_kernel_size=[3, 3, 3, 3],
        stage_numb_of_layers=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
        use_lab=True,
    )


_HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
_LAYERS = {"encoder_layers": 1, "decoder_layers": 3, "decoder_ffn_dim": 16, "encoder_ffn_dim": 16}
_DETR = {**_HEADS, **_LAYERS, "d_model": 16, "num_queries": QUERIES}
_RT_DETR = {
    **_DETR,
    "encoder_hidden_dim": 16,
    "encoder_in_channels": [8, 8, 8],
    "decoder_in_channels": [16, 16, 16],
    "num_denoising": 10,
}
_LW_DETR = {
    "d_model": 16,
    "projector_scale_factors": [1.0],
    "decoder_ffn_dim": 16,
    "decoder_layers": 2,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2,
    "num_queries": QUERIES,
    "group_detr": 2,
}


def _yolos() -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": [SIZE, SIZE],
        "num_detection_tokens": QUERIES,
        "auxiliary_loss": False,  # transformers 5.24 cannot compute it
    }


def _lw_detr() -> dict[str, Any]:
    backbone = _config(
        "LwDetrViTConfig",
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        window_block_indices=[0],
        out_indices=[1],
        num_windows=4,
        image_size=SIZE,
        pretrain_image_size=SIZE,
    )
    return {**_LW_DETR, "backbone_config": backbone}


def _rf_detr() -> dict[str, Any]:
    backbone = _config(
        "RfDetrDinov2Config",
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=1,
        patch_size=16,
        num_windows=2,
        image_size=SIZE,
        out_features=["stage2"],
    )
    return {**_LW_DETR, "backbone_config": backbone}


def _grounding_dino() -> dict[str, Any]:
    swin = _config(
        "SwinConfig",
        window_size=2,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        image_size=SIZE,
        out_indices=[2, 3, 4],
    )
    text = _config(
        "BertConfig",
        vocab_size=2048,  # of which 101, 102, 1012 and 1029 part a prompt
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
    )
    return {
        **_DETR,
        "d_model": 32,
        "num_feature_levels": 3,
        "backbone_config": swin,
        "text_config": text,
        "max_text_len": 8,
        "disable_custom_kernels": True,
    }


FAMILIES: dict[str, Any] = {
    "Detr": lambda: {**_DETR, "backbone_config": _resnet()},
    "Yolos": _yolos,
    "TableTransformer": lambda: {**_DETR, "backbone_config": _resnet()},
    "DeformableDetr": lambda: {
        **_DETR,
        "d_model": 32,
        "num_feature_levels": 3,
        "backbone_config": _resnet(),
        "disable_custom_kernels": True,
        "two_stage": True,
        "with_box_refine": True,
        "two_stage_num_proposals": QUERIES,
    },
    "ConditionalDetr": lambda: {**_DETR, "backbone_config": _resnet()},
    "DabDetr": lambda: {
        **{name: value for name, value in _DETR.items() if name != "d_model"},
        "hidden_size": 16,
        "backbone_config": _resnet(),
    },
    "RTDetr": lambda: {**_RT_DETR, "backbone_config": _resnet("RTDetrResNetConfig")},
    "RTDetrV2": lambda: {**_RT_DETR, "backbone_config": _resnet("RTDetrResNetConfig")},
    "DFine": lambda: {**_RT_DETR, "backbone_config": _hgnet()},
    "Deimv2": lambda: {**_RT_DETR, "backbone_config": _hgnet()},
    "LwDetr": _lw_detr,
    "RfDetr": _rf_detr,
    "GroundingDino": _grounding_dino,
}


def detector(family: str, *, seed: int = 0, **changes: Any) -> Any:
    """A model in training mode, with auxiliary losses, and without dropout."""
    options = {"num_labels": CLASSES, "auxiliary_loss": True, **FAMILIES[family](), **changes}
    torch.manual_seed(seed)
    model: nn.Module = getattr(transformers, f"{family}ForObjectDetection")(
        _config(f"{family}Config", **options)
    )
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def inputs_of(family: str, *, counts: tuple[int, ...] = (2, 0, 5, 1)) -> dict[str, Any]:
    """A batch of one image for each number of boxes."""
    draws = torch.Generator().manual_seed(1)
    batch: dict[str, Any] = {
        "pixel_values": torch.randn(len(counts), 3, SIZE, SIZE, generator=draws),
        "labels": [target(count, draws) for count in counts],
    }
    if family == "GroundingDino":  # three classes of one word each, parted by full stops
        prompt = torch.tensor([101, 7, 1012, 8, 1012, 9, 1012, 102])
        batch["input_ids"] = prompt.expand(len(counts), -1)
    return batch


def target(count: int, draws: torch.Generator) -> dict[str, Tensor]:
    """Classes and boxes (middle, width and height, in shares of the image)."""
    middles = 0.3 + 0.4 * torch.rand(count, 2, generator=draws)
    sizes = 0.1 + 0.4 * torch.rand(count, 2, generator=draws)
    labels = torch.randint(CLASSES, (count,), generator=draws)
    return {"class_labels": labels, "boxes": torch.cat([middles, sizes], 1)}


class Shapes(torch.utils.data.Dataset):
    """Images of noise with bright rectangles, one class a colour; each fourth is empty."""

    def __init__(self, size: int = 24) -> None:
        draws = torch.Generator().manual_seed(2)
        self.rows = [self._row(i % 4, draws) for i in range(size)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.rows[i]

    @staticmethod
    def _row(count: int, draws: torch.Generator) -> dict[str, Any]:
        image, labels = 0.1 * torch.randn(3, SIZE, SIZE, generator=draws), target(count, draws)
        for colour, box in zip(labels["class_labels"], labels["boxes"], strict=True):
            middle, size = box[:2] * SIZE, box[2:] * SIZE
            (left, top), (right, bottom) = (middle - size / 2).int(), (middle + size / 2).int()
            image[colour, top:bottom, left:right] = 1
        return {"pixel_values": image, "labels": labels}


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    pixels = torch.stack([row["pixel_values"] for row in rows])
    return {"pixel_values": pixels, "labels": [row["labels"] for row in rows]}
