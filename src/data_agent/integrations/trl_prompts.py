"""TRL's GRPO and RLOO with prompts that are chosen: `SelectiveGRPOTrainer`.

Prompts are chosen when a generation batch is due, by the model as it then is, and not when the
loader reads ahead. The loader still counts the steps; the prompts that it brings are put aside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Sized
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from data_agent.errors import InputError
from data_agent.prompts.methods import make_prompt_selector
from data_agent.prompts.selector import PromptSelector
from data_agent.runtime import distributed

try:
    from transformers import Trainer
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_trainer import RLOOTrainer

    from data_agent.integrations._prompts import (
        check_fits,
        load_prompts,
        prompt_features,
        save_prompts,
    )
except ImportError as error:
    raise ImportError(
        "data_agent.integrations.trl_prompts needs TRL 1.16 or newer and what it trains with, "
        f"which cannot be imported ({error}). In a checkout of "
        "data_agent: pip install '.[trl]'"
    ) from error

__all__ = [
    "SelectiveGRPOTrainer",
    "SelectivePromptsMixin",
    "SelectiveRLOOTrainer",
    "prompt_features",
]
_Base = GRPOTrainer if TYPE_CHECKING else object
Given = PromptSelector | Callable[..., PromptSelector] | str | None


def _is_in_front(mixin: type, order: tuple[type, ...]) -> bool:
    """Whether `mixin` comes before a trainer that rolls prompts out as we know it."""
    places = [order.index(kind) for kind in (GRPOTrainer, RLOOTrainer) if kind in order]
    return bool(places) and order.index(mixin) < min(places)


class SelectivePromptsMixin(_Base):
    """Lets a GRPOTrainer or RLOOTrainer choose its prompts: written first among the bases.

    Args:
        args: positional arguments of the trainer.
        selector: a method's name, see `PROMPT_METHODS`; a callable that is called with
            `num_prompts=`, `generations=`, `batch=` and `seed=`, such as
            `functools.partial(PromptAgent, pool=8)`; a `PromptSelector`; or None, which leaves the
            trainer as it is.
        features: "model", by a forward pass of the model in training over the candidates;
            floating `[N, F]`, a row for each prompt of train_dataset; or None, by past rewards
            alone.
        kwargs: further arguments of the trainer.

    Raises:
        InputError: arguments under which nothing could be chosen; the message says what to do.
    """

    prompt_selector: PromptSelector | None
    """Chooses; None where the trainer was left as it is."""

    args: Any

    def __init__(
        self,
        *args: Any,
        selector: Given = "prompt-agent",
        features: Tensor | np.ndarray | str | None = "model",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._generated_tokens = 0
        self._choosing_seconds = 0.0
        self.prompt_selector = None if selector is None else self._make_selector(selector)
        self._features = features
        if self.prompt_selector is not None:
            self._check_features()
            self._rows: Any = self.train_dataset
            if self.args.remove_unused_columns:
                self._rows = self._remove_unused_columns(self._rows, "Training")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if Trainer in order and not _is_in_front(SelectivePromptsMixin, order):
            raise InputError(
                f"{cls.__name__} cannot choose prompts: its bases are to be SelectivePromptsMixin "
                "first, and then a subclass of TRL's GRPOTrainer or RLOOTrainer."
            )

    # What the trainer calls.

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if self.prompt_selector is not None and self._is_training() and self._is_due():
            started = time.perf_counter()
            generation_batch = self._chosen_rows(self.prompt_selector)
            self._choosing_seconds = time.perf_counter() - started
        return super()._prepare_inputs(generation_batch)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        selector = self.prompt_selector
        if selector is None or selector.choice is None or not self._is_training():
            return rewards
        index = selector.choice.index
        selector.learn(
            index,
            rewards.view(len(index), selector.generations, -1),
            weights=self.reward_weights,
        )
        self._generated_tokens += distributed.total(sum(map(len, completion_ids_list)))
        self._note(selector)
        return rewards

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.prompt_selector is None:
            return
        buffers = None if self._begins_anew() else self._buffered_inputs
        state = {
            "selector": self.prompt_selector.state_dict(),  # a collective call
            "step": self._step,
            "generated_tokens": self._generated_tokens,
            "is_buffered": buffers is not None,
        }
        save_prompts(output_dir, self.accelerator.process_index, state, buffers)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.prompt_selector is None:
            return
        accelerator = self.accelerator
        state, buffers = load_prompts(
            checkpoint, accelerator.process_index, device=accelerator.device
        )
        self.prompt_selector.load_state_dict(state["selector"])
        self._step, self._buffered_inputs = int(state["step"]), buffers
        self._generated_tokens = int(state["generated_tokens"])

    # Choosing.

    def _is_training(self) -> bool:
        """By TRL's own rule, which also evaluates with this method."""
        return cast("nn.Module", self.model).training

    def _begins_anew(self) -> bool:
        """Whether the step at hand is the first of a generation."""
        return self._step % (self.args.steps_per_generation * self.num_iterations) == 0

    def _is_due(self) -> bool:
        """Whether TRL is about to generate, by its own rule."""
        return self._begins_anew() or self._buffered_inputs is None

    def _chosen_rows(self, selector: PromptSelector) -> list[dict[str, Any]]:
        """This process's rows of the batch that is chosen: each prompt once a completion."""
        if selector.choice is None:  # else rewards never came for it: the same prompts again
            index = selector.candidates()
            features = self._features_of(index) if selector.reads_features else None
            selector.choose(index, features)
        assert selector.choice is not None
        index = selector.choice.index.repeat_interleave(selector.generations)
        size = len(index) // self.accelerator.num_processes
        start = self.accelerator.process_index * size
        # TRL writes into the rows.
        return [dict(self._rows[place]) for place in index[start : start + size].tolist()]

    def _features_of(self, index: Tensor) -> Tensor | None:
        """float32 `[M, F]` of candidates, the same on every process."""
        if not isinstance(self._features, str):
            return None if self._features is None else self._features[index]
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        own = index.tensor_split(world)[rank].tolist()
        rows = self._features_of_rows([self._rows[place] for place in own])
        return distributed.gather_rows(rows)[0]

    def _features_of_rows(self, rows: Sequence[dict[str, Any]]) -> Tensor:
        model = self.accelerator.unwrap_model(self.model)
        if not rows:  # more processes than candidates
            width = 2 * cast("Any", model).config.get_text_config().hidden_size
            return torch.empty(0, width)
        token_ids, *_ = self._tokenize_prompts([row["prompt"] for row in rows])
        size = self.args.per_device_train_batch_size
        with self.accelerator.autocast():
            return prompt_features(model, token_ids, batch_size=size)

    def _note(self, selector: PromptSelector) -> None:
        """For the trainer's loggers."""
        told = selector.metrics()
        chosen = {
            "informative": told["informative"],
            "utility": told["utility"],
            "predicted_utility": told.get("predicted_utility"),
            "prediction_correlation": told.get("prediction_correlation"),
            "policy_decides": told.get("policy_decides"),
            "choosing_seconds": self._choosing_seconds,
        }
        metrics = self._metrics["train"]
        for name, value in chosen.items():
            if value is not None:
                metrics[f"prompts/{name}"].append(value)
        metrics["prompts/generated_tokens"] = [self._generated_tokens]
        metrics["prompts/share_seen"] = [told["share_seen"]]

    # Checks.

    def _make_selector(self, given: PromptSelector | Callable[..., PromptSelector] | str) -> Any:
        _refuse_what_cannot_be_chosen(self)
        args = self.args
        sizes: dict[str, Any] = {
            "num_prompts": len(cast("Sized", self.train_dataset)),
            "generations": self.num_generations,
            "batch": args.generation_batch_size // self.num_generations,
        }
        seed = args.seed if args.data_seed is None else args.data_seed
        made: Any = given
        if isinstance(given, str):
            made = make_prompt_selector(given, **sizes, seed=seed)
        elif not isinstance(given, PromptSelector) and callable(given):
            made = given(**sizes, seed=seed)
        if not isinstance(made, PromptSelector):
            raise InputError(
                f"selector is {given!r}; expected a name, a callable, a PromptSelector, or None."
            )
        check_fits(made, **sizes)
        return made

    def _check_features(self) -> None:
        features = self._features
        num_prompts = len(cast("Sized", self.train_dataset))
        if isinstance(features, np.ndarray):  # as sentence encoders return them
            self._features = features = torch.as_tensor(features)
        if isinstance(features, Tensor):
            if features.ndim != 2 or len(features) != num_prompts:
                raise InputError(
                    f"features are {list(features.shape)}; expected [{num_prompts}, F], a row for "
                    "each prompt of train_dataset."
                )
        elif features == "model":
            self._check_model_features()
        elif features is not None:
            raise InputError(f'features is {features!r}; expected "model", [N, F], or None.')

    def _check_model_features(self) -> None:
        columns = set(getattr(self.train_dataset, "column_names", None) or [])
        wrong = {
            "parameters are sharded over processes": (
                self.is_fsdp_enabled or self.is_deepspeed_enabled
            ),
            "prompts have images": self._is_vlm or bool(columns & {"image", "images"}),
            "an environment writes the prompts": (
                getattr(self, "environment_factories", None) is not None
            ),
        }
        for what, is_wrong in wrong.items():
            if is_wrong:
                raise InputError(
                    f'features="model" runs the model\'s body over prompts, but {what}. Hand over '
                    "features=[N, F], computed once (see prompt_features), or features=None, "
                    "by past rewards alone."
                )


class SelectiveGRPOTrainer(SelectivePromptsMixin, GRPOTrainer):
    """`trl.GRPOTrainer` that chooses its prompts; see `SelectivePromptsMixin` for its arguments."""


class SelectiveRLOOTrainer(SelectivePromptsMixin, RLOOTrainer):  # type: ignore[misc]
    """`trl.RLOOTrainer` that chooses its prompts; see `SelectivePromptsMixin` for its arguments."""


def _refuse_what_cannot_be_chosen(trainer: Any) -> None:
    dataset = trainer.train_dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise InputError(
            "train_dataset is a stream: prompts are chosen from a pool that is looked at by "
            "position. Make a datasets.Dataset of it (Dataset.from_list), or set selector=None."
        )
