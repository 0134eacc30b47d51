"""Two real processes: disjoint batches, equal policies, feedback of both in one table."""

import contextlib
import os
import time
from datetime import timedelta
from itertools import chain
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from ranks import join_group, run_ranks, start_ranks
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import (
    DataAgent,
    DataAgentConfig,
    Feedback,
    SelectionSampler,
    make_selector,
    selection_loader,
)
from data_agent.errors import DataAgentError, DataAgentWarning, InputError, StateError
from data_agent.runtime.distributed import gather_rows, joined, world_size
from data_agent.testing.runs import equal_states

SIZE, EPOCHS, BATCH_SIZE = 101, 10, 6


def train(method, rank):
    """One rank's run: what it saw in each epoch, and its state at the end."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(SIZE, 8, generator=draws)
    data = TensorDataset(x, (x[:, 0] > 0).long())
    selector = build(method)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    model = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    selector.watch(net[2])
    loader = selection_loader(data, selector, batch_size=BATCH_SIZE)
    seen = []
    for _ in selector.epochs():
        batches = []
        for inputs, labels, index in loader:
            losses = F.cross_entropy(model(inputs), labels, reduction="none")
            selector.learn(losses, index).backward()
            optimizer.step()
            optimizer.zero_grad()
            batches.append(index.tolist())
        seen.append((batches, selector.select(selector.epoch).index.tolist()))
    state, kept = selector.state_dict(), selector.schedule.num_kept
    return {"seen": seen, "state": state, "kept": kept, "table": selector.table()}


def build(method):
    options = {"config": DataAgentConfig(update_every=2, rollout_rows=24)}
    return make_selector(
        method,
        num_samples=SIZE,
        epochs=EPOCHS,
        keep_ratio=0.5,
        **(options if method == "data-agent" else {}),
    )


def gather(rank):
    """Ranks with different numbers of rows, one of them without any."""
    index = torch.arange(3) + 2**53 if rank == 0 else torch.empty(0, dtype=torch.int64)
    values = torch.ones(3, 2) if rank == 0 else torch.empty(0, 0)
    return gather_rows(index, values)


def work(rank, method):
    join_group()
    return gather(rank) if method == "gather" else train(method, rank)


@pytest.mark.distributed
@pytest.mark.parametrize("method", ["data-agent", "random"])
def test_two_ranks(method, tmp_path):
    first, second = run_ranks(work, tmp_path, method)
    # 4 rounds of 12 and a rest of 3, which would be 2 + 1; without a selection none is below 3.
    assert first["kept"] == 51

    for (mine, selection), (yours, other) in zip(first["seen"], second["seen"], strict=True):
        assert selection == other  # the same selection on both ranks
        assert [len(b) for b in mine] == [6, 6, 6, 4, 4]
        assert [len(b) for b in yours] == [6, 6, 6, 4, 3]
        assert sorted(chain(*mine, *yours)) == selection  # disjoint, and all of it

    # The numbers of samples are those of all ranks, on each, with the last epoch's visits.
    assert all((column == second["table"][name]).all() for name, column in first["table"].items())
    visits = torch.bincount(torch.tensor([i for _, chosen in first["seen"] for i in chosen]))
    assert first["table"]["visits"].tolist() == visits.tolist()

    if method == "data-agent":
        ours, theirs = (state["state"]["method"] for state in (first, second))
        assert ours["num_updates"] == theirs["num_updates"] == EPOCHS * 5 // 2
        assert ours["learner"]["tau"] == theirs["learner"]["tau"]
        assert torch.equal(ours["learner"]["weights"], theirs["learner"]["weights"])
        assert torch.equal(ours["table"]["parameters"], theirs["table"]["parameters"])
        # The last epoch's rows are still staged; all before it are in both tables.
        written = (ours["table"]["parameters"] != 1).any(1)
        assert written.all()


def feedback_of(index, epoch):
    """What a model could have shown: a function of sample and epoch alone."""
    draws = torch.rand(SIZE, 12, generator=torch.Generator().manual_seed(epoch))
    rows = draws[index]
    return Feedback(index, rows[:, 0], logits=rows[:, 1:4] * 3, features=rows[:, 4:])


def observe(selector, loader, log, stop=None):
    """Observe the rest of the run, or up to batch `stop[1]` of epoch `stop[0]`."""
    for epoch in selector.epochs():
        for number, (_, index) in enumerate(loader):
            if (epoch, number) == stop:
                return
            selector.observe(feedback_of(index, epoch))
            log.append((epoch, index.tolist()))


def stop_and_go_on(rank, method, batch_size, state=None):
    """The whole run, and one that is stopped, saved, restored into a new selector and finished."""
    join_group()
    data = TensorDataset(torch.arange(SIZE))
    results = []
    for stop in (None, (6, 2)):
        selector, log = build(method), []
        loader = selection_loader(data, selector, batch_size=batch_size)
        observe(selector, loader, log, stop)
        saved = state = selector.state_dict()
        if stop:
            selector = build(method)
            loader = selection_loader(data, selector, batch_size=batch_size)
            selector.load_state_dict(saved)
            observe(selector, loader, log)
            state = selector.state_dict()
        results.append((log, {**state, "overhead_seconds": 0.0}))
    return results, saved


def go_on(method, state, batch_size):
    """Finish a run from a state that another number of ranks saved."""
    selector, log = build(method), []
    loader = selection_loader(TensorDataset(torch.arange(SIZE)), selector, batch_size=batch_size)
    selector.load_state_dict(state)
    observe(selector, loader, log)
    return log, {**selector.state_dict(), "overhead_seconds": 0.0}


def go_on_together(rank, method, state, batch_size):
    join_group()
    return go_on(method, state, batch_size)


def counted(logs, epoch):
    return sorted(index for log in logs for e, batch in log if e == epoch for index in batch)


@pytest.mark.distributed
@pytest.mark.parametrize("method", ["data-agent", "top-loss"])
def test_two_ranks_stop_and_go_on_to_the_same_end_and_on_another_number_too(method, tmp_path):
    (first, saved), (second, also_saved) = run_ranks(stop_and_go_on, tmp_path, method, 6)
    for whole, resumed in (first, second):
        assert whole[0] == resumed[0]  # the same batches, none twice
        assert equal_states(whole[1], resumed[1])
    assert equal_states(first[0][1], second[0][1])  # every rank holds the state of all
    times = {"overhead_seconds": 0.0}
    assert equal_states({**saved, **times}, {**also_saved, **times})

    seen = [[(6, b) for e, b in resumed[0] if e == 6][:2] for _, resumed in (first, second)]
    alone, end = go_on(method, saved, 12)  # the same global batch in one process
    assert counted([*seen, alone], 6) == counted([first[0][0], second[0][0]], 6)
    assert end["visits"] == first[0][1]["visits"] == 51 * EPOCHS
    if method == "top-loss":  # no policy whose draws depend on the rank
        for epoch in range(7, EPOCHS):
            assert counted([alone], epoch) == counted([first[0][0], second[0][0]], epoch)

    three = run_ranks(go_on_together, tmp_path, method, saved, 4, world=3)
    assert counted([*seen, *(log for log, _ in three)], 6) == counted([*seen, alone], 6)
    assert [len(log) for log, _ in three] == [len(alone)] * 3
    ends = [{**state, "overhead_seconds": 0.0} for _, state in three]
    assert all(equal_states(state, ends[0]) for state in ends)


def stop_at(stop, batch_size):
    """A run that is stopped before batch `stop[1]` of epoch `stop[0]`: what it saw, its state."""
    selector, log = build("top-loss"), []
    loader = selection_loader(TensorDataset(torch.arange(SIZE)), selector, batch_size=batch_size)
    observe(selector, loader, log, stop)
    return log, selector.state_dict()


def stop_together(rank, stop, batch_size):
    join_group()
    return stop_at(stop, batch_size)


def sizes(*logs):
    """Samples that all ranks saw in each epoch, each of them once."""
    seen = [counted(logs, epoch) for epoch in range(EPOCHS)]
    assert all(len(set(index)) == len(index) for index in seen)
    return [len(index) for index in seen]


@pytest.mark.distributed
def test_a_run_goes_on_on_more_ranks_which_cannot_hold_the_rest_of_an_epoch(tmp_path):
    before, state = stop_at((6, 2), 10)  # 51 samples an epoch, in batches of 10
    ends = run_ranks(go_on_together, tmp_path, "top-loss", state, 5, world=2)
    assert sizes(before, *(log for log, _ in ends)) == [51] * 6 + [50] * 4
    assert [len(log) for log, _ in ends] == [3 + 5 * 3] * 2  # equal steps
    assert ends[0][1]["visits"] == 51 * 6 + 50 * 4

    before, state = stop_at((6, 5), 10)  # nothing but the rest is left
    ends = run_ranks(go_on_together, tmp_path, "top-loss", state, 5, world=2)
    assert sizes(before, *(log for log, _ in ends)) == [51] * 6 + [50] * 4
    before, state = stop_at((9, 5), 10)  # and no epoch either
    ends = run_ranks(go_on_together, tmp_path, "top-loss", state, 5, world=2)
    assert [log for log, _ in ends] == [[], []]


@pytest.mark.distributed
def test_a_run_goes_on_on_fewer_ranks_which_can_hold_the_rest_of_an_epoch(tmp_path):
    seen = run_ranks(stop_together, tmp_path, (6, 2), 5, world=2)
    logs, state = [log for log, _ in seen], seen[0][1]
    rest, end = go_on("top-loss", state, 10)
    assert sizes(*logs, rest) == [50] * 7 + [51] * 3  # the epoch that had begun stays as it was
    assert end["visits"] == 50 * 7 + 51 * 3


def legs(rank, state, batch_sizes, stops):
    """On the ranks there are: parts of an epoch, each restored, then the rest of the run."""
    if "RANK" in os.environ:
        join_group()
    logs = []
    for batch_size, stop in zip(batch_sizes, stops, strict=True):
        selector, log = build("top-loss"), []
        data = TensorDataset(torch.arange(SIZE))
        loader = selection_loader(data, selector, batch_size=batch_size)
        selector.load_state_dict(state)
        observe(selector, loader, log, stop)
        state = selector.state_dict()
        logs.append(log)
    return logs, state


@pytest.mark.distributed
def test_an_epoch_goes_on_several_times_on_ranks_of_other_numbers(tmp_path):
    log, state = stop_at((6, 1), 10)  # 51 samples
    logs = [log]
    for world, batch_size in ((2, 5), (3, 4), (1, 10)):
        stops = [(6, 1), (6, 0)]  # a batch, then saved again where it was restored
        shape = (state, [batch_size] * 2, stops)
        found = run_ranks(legs, tmp_path, *shape, world=world) if world > 1 else [legs(0, *shape)]
        logs += [log for parts, _ in found for log in parts]
        state = found[0][1]
    rest, end = go_on("top-loss", state, 10)
    assert sizes(*logs, rest) == [51] * 10  # whoever had no place for the rest did not come to it
    assert end["visits"] == 510

    damaged = {**state, "visits": None}
    selector = build("top-loss")
    selection_loader(TensorDataset(torch.arange(SIZE)), selector, batch_size=10)
    selector.load_state_dict(state)
    with pytest.raises(DataAgentError, match="NoneType"):
        selector.load_state_dict(damaged)
    assert equal_states(
        selector.state_dict(), {**state, "overhead_seconds": selector.overhead_seconds}
    )


@pytest.mark.distributed
def test_ranks_may_have_larger_batches_together_than_were_observed_before(tmp_path):
    before, state = stop_at((6, 1), 5)  # rank 1 begins 5 samples on: nothing was skipped twice
    ends = run_ranks(go_on_together, tmp_path, "top-loss", state, 5, world=2)
    assert sizes(before, *(log for log, _ in ends)) == [51] * 7 + [50] * 3


def test_what_other_ranks_leave_out_of_an_epoch_is_said():
    _, state = stop_at((6, 2), 10)
    selector = build("top-loss")
    selector.use_loader(5, world=2)
    with pytest.warns(DataAgentWarning, match="epoch 6 goes on .* its last 1 sample"):
        selector.load_state_dict(state)
    assert selector.metrics()["epoch"] == 6


def dealt_by_a_framework(rank, _):
    """Batches of one sampler dealt in turn, the last ones filled up from the start."""
    join_group()
    selector = build("top-loss")
    sampler = SelectionSampler(selector, batch_size=6, rank=None, world=2, skip_observed=False)
    log = []
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        order = list(sampler)
        order += order[: -len(order) % 12]
        for start in range(6 * rank, len(order), 12):
            index = torch.tensor(order[start : start + 6])
            selector.observe(feedback_of(index, epoch))
            log.append((epoch, index.tolist()))
    restored = build("top-loss")
    SelectionSampler(restored, batch_size=6, rank=None, world=2, skip_observed=False)
    restored.load_state_dict(selector.state_dict())
    return log, len(sampler), restored.metrics()["visits"], list(restored.epochs())


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore:all 10 epochs are done")
def test_a_framework_may_deal_the_batches_and_pad_them(tmp_path):
    first, second = run_ranks(dealt_by_a_framework, tmp_path, None)
    assert first[1:] == second[1:] == (51, 60 * EPOCHS, [])  # 51 samples are 5 rounds of 12
    for epoch in range(EPOCHS):
        assert len(set(counted([first[0], second[0]], epoch))) == 51


def dealt_twice(rank, _):
    join_group()
    selector = build("random")
    loader = selection_loader(TensorDataset(torch.arange(SIZE)), selector, batch_size=6)
    selector.begin_epoch(0)
    for number, (_, index) in enumerate(loader):
        if number % 2 == rank:  # as Accelerate deals what it believes to be the whole epoch
            selector.observe(feedback_of(index, 0))
    try:
        selector.begin_epoch(1)
    except StateError as error:
        return str(error)


@pytest.mark.distributed
def test_an_epoch_that_is_dealt_out_twice_is_refused(tmp_path):
    for message in run_ranks(dealt_twice, tmp_path, None):
        assert "dealt out again by a framework" in message


def build_too_early(rank, _):
    selector = build("random")
    selection_loader(TensorDataset(torch.arange(SIZE)), selector, batch_size=6)
    join_group()
    with pytest.raises(StateError, match=r"deals an epoch to 1 rank\(s\), but 2 take part"):
        selector.begin_epoch(0)


@pytest.mark.distributed
def test_a_loader_from_before_the_process_group_is_refused(tmp_path):
    run_ranks(build_too_early, tmp_path, None)


@pytest.mark.distributed
def test_a_rank_without_rows_still_takes_part_and_indices_stay_exact(tmp_path):
    for index, values in run_ranks(work, tmp_path, "gather"):
        assert index.tolist() == [2**53, 2**53 + 1, 2**53 + 2]  # a float would round these
        assert torch.equal(values, torch.ones(3, 2))


def train_on_equal_feedback(rank):
    """96 samples, 48 of them an epoch, in batches of 12 over all ranks; SGD on their mean loss."""
    if "RANK" in os.environ:
        join_group()
    x = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))
    selector = make_selector("top-loss", num_samples=96, epochs=EPOCHS, keep_ratio=0.5)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    model = nn.parallel.DistributedDataParallel(net) if "RANK" in os.environ else net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    loader = selection_loader(
        TensorDataset(x, (x[:, 0] > 0).long()), selector, batch_size=12 // world_size()
    )
    selections, steps = [], 0
    for epoch in selector.epochs():
        selections.append(selector.select(epoch).index.tolist())
        for inputs, labels, index in loader:
            losses = F.cross_entropy(model(inputs), labels, reduction="none")
            losses.mean().backward()
            selector.observe(feedback_of(index, epoch))
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
    return selections, steps, net.state_dict(), selector.state_dict()["visits"]


@pytest.mark.distributed
@pytest.mark.parametrize("world", [2, 4])
def test_the_same_global_batch_gives_the_same_run_on_any_number_of_ranks(world, tmp_path):
    selections, steps, weights, visits = train_on_equal_feedback(0)
    for found in run_ranks(train_on_equal_feedback, tmp_path, world=world):
        assert found[0] == selections
        assert found[1] == steps == 4 * EPOCHS
        assert found[3] == visits == 48 * EPOCHS
        for name, value in weights.items():
            torch.testing.assert_close(found[2][name], value, rtol=1e-4, atol=1e-5)


def skipping(rank, _):
    """Rank 1 does not observe a batch; what each rank says to that."""
    join_group()
    said = []
    for method in ("top-loss", "data-agent"):
        selector = build(method)
        loader = selection_loader(TensorDataset(torch.arange(SIZE)), selector, batch_size=6)
        try:
            for epoch in selector.epochs():
                for number, (_, index) in enumerate(loader):
                    if rank == 0 or (epoch, number) != (1, 2):
                        selector.observe(feedback_of(index, epoch))
        except StateError as error:
            said.append(str(error))
        else:
            said.append(selector.metrics()["epoch"])
    return said


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore:in epoch 1")
def test_a_rank_that_sees_no_feedback_in_a_while(tmp_path):
    for table, policy in run_ranks(skipping, tmp_path, None):
        assert table == EPOCHS - 1  # nothing is exchanged between epochs: all went on
        assert "the ranks make different calls" in policy
        assert "rank 0 in a policy update" in policy
        assert "rank 1 in begin_epoch(2)" in policy


def forgetting(rank, _):
    """Rank 1 observes nothing in an epoch, in the middle of a run or in its last one."""
    join_group()
    said = []
    for forgotten in (3, EPOCHS - 1):
        selector = build("top-loss")
        loader = selection_loader(TensorDataset(torch.arange(SIZE)), selector, batch_size=6)
        try:
            for epoch in selector.epochs():
                for _, index in loader:
                    if rank == 0 or epoch != forgotten:
                        selector.observe(feedback_of(index, epoch))
        except DataAgentError as error:
            said.append((type(error).__name__, str(error), selector.epoch))
    return said


@pytest.mark.distributed
def test_what_one_rank_forgot_ends_all_of_them_with_its_words(tmp_path):
    for other, own in zip(*run_ranks(forgetting, tmp_path, None), strict=True):
        assert other[2] == own[2]
        assert own[0] == "StateError"
        assert own[1].startswith(f"epoch {own[2]} delivered 25 samples and not one batch was obs")
        assert other[1] == f"rank 1: {own[1]}"


def save_early(rank, _):
    """A state of ranks of which one has seen no feedback yet; and too small a data set."""
    join_group()
    with pytest.raises(InputError, match="do not fill one batch of 1 on 2 rank"):
        selection_loader(
            TensorDataset(torch.arange(1)), make_selector("random", num_samples=1, **SHORT)
        )
    agent = build("data-agent")
    selection_loader(TensorDataset(torch.arange(SIZE)), agent, batch_size=6)
    agent.begin_epoch(0)
    if rank == 0:
        agent.observe(feedback_of(agent.select(0).index[:6], 0))
    state = agent.state_dict()
    agent.load_state_dict(state)
    return {**state, "overhead_seconds": 0.0, "method": agent.state_dict()["method"]}


SHORT = {"epochs": 1, "keep_ratio": 1.0}


@pytest.mark.distributed
def test_a_state_of_ranks_of_which_one_has_seen_nothing(tmp_path):
    first, second = run_ranks(save_early, tmp_path, None)
    steps = [state["method"].pop("num_steps") for state in (first, second)]
    assert steps == [1, 0]  # a rank's own batches
    assert equal_states(first["method"]["learner"], second["method"]["learner"])
    assert first["visits"] == second["visits"] == 6


def leave(rank, how, folder):
    """Rank 1 dies, hangs, or trains on while rank 0 saves; what rank 0 says, and when."""
    os.environ["GLOO_LOG_LEVEL"] = "ERROR"
    dist.init_process_group("gloo", timeout=timedelta(seconds=5))
    agent = build("data-agent")
    loader = selection_loader(TensorDataset(torch.arange(SIZE)), agent, batch_size=6)
    agent.begin_epoch(0)
    agent.observe(feedback_of(next(iter(loader))[1], 0))
    agent.state_dict()
    if rank == 1:
        if how == "dies":
            os._exit(1)
        if how == "trains on":  # as DDP does; its gradients must not be taken for rows
            with contextlib.suppress(RuntimeError):
                dist.all_reduce(torch.ones(128, dtype=torch.int64))
                (folder / "mixed up").touch()
        time.sleep(600)
    start = time.monotonic()
    try:
        agent.state_dict()
    except StateError as error:
        (folder / how).write_text(f"{time.monotonic() - start:.0f} {error}")
    os._exit(0)


@pytest.mark.distributed
@pytest.mark.parametrize("how", ["dies", "hangs", "trains on"])
def test_a_rank_that_is_gone_ends_the_others_within_the_timeout(how, tmp_path):
    context: Any = start_ranks(leave, tmp_path, how, tmp_path)
    rank_0, rank_1 = context.processes
    rank_0.join(120)
    rank_1.kill()
    rank_1.join()
    seconds, _, message = (tmp_path / how).read_text().partition(" ")
    assert message.startswith("rank 0 waited for the other ranks in state_dict(), and they did not")
    assert int(seconds) <= 10
    assert not (tmp_path / "mixed up").exists()


def join_again(rank, port):
    os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    found = []
    for number in range(3):
        with joined(backend="gloo", timeout=timedelta(seconds=20)):
            found.append(gather_rows(torch.tensor([10 * number + rank]))[0].tolist())
            time.sleep(1 - rank)  # the other one comes first, and finds what is left of the last
    return found


def test_processes_of_torchrun_join_several_times(tmp_path):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun's
    for found in run_ranks(join_again, tmp_path, store.port):
        assert found == [[0, 1], [10, 11], [20, 21]]


def test_agents_are_ordinary_in_one_process():
    agent = DataAgent(num_samples=10, epochs=8)
    assert len(selection_loader(TensorDataset(torch.arange(10)), agent, batch_size=5)) == 1
