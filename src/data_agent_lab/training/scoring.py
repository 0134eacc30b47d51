"""What a method must be given before training, made by a short training of its own and paid for.

A proxy is the run's own model, freshly initialised and trained on all samples with the labels that
the run sees, noise included, for a share of the recipe's epochs, in which its learning rate is
fully decayed. Samples are then looked at without augmentation, in evaluation mode.

    el2n, grand               two networks of E/10 epochs, scores averaged (paper: ten, at epoch 20
                              of 200)
    forgetting                visits of one network of E/5 epochs (paper: a full training)
    k-center                  features of one network of E/5 epochs
    d2-pruning                features and forgetting counts of one network of E/5 epochs, five
                              neighbours (paper: a full training)
    rl-selector               features at the visits of one network of E/5 epochs, with one pass of
                              the policy after each (paper: a full training)
    cluster-balanced-random   k-means of the features of one network of E/10 epochs

All of it counts: visits of the proxies, looks at the samples, and the seconds of everything. The
result is a function of the seed, but on an accelerator only up to rounding, so a run that is
continued reads it from the run's folder (`prepare_once`) instead of making it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from data_agent.baselines.d2_pruning import forward_messages, message_order, nearest_neighbours
from data_agent.baselines.el2n import el2n
from data_agent.baselines.forgetting import forgetting_events
from data_agent.baselines.grand import last_layer_grand
from data_agent.baselines.inputs import checksum
from data_agent.baselines.k_center import greedy_centers
from data_agent.baselines.rl_selector import SelectionPolicy
from data_agent.baselines.static import scores_of_order
from data_agent.errors import CheckpointError, InputError
from data_agent.methods import method_class
from data_agent.runtime import checkpoint, distributed
from data_agent.runtime.random import Purpose, derived_seed, permutation
from data_agent_lab.training.devices import Stopwatch
from data_agent_lab.training.models import Network
from data_agent_lab.training.proxy import Proxy, Work

NUM_NETWORKS = 2  # of el2n and grand
_EARLY, _SHORT = 10, 5  # one epoch in so many
_NUM_NEIGHBOURS = 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Preparation:
    """A method's options, and what they cost.

    Args:
        options: further arguments of `make_selector`.
        num_forward: samples that went through a model.
        num_backward: samples that went through its backward pass.
        seconds: of all of it.
        cpu_seconds: processor time of all of it.
    """

    options: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    num_forward: int = 0
    num_backward: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def prepare(method: str, proxy: Proxy) -> Preparation:
    """Make what `method` must be given; nothing at no cost for methods that need nothing.

    Leaves torch's global generators as they were.

    Args:
        method: name for `make_selector`.
        proxy: how to train.

    Raises:
        InputError: a method of one's own whose scores or groups nobody here can make.
    """
    required = method_class(method).required
    if set(required) <= {"labels"}:
        return Preparation(options={name: proxy.labels for name in required})
    if method not in _MAKERS:
        raise InputError(
            f"method {method!r} needs {' and '.join(required)}, which the lab can make for "
            f"{', '.join(_MAKERS)} only. Build the selector in your own loop with "
            "make_selector(..., scores=...), or compute what it needs in its constructor."
        )
    work = Work(proxy)
    stopwatch = Stopwatch(proxy.device)
    cuda = [proxy.device] if proxy.device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        stopwatch.start()
        options = _MAKERS[method](work)
        stopwatch.stop()
    return Preparation(
        options=options,
        num_forward=work.num_forward,
        num_backward=work.num_backward,
        seconds=stopwatch.seconds,
        cpu_seconds=stopwatch.cpu_seconds,
    )


def prepare_once(path: Path, method: str, proxy: Proxy) -> Preparation:
    """`prepare`, or what it returned when it was called before for this run.

    Args:
        path: file in the run's folder; written whole or not at all, by rank 0.
        method: name for `make_selector`.
        proxy: how to train.

    Raises:
        CheckpointError: the file is damaged, or of another method or other labels.
        InputError: as `prepare`.
    """
    origin = {"method": method, "labels": checksum(proxy.labels)}
    if path.is_file():
        state = checkpoint.load(path)
        if state.get("origin") != origin:
            raise CheckpointError(
                f"{path} was made for other data or another method. Delete it with its run, or "
                "choose another --output."
            )
        return Preparation(**state["preparation"])
    preparation = prepare(method, proxy)
    if preparation.num_forward and distributed.rank() == 0:
        checkpoint.save(path, {"origin": origin, "preparation": asdict(preparation)})
    return preparation


def _early_epochs(work: Work) -> int:
    return max(1, work.proxy.recipe.epochs // _EARLY)


def _short_epochs(work: Work) -> int:
    return max(2, work.proxy.recipe.epochs // _SHORT)  # one visit can forget nothing


def _averaged(work: Work, score: Callable[[Tensor, Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
    """The mean of a score of (logits, labels, features) over a few networks."""
    total = torch.zeros(len(work.proxy.labels))
    for number in range(NUM_NETWORKS):
        logits, features = work.look(work.trained(_early_epochs(work), number=number))
        total += score(logits, work.proxy.labels, features) / NUM_NETWORKS
    return {"scores": total}


def _el2n(work: Work) -> dict[str, Tensor]:
    return _averaged(work, lambda logits, labels, _: el2n(logits, labels))


def _grand(work: Work) -> dict[str, Tensor]:
    return _averaged(work, last_layer_grand)


def _history(work: Work) -> tuple[Network, Tensor]:
    """A trained network, and whether each sample was right at its visits: bool `[T, N]`."""
    labels, epochs = work.proxy.labels, _short_epochs(work)
    model, visits = work.train(epochs)
    correct = torch.zeros(epochs, len(labels), dtype=torch.bool)
    for visit in visits:
        correct[visit.epoch, visit.index] = visit.logits.argmax(1).cpu() == labels[visit.index]
    return model, correct


def _forgetting(work: Work) -> dict[str, Tensor]:
    return {"scores": forgetting_events(_history(work)[1])}


def _k_center(work: Work) -> dict[str, Tensor]:
    _, features = work.look(work.trained(_short_epochs(work)))
    size = len(features)
    first = int(permutation(size, work.proxy.seed, Purpose.SUBSET)[0])
    features = features.to(work.proxy.device)
    order = greedy_centers(features, work.proxy.num_kept, first=first)
    return {"scores": scores_of_order(order, size)}


def _d2_pruning(work: Work) -> dict[str, Tensor]:
    model, correct = _history(work)
    _, features = work.look(model)
    size = len(features)
    graph = nearest_neighbours(features, min(_NUM_NEIGHBOURS, size - 1))
    difficulty = forgetting_events(correct, never_learned=len(correct))
    order = message_order(forward_messages(difficulty, graph), graph, work.proxy.num_kept)
    return {"scores": scores_of_order(order, size)}


def _rl_selector(work: Work) -> dict[str, Tensor]:
    proxy = work.proxy
    model, visits = work.train(_short_epochs(work))
    features = torch.zeros(len(proxy.labels), model.head.in_features)
    policy = SelectionPolicy(features.shape[1], proxy.keep_ratio, seed=proxy.seed)
    num_seen = 0
    for visit in visits:
        features[visit.index] = visit.features.cpu()
        num_seen += len(visit.index)
        if num_seen % len(features) == 0:
            policy.learn(features, proxy.labels)
    return {"scores": policy.probabilities(features)}


def _clusters(work: Work) -> dict[str, Tensor]:
    _, features = work.look(work.trained(_early_epochs(work)))
    seed = derived_seed(work.proxy.seed, Purpose.SUBSET) % (1 << 32)
    means: Any = MiniBatchKMeans(_num_clusters(len(features)), random_state=seed, n_init="auto")
    return {"groups": torch.from_numpy(means.fit_predict(features.numpy())).long()}


def _num_clusters(num_samples: int) -> int:
    """At most a hundred, of at least twenty samples on average."""
    return max(1, min(100, num_samples // 20))


_MAKERS: Mapping[str, Callable[[Work], dict[str, Tensor]]] = {
    "el2n": _el2n,
    "grand": _grand,
    "forgetting": _forgetting,
    "k-center": _k_center,
    "d2-pruning": _d2_pruning,
    "rl-selector": _rl_selector,
    "cluster-balanced-random": _clusters,
}
