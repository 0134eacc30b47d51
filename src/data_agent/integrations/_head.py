"""The feature of each sample: what goes into the model's last layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data_agent.errors import InputError


def find_head(model: nn.Module) -> nn.Module | None:
    """The layer that makes the logits: output embeddings, or one with an output for each label.

    Adapters' own layers do not count; where a layer was copied to be trained (`modules_to_save`)
    the copy, which comes last, is the one that is called.
    """
    output_embeddings = getattr(model, "get_output_embeddings", None)
    head = output_embeddings() if callable(output_embeddings) else None
    if isinstance(head, nn.Module):
        return head
    num_labels = getattr(getattr(model, "config", None), "num_labels", None)
    heads = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == num_labels
        and "lora_" not in name
    ]
    return heads[-1] if heads else None


def pool(features: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of features `[B, T, D]` over the positions in mask `[B, T]` (None: all), float `[B, D]`.

    Raises:
        InputError: features and mask are not about the same positions.
    """
    if mask is None:
        return features.mean(1)
    if features.shape[:2] != mask.shape:
        raise InputError(
            f"the head's input is about {list(features.shape[:2])} (rows, positions), the batch "
            f"about {list(mask.shape)}. Pass another head=, or override compute_sample_losses and "
            "return features=[B, D]."
        )
    share = mask / mask.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("bt,btd->bd", share.to(features.dtype), features)
