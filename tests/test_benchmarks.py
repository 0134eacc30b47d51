"""The scripts of benchmarks that no other test runs still run, at a small size, and count right."""

import importlib

import pytest
import torch
from benchmarks import overhead, selection

from data_agent.runtime.shards import Shard


@pytest.fixture(autouse=True)
def threads():
    """Scripts choose how many threads torch uses; the other tests keep theirs."""
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.mark.parametrize("kind", ["policy", "labels"])
def test_choosing_is_measured(kind):
    row = selection.measure(kind, 20_000, repeats=1)
    assert row["merge_and_begin_seconds"] > 0
    assert row["bytes_per_sample"] <= 8  # the limit of docs/cost.md, at any size


def test_a_share_of_a_sharded_table_is_measured(monkeypatch):
    monkeypatch.syspath_prepend("benchmarks")  # it imports its neighbour as scripts do
    found = importlib.import_module("shards").measure(200_000, Shard(7, 8), repeats=1)
    assert found["own_samples"] == 25_000
    assert found["own_samples_an_epoch"] == 12_500


def test_steps_and_whole_runs_are_timed_beside_the_plain_loop():
    small, device = ("cnn", 8, 16, 16), torch.device("cpu")
    rounds = overhead.measure(small, 8, rounds=1, block=2, device=device, compiled=False)
    times, ratios = overhead.summarised(rounds)
    assert ratios["plain"] == 1
    assert times.keys() == {"plain", "policy", "label-aware", "InfoBatch", "paper"}
    (seconds,) = overhead.measure_runs(small, 64, 5, rounds=1, device=device)
    assert all(0 < value < 60 for value in seconds.values())
    assert tuple(seconds) == overhead.KINDS_OF_RUNS
