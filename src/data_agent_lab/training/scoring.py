"""What a method must be given before training, made by its `prepare` and paid for.

Visits of the proxies, looks at the samples, and the seconds of everything count. The result is a
function of the seed, but on an accelerator only up to rounding, so a run that is continued reads it
from the run's folder (`prepare_once`) instead of making it again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from data_agent import SelectionSchedule
from data_agent.duplicates import image_groups
from data_agent.errors import CheckpointError, DataAgentError
from data_agent.methods import method_class
from data_agent.runtime import checkpoint, distributed
from data_agent.runtime.random import Purpose, derived_seed, permutation
from data_agent.selecting.proxy import Visit
from data_agent_lab.training.ledger import Stopwatch
from data_agent_lab.training.models import Network
from data_agent_lab.training.optimisation import learning_rate, make_optimizer, take_step

if TYPE_CHECKING:
    from data_agent_lab.training.images import ImageEngine

_LOOK_BATCH = 512
_PROXIES = 2  # tells their seeds from those of the agent's networks, 0 and 1


@dataclass(slots=True, eq=False)
class Proxy:
    """Trains networks as the run would, and counts what they cost: a `Proxy` of the library.

    Each network is freshly initialised and trained on all samples with the labels that the run
    sees, noise included; its learning rate is fully decayed at the end.

    It takes model, optimisation, images and labels from the run's engine.
    """

    engine: ImageEngine
    num_forward: int = field(default=0, init=False)
    num_backward: int = field(default=0, init=False)

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.engine.config.seed

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return self.engine.device

    @property
    def labels(self) -> Tensor:
        """int64 `[N]` on the CPU, with the run's noise."""
        return self.engine.labels

    def train(
        self, epochs: int, *, number: int = 0, on_batch: Callable[[Visit], None] | None = None
    ) -> _Trained:
        """A new network after its training, as the library's `Proxy` says."""
        seed, engine = derived_seed(self.seed, Purpose.NETWORK, _PROXIES, number), self.engine
        recipe = engine.recipe
        torch.manual_seed(seed)
        model = engine.make_model().train()
        optimizer = make_optimizer(model, recipe)
        scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        batches = _batches(len(self.labels), recipe.batch_size, epochs, seed)
        for step, (epoch, index) in enumerate(batches):
            with engine.autocast():
                features = model.body(engine.batches.training(index, epoch=epoch))
                logits = model.head(features)
                labels = self.labels[index].to(self.device)
                loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            scaler.scale(loss).backward()
            time = (step + 0.5) / len(batches)
            rate = learning_rate(time, peak=recipe.learning_rate, schedule=recipe.schedule)
            take_step(optimizer, scaler, rate)
            self.num_forward += len(index)
            self.num_backward += len(index)
            engine.progress("scores", step + 1, len(batches))
            if on_batch is not None:
                on_batch(Visit(epoch, index, logits.detach().float(), features.detach().float()))
        return _Trained(self, model.eval())

    def clusters(self, features: Tensor, count: int) -> Tensor:
        """int64 `[N]`: k-means over the rows of `[N, D]`."""
        seed = derived_seed(self.seed, Purpose.SUBSET) % (1 << 32)
        means: Any = MiniBatchKMeans(count, random_state=seed, n_init="auto")
        return torch.from_numpy(means.fit_predict(features.numpy())).long()

    def near_duplicates(self) -> Tensor:
        """int64 `[N]`: groups of near-duplicates among the images, without augmentation."""
        return image_groups(self.engine.data.train_images)


@dataclass(frozen=True, slots=True, eq=False)
class _Trained:
    """A network after its training."""

    proxy: Proxy
    model: Network

    @torch.no_grad()
    def look(self) -> tuple[Tensor, Tensor]:
        """Logits `[N, C]` and features `[N, D]` of all samples, float32 on the CPU.

        Raises:
            DataAgentError: they are not finite.
        """
        engine, model, num_samples = self.proxy.engine, self.model, len(self.proxy.labels)
        seen: list[tuple[Tensor, Tensor]] = []
        for index in torch.arange(num_samples).split(_LOOK_BATCH):
            with engine.autocast():
                features = model.body(engine.batches.training(index, epoch=None))
                seen.append((model.head(features).float().cpu(), features.float().cpu()))
        self.proxy.num_forward += num_samples
        logits, features = (torch.cat(parts) for parts in zip(*seen, strict=True))
        if not logits.isfinite().all():
            raise DataAgentError(
                "the short training that scores the samples diverged: its outputs are not finite. "
                "Use a lower --learning-rate."
            )
        return logits, features


def _batches(size: int, batch_size: int, epochs: int, seed: int) -> list[tuple[int, Tensor]]:
    """All batches as (epoch, index), of almost equal sizes: none is left with a single sample."""
    orders = [permutation(size, seed, Purpose.ORDER, epoch) for epoch in range(epochs)]
    count = -(-size // batch_size)
    return [
        (epoch, index) for epoch in range(epochs) for index in orders[epoch].tensor_split(count)
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """A method's options, further arguments of `make_selector`, and what they cost."""

    options: dict[str, Tensor]
    num_forward: int = 0
    num_backward: int = 0
    seconds: float = 0.0  # zero where nothing but labels is needed, ...
    cpu_seconds: float = 0.0  # ... and so is the processor time


def prepare(method: str, proxy: Proxy) -> Preparation:
    """Make what `method` must be given; nothing at no cost for methods that need nothing.

    Leaves torch's global generators as they were.

    Raises:
        InputError: a method that does not say how its scores or groups are made.
    """
    counted, config = Proxy(proxy.engine), proxy.engine.config  # its counts begin at zero
    budget = SelectionSchedule(
        num_samples=len(proxy.labels), epochs=config.recipe.epochs, keep_ratio=config.keep_ratio
    )
    stopwatch = Stopwatch(proxy.device)
    with torch.random.fork_rng([proxy.device] if proxy.device.type == "cuda" else []):
        stopwatch.start()
        options = method_class(method).prepare(counted, budget)
        stopwatch.stop()
    if set(options) <= {"labels"}:  # which are there anyway
        return Preparation(options)
    counts = counted.num_forward, counted.num_backward
    return Preparation(options, *counts, stopwatch.seconds, stopwatch.cpu_seconds)


def prepare_once(path: Path, method: str, proxy: Proxy) -> Preparation:
    """`prepare`, or what it returned when it was called before for this run, read from `path`.

    The file is written whole or not at all, by rank 0.

    Raises:
        CheckpointError: the file is damaged, or of another method or other labels.
        InputError: as `prepare`.
    """
    origin = {"method": method, "labels": zlib.crc32(proxy.labels.contiguous().numpy().tobytes())}
    if path.is_file():
        state = checkpoint.load(path)
        if state.get("origin") != origin:
            raise CheckpointError(
                f"{path} was made for other data or another method. Delete it with its run, or "
                "choose another --output."
            )
        return Preparation(**state["preparation"])
    preparation = prepare(method, proxy)
    if preparation.seconds and distributed.rank() == 0:
        checkpoint.save(path, {"origin": origin, "preparation": asdict(preparation)})
    return preparation
