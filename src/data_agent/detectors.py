"""The loss of each image of a detector, read while the model computes the loss of the batch.

    reader = DetectorLosses(model)
    outputs = model(pixel_values=pixels, labels=targets)
    images = reader.take(outputs)
    agent.observe(Feedback(index, images.losses, features=images.features, uncertainty=...))
    outputs.loss.backward()

Transformers' detectors return one loss a batch, a weighted sum of terms. Their criterion matches
queries and boxes, and asks itself for every term of every layer:
`get_loss(name, outputs, targets, indices, num_boxes)`. That call is intercepted, and the term goes
on as a vector of the batch's value and its images', see `detector_terms`. The criterion weighs and
adds terms, so that its loss is such a vector too, and no weight, auxiliary layer or denoising query
must be known here. Nothing is matched twice, and nothing is exchanged between ranks.

The vector has two values an image, which differ by the image's share of a term:

- its part: the parts of all images add up to the loss of the batch;
- its own: the term as if the image were a batch of its own, whatever it came with.

A sum over boxes that is divided by the boxes of the batch (of all ranks, on several) has the share
`max(matches of the image, 1) / num_boxes`; a weighted mean over queries (the classes of DETR) the
image's weights over all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from data_agent.detector_terms import Matches, Term, Values, matched_queries, split
from data_agent.errors import InputError, StateError
from data_agent.losses import SampleLosses


@dataclass(frozen=True, slots=True, eq=False)
class _Forward:
    """What one training forward showed.

    Args:
        parts: float `[B]`, adding up to the batch's loss.
        own: float `[B]`, the loss of each image alone.
        uncertainty: float `[B]` in [0, 1].
        num_queries: of the last layer, without those for denoising.
    """

    parts: Tensor
    own: Tensor
    uncertainty: Tensor
    num_queries: int


class DetectorLosses:
    """Reads each image's loss, uncertainty and feature from a detector of transformers.

    Only forwards in training mode with gradients enabled are read, and within `scoring()` every
    one. What the model returns stays bitwise what it was.

    Args:
        model: a model whose `loss_function` ends in a criterion with `get_loss` and `matcher`:
            DETR, YOLOS, Table Transformer, Deformable, Conditional and DAB DETR, RT-DETR, D-FINE,
            DEIMv2, LW-DETR, RF-DETR, Grounding DINO. Of a model wrapped by DDP, FSDP or
            `torch.compile` the inner module.

    Raises:
        InputError: a model without a loss function of its own.
    """

    def __init__(self, model: nn.Module) -> None:
        self._theirs: Any = getattr(model, "loss_function", None)
        if not callable(self._theirs):
            raise InputError(
                f"DetectorLosses got a {type(model).__name__} without a loss_function. It reads "
                "detectors of transformers, not wrapped: model.module under DDP. For others hand "
                "losses=[B] to learn() yourself, see docs/detection.md."
            )
        self._model: Any = model
        self._forward: _Forward | None = None
        self._is_scoring = False
        self._agrees: dict[str, bool] = {}
        self.with_graph = False
        """Whether `sums` carry a graph, for methods that weigh samples; it costs memory."""
        self._was_set: Any = vars(model).get("_loss_function")
        self._model.loss_function = self._compute

    def remove(self) -> None:
        """Give the model its loss function back."""
        self._forward = None
        if self._was_set is not None:
            self._model.loss_function = self._was_set
        elif "_loss_function" in vars(self._model):
            del self._model._loss_function

    @contextmanager
    def scoring(self) -> Generator[None]:
        """Read forwards in evaluation mode and without gradients too."""
        self._is_scoring = True
        try:
            yield
        finally:
            self._is_scoring = False

    def take(self, outputs: Mapping[str, Any]) -> SampleLosses:
        """The images of the latest forward that was read, checked against the model's loss.

        Args:
            outputs: what that forward returned.

        Returns:
            `losses` float `[B]`, each image's own loss; `counts` float `[B]`, its share: `sums`,
            which are share times loss, add up to the loss of the batch. `uncertainty` `[B]` in
            [0, 1] is that of the classes of its matched queries, see `class_uncertainty`; boxes
            say nothing of how sure they are. `features` `[B, D]`, the mean of the last layer's
            query embeddings, where outputs have "last_hidden_state".

        Raises:
            StateError: no forward was read since the last call.
            InputError: the parts do not add up to the loss of `outputs`.
        """
        forward, self._forward = self._forward, None
        if forward is None:
            raise StateError(
                "the detector computed no loss in training mode since the last take(). Call "
                "model.train(), hand labels= (a list of dicts with class_labels and boxes) to the "
                "model, and take() once behind each forward."
            )
        _check_sum(forward, outputs.get("loss"))
        hidden, features = outputs.get("last_hidden_state"), None
        if isinstance(hidden, Tensor):  # queries come last: behind patches, and those for denoising
            features = hidden.detach()[:, -forward.num_queries :].float().mean(1)
        with torch.no_grad():
            nothing = forward.own == 0
            shares = torch.where(nothing, 0, forward.parts / forward.own.masked_fill(nothing, 1))
        return SampleLosses(
            forward.parts,
            shares,
            uncertainty=forward.uncertainty,
            features=features,
            are_parts=True,
        )

    def _compute(self, *args: Any, **kwargs: Any) -> Any:
        """The model's loss function, taken apart on its way."""
        is_training = self._model.training and torch.is_grad_enabled()
        if not (is_training or self._is_scoring):
            return self._theirs(*args, **kwargs)
        splitter = _Splitter(self._agrees, with_graph=self.with_graph)
        with splitter.intercepting():
            loss, terms, *others = self._theirs(*args, **kwargs)
        self._forward = splitter.forward(loss)
        whole = {name: term if term.ndim == 0 else term[0] for name, term in terms.items()}
        return loss[0], whole, *others


class _Splitter:
    """Makes vectors of the terms of one forward, and reads the classes' uncertainty on the way."""

    def __init__(self, agrees: dict[str, bool], *, with_graph: bool) -> None:
        self._agrees, self._with_graph = agrees, with_graph
        self._uncertainty: Tensor | None = None
        self._num_queries = 0

    @contextmanager
    def intercepting(self) -> Generator[None]:
        """Every criterion that is called has its `get_loss` wrapped, until the end."""
        wrapped: list[Any] = []

        def wrap(module: Any, _: Any) -> None:
            is_criterion = hasattr(module, "get_loss") and hasattr(module, "matcher")
            if is_criterion and module not in wrapped:
                wrapped.append(module)
                module.get_loss = partial(self._split, module, module.get_loss)

        # The criterion is made within the loss function, so it cannot be had before.
        handle = register_module_forward_pre_hook(wrap)
        try:
            yield
        finally:
            handle.remove()
            for module in wrapped:
                del module.get_loss

    def forward(self, loss: Tensor) -> _Forward:
        """What the vector `[1 + 2B]` that became of the loss says."""
        if self._uncertainty is None or loss.ndim != 1:
            raise InputError(
                "the model's loss was not computed by a criterion with get_loss and matcher, so "
                "the loss of each image cannot be told. Override compute_sample_losses(inputs, "
                "outputs), or hand losses=[B] to learn() yourself, see docs/detection.md."
            )
        parts, own = loss[1:].view(2, -1)
        parts = parts if self._with_graph else parts.detach()
        return _Forward(parts, own.detach(), self._uncertainty, self._num_queries)

    def _split(
        self,
        criterion: Any,
        get_loss: Callable[..., Values],
        name: str,
        outputs: Mapping[str, Any],
        targets: Sequence[Any],
        indices: Matches,
        num_boxes: float,
    ) -> Values:
        term = Term(get_loss, criterion, name, outputs, targets, indices, num_boxes)
        if self._uncertainty is None:  # the last layer comes first
            logits = outputs["logits"]
            self._num_queries = logits.shape[1]
            self._uncertainty = class_uncertainty(logits, indices, exclusive=term.is_mean)
        return split(term, self._agrees, with_graph=self._with_graph)


def class_uncertainty(logits: Tensor, indices: Matches, *, exclusive: bool) -> Tensor:
    """How unsure a detector is of the classes of an image's objects, float `[B]` in [0, 1].

    The mean over the queries that were matched to a box; of an image without boxes that of the
    query which is most sure of an object.

    Args:
        logits: `[B, Q, C]`.
        indices: of each image the matched queries and boxes.
        exclusive: whether softmax makes scores of the logits, the last of which is "no object"
            (DETR); a query then has their entropy over log C. Else sigmoid does, and it has the
            entropy of its highest score, in units of one fair coin.
    """
    with torch.no_grad():
        if exclusive:
            scores = logits.float().softmax(-1)
            doubts = torch.special.entr(scores).sum(-1) / math.log(scores.shape[-1])
            best = scores[..., :-1].amax(-1)
        else:
            best = logits.float().sigmoid().amax(-1)
            entropies = torch.special.entr(best) + torch.special.entr(1 - best)
            doubts = entropies / math.log(2)
        chosen = matched_queries(indices, best.shape[1], best.device)
        is_empty = ~chosen.any(1)
        chosen[is_empty, best.argmax(1)[is_empty]] = True
        return ((doubts * chosen).sum(1) / chosen.sum(1)).clamp(0, 1)


def _check_sum(forward: _Forward, loss: Any) -> None:
    """The parts must be those of the model's loss; the values are on the host by the matching."""
    if not isinstance(loss, Tensor):
        return
    came, expected = float(forward.parts.detach().sum()), float(loss.detach())
    slack = 1e-4 if loss.dtype in (torch.float32, torch.float64) else 2e-2
    if math.isfinite(expected) and abs(came - expected) > slack * max(abs(expected), 1e-2):
        raise InputError(
            f"the losses of the {len(forward.parts)} images come to {came:.6g}, but the model's "
            f"loss is {expected:.6g}: these outputs are of another forward, or a term of this "
            "model is no sum over images. Call take() right behind the forward; else override "
            "compute_sample_losses(inputs, outputs), or hand losses=[B] to learn() yourself."
        )
