"""What a user meets when calls come at the wrong time or batches are bad."""

import copy
import gc
import logging
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import (
    DataAgent,
    DataAgentConfig,
    Feedback,
    SelectionSampler,
    Selector,
    make_selector,
    selection_loader,
)
from data_agent.agent.reward import difficulty
from data_agent.errors import CheckpointError, DataAgentWarning, InputError, StateError
from data_agent.selecting.nonfinite import without_nonfinite
from data_agent.selecting.staging import Staging, keep_last

SIZE = 64


def agent(**options):
    return DataAgent(num_samples=SIZE, epochs=16, **options)


def batch(index, **changes):
    size = len(index)
    columns = {
        "losses": torch.linspace(0, 1, size),
        "logits": torch.linspace(-1, 1, size * 3).view(size, 3),
        "features": torch.linspace(0, 3, size * 4).view(size, 4).sin(),
    }
    return Feedback(index, **{**columns, **changes})


def first_batch(selector):
    """int64 [8]: samples of epoch 0, which has begun."""
    return selector.select(0).index[:8]


def observe_epoch(selector, epoch):
    selector.begin_epoch(epoch)
    for index in selector.select(epoch).index.split(8):
        selector.observe(batch(index))


def round_trip(selector):
    return pickle.loads(pickle.dumps(selector))


def test_learning_before_an_epoch_began_says_what_to_write():
    losses = torch.ones(4, requires_grad=True)
    with pytest.raises(StateError, match=r"for epoch in agent.epochs\(\)"):
        agent().learn(losses, torch.arange(4), logits=torch.zeros(4, 2), features=torch.ones(4, 2))


def test_losses_without_a_graph_are_refused_before_anything_is_learnt():
    one = agent()
    one.begin_epoch(0)
    with pytest.raises(StateError, match="Called in evaluation"):
        one.learn(torch.ones(4), torch.arange(4), logits=torch.zeros(4, 2))
    assert one.visits == 0


def test_an_epoch_that_is_over_is_not_fed_for_ever():
    one = agent()
    observe_epoch(one, 0)
    observed = one.visits
    with pytest.raises(StateError, match="the next epoch was never begun"):
        one.observe(batch(first_batch(one)))
    assert one.visits == observed


def test_epochs_only_go_forward():
    one = agent()
    observe_epoch(one, 0)
    observe_epoch(one, 1)
    one.begin_epoch(1)  # again: nothing happens
    with pytest.raises(StateError, match="epochs only go forward"):
        one.begin_epoch(0)
    with pytest.raises(InputError, match="epoch 16 does not exist"):
        one.begin_epoch(16)
    with pytest.raises(InputError, match="epoch '2' does not exist"):
        one.begin_epoch("2")


def test_numbers_of_numpy_are_numbers():
    one = DataAgent(np.int64(64), np.int32(16), keep_ratio=np.float32(0.5))
    assert type(one.schedule.num_samples) is type(one.schedule.epochs) is int
    assert type(one.state_dict()["keep_ratio"]) is float


def test_the_first_set_epoch_after_a_restore_may_start_from_zero(caplog):
    first = agent()
    for epoch in range(5):
        observe_epoch(first, epoch)
    restored = agent()
    restored.load_state_dict(first.state_dict())
    with caplog.at_level(logging.INFO, logger="data_agent"):
        restored.set_epoch(0)
    assert restored.epoch == 5  # epoch 4 was complete
    assert "counting on from 5" in caplog.text
    for index in restored.select(5).index.split(8):
        restored.observe(batch(index))
    restored.set_epoch(1)
    assert restored.epoch == 6


def test_epoch_zero_after_a_restore_from_a_complete_epoch_zero_is_the_next_one():
    first = agent()
    observe_epoch(first, 0)
    restored = agent()
    restored.load_state_dict(first.state_dict())
    restored.set_epoch(0)
    assert restored.epoch == 1


def test_while_the_agent_counts_a_frameworks_count_changes_nothing():
    one = agent()
    observe_epoch(one, 0)
    restored = agent()
    restored.load_state_dict(one.state_dict())
    for epoch in restored.epochs():
        restored.set_epoch(0)  # Fabric and Accelerate tell how often their loader ran out
        restored.set_epoch(epoch + 1)
        assert restored.epoch == epoch
        observe_epoch(restored, epoch)
    assert restored.epoch == 15


def test_a_selector_travels_to_another_process():
    one = agent()
    observe_epoch(one, 0)
    other = round_trip(one)
    assert torch.equal(other.select(1).index, one.select(1).index)


@pytest.mark.parametrize("copied", [copy.deepcopy, round_trip])
def test_a_copy_watches_nothing_and_learns_once_it_is_told_what(copied):
    head, one = nn.Linear(4, 3), agent()
    one.watch(head)
    one.begin_epoch(0)
    index = first_batch(one)
    losses = head(torch.ones(8, 4)).pow(2).mean(1)
    other = copied(one)
    with pytest.raises(InputError, match=r"none came\. Call agent\.watch\(head\)"):
        other.learn(losses, index)
    one.learn(losses, index)
    assert len(head._forward_hooks) == 1
    other.watch(head)
    other.learn(head(torch.ones(8, 4)).pow(2).mean(1), index)
    del head, losses  # a run that is over often leaves its agent only
    gc.collect()
    copied(one).begin_epoch(0)


def test_a_framework_that_counts_on_by_itself_is_not_shifted():
    first = agent()
    observe_epoch(first, 0)
    restored = agent()
    restored.load_state_dict(first.state_dict())
    restored.set_epoch(1)
    assert restored.epoch == 1


def test_non_finite_values_name_the_samples_and_stay_out():
    one = agent()
    one.begin_epoch(0)
    index = first_batch(one)
    losses = torch.ones(8)
    losses[3] = torch.inf
    with pytest.raises(InputError, match=rf"for 1 sample\(s\): {index[3]}"):
        one.observe(batch(index, losses=losses))
    features = torch.ones(8, 4)
    features[5, 2] = torch.nan
    with pytest.raises(InputError, match=rf"for 1 sample\(s\): {index[5]}"):
        one.observe(batch(index, features=features))
    assert one.visits == 0


def test_non_finite_rows_can_be_skipped_and_are_counted():
    one = agent(on_nonfinite="skip", config=DataAgentConfig(update_every=1, rollout_rows=8))
    one.begin_epoch(0)
    for index in one.select(0).index.split(8):
        losses = torch.linspace(0, 1, 8)
        losses[3] = torch.nan
        one.observe(batch(index, losses=losses))
    skipped = one.select(0).index.view(-1, 8)[:, 3]
    one.begin_epoch(1)
    assert one.metrics()["skipped_nonfinite"] == len(skipped)
    written = (one._table.state_dict()["parameters"] != 1).any(1)  # the others are at the prior
    assert not written[skipped].any()
    assert written.sum() == 7 * len(skipped)
    assert torch.isfinite(one.policy.learner.networks.weights).all()


def test_a_batch_of_which_nothing_is_finite_is_skipped_too():
    one = agent(on_nonfinite="skip", config=DataAgentConfig(update_every=1, rollout_rows=8))
    one.begin_epoch(0)
    one.observe(batch(first_batch(one), losses=torch.full((8,), torch.nan)))
    one.observe(batch(one.select(0).index[8:16]))
    assert one.metrics()["skipped_nonfinite"] == 8


def test_features_are_needed_and_keep_their_width():
    one = agent()
    one.begin_epoch(0)
    with pytest.raises(InputError, match=r"Call agent\.watch\(head\)"):
        one.observe(batch(first_batch(one), features=None))
    one.observe(batch(first_batch(one)))
    with pytest.raises(InputError, match="features came 5 wide; so far they were 4 wide"):
        one.observe(batch(one.select(0).index[8:16], features=torch.ones(8, 5)))
    assert one.visits == 8


def test_a_task_without_logits_is_rewarded_by_one_signal():
    one = agent(config=DataAgentConfig(signals=(difficulty,), update_every=1, rollout_rows=8))
    one.begin_epoch(0)
    for index in one.select(0).index.split(8):
        one.observe(batch(index, logits=None))
    assert one.metrics()["reward_weight/difficulty"] == 1.0
    other = agent()
    other.begin_epoch(0)
    with pytest.raises(InputError, match=r"signals=\(difficulty,\)"):
        other.observe(batch(first_batch(other), logits=None))


def test_signals_outside_their_range_are_refused():
    def loss_itself(feedback):
        return feedback.losses * 10

    one = agent(config=DataAgentConfig(signals=(loss_itself,)))
    one.begin_epoch(0)
    with pytest.raises(InputError, match=r"signal 'loss_itself' returned values in \[0, 10\]"):
        one.observe(batch(first_batch(one)))
    assert one.visits == 0


def test_repeats_that_a_framework_pads_are_written_once():
    """The last row of a sample counts; on one process no framework repeats any."""
    rows = {"values": torch.tensor([[1.0], [2.0], [3.0], [4.0]])}
    index, kept = keep_last(torch.tensor([5, 3, 5, 9]), rows)
    assert index.tolist() == [3, 5, 9]
    assert kept["values"].squeeze(1).tolist() == [2.0, 3.0, 4.0]


class Weighted(Selector):
    """Weighs the samples of its choice by 0.5 and 1.5 in turn."""

    name = "weighted"

    def choose(self, epoch, count, excluded):
        return (~excluded).nonzero().squeeze(1)[:count]

    def weigh(self, epoch, index, excluded):
        return torch.tensor([0.5, 1.5]).repeat(len(index))[: len(index)]


def test_weights_multiply_each_samples_own_loss():
    one = Weighted(num_samples=SIZE, epochs=16, keep_ratio=0.5)
    observe_epoch(one, 0)
    observe_epoch(one, 1)
    one.begin_epoch(2)
    index = one.select(2).index[[3, 0]]  # weights 1.5 and 0.5
    losses = torch.tensor([2.0, 4.0], requires_grad=True)
    loss = one.weighted_mean(losses, index)
    assert loss.item() == pytest.approx((1.5 * 2 + 0.5 * 4) / 2)
    loss.backward()
    assert losses.grad.tolist() == [0.75, 0.25]
    with pytest.raises(InputError, match="not in the running epoch's selection"):
        one.weighted_mean(losses, torch.tensor([SIZE - 1, SIZE - 2]))


def test_a_state_of_another_run_names_each_difference():
    state = agent(seed=1).state_dict()
    other = DataAgent(num_samples=SIZE, epochs=20, seed=2)
    with pytest.raises(CheckpointError, match="epochs was 16, here it is 20; seed was 1, here it"):
        other.load_state_dict(state)
    rewarded = agent(config=DataAgentConfig(signals=(difficulty,)))
    with pytest.raises(CheckpointError, match=r"settings was .*uncertainty"):
        rewarded.load_state_dict(agent().state_dict())


def test_unknown_methods_and_options_are_named():
    arguments = {"num_samples": 10, "epochs": 16, "keep_ratio": 0.5}
    with pytest.raises(InputError, match=r"'infobach' is unknown; expected one of .*random"):
        make_selector("infobach", **arguments)
    with pytest.raises(InputError, match="Random has no argument 'temperature'; it takes num_sam"):
        make_selector("random", **arguments, temperature=1)
    with pytest.raises(InputError, match="seed is -1"):
        make_selector("random", **arguments, seed=-1)
    with pytest.raises(InputError, match="on_nonfinite is 'ignore'"):
        make_selector("random", **arguments, on_nonfinite="ignore")


def test_metrics_are_plain_numbers_for_any_logger():
    one = agent(config=DataAgentConfig(update_every=1, rollout_rows=8))
    assert one.summary().startswith("data-agent: no epoch has begun")
    for epoch in range(3):
        observe_epoch(one, epoch)
    metrics = one.metrics()
    assert all(type(value) is float for value in metrics.values())
    expected = {"tau", "mean_action", "approximate_kl", "clip_fraction", "entropy"}
    expected |= {"explained_variance", "reward_weight/uncertainty", "kept_mean_action"}
    expected |= {"unkept_mean_action", "overhead_share", "visits"}
    assert expected <= metrics.keys()
    assert metrics["visits"] == 96
    assert metrics["visits_of_full_run"] == pytest.approx(96 / (64 * 16))
    assert metrics["planned_cost"] == 0.5
    assert "epoch 3/16 (selected), 96 visits = 9.4% of a full run (plan: 50.0%)" in one.summary()


def test_a_metric_of_nothing_is_left_out():
    """Where everything is kept there is no mean over what is not."""
    one = agent(keep_ratio=1.0)
    observe_epoch(one, 0)
    metrics = one.metrics()
    assert all(math.isfinite(value) for value in metrics.values())
    assert "kept_mean_action" in metrics
    assert "unkept_mean_action" not in metrics


def test_metrics_are_those_of_the_run_that_was_stopped():
    options = {"config": DataAgentConfig(update_every=1, rollout_rows=8)}
    stopped, restored = agent(**options), agent(**options)
    for epoch in range(2):
        observe_epoch(stopped, epoch)
    stopped.begin_epoch(2)
    stopped.observe(batch(stopped.select(2).index[:8]))
    restored.load_state_dict(stopped.state_dict())
    now, before = restored.metrics(), stopped.metrics()
    assert "approximate_kl" in now  # of an update before the stop
    clocks = ("overhead_seconds", "overhead_share")
    assert {k: v for k, v in now.items() if k not in clocks} == {
        k: v for k, v in before.items() if k not in clocks
    }


def test_a_run_that_is_over_says_so():
    one = agent()
    for epoch in range(16):
        observe_epoch(one, epoch)
    with pytest.warns(DataAgentWarning, match="all 16 epochs are done"):
        assert list(one.epochs()) == []


def test_after_a_complete_epoch_a_restored_loader_delivers_the_next_one():
    first = agent()
    observe_epoch(first, 0)
    first_state = first.state_dict()
    restored = agent()
    restored.load_state_dict(first_state)
    preview = list(SelectionSampler(restored))
    first.begin_epoch(1)
    assert preview == list(SelectionSampler(first))
    assert len(preview) == 32


def test_rows_that_an_accelerator_found_not_finite_are_reported_later_and_lose_nothing():
    staging = Staging("raise")
    staging.append(torch.tensor([4, 6]), {"values": torch.ones(2, 2)})
    staging.refuse(torch.tensor([5]))
    assert staging.rows()[0].tolist() == [4, 6]  # reading or saving does not raise
    with pytest.raises(InputError, match=r"for 1 sample\(s\): 5"):
        staging.check()
    staging.check()  # reported once
    assert staging.rows()[0].tolist() == [4, 6]
    assert staging.num_skipped == 1


def test_rows_that_are_not_finite_are_left_out_of_their_batch():
    losses = torch.tensor([1.0, torch.nan, 3.0, 4.0, 5.0, torch.inf])
    features = torch.tensor([[100.0], [2.0], [torch.nan], [200.0], [4.0], [5.0]])
    clean, valid = without_nonfinite(
        Feedback(torch.arange(6), losses, features=features, sizes=(1, 2, 2, 1))
    )
    assert valid.tolist() == [True, False, False, True, True, False]
    assert clean.index.tolist() == [0, 3, 4]
    assert clean.losses.tolist() == [1.0, 4.0, 5.0]
    assert clean.features.squeeze(1).tolist() == [100.0, 200.0, 4.0]
    assert clean.sizes == (1, 2)  # of the second and the last batch nothing is left


def test_many_large_values_are_finite_and_one_look_tells_nothing_wrong():
    large = torch.full((1000,), 9e14)
    clean, valid = without_nonfinite(Feedback(torch.arange(1000), large))
    assert valid is None
    assert len(clean) == 1000


def test_features_beyond_all_measure_are_not_finite_either():
    one = agent()
    one.begin_epoch(0)
    features = torch.ones(8, 4)
    features[2] = 1e30
    index = first_batch(one)
    with pytest.raises(InputError, match=rf"for 1 sample\(s\): {index[2]}"):
        one.observe(batch(index, features=features))


def test_a_sampler_of_a_framework_leaves_the_batches_to_it():
    one = agent()
    SelectionSampler(one)
    assert one.schedule.batch_size is None
    observe_epoch(one, 0)
    assert one.policy.cadence.interval == 32  # 256 rows in batches of 8


def test_a_second_loader_with_other_batches_is_refused_once_training_runs():
    one = agent()
    data = TensorDataset(torch.arange(SIZE))
    selection_loader(data, one, batch_size=8)
    one.begin_epoch(0)
    selection_loader(data, one, batch_size=8)
    with pytest.raises(StateError, match="no second one with other batches"):
        selection_loader(data, one, batch_size=4)


def test_wrong_arguments_are_named():
    with pytest.raises(InputError, match="config is dict"):
        agent(config={"gamma": 0.5})
    with pytest.raises(InputError, match=r"rollout_rows is 256\.5; expected a whole number"):
        DataAgentConfig(rollout_rows=256.5)
    with pytest.raises(InputError, match="signals is <function difficulty"):
        DataAgentConfig(signals=difficulty)
    with pytest.raises(InputError, match="learning_rate is inf"):
        DataAgentConfig(learning_rate=float("inf"))
    with pytest.raises(InputError, match="a selector is needed"):
        selection_loader(TensorDataset(torch.arange(SIZE)), DataAgent)


class TestWatch:
    """The hook on the model's last layer."""

    def setup_method(self):
        self.agent = agent()
        self.agent.begin_epoch(0)
        self.net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
        self.agent.watch(self.net[2])
        self.index = self.agent.select(0).index[:8]

    def losses(self, size=8):
        return self.net(torch.randn(size, 5)).square().mean(1)

    def test_evaluation_leaves_no_trace(self):
        losses = self.losses()
        self.net.eval()
        self.losses()
        with torch.no_grad():
            self.net.train()
            self.losses(3)
        self.agent.learn(losses, self.index)
        assert self.agent.visits == 8

    def test_no_forward(self):
        losses = self.losses()
        self.agent.learn(losses, self.index)
        with pytest.raises(
            StateError, match=r"no training forward.*after the first call of a comp"
        ):
            self.agent.learn(losses, self.index)

    def test_two_forwards(self):
        self.losses()
        with pytest.raises(StateError, match="2 training forwards since the last"):
            self.agent.learn(self.losses(), self.index)
        self.agent.learn(self.losses(), self.index)  # and on it goes

    def test_another_batch_size(self):
        losses = self.losses()
        with pytest.raises(InputError, match="has 8 rows, but 4 losses came"):
            self.agent.learn(losses[:4], self.index[:4])

    def test_a_sequence_without_a_mask(self):
        losses = self.net(torch.randn(8, 6, 5)).square().mean((1, 2))
        with pytest.raises(InputError, match=r"shape \[8, 6, 4\].*without a mask"):
            self.agent.learn(losses, self.index)

    def test_checkpointed_recomputation_is_not_a_second_forward(self):
        from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

        for index in (self.index, self.agent.select(0).index[8:16]):
            x = torch.randn(8, 5, requires_grad=True)
            with set_checkpoint_early_stop(False):  # backward runs the head's forward again, too
                logits = checkpoint(self.net, x, use_reentrant=False)
            loss = self.agent.learn(logits.square().mean(1), index)
            loss.backward()
        assert self.agent.visits == 16

    def test_replicas_and_other_things_cannot_be_watched(self):
        with pytest.raises(InputError, match="DataParallel"):
            self.agent.watch(nn.DataParallel(self.net))
        with pytest.raises(InputError, match="takes a module, got str"):
            self.agent.watch("fc")
        assert len(self.net[2]._forward_hooks) == 1  # the old watch is still there

    def test_a_reduced_loss_is_named_and_the_next_call_works(self):
        with pytest.raises(InputError, match="one number"):
            self.agent.learn(self.losses().mean(), self.index)
        with pytest.raises(InputError, match="index must be an int64 tensor"):
            self.agent.learn(self.losses(), None)
        with pytest.raises(InputError, match="the dataset has 64 samples"):
            self.agent.learn(self.losses(), self.index + SIZE)
        self.agent.learn(self.losses(), self.index)
        assert self.agent.visits == 8

    def test_handed_over_values_go_first(self):
        logits = torch.zeros(8, 3)
        logits[:, 0] = torch.linspace(0, 5, 8)
        features = torch.randn(8, 4)
        self.agent.learn(self.losses(), self.index, logits=logits, features=features)
        assert self.agent.visits == 8
