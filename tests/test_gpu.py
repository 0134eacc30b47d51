"""What only an accelerator shows: precision, compilation, nothing that waits, states that move.

Runs wherever CUDA is there, on torch, numpy and pytest alone (the lab's test needs safetensors).
"""

from __future__ import annotations

import contextlib
import copy
import io
import socket
from collections.abc import Generator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from data_agent import (
    DataAgent,
    DataAgentConfig,
    Feedback,
    Selector,
    make_selector,
    selection_loader,
)
from data_agent.errors import InputError
from data_agent.runtime import distributed
from data_agent.testing.runs import equal_states

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]

DEVICE = torch.device("cuda", 0)
SIZE, EPOCHS, BATCH_SIZE = 96, 8, 16
CONFIG = DataAgentConfig(update_every=4, rollout_rows=32)  # an update every fourth batch


def dataset() -> TensorDataset:
    x = torch.randn(SIZE, 10, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())


def network(*, dropout: float) -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Linear(10, 24), nn.ReLU(), nn.Dropout(dropout), nn.Linear(24, 2)]
    return nn.Sequential(*layers).to(DEVICE)


def build(method: str = "data-agent", *, keep_ratio: float = 0.5, epochs: int = EPOCHS) -> Selector:
    options: dict[str, Any] = {"config": CONFIG} if method == "data-agent" else {}
    return make_selector(
        method, num_samples=SIZE, epochs=epochs, keep_ratio=keep_ratio, seed=0, **options
    )


def losses_of(model: Any, x: Tensor, y: Tensor, *, is_bf16: bool = False) -> Tensor:
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=is_bf16):
        return F.cross_entropy(model(x.to(DEVICE)), y.to(DEVICE), reduction="none")


# With us equals without us.


def train_with(
    selector: Selector, *, dropout: float, is_bf16: bool, is_compiled: bool
) -> tuple[nn.Module, list[list[int]]]:
    """The trained model, and of each epoch the samples in the order of their visits."""
    net = network(dropout=dropout)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loader = selection_loader(dataset(), selector, batch_size=BATCH_SIZE)
    selector.watch(net[3])  # before the first call of the compiled model
    model = torch.compile(net) if is_compiled else net
    visited: list[list[int]] = []
    for _ in selector.epochs():
        visited.append([])
        for x, y, index in loader:
            losses = losses_of(model, x, y, is_bf16=is_bf16)
            selector.learn(losses, index).backward()
            optimizer.step()
            optimizer.zero_grad()
            visited[-1] += index.tolist()
    return net, visited


def train_without(
    visited: list[list[int]], *, dropout: float, is_bf16: bool, is_compiled: bool
) -> nn.Module:
    net = network(dropout=dropout)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    model = torch.compile(net) if is_compiled else net
    for sampler in visited:
        for x, y in DataLoader(dataset(), batch_size=BATCH_SIZE, sampler=sampler):
            losses_of(model, x, y, is_bf16=is_bf16).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return net


def check_law_one(**how: Any) -> DataAgent:
    agent = build(keep_ratio=1.0)
    assert isinstance(agent, DataAgent)
    torch.manual_seed(7)
    ours, visited = train_with(agent, **how)
    random_state = torch.cuda.get_rng_state(DEVICE)
    assert all(sorted(epoch) == list(range(SIZE)) for epoch in visited)
    torch.manual_seed(7)
    theirs = train_without(visited, **how)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)
    assert torch.equal(random_state, torch.cuda.get_rng_state(DEVICE))  # dropout's draws alone
    assert agent.metrics()["policy_updates"] == SIZE // BATCH_SIZE * EPOCHS // 4
    return agent


@pytest.mark.parametrize("is_bf16", [False, True])
def test_with_us_equals_without_us(is_bf16: bool) -> None:
    agent = check_law_one(dropout=0.3, is_bf16=is_bf16, is_compiled=False)
    assert (agent.expected_actions() != 0.5).all()  # every sample was acted on
    assert agent.policy.learner is not None
    weights = agent.policy.learner.networks.weights
    assert weights.device == DEVICE  # the policy runs where the model does
    assert weights.dtype == torch.float32  # whatever the model computes in


@pytest.mark.filterwarnings("ignore::UserWarning:torch")  # of the compiler, about itself
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_compiled_model_is_watched() -> None:
    pytest.importorskip("triton", reason="torch.compile needs triton on CUDA")
    from torch._inductor import config

    torch._dynamo.reset()
    with config.patch(compile_threads=1):  # no pool of processes that outlives the test
        check_law_one(dropout=0.0, is_bf16=False, is_compiled=True)
    torch._dynamo.reset()


# Nothing waits for the host.


@contextlib.contextmanager
def no_waiting() -> Generator[None]:
    """Within the block whatever makes the host wait for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
def test_the_check_for_waiting_finds_waiting() -> None:
    value = torch.ones(3, device=DEVICE)
    with pytest.raises(RuntimeError, match="synchroniz"), no_waiting():
        value.sum().item()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
@pytest.mark.parametrize("method", ["data-agent", "infobatch", "top-loss"])
def test_learn_does_not_wait_for_the_device_between_updates(method: str) -> None:
    selector = build(method)
    net = network(dropout=0.0)
    loader = selection_loader(dataset(), selector, batch_size=BATCH_SIZE)
    selector.watch(net[3])
    num_steps = num_checked = 0
    for _ in selector.epochs():
        for x, y, index in loader:
            losses = losses_of(net, x, y)
            num_steps += 1
            is_update = method == "data-agent" and num_steps % 4 == 0
            is_first = num_steps == 1  # networks and statistics are made
            with contextlib.nullcontext() if is_update or is_first else no_waiting():
                loss = selector.learn(losses, index)
            loss.backward()
            net.zero_grad()
            num_checked += not (is_update or is_first)
    total = SIZE // 2 // BATCH_SIZE * EPOCHS
    assert num_checked == total - 1 - (total // 4 if method == "data-agent" else 0)


def test_values_that_are_not_finite_are_named_when_the_next_epoch_begins() -> None:
    selector = build("top-loss")
    selector.begin_epoch(0)
    index = selector.select(0).index[:BATCH_SIZE]
    losses = torch.rand(BATCH_SIZE, device=DEVICE)
    losses[3] = torch.nan
    selector.observe(Feedback(index, losses))  # a look at them here would wait
    with pytest.raises(InputError, match=rf"for 1 sample\(s\): {int(index[3])}\."):
        selector.begin_epoch(1)


# States move between devices.


def feedback_of(index: Tensor, epoch: int, device: torch.device) -> Feedback:
    """What a model could have shown: a function of sample and epoch alone."""
    draws = torch.rand(SIZE, 12, generator=torch.Generator().manual_seed(epoch))
    rows = draws[index].to(device)
    return Feedback(index, rows[:, 0], logits=rows[:, 1:4] * 3, features=rows[:, 4:])


def observe(
    selector: Selector, device: torch.device, *, stop: tuple[int, int] | None = None
) -> list[tuple[int, list[int]]]:
    """Observe the rest of the run, or up to batch `stop[1]` of epoch `stop[0]`; what was seen."""
    log: list[tuple[int, list[int]]] = []
    loader = selection_loader(dataset(), selector, batch_size=BATCH_SIZE)
    for epoch in selector.epochs():
        for number, (_, _, index) in enumerate(loader):
            if (epoch, number) == stop:
                return log
            selector.observe(feedback_of(index, epoch, device))
            log.append((epoch, index.tolist()))
    return log


def tensors_of(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    for value in state.values() if isinstance(state, dict) else ():
        yield from tensors_of(value)
    for value in state if isinstance(state, list) else ():
        yield from tensors_of(value)


def timeless(selector: Selector) -> dict[str, Any]:
    return {**selector.state_dict(), "overhead_seconds": 0.0}


def restored(state: dict[str, Any]) -> Selector:
    """A new selector of a state that went through a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    selector = build()
    selection_loader(dataset(), selector, batch_size=BATCH_SIZE)
    selector.load_state_dict(torch.load(file, weights_only=True))
    return selector


def test_a_state_goes_on_where_it_was_made_and_moves_to_the_host_and_back() -> None:
    whole = build()
    expected = observe(whole, DEVICE)

    stopped = build()
    first = observe(stopped, DEVICE, stop=(5, 1))
    saved = timeless(stopped)
    assert all(tensor.device.type == "cpu" for tensor in tensors_of(saved))

    again = restored(saved)
    assert first + observe(again, DEVICE) == expected  # on the same device: the same samples
    for mine, other in zip(tensors_of(timeless(again)), tensors_of(timeless(whole)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)

    on_host = restored(saved)
    before = copy.deepcopy(saved)
    assert equal_states(timeless(on_host), before)
    host_log = observe(on_host, torch.device("cpu"), stop=(6, 1))
    here = [entry for entry in expected if entry[0] == 5]
    assert first[-1:] + [e for e in host_log if e[0] == 5] == here  # the epoch that was begun

    back = restored(timeless(on_host))
    end = observe(back, DEVICE)
    assert len(first) + len(host_log) + len(end) == len(expected)
    assert back.state_dict()["visits"] == SIZE // 2 * EPOCHS


# The lab on one rank of NCCL.


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment that torchrun makes, where the lab takes one rank for several."""
    pytest.importorskip("safetensors", reason="the lab's checkpoints need safetensors")
    from data_agent_lab.training import ranks

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", port)
    monkeypatch.setattr(ranks, "num_started", lambda: 2)
    monkeypatch.setattr(ranks, "TIMEOUT", timedelta(seconds=30))
    yield
    if dist.is_initialized():  # a test that failed in between
        dist.destroy_process_group()


def lab_run() -> tuple[Any, Any]:
    from data_agent_lab.data.image_data import ImageData
    from data_agent_lab.recipes import ImageRecipe, RunConfig

    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(SIZE) % 2
    images = torch.randint(0, 100, (SIZE, 1, 8, 8), generator=draws, dtype=torch.uint8)
    images[labels == 1, :, :4] += 100
    data = ImageData(
        train_images=images[32:],
        train_labels=labels[32:],
        eval_images=images[:32],
        eval_labels=labels[:32],
        class_names=("dark", "bright"),
        evaluation="the first 32",
    )
    recipe = ImageRecipe(
        task="digits",
        data=None,
        image_size=8,
        model="cnn",
        width=4,
        epochs=4,
        batch_size=16,
        learning_rate=0.05,
        augment="crop",
        device="cuda",
    )
    return RunConfig(recipe=recipe, method="data-agent"), data


@pytest.mark.filterwarnings("ignore::UserWarning:torch")  # of NCCL, about its environment
def test_the_lab_trains_under_nccl_as_without_it(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_agent_lab.runs.folder import open_run
    from data_agent_lab.training import images, ranks
    from data_agent_lab.training.run import train_run

    config, data = lab_run()
    results: list[dict[str, Any]] = []
    with open_run(tmp_path / "alone", config.flat(), resume=False) as folder:
        results.append(train_run(config, data, folder) or {})
    with ranks.joined_ranks(config.recipe):
        assert dist.get_backend_config() == "cpu:gloo,cuda:nccl"
        monkeypatch.setattr(images, "share_model", nn.parallel.DistributedDataParallel)
        with open_run(tmp_path / "nccl", config.flat(), resume=False) as folder:
            results.append(train_run(config, data, folder) or {})
    alone, under_nccl = results
    for key in ("num_forward", "num_backward", "num_steps", "device"):
        assert alone[key] == under_nccl[key], key
    assert alone["device"].startswith("cuda")
    assert alone["train_loss"] == pytest.approx(under_nccl["train_loss"], abs=0.05)


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_exchanges_go_over_the_host(one_rank: None) -> None:
    from data_agent_lab.training import ranks

    config, _ = lab_run()
    with ranks.joined_ranks(config.recipe):
        group, device = distributed._exchange_group()
        assert (device.type, dist.get_backend(group)) == ("cpu", "gloo")
        assert group is not dist.group.WORLD
        assert distributed._timeout(dist.group.WORLD) == timedelta(seconds=30)
        rows = torch.arange(3, device=DEVICE) + 2**53
        (gathered,) = distributed._gather_equal(rows)
        assert gathered.tolist() == [2**53, 2**53 + 1, 2**53 + 2]
