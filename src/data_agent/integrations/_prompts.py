"""What a trainer that chooses prompts needs: features of prompts, and what a checkpoint forgets."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.trainer_utils import unwrap_peft_model

from data_agent.errors import CheckpointError, InputError
from data_agent.prompts.selector import PromptSelector
from data_agent.runtime import checkpoint as files

STATE_FILE = "data_agent_prompts.safetensors"


@torch.no_grad()
def prompt_features(
    model: nn.Module, token_ids: Sequence[Sequence[int]], *, batch_size: int
) -> Tensor:
    """What a causal model makes of prompts, without generation: float32 `[M, 2 H]` on the host.

    Last hidden states: of a prompt's last token, from which its answer begins, and the mean over
    all of them. The model is in evaluation mode meanwhile.

    Args:
        model: a causal language model of Transformers, or an adapter around one.
        token_ids: of each prompt.
        batch_size: prompts in a forward pass.

    Raises:
        InputError: the model's body does not return last hidden states.
    """
    body = _body_of(model)
    device = next(body.parameters()).device
    order = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
    rows: list[Tensor] = []
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            part = [torch.tensor(token_ids[i]) for i in order[start : start + batch_size]]
            rows.append(_summary(body, part, device))
    place = torch.tensor(order).argsort()
    return torch.cat(rows)[place]


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Evaluation mode in the block; afterwards each module is in the mode in which it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def save_prompts(folder: str, rank: int, state: dict[str, Any], buffers: Any) -> None:
    """Write what is one for all ranks, and each rank's generation that is still in use.

    Args:
        folder: of the checkpoint.
        rank: this process; the first one writes the state.
        state: of the selector and the trainer's counters.
        buffers: the batches of a generation, or None where the next step makes a new one.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    if rank == 0:
        files.save(Path(folder) / STATE_FILE, state)
    if buffers is not None:
        files.save(_buffer_file(folder, rank), {"batches": buffers})


def load_prompts(folder: str, rank: int, *, device: torch.device) -> tuple[dict[str, Any], Any]:
    """What `save_prompts` wrote: the state, and this rank's buffers on `device` or None.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no {STATE_FILE}: a trainer that chooses no prompts saved it. Resume "
            "with selector=None, or load the model's weights alone."
        )
    state = files.load(path)
    if not state["is_buffered"]:
        return state, None
    if not (path := _buffer_file(folder, rank)).is_file():
        raise CheckpointError(
            f"{folder} holds no {path.name}, the generation that this process was training on. "
            "Resume with as many processes as the interrupted run had."
        )
    return state, _moved(files.load(path)["batches"], device)


def check_fits(selector: PromptSelector, *, num_prompts: int, generations: int, batch: int) -> None:
    """Refuse a selector that was made for another data set or other generation batches."""
    own = (selector.num_prompts, selector.generations, selector.batch)
    if own != (num_prompts, generations, batch):
        raise InputError(
            f"the selector was built for num_prompts={own[0]}, generations={own[1]} and "
            f"batch={own[2]}, but the trainer has {num_prompts} prompts, num_generations="
            f"{generations} and {batch} prompts in a generation batch. Use these numbers, or hand "
            "over a callable that is told them: selector=functools.partial(PromptAgent, pool=8)."
        )


def _body_of(model: nn.Module) -> nn.Module:
    """A causal model without its head, adapters inside."""
    inner = cast("Any", unwrap_peft_model(cast("Any", model)))
    body = getattr(inner, "base_model", inner)
    if body is inner:
        raise InputError(
            f"{type(inner).__name__} has no base_model whose hidden states could be read. Hand "
            "over features=[N, F] of your own, or features=None."
        )
    return body


def _summary(body: nn.Module, prompts: list[Tensor], device: torch.device) -> Tensor:
    """float32 `[B, 2 H]` of prompts, int64 `[T]` each."""
    lengths = torch.tensor([len(ids) for ids in prompts], device=device)
    padded = pad_sequence(prompts, batch_first=True).to(device)  # behind, where nobody looks
    mask = torch.arange(padded.shape[1], device=device) < lengths.unsqueeze(1)
    outputs = body(input_ids=padded, attention_mask=mask.long(), use_cache=False)
    hidden = outputs.last_hidden_state.float()
    last = hidden[torch.arange(len(prompts), device=device), lengths - 1]
    mean = (hidden * mask.unsqueeze(2)).sum(1) / lengths.unsqueeze(1)
    return torch.cat([last, mean], 1).cpu()


def _buffer_file(folder: str, rank: int) -> Path:
    return Path(folder) / f"data_agent_generation_{rank}.safetensors"


def _moved(value: Any, device: torch.device) -> Any:
    """Nested tensors on `device`, in memory of their own."""
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        moved: Iterable[Any] = (_moved(item, device) for item in value)
        return type(value)(moved)
    return value
