"""What a step of ours dispatches on an accelerator, counted without one.

    python benchmarks/operations.py      # table, and benchmarks/results/operations.json

Where an accelerator waits for Python, a step costs what Python dispatches. The tensors here say
that they are elsewhere and keep their data on the host, so that the library takes the accelerator's
path, and every operation passes a counter:

- operations: all that is dispatched within `learn` and the watched layer's hook;
- kernels: those of them on the device that are no views;
- waits: what makes the host wait for the device, copies that are not left behind among them;
- generators: random generators that are made;
- calls: of functions, Python's and C's, by Python; on the host's path, by `sys.setprofile`.

Counts do not depend on how busy a machine is. `tests/test_operations.py` holds their limits.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from data_agent import Selector, make_selector

DEVICE = torch.device("meta")  # the one device that torch knows everywhere and that has no data
HOST = torch.device("cpu")
NUM_SAMPLES, BATCH_SIZE, WIDTH, CLASSES = 50_000, 128, 512, 10
NUM_STEPS = 122  # counted, after as many that are not: two updates of the long run
WAITS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim"}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    # name: (method, epochs of 196 steps, further arguments)
    "policy, 39,000-step run": ("data-agent", 200, {}),
    "policy, updates every 10 steps": ("data-agent", 30, {}),
    "500 trusted rows, 39,000-step run": ("data-agent", 200, {"trusted": range(500)}),
    "500 trusted rows, every 10 steps": ("data-agent", 30, {"trusted": range(500)}),
    "noise-aware, 39,000-step run": ("noise-aware", 200, {}),
    "noise-aware, every 10 steps": ("noise-aware", 30, {}),
    "label-aware": ("label-aware", 200, {}),
    "random": ("random", 200, {}),
}


@dataclass
class Counts:
    """Of a step, on average; `waits_per_update` of an update of the policy."""

    operations: float = 0.0
    kernels: float = 0.0
    waits: float = 0.0
    generators: float = 0.0
    calls: float = 0.0
    waits_per_update: float | None = None
    most: dict[str, float] = field(default_factory=dict)


class Remote(Tensor):
    """A tensor that says it is on the device; its data are `here`."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Remote:
        """Wrap data of the host."""
        remote = Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), dtype=here.dtype, device=DEVICE
        )
        remote.here = here
        return remote

    def tolist(self) -> Any:
        """Torch's own serves no subclass."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Never reached: `Device` comes first."""
        raise AssertionError(f"{func} was called outside of Device()")


class Device(TorchDispatchMode):
    """Runs on the host what was meant for the device, and counts it within `counting`."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self._is_counting = False

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is dispatched in the block."""
        self._is_counting = True
        try:
            yield
        finally:
            self._is_counting = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, run on the host, and say that results are where they were meant to be."""
        kwargs = dict(kwargs or {})
        takes_remote = any(isinstance(leaf, Remote) for leaf in tree_iter((args, kwargs)))
        gives_remote = takes_remote
        if kwargs.get("device") is not None:
            gives_remote = torch.device(kwargs["device"]) == DEVICE
            kwargs["device"] = HOST
        if self._is_counting:
            self._count(func, args, kwargs, takes_remote, gives_remote)
        unwrapped = tree_map_only(Remote, lambda remote: remote.here, (args, kwargs))
        result = func(*unwrapped[0], **unwrapped[1])
        if any(r.alias_info and r.alias_info.is_write for r in func._schema.returns):
            return args[0]  # in place
        return tree_map_only(Tensor, Remote, result) if gives_remote else result

    def generators(self) -> type[torch.Generator]:
        """In place of `torch.Generator`, whatever the device."""

        def new(cls: type, **_: object) -> torch.Generator:
            self.counts.generators += self._is_counting
            return _GENERATOR.__new__(cls, device=HOST)

        return type("Generator", (_GENERATOR,), {"__new__": new})

    def _count(
        self, func: Any, args: Any, kwargs: Any, takes_remote: bool, gives_remote: bool
    ) -> None:
        name = func.overloadpacket.__name__
        is_view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        crosses = takes_remote != gives_remote and name == "_to_copy"
        if name == "copy_":
            crosses = isinstance(args[0], Remote) != isinstance(args[1], Remote)
        by_mask = name in ("index", "index_put_") and any(
            isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in tree_iter(args[1])
        )
        waits = takes_remote and (name in WAITS or by_mask)
        waits |= crosses and not kwargs.get("non_blocking", False)
        self.counts.operations += 1
        self.counts.kernels += (takes_remote or gives_remote) and not is_view
        self.counts.waits += waits
        kind = ("wait: " if waits else "") + name
        self.counts.most[kind] = self.counts.most.get(kind, 0) + 1


class Head(nn.Module):
    """A last layer whose outputs are there already: what is counted in its forward is the hook."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self._logits = logits

    def forward(self, _: Tensor) -> Tensor:
        """The outputs."""
        return self._logits


_GENERATOR = torch.Generator


def steps(
    method: str, epochs: int, options: dict[str, Any], device: Device | None
) -> Iterator[tuple[Selector, Any]]:
    """Steps of a run: the selector, and a call that learns from the next batch."""
    draws = _GENERATOR().manual_seed(0)
    selector = make_selector(
        method, num_samples=NUM_SAMPLES, epochs=epochs, keep_ratio=0.5, seed=0, **options
    )
    selector.use_loader(BATCH_SIZE)

    def there(values: Tensor) -> Tensor:
        return values if device is None else Remote(values)

    for epoch in selector.epochs():
        for index in selector.select(epoch).index.split(BATCH_SIZE):
            size = len(index)
            features = there(torch.randn(size, WIDTH, generator=draws)).requires_grad_()
            logits = there(torch.randn(size, CLASSES, generator=draws)).requires_grad_()
            losses = there(torch.rand(size, generator=draws)).requires_grad_()
            labels = there(torch.randint(0, CLASSES, (size,), generator=draws))
            head = Head(logits)
            selector.watch(head)

            yield selector, partial(_learn, selector, head, features, losses, index, labels)


def _learn(selector: Selector, head: Head, features: Tensor, losses: Tensor, *rest: Tensor) -> None:
    index, labels = rest
    head(features)
    selector.learn(losses, index, labels=labels)


@contextlib.contextmanager
def elsewhere(device: Device) -> Iterator[None]:
    """Let torch take the device for one with autocast and generators."""
    autocast, is_on = torch.autocast, torch.is_autocast_enabled
    with (
        device,
        patch.object(torch, "autocast", lambda _, **options: autocast("cpu", **options)),
        patch.object(torch, "is_autocast_enabled", lambda _="cpu": is_on("cpu")),
        patch.object(torch, "Generator", device.generators()),
    ):
        yield


def count(method: str, epochs: int, options: dict[str, Any], num_steps: int = NUM_STEPS) -> Counts:
    """What a step costs, on average over `num_steps`, after as many that are not counted."""
    device = Device()
    updates = 0.0
    with elsewhere(device):
        for number, (selector, learn) in enumerate(steps(method, epochs, options, device)):
            if number == num_steps:
                updates = -selector.metrics().get("policy_updates", 0.0)
            with device.counting() if number >= num_steps else contextlib.nullcontext():
                learn()
            if number + 1 == 2 * num_steps:
                updates += selector.metrics().get("policy_updates", 0.0)
                break
    counts = device.counts
    waits = counts.waits / updates if updates else None
    calls = count_calls(method, epochs, options, num_steps)
    most = sorted(counts.most.items(), key=lambda item: -item[1])
    return Counts(
        operations=round(counts.operations / num_steps, 2),
        kernels=round(counts.kernels / num_steps, 2),
        waits=round(counts.waits / num_steps, 3),
        generators=round(counts.generators / num_steps, 3),
        calls=round(calls, 1),
        waits_per_update=waits,
        most={name: round(number / num_steps, 2) for name, number in most},
    )


def count_calls(method: str, epochs: int, options: dict[str, Any], num_steps: int) -> float:
    """Calls of functions a step on the host's path."""
    num_calls = 0

    def profile(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal num_calls
        num_calls += event in ("call", "c_call")

    for number, (_, learn) in enumerate(steps(method, epochs, options, None)):
        if number >= num_steps:
            sys.setprofile(profile)
        try:
            learn()
        finally:
            sys.setprofile(None)
        if number + 1 == 2 * num_steps:
            break
    return num_calls / num_steps


def main() -> None:
    """Count all cases, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/operations.json"))
    parser.add_argument("--names", action="store_true", help="print what is dispatched, by name")
    options = parser.parse_args()
    rows = {}
    columns = ("operations", "kernels", "waits", "generators", "calls")
    print(f"{'a step of':34}" + "".join(f"{name:>12}" for name in columns))
    for name, case in CASES.items():
        counts = count(*case)
        rows[name] = asdict(counts)
        print(f"{name:34}" + "".join(f"{getattr(counts, c):12g}" for c in columns), flush=True)
        if options.names:
            print("  " + ", ".join(f"{kind} {n:g}" for kind, n in counts.most.items()))
    setting = {"batch_size": BATCH_SIZE, "features": WIDTH, "classes": CLASSES}
    result = {"torch": torch.__version__, **setting, "steps": NUM_STEPS, "cases": rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
