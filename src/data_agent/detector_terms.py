"""One term of a detector's loss, taken apart into what each image adds to it.

Plainly, a criterion's `get_loss` is called once more for each image, with the matching that is
there: `Term.image_by_image`. On an accelerator those calls are most of what a step dispatches, so
where a term is one sum over boxes or over queries, what is summed is noted while the term of the
batch is computed, and added up by image instead: `Term.at_once`. It is used once it agreed with
the plain way (`split`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Matches = Sequence[tuple[Tensor, Tensor]]
"""For each image the queries and the boxes that belong together, int64 both."""

Values = dict[str, Tensor]
"""By the name of a term one value, `[]`, or one an image, `[B]`."""

Pairs = dict[str, tuple[Tensor, Tensor]]
"""By the name of a term each image's part of it, and its own value, `[B]` both."""


@dataclass(frozen=True)
class Term:
    """A call of `criterion.get_loss`, which may return several terms of one kind.

    Args:
        get_loss: the criterion's method.
        criterion: whose `eos_coef` weighs "no object" in a mean over queries (DETR).
        name: of the kind: "labels", "boxes", "vfl", "local", ...
        outputs: "logits" `[B, Q, C]`, "pred_boxes" `[B, Q, 4]` and what else the kind reads.
        targets: for each image its "class_labels" and "boxes".
        indices: for each image which queries and boxes were matched.
        num_boxes: what sums over boxes are divided by.
    """

    get_loss: Callable[..., Values]
    criterion: Any
    name: str
    outputs: Mapping[str, Any]
    targets: Sequence[Any]
    indices: Matches
    num_boxes: float

    def of_batch(self) -> tuple[Values, list[Tensor]]:
        """The terms of the batch, and all that was summed to a single number on the way."""
        with _Noting() as noting:
            terms = self._computed()
        return terms, noting.summed

    @property
    def size(self) -> int:
        """B, the number of images."""
        return len(self.indices)

    @property
    def is_mean(self) -> bool:
        """Whether the term is a weighted mean over all queries: the classes of DETR."""
        return self.name == "labels" and hasattr(self.criterion, "eos_coef")

    @cached_property
    def matches(self) -> Tensor:
        """Float `[B]`, how many queries of each image were matched to a box."""
        counts = [float(len(queries)) for queries, _ in self.indices]
        return torch.tensor(counts, device=self.outputs["logits"].device)

    @cached_property
    def shares(self) -> Tensor:
        """Float `[B]`, an image's part of the term over the term of the image alone."""
        if not self.is_mean:
            return self.matches.clamp(min=1) / self.num_boxes
        others = self.outputs["logits"].shape[1] - self.matches
        weights = self.matches + self.criterion.eos_coef * others
        return weights / weights.sum()

    def image_by_image(self) -> Pairs:
        """What each image adds, plainly, by a call for each image."""
        came = self._alone(self.outputs)
        if self.is_mean:
            return {key: (own * self.shares, own) for key, own in came.items()}
        pairs = {key: (parts, parts / self.shares) for key, parts in came.items()}
        if (own := came.get("loss_ddf")) is not None:
            matched = self._alone(_distilled_where_matched(self.outputs, self.indices))
            queries = self.outputs["logits"].shape[1]
            parts = _distilled_parts(own, matched["loss_ddf"], self.matches, queries)
            pairs["loss_ddf"] = parts, own
        return pairs

    def at_once(self, terms: Values, summed: Sequence[Tensor]) -> Pairs | None:
        """The same from what was summed for the batch's `terms`; None where that is not known."""
        is_by_match = self.name == "boxes"
        length = sum(len(queries) for queries, _ in self.indices) if is_by_match else self.size
        if len(terms) != len(summed) or any(len(rows) != length for rows in summed):
            return None
        pairs: Pairs = {}
        for (key, term), rows in zip(terms.items(), summed, strict=True):
            sums = rows.float().unsqueeze(1).flatten(1).sum(1)
            if is_by_match:  # no scatter, whose order of adding is not fixed on accelerators
                sums = (self._membership * sums).sum(1)
            total = sums.detach().sum()
            parts = sums * (term.detach() / total.masked_fill(total == 0, 1))
            pairs[key] = parts, parts / self.shares
        return pairs

    @cached_property
    def _membership(self) -> Tensor:
        """Float `[B, M]`: one where a match is of an image."""
        image = torch.repeat_interleave(torch.tensor([len(q) for q, _ in self.indices]))
        ones = image == torch.arange(self.size).unsqueeze(1)
        return ones.float().to(self.outputs["logits"].device)

    def _computed(self) -> Values:
        return self.get_loss(self.name, self.outputs, self.targets, self.indices, self.num_boxes)

    def _alone(self, outputs: Mapping[str, Any]) -> Values:
        """By name the terms of all images, `[B]`, one call for each."""
        rows: list[Values] = []
        for i in range(self.size):
            one = slice(i, i + 1)
            image = {  # tensors, and lists of one entry an image
                key: value[one]
                for key, value in outputs.items()
                if isinstance(value, Tensor | list | tuple) and len(value) == self.size
            }
            alone = replace(
                self, outputs=image, targets=self.targets[one], indices=self.indices[one]
            )
            rows.append(alone._computed())
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def split(term: Term, agrees: dict[str, bool], *, with_graph: bool) -> Values:
    """The terms of a batch, each with those of its images: `[1 + 2B]`, value, parts, own values.

    Args:
        term: what to compute.
        agrees: by kind of term, whether both ways gave the same parts; filled here.
        with_graph: whether parts carry a graph.
    """
    terms, summed = term.of_batch()
    if term.name == "cardinality":  # for logs: no part of the loss
        return terms
    with torch.set_grad_enabled(with_graph and torch.is_grad_enabled()):
        pairs = _of_images(term, terms, summed, agrees)
    return {
        key: torch.cat([value[None], *(of_images.to(value.dtype) for of_images in pairs[key])])
        for key, value in terms.items()
    }


def _of_images(
    term: Term, terms: Values, summed: Sequence[Tensor], agrees: dict[str, bool]
) -> Pairs:
    quick = term.at_once(terms, summed)
    if quick is not None and agrees.get(term.name):
        return quick
    plain = term.image_by_image()
    if quick is not None and sum(len(queries) > 0 for queries, _ in term.indices) > 1:
        agrees.setdefault(term.name, _are_close(quick, plain))
    return plain


def _are_close(some: Pairs, others: Pairs) -> bool:
    return all(torch.allclose(some[key][0], others[key][0].float(), 1e-3, 1e-6) for key in others)


class _Noting(TorchFunctionMode):
    """Keeps what is summed to a single number; of a mean cross entropy the weighted terms."""

    def __init__(self) -> None:
        super().__init__()
        self.summed: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Note the call, and make it."""
        options = dict(kwargs or {})
        if func is Tensor.sum and len(args) == 1 and not options:
            self.summed.append(args[0])
        elif func is F.cross_entropy and options.get("reduction") == "mean":
            self.summed.append(func(*args, **{**options, "reduction": "none"}))
        return func(*args, **options)


def matched_queries(indices: Matches, num_queries: int, device: torch.device) -> Tensor:
    """Bool `[B, Q]`: which queries were matched to a box."""
    chosen = torch.zeros(len(indices), num_queries, dtype=torch.bool)
    for row, (queries, _) in zip(chosen, indices, strict=True):
        row[queries.cpu()] = True
    return chosen.to(device)


def _distilled_where_matched(outputs: Mapping[str, Any], indices: Matches) -> dict[str, Any]:
    """Outputs whose queries without a box are their own teachers, so that these lose nothing."""
    own, teacher = outputs["pred_corners"], outputs["teacher_corners"]
    matched = matched_queries(indices, own.shape[1], own.device).unsqueeze(-1)
    return {**outputs, "teacher_corners": torch.where(matched, teacher, own)}


def _distilled_parts(
    values: Tensor, of_matched: Tensor, matches: Tensor, num_queries: int
) -> Tensor:
    """Each image's part of D-FINE's distillation, which is no sum over images.

    With the means p, n of its matched and other queries, and roots P, N of how many there are an
    image, the term is `(p P + n N) / (P + N)` (arXiv 2410.13842, decoupled distillation focal
    loss). An image adds its P_i² values to the P² of the mean p.

    Args:
        values: `[B]`, the term of each image alone.
        of_matched: `[B]`, the same where the other queries lose nothing.
        matches: `[B]`, matched queries of each image.
        num_queries: Q.
    """
    own = torch.stack([matches, num_queries - matches]).sqrt()  # [2, B]: P_i, N_i
    roots = own.square().mean(1, keepdim=True).sqrt()
    sums = torch.stack([of_matched, values - of_matched]) * own.sum(0) * own
    return (sums / roots.clamp(min=1e-12)).sum(0) / roots.sum() / len(matches)
