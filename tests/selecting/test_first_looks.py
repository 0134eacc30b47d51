"""What has the right shape and cannot be right is named when the first batches come."""

import warnings

import pytest
import torch
from benchmarks.operations import Device, Remote, elsewhere

from data_agent import DataAgent, Feedback, make_selector
from data_agent.errors import DataAgentWarning, InputError
from data_agent.selecting.first_looks import NUM_LOOKS

SIZE, BATCH = 80, 8
DRAWS = torch.Generator().manual_seed(0)


def varied():
    return {
        "losses": torch.rand(BATCH, generator=DRAWS),
        "features": torch.randn(BATCH, 4, generator=DRAWS),
        "uncertainty": torch.rand(BATCH, generator=DRAWS),
    }


def run(change, *, method="data-agent", num_batches=NUM_LOOKS, put=lambda values: values):
    """Observe batches, of which `change(number, columns)` makes what comes."""
    selector = make_selector(method, num_samples=SIZE, epochs=4, keep_ratio=1.0)
    selector.begin_epoch(0)
    for number, index in enumerate(selector.select(0).index.split(BATCH)[:num_batches]):
        columns = {**varied(), **change(number, varied())}
        index = index[: len(columns["losses"])]
        selector.observe(Feedback(index, **{name: put(v) for name, v in columns.items()}))
    return selector


def silent(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataAgentWarning)
        return run(*args, **options)


def mean_for_all(number, columns):
    return {"losses": columns["losses"].mean().expand(BATCH)}


def constant(number, columns):
    return {"features": torch.full((BATCH, 4), float(number))}


@pytest.mark.parametrize("method", ["data-agent", "random"])
def test_a_batchs_mean_for_all_of_its_samples(method):
    with pytest.warns(DataAgentWarning, match=r'first 4 batches all losses .*reduction="none"'):
        run(mean_for_all, method=method)


def test_a_batchs_mean_is_told_once_and_losses_of_samples_are_the_remedy():
    with pytest.warns(DataAgentWarning) as told:
        run(mean_for_all, num_batches=SIZE // BATCH)
    assert len(told) == 1
    silent(lambda number, columns: {})


def test_features_that_are_all_alike_are_told_where_a_policy_reads_them():
    with pytest.warns(DataAgentWarning, match=r"the same features, so the policy cannot tell"):
        run(constant)
    silent(constant, method="random")


@pytest.mark.parametrize(
    "change",
    [
        # A head that begins at zero, until its first step; with accumulation for all four batches.
        lambda number, columns: {"losses": columns["losses"] if number else torch.ones(BATCH)},
        lambda number, columns: {"losses": torch.full((BATCH,), 2.3)},
        lambda number, columns: {} if number == 2 else mean_for_all(number, columns),
        lambda number, columns: {} if number == 2 else constant(number, columns),
        lambda number, columns: {name: v[:1] for name, v in columns.items()},  # one row a batch
    ],
)
def test_what_may_be_by_chance_is_not_told(change):
    silent(change)


@pytest.mark.parametrize("method", ["data-agent", "random"])
@pytest.mark.parametrize("put", [lambda values: values, Remote], ids=["host", "accelerator"])
@pytest.mark.parametrize("factor", [5.0, -1.0])
def test_an_uncertainty_outside_of_zero_and_one(method, put, factor):
    def entropy_in_nats(number, columns):
        return {"uncertainty": factor * torch.linspace(0, 1, BATCH)}

    with elsewhere(Device()):
        with pytest.raises(InputError, match=r"values in \[.*\]; expected \[0, 1\].*log C"):
            run(entropy_in_nats, method=method, put=put)
        silent(
            lambda *given: {"uncertainty": entropy_in_nats(*given)["uncertainty"] / factor},
            **{"method": method, "put": put},
        )


def test_an_uncertainty_that_is_refused_leaves_the_state_as_it_was():
    agent = DataAgent(SIZE, 4)
    agent.begin_epoch(0)
    index = agent.select(0).index[:BATCH]
    before = agent.state_dict()
    with pytest.raises(InputError, match="uncertainty came"):
        agent.observe(Feedback(index, **{**varied(), "uncertainty": torch.full((BATCH,), 2.0)}))
    after = agent.state_dict()
    assert after["visits"] == before["visits"] == 0
    agent.observe(Feedback(index, **varied()))
