"""TRL's SFTTrainer with a selector: `SFTTrainer(...)` becomes `SelectiveSFTTrainer(...)`.

SFTTrainer computes log-probabilities and entropies token by token without ever holding logits. Both
are read from that one forward pass, on their way to its loss and its metrics.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sized
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from data_agent.errors import DataAgentWarning, InputError
from data_agent.integrations._batches import is_close, pool
from data_agent.losses import SampleLosses
from data_agent.selecting.selector import Selector
from data_agent.selecting.taps import HeadTap
from data_agent.trusted.rows import check_rows

try:
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer
    from trl.trainer.utils import FusedCausalLMOutput

    from data_agent.integrations.transformers import SelectiveTrainerMixin
except ImportError as error:
    raise ImportError(
        "data_agent.integrations.trl needs TRL 1.16 or newer and what it trains with, which cannot "
        f"be imported ({error}). In a checkout of "
        "data_agent: pip install '.[trl]'"
    ) from error

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["SampleLosses", "SelectiveSFTTrainer"]
LENGTHS_KEY = "sample_lengths"
_EMPTY_ROW = (
    "a row of train_dataset has no token that counts for the loss: it costs budget and teaches "
    "nothing. Remove rows whose labels behind the first are all -100 (an empty completion, a "
    "prompt as long as max_length)."
)


class SelectiveSFTTrainer(SelectiveTrainerMixin, SFTTrainer):
    """`trl.SFTTrainer` with a selector; see `SelectiveTrainerMixin` for its arguments.

    A sample is a row of `trainer.train_dataset`, which SFTTrainer prepares: under packing a pack.
    Its loss is the mean over its tokens that count, its feature the mean of what the model's head
    gets at these tokens. A row in which no token counts has loss zero, and a warning says so.

    For a subclass of SFTTrainer: `class MyTrainer(SelectiveSFTTrainer, TheirSFTTrainer)`.

    Raises:
        InputError: arguments under which selection would be wrong; the message says what to do.
    """

    args: SFTConfig
    _of_trl = SFTTrainer
    _lengths: list[int] | None = None
    """Tokens of each sample of the batch at hand, where the collator puts all into one row."""

    def compute_sample_losses(self, inputs: Mapping[str, Any], outputs: Any) -> SampleLosses:
        """Each sample's loss, from what SFTTrainer's fused head returned.

        That is "log_probs", "entropy" and "label_mask", `[B, T - 1]`, or `[1, T - 1]` of a
        padding-free batch, without a graph where `label_smoothing_factor` or `compute_loss_func`
        train on logits.
        """
        num_tokens, num_positions = inputs["input_ids"].shape[1], outputs.log_probs.shape[1] + 1
        if self._lengths is not None and num_positions != num_tokens:
            raise InputError(
                f"a padding-free batch of {num_tokens} tokens came to {num_positions} positions in "
                "the model: virtual tokens of prompt tuning would stand before its first sample "
                "only. Set padding_free=False and packing=False, or use LoRA."
            )
        terms = -outputs.log_probs
        if self.args.loss_type == "dft":
            terms = terms * outputs.log_probs.exp().detach()
        terms, mask, entropies = (
            _rows(values, self._lengths)
            for values in (terms, outputs.label_mask, outputs.entropy.detach())
        )
        counts = mask.sum(1)
        if not counts.all():  # waits for the host, as SFTTrainer's own metrics just did
            warnings.warn(_EMPTY_ROW, DataAgentWarning, stacklevel=2)
        vocabulary = cast("Any", self._inner_model()).config.get_text_config().vocab_size
        entropy = entropies.sum(1) / counts.clamp(min=1) / math.log(vocabulary)
        return SampleLosses(
            terms.sum(1),
            counts,
            uncertainty=entropy.clamp(0, 1),
            features=self._pooled(mask),
        )

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Takes the samples' index and lengths out of the batch, for `compute_loss` to use."""
        lengths = inputs.pop(LENGTHS_KEY, None)
        self._lengths = None if lengths is None else lengths.tolist()
        return super().training_step(model, inputs, *args, **kwargs)

    # What the mixin calls.

    def _get_dataloader(
        self, dataset: Any, description: str, *args: Any, is_training: bool = False, **options: Any
    ) -> Any:
        collator = self.data_collator
        if is_training and getattr(collator, "padding_free", False):
            self.data_collator = partial(_collate_with_lengths, collator)
        try:
            return super()._get_dataloader(
                dataset, description, *args, is_training=is_training, **options
            )
        finally:
            self.data_collator = collator

    def _prepared(self, dataset: Any) -> Any:
        if self._skip_prepare_dataset:
            return dataset
        check_rows(dataset, "trusted")
        if not isinstance(dataset, Dataset):  # a list of rows, as other Trainers take it
            dataset = Dataset.from_list([dataset[i] for i in range(len(dataset))])
        processing: Any = self.processing_class
        return self._prepare_dataset(
            *(dataset, processing, self.args, self.args.packing),
            *(self._formatting_func, "trusted"),
        )

    def _begin_run(self) -> Selector:
        given, dataset = self._given_selector, self.train_dataset
        num_rows = len(dataset) if isinstance(dataset, Sized) else None
        if num_rows and isinstance(given, Selector) and given.schedule.num_samples != num_rows:
            raise InputError(
                f"the selector was built for num_samples={given.schedule.num_samples}, but "
                f"SFTTrainer made {num_rows} rows of the dataset (packing joins samples, "
                "max_length removes those whose tokens all became prompt). Hand over a callable, "
                "which is told: selector=functools.partial(DataAgent, keep_ratio=0.5)."
            )
        return super()._begin_run()

    def _make_tap(self) -> HeadTap | None:
        model = cast("PreTrainedModel", self._inner_model())
        if self._given_head is None:
            return HeadTap(model.base_model, _read_last_hidden_state)
        if self._given_head is model.get_output_embeddings():
            raise InputError(
                "head= is the model's lm_head, which SFTTrainer's fused loss never calls. Leave it "
                "out: the feature is what would go into the lm_head."
            )
        return super()._make_tap()

    def _loss_and_outputs(self, model: nn.Module, inputs: Any, num_items: Any) -> Any:
        if not model.training:  # scoring a pool, which SFTTrainer would book as an evaluation
            return None, model(**inputs, fused_lm_head=True)
        seen: list[Any] = []

        def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            del module, inputs
            if isinstance(output, FusedCausalLMOutput):
                seen.append(output)

        handle = model.register_forward_hook(keep)
        try:
            loss = super(SelectiveTrainerMixin, self).compute_loss(
                model, inputs, num_items_in_batch=num_items
            )
        finally:
            handle.remove()
        if not seen:
            raise InputError(
                f"{type(self).__name__} computes its loss without SFTTrainer's fused head, so each "
                "sample's loss cannot be told. Call super().compute_loss(), or "
                "model(**inputs, fused_lm_head=True)."
            )
        return loss, seen[-1]

    def _scale(
        self,
        loss: Tensor,
        samples: SampleLosses,
        inputs: Mapping[str, Any],
        outputs: Any,
        num_items: Any,
        *,
        weighs: bool,
    ) -> Tensor | None:
        """The factor between the samples' terms and SFTTrainer's loss."""
        del inputs
        if not weighs:
            return None
        num_tokens = outputs.label_mask.sum() if num_items is None else num_items
        scale = 1 / torch.as_tensor(num_tokens, device=loss.device).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items is not None:
            scale = scale * self.accelerator.num_processes  # DDP averages gradients over them
        expected = samples.sums.detach().sum() * scale
        if self.aux_loss_enabled:
            steps = 1 if num_items is None else self.current_gradient_accumulation_steps
            expected = expected + self.router_aux_loss_coef * outputs.aux_loss.detach() / steps
        if not samples.sums.requires_grad or not is_close(expected, loss.detach()):
            raise InputError(
                f"the loss is {float(loss.detach()):.6g}, but SFTTrainer's token by token comes to "
                f"{float(expected):.6g}: label_smoothing_factor, compute_loss_func or a "
                "compute_loss of your own train on another objective, which cannot be weighed "
                "sample by sample. Leave them out, or take a method without weights."
            )
        return scale

    def _pooled(self, mask: Tensor) -> Tensor | None:
        """Of the last hidden states `[B, T, D]` the mean where mask `[B, T']` is true, `[B, D]`."""
        hidden = None if self._tap is None else self._tap.take_features()
        if hidden is None or hidden.ndim != 3:
            return hidden
        if self._lengths is None:
            return pool(hidden[:, : mask.shape[1]], mask)
        parts = hidden[0, : sum(self._lengths)].split(self._lengths)
        rows = zip(parts, mask, strict=True)
        return torch.cat([pool(part[None], row[None, : len(part)]) for part, row in rows])


def _collate_with_lengths(collator: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    """A batch whose samples lie in one row, with their lengths, int64 `[B]`."""
    batch = collator(samples)
    lengths = torch.tensor([len(sample["input_ids"]) for sample in samples])
    positions = batch["position_ids"][0]
    starts = lengths.cumsum(0) - lengths
    if lengths.sum() > len(positions) or positions[starts].any():
        raise InputError(
            f"{type(collator).__name__} put {len(samples)} rows of {lengths.tolist()} tokens into "
            f"one of {len(positions)}, in which they do not begin where they should. Truncate rows "
            "before the collator gets them."
        )
    batch[LENGTHS_KEY] = lengths.numpy()  # Accelerate moves tensors to the device
    return batch


def _read_last_hidden_state(inputs: tuple[Any, ...], output: Any) -> tuple[Tensor, None]:
    """Of the model's body: what it hands to its head, which a fused loss never calls."""
    del inputs
    return output.last_hidden_state, None


def _rows(values: Tensor, lengths: list[int] | None) -> Tensor:
    """One row a sample: `[B, T - 1]` as it is, `[1, T - 1]` cut into `[B, L]`, filled with zeros.

    Cut behind a sample's last token, whose prediction, the next sample's first, never counts.
    """
    if lengths is None:
        return values
    flat = F.pad(values[0], (0, 1))
    return pad_sequence(list(flat[: sum(lengths)].split(lengths)), batch_first=True)
