"""What is read from a Trainer's batches: the scale of the loss, features, and chosen rows."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from data_agent.errors import InputError
from data_agent.loading.collating import INDEX_KEY, CollateWithIndex, IndexedSample, with_index
from data_agent.losses import IGNORED_PIXEL, DetectorLosses, SampleLosses
from data_agent.selecting.feedback import Feedback
from data_agent.selecting.selector import Selector
from data_agent.selecting.taps import HeadTap

_NO_HEADS = ("lora_", "auxiliary_head")
RECHECK = 100  # batches between two comparisons that wait for the host, once it is known


class LossScale:
    """The factor between the sum of a batch's terms and the loss that a Trainer made of them.

    Transformers divides either by the number of terms of this batch or by that of all batches of a
    step (`num_items_in_batch`), and its models do not say which: it is found by comparison, which
    also proves that our terms are those of the Trainer's loss. It is made on each of the first
    batches until one of them can tell; after that on any with a class that was not yet compared
    with the others, whose weight may be another one, on the 2nd, 4th, 8th ... and each 100th; and
    always on single samples and where samples are weighed. It waits for the host.

    Args:
        accumulation: batches of a step.
        ranks: processes over which the terms of a step are counted; DDP averages their gradients.
        router_loss: what a mixture of experts multiplies the loss of its router by.
    """

    def __init__(self, accumulation: int, *, ranks: int = 1, router_loss: float = 0.0) -> None:
        self._accumulation = accumulation
        self._ranks = ranks
        self._router_loss = router_loss
        self._found: int | None = None
        self._has_told = False
        self._compared: list[set[int]] = []
        """Classes that were in one batch, or in batches with a class in common, that told."""
        self._num_batches = 0

    def of(
        self,
        loss: Tensor,
        samples: SampleLosses,
        outputs: Any,
        num_items: Any,
        *,
        total: Tensor,
        always: bool,
    ) -> Tensor:
        """The factor, a scalar, between the sum of terms `total` and a loss; refuses others."""
        ranks, loss = (1 if num_items is None else self._ranks), loss.detach()
        scales = [ranks / samples.counts.sum().clamp(min=1)]
        if samples.are_parts:
            scales = [torch.ones_like(scales[0])]
        elif num_items is not None:
            scales.append(ranks / torch.as_tensor(num_items, device=loss.device))
        router = outputs.get("aux_loss") if isinstance(outputs, Mapping) else None
        extra = 0.0 if router is None else ranks * (self._router_loss * router.detach())
        expected = [total.detach() * scale + extra for scale in scales]
        found = self.find(loss, expected, samples, always=always, logits=_dtype_of_logits(outputs))
        if found is None:
            nearest = min((float(value) for value in expected), key=lambda v: abs(v - float(loss)))
            raise InputError(
                f"the Trainer's loss is {float(loss):.6g}, but the terms that we read from the "
                f"{'model' if samples.are_parts else 'logits'} come to {nearest:.6g}: "
                "it trains on another objective. "
                "Override compute_sample_losses(inputs, outputs) to return the terms of that "
                "objective; or switch off the model's auxiliary head, if it has one"
                f"{'; or take a method without weights' if always else ''}."
            )
        return scales[found]

    def find(
        self,
        loss: Tensor,
        expected: list[Tensor],
        samples: SampleLosses,
        *,
        always: bool,
        logits: torch.dtype = torch.float32,
    ) -> int | None:
        """Which of `expected`, one for each factor that there may be, is the loss; None if none.

        Of `logits` in half precision a model may make its terms without casting them up, though
        their sum is a float32: where nothing is the loss at its own precision, theirs counts.
        """
        number, self._num_batches = self._num_batches, self._num_batches + 1
        is_open = number < RECHECK and not self._has_told
        is_turn = number % RECHECK == 0 or number & (number - 1) == 0
        is_due = always or is_open or is_turn or self._brings_new(samples)
        # A loss that is not finite is refused by the selector.
        if not (is_due and torch.isfinite(loss) and torch.isfinite(expected[0])):
            return self._found or 0
        candidates = range(len(expected)) if self._found is None else [self._found]
        tolerance = _tolerance(loss.dtype)
        fitting = [i for i in candidates if is_close(expected[i], loss)]
        if not fitting and _tolerance(logits) > tolerance:
            tolerance = _tolerance(logits)
            fitting = [i for i in candidates if is_close(expected[i], loss, tolerance)]
        if not fitting:
            return None
        if self._accumulation == 1 or len(fitting) < len(expected):
            self._found = fitting[0]
        if self._found is not None and tells(samples, tolerance):
            self._has_told = True
            self._note_classes(_classes(samples))
        return fitting[0]

    def _brings_new(self, samples: SampleLosses) -> bool:
        """Whether a wrong weight could show here that could not show before."""
        if len(samples.counts) == 1:
            return True
        if samples.labels is None or samples.logits is None:
            return False
        if any(len(group) == samples.logits.shape[-1] for group in self._compared):
            return False  # all classes: no need to look, which would wait for an accelerator
        classes = _classes(samples)
        return not any(classes <= group for group in self._compared)

    def _note_classes(self, classes: set[int]) -> None:
        touched = [group for group in self._compared if group & classes]
        others = [group for group in self._compared if not group & classes]
        self._compared = [*others, classes.union(*touched)]


def _classes(samples: SampleLosses) -> set[int]:
    if samples.labels is None:
        return set()
    return set(samples.labels[samples.counts.to(samples.labels.device) > 0].tolist())


def tells(samples: SampleLosses, tolerance: float = 1e-4) -> bool:
    """Whether another objective would show in this batch's mean loss.

    It need not where all samples have one loss (a new head that is zero) or one class, whose
    weight then cancels. Waits for the host.
    """
    counts = samples.counts > 0
    losses = samples.losses.detach()[counts]
    if len(losses) < 2 or losses.max() - losses.min() <= 10 * tolerance * losses.abs().max():
        return False
    if samples.labels is None:
        return True
    labels = samples.labels.to(counts.device)[counts]
    return bool(labels.min() != labels.max())


def is_close(sum_of_terms: Tensor, loss: Tensor, tolerance: float | None = None) -> bool:
    """Equal up to the order of summation, or up to rounding where the loss is in half precision."""
    tolerance = _tolerance(loss.dtype) if tolerance is None else tolerance
    return bool(torch.isclose(sum_of_terms.float(), loss.float(), rtol=tolerance, atol=1e-6))


def _tolerance(dtype: torch.dtype) -> float:
    return 1e-4 if dtype in (torch.float32, torch.float64) else 2e-2


def _dtype_of_logits(outputs: Any) -> torch.dtype:
    """Of a model's output; float32 where it has no logits."""
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
    return logits.dtype if isinstance(logits, Tensor) else torch.float32


def smoothed_sum(
    smoother: Any, outputs: Any, labels: Tensor, samples: SampleLosses, *, shift: bool
) -> Tensor:
    """The sum of a batch's terms as the Trainer smooths labels."""
    return smoother(outputs, labels, shift_labels=shift) * samples.counts.sum().clamp(min=1)


class CollateMapping(CollateWithIndex):
    """As `CollateWithIndex`, for models that take their arguments by name."""

    def __call__(self, samples: list[Any]) -> Any:
        """The batch, with the index under "sample_index".

        Raises:
            InputError: the collator made no mapping, and as `CollateWithIndex`.
        """
        batch = super().__call__(samples)
        if not isinstance(batch, MutableMapping):
            raise InputError(
                f"the data collator made a {type(batch).__name__}, but a Trainer's batch must be a "
                "dict: the model's arguments, its labels and the samples' index go by their names. "
                "Of pairs: data_collator=lambda rows: {'input_ids': torch.stack([x for x, _ in "
                "rows]), 'labels': torch.stack([y for _, y in rows])}."
            )
        return cast("Any", batch)


class CollateWithIndexArray(CollateMapping):
    """The index as an array: Accelerate moves tensors to the device, and it is needed here."""

    def __call__(self, samples: list[Any]) -> Any:
        batch = super().__call__(samples)
        batch[INDEX_KEY] = batch[INDEX_KEY].numpy()
        return batch


class CollateCarried:
    """Calls a collator that carries the index itself, for data that are an `IndexedDataset`.

    Args:
        collate_fn: list of samples that have their index -> mapping that has it.
        prepare: what is done to each sample before it gets its index, if anything.
    """

    def __init__(
        self,
        collate_fn: Callable[[list[Any]], Any],
        prepare: Callable[[Any], Any] | None = None,
    ) -> None:
        self._collate_fn = collate_fn
        self._prepare = prepare

    def __call__(self, samples: list[IndexedSample]) -> Any:
        """The batch, with the index as an array.

        Raises:
            InputError: the collator left the index behind.
        """
        prepare = self._prepare
        batch = self._collate_fn(
            [with_index(prepare(plain) if prepare else plain, index) for plain, index in samples]
        )
        if not isinstance(batch, MutableMapping) or INDEX_KEY not in batch:
            raise InputError(
                "train_dataset is an IndexedDataset, but the data collator made a batch without "
                f"{INDEX_KEY!r}. Let it collect that of the samples that it keeps, int64 [B], or "
                "pass the dataset itself."
            )
        batch[INDEX_KEY] = torch.as_tensor(batch[INDEX_KEY]).numpy()
        return cast("Any", batch)


def labels_of(config: Any) -> dict[str, Any]:
    """What `sample_losses` must know of the labels that a model takes, by its config if it has one.

    Models of transformers with one output and no `problem_type` are regressions; most note it in
    their config at the first forward, some never do.
    """
    problem = getattr(config, "problem_type", None)
    is_single = problem is None and getattr(config, "num_labels", None) == 1
    return {
        "problem": "regression" if is_single else problem,
        "ignored_pixel": getattr(config, "semantic_loss_ignore_index", IGNORED_PIXEL),
    }


def find_head(model: nn.Module) -> nn.Module | None:
    """The layer that makes the logits: output embeddings, or one with an output for each label.

    It is linear, or a convolution where pixels have labels. Object detectors have none: their
    logits are of queries, of which each image has many. Adapters' own layers and auxiliary heads do
    not count; where a layer was copied to be trained (`modules_to_save`) the copy, which comes
    last, is the one that is called.
    """
    if is_detector(model):
        return None
    output_embeddings = getattr(model, "get_output_embeddings", None)
    head = output_embeddings() if callable(output_embeddings) else None
    if isinstance(head, nn.Module):
        return head
    num_labels = getattr(getattr(model, "config", None), "num_labels", None)
    heads = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and len(module.weight) == num_labels
        and not any(other in name for other in _NO_HEADS)
    ]
    return heads[-1] if heads else None


@contextmanager
def scoring(model: nn.Module, *readers: HeadTap | DetectorLosses | None) -> Generator[None]:
    """A model in evaluation mode and without gradients, whose forwards are read all the same.

    Without dropout, and without a trace in batch statistics.
    """
    model.eval()
    try:
        with torch.no_grad(), ExitStack() as stack:
            for reader in readers:
                stack.enter_context(nullcontext() if reader is None else reader.scoring())
            yield
    finally:
        model.train()


def is_detector(model: nn.Module) -> bool:
    """Whether a model of transformers computes the loss of an object detector."""
    name = getattr(getattr(model, "loss_function", None), "__name__", "")
    return name.endswith("ForObjectDetectionLoss")


def feedback_of(
    index: Tensor,
    samples: SampleLosses,
    inputs: Mapping[str, Any],
    *,
    tap: HeadTap | None,
    selector: Selector,
) -> Feedback:
    """What the selector learns from a batch; features are those that came, else the head's."""
    features = None if tap is None else tap.take_features()
    if samples.features is not None:
        features = samples.features
    elif features is None and selector.needs_features:
        raise InputError(
            f"{selector.name} sees each sample's feature, the input of the model's head, "
            f"and the head was {'not found' if tap is None else 'never called'}. Pass "
            "head=model.classifier (the layer whose output are the logits), switch off fused "
            "losses, or return features=[B, D] from compute_sample_losses."
        )
    elif features is not None and features.ndim == 4:
        features = features.mean((2, 3))
    elif features is not None and features.ndim == 3:
        mask = inputs.get("attention_mask") if samples.mask is None else samples.mask
        features = pool(features, mask)
    elif features is not None and samples.logits is not None:
        size, choices = len(samples.losses), samples.logits.shape[-1]
        if len(features) == size * choices:  # multiple choice: the head sees each of them
            features = features.unflatten(0, (size, choices)).mean(1)
    return Feedback(
        index,
        samples.losses,
        logits=samples.logits,
        features=features,
        labels=samples.labels,
        uncertainty=samples.uncertainty,
    )


def pool(features: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of features `[B, T, D]` over the positions in mask `[B, T]` (None: all): `[B, D]`."""
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


def rows_of(inputs: Mapping[str, Any], keep: Tensor) -> dict[str, Any]:
    """Of a batch's tensors `[P, ...]` and lists of P entries the rows that bool `[P]` marks.

    The rest stays as it is.
    """
    return {key: _rows(key, value, keep) for key, value in inputs.items()}


def _rows(key: str, value: object, keep: Tensor) -> Any:
    if isinstance(value, Mapping):
        return rows_of(cast("Mapping[str, Any]", value), keep)
    if isinstance(value, list) and len(rows := cast("list[Any]", value)) == len(keep):
        return [row for row, is_kept in zip(rows, keep.tolist(), strict=True) if is_kept]
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if len(value) != len(keep):
        raise InputError(
            f"choosing within a batch of {len(keep)} samples, but {key!r} has shape "
            f"{list(value.shape)}: its rows are not samples. Pad instead of packing them into one "
            "row, or take a method that selects epochs."
        )
    return value[keep.to(value.device)]
