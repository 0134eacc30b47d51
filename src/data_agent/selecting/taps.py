"""Reading features and logits where the model computes them: a hook on its last layer."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_agent.errors import InputError, StateError
from data_agent.selecting.feedback import Feedback

NUM_LOOKS = 8  # batches on an accelerator after which no single output is looked at any more

Read = Callable[[tuple[Any, ...], Any], tuple[Any, Any]]
"""What a forward shows, `(inputs, output) -> (features, logits)`; what is no tensor is not kept."""


def read_head(inputs: tuple[Any, ...], output: Any) -> tuple[Any, Any]:
    """Of a model's last layer: its input and its output."""
    return (inputs[0] if inputs else None), output


class HeadTap:
    """Keeps what the latest training forward of one module shows: features and logits.

    Only forwards in training mode with gradients enabled are kept; evaluation leaves no trace, and
    neither does the second forward of gradient checkpointing, which runs inside backward. Within
    `scoring()` every forward is kept.

    Args:
        module: the model's last layer. Of a model wrapped by DDP, FSDP or `torch.compile`, the
            inner module (`model.module.fc`, `model.fc`).
        read: how features and logits are found in a forward.

    Raises:
        InputError: not a module, or one whose forwards run on replicas.
    """

    def __init__(self, module: object, read: Read = read_head) -> None:
        if not isinstance(module, nn.Module):
            raise InputError(f"watch() takes a module, got {type(module).__name__}.")
        if isinstance(module, nn.DataParallel):
            raise InputError(
                "watch() got a DataParallel module: its replicas run outside of the module that "
                "you hold. Use DistributedDataParallel (torchrun), or hand features= and logits= "
                "to learn() and leave out watch()."
            )
        self._read = read
        self._single_output = _SingleOutput()
        self._features: Tensor | None = None
        self._logits: Tensor | None = None
        self._num_forwards = 0
        self._is_scoring = False
        self._handle = module.register_forward_hook(self._keep)

    def remove(self) -> None:
        """Detach the hook; the module is as it was."""
        self._handle.remove()
        self.forget()

    def forget(self) -> None:
        """Drop what was kept."""
        self._features = self._logits = None
        self._num_forwards = 0

    @contextmanager
    def scoring(self) -> Generator[None]:
        """Keep forwards in evaluation mode and without gradients too."""
        self._is_scoring = True
        try:
            yield
        finally:
            self._is_scoring = False

    def take_features(self) -> Tensor | None:
        """The features of the latest forward since the last call, of any shape; None without."""
        features = self._features
        self.forget()
        return features

    def complete(self, feedback: Feedback) -> Feedback:
        """The feedback with what it lacks of features and logits, from the one forward kept.

        A head with a single output is read as the logit of two classes where the losses are binary
        cross entropy of it; else it tells no uncertainty, and no logits are added. What came in the
        feedback is never replaced, and nothing is demanded of the forward that is not needed.

        Raises:
            StateError: no forward was kept, or more than one.
            InputError: the forward had another batch size, or its tensors are not `[B, width]`.
        """
        features, kept, num_forwards = self._features, self._logits, self._num_forwards
        self.forget()
        needs_logits = feedback.logits is None and feedback.uncertainty is None
        if feedback.features is None or needs_logits:
            _check_number(num_forwards)
        if feedback.features is None:
            _check_captured("input (features)", features, len(feedback))
        else:
            features = feedback.features
        logits = feedback.logits
        if logits is None:
            logits = self._logits_of(kept, feedback, is_needed=needs_logits)
            logits = logits if num_forwards == 1 else None
        return feedback.having(features=features, logits=logits)

    def _logits_of(self, kept: Tensor | None, feedback: Feedback, *, is_needed: bool) -> Any:
        """What was kept of the forward's output, if it tells how sure the model is."""
        size = len(feedback)
        if is_needed and kept is not None and _is_single(kept, size):
            return kept if self._single_output.is_logit(kept, feedback) else None
        if is_needed:
            _check_captured("output (logits)", kept, size)
        return kept if _is_rows(kept, size) else None

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        is_training = module.training and torch.is_grad_enabled() and not _inside_backward()
        if not (is_training or self._is_scoring):
            return
        self._num_forwards += 1
        features, logits = self._read(inputs, output)
        self._features = features.detach() if isinstance(features, Tensor) else None
        self._logits = logits.detach() if isinstance(logits, Tensor) else None


class Watcher:
    """Reads features and logits of a model's last layer, once it was told which one that is."""

    _tap: HeadTap | None = None

    def watch(self, module: nn.Module) -> None:
        """Read features and logits from `module`, the model's last layer, at each training forward.

        Call it before a compiled model's first call. A second call moves the watch.
        """
        tap = HeadTap(module)
        self.unwatch()
        self._tap = tap

    def unwatch(self) -> None:
        """Remove the hook of `watch`, if there is one."""
        if self._tap is not None:
            self._tap.remove()
        self._tap = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the watch: a copy has no hook on the module, which may be gone by now."""
        return {**self.__dict__, "_tap": None}

    def complete(self, feedback: Feedback) -> Feedback:
        """The feedback, with what it lacks of features and logits where a module is watched."""
        return feedback if self._tap is None else self._tap.complete(feedback)

    def forget_forward(self) -> None:
        """Drop what the watched module's last forward left."""
        if self._tap is not None:
            self._tap.forget()


def _inside_backward() -> bool:
    """True while autograd runs: a forward made there recomputes one that was already kept."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1


class _SingleOutput:
    """Whether a head's single output is a logit: only if its binary cross entropy is the loss.

    Whatever the label in [0, 1] is, that loss lies between softplus(-|z|) and softplus(|z|);
    squared errors do not. A look at the values waits for an accelerator, so there it is made for
    the first batches only.
    """

    def __init__(self) -> None:
        self._num_looks = 0
        self._verdict = False

    def is_logit(self, output: Tensor, feedback: Feedback) -> bool:
        """Of outputs `[B]` or `[B, 1]`."""
        if output.device.type != "cpu":
            if self._num_looks == NUM_LOOKS:
                return self._verdict
            self._num_looks += 1
        size, losses = output.detach().float().flatten().abs(), feedback.losses.float()
        low, high = F.softplus(-size), F.softplus(size)
        slack = (1e-3 if feedback.losses.dtype in (torch.float32, torch.float64) else 3e-2) * high
        outside = (losses < low - slack) | (losses > high + slack)  # false for NaN
        self._verdict = not bool(outside.any())
        return self._verdict


def _check_number(num_forwards: int) -> None:
    if num_forwards == 0:
        raise StateError(
            "the watched module made no training forward since the last learn(). Possible causes: "
            "the model is in eval mode (call model.train()) or under torch.no_grad(); watch() was "
            "called after the first call of a compiled model (call it before, so that the hook is "
            "compiled in); a fused head that is never called; the learn() before raised, which "
            "forgets the forward (run it again). You can also hand features= and logits= to "
            "learn()."
        )
    if num_forwards > 1:
        raise StateError(
            f"the watched module made {num_forwards} training forwards since the last learn(), so "
            "it is not known which one belongs to these losses. Call learn() once for each forward "
            "(also under gradient accumulation), run extra forwards under torch.no_grad() or in "
            "eval mode, call agent.forget_forward() behind one that trains the model (as SAM's "
            "second), or hand features= and logits= to learn()."
        )


def _is_rows(value: Tensor | None, size: int) -> bool:
    return value is not None and value.ndim == 2 and value.shape[0] == size and value.shape[1] > 1


def _is_single(output: Tensor, size: int) -> bool:
    """Whether there is one output a sample, `[B]` or `[B, 1]`."""
    return output.shape in ((size,), (size, 1))


def _check_captured(name: str, value: Tensor | None, batch_size: int) -> None:
    if value is None:
        raise InputError(
            "the watched module was not called as module(features) -> logits with one tensor "
            "each way. Watch the last linear layer, or hand features= and logits= to learn()."
        )
    if value.ndim != 2:
        raise InputError(
            f"the watched module's {name} has shape {list(value.shape)}; expected [B, width]. "
            "Reduce to one row a sample and hand features=[B, D] and uncertainty=[B] in [0, 1] (or "
            "logits=[B, C]) to learn(): images by the mean over pixels, x.mean((2, 3)), sequences "
            "by the mean over the tokens that count: without a mask we would count padding."
        )
    if value.shape[0] != batch_size:
        raise InputError(
            f"the watched module's {name} has {value.shape[0]} rows, but {batch_size} losses came. "
            "Does learn() belong to this forward? Call it right behind the forward whose losses it "
            "gets. DataParallel replicas see a part of the batch each and cannot be watched."
        )
