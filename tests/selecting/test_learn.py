"""`learn`: the loss is the one that was asked for, and mistyped arguments do not pass."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import DataAgent, DataAgentConfig, make_selector, selection_loader
from data_agent.errors import InputError
from data_agent.labels import LabelRules
from data_agent.labels.label_aware import LabelAware
from data_agent.methods import method_class
from data_agent.trusted import TrustedConfig

SIZE, CLASSES = 64, 4
X = torch.randn(SIZE, 8, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, CLASSES, (SIZE,), generator=torch.Generator().manual_seed(1))
IGNORED = torch.where(torch.arange(SIZE) % 4 == 0, -100, Y)
WEIGHT = torch.tensor([1.0, 2.0, 3.0, 10.0])


def sum_of_weights(labels, weight):
    """What `cross_entropy` divides by."""
    counts = labels != -100
    return counts.sum() if weight is None else (weight[labels.clamp(min=0)] * counts).sum()


def trained(labels, weight, step, *, ratio=1.0):
    """The weights of a head after two epochs, and the first loss."""
    torch.manual_seed(0)
    agent, head, losses = DataAgent(SIZE, 2, keep_ratio=ratio), nn.Linear(8, CLASSES), []
    agent.watch(head)
    optimizer = torch.optim.SGD(head.parameters(), 0.1)
    loader = selection_loader(TensorDataset(X, labels), agent, batch_size=16)
    for _ in agent.epochs():
        for x, y, index in loader:
            loss = step(agent, head(x), y, weight, index)
            loss.backward()
            losses.append(loss.item())
            optimizer.step()
            optimizer.zero_grad()
    return head.weight.detach(), losses


def with_denominator(agent, outputs, labels, weight, index):
    losses = F.cross_entropy(outputs, labels, weight, reduction="none")
    return agent.learn(losses, index, denominator=sum_of_weights(labels, weight))


def with_a_loss_of_ones_own(agent, outputs, labels, weight, index):
    agent.learn(F.cross_entropy(outputs, labels, weight, reduction="none"), index)
    return F.cross_entropy(outputs, labels, weight)


def without_us(agent, outputs, labels, weight, index):
    losses = F.cross_entropy(outputs.detach(), labels, reduction="none").requires_grad_()
    agent.learn(losses, index)  # for the same order only
    return F.cross_entropy(outputs, labels, weight)


LABELS = [(Y, WEIGHT), (IGNORED, None), (IGNORED, WEIGHT)]


@pytest.mark.parametrize(("labels", "weight"), LABELS)
def test_a_denominator_makes_it_cross_entropys_own_mean(labels, weight):
    ours, losses = trained(labels, weight, with_denominator)
    plain, expected = trained(labels, weight, without_us)
    assert losses == pytest.approx(expected, rel=1e-5)  # another order of summation
    assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("labels", "weight"), LABELS)
def test_the_loops_own_reduced_loss_is_bitwise_what_it_was(labels, weight):
    ours, losses = trained(labels, weight, with_a_loss_of_ones_own)
    plain, expected = trained(labels, weight, without_us)
    assert losses == expected
    assert torch.equal(ours, plain)


def running(name="random", **options):
    selector = make_selector(name, num_samples=SIZE, epochs=2, keep_ratio=1.0, **options)
    selector.begin_epoch(0)
    return selector


def test_the_batch_size_as_denominator_is_the_plain_mean_to_the_bit():
    losses, index = torch.rand(16, requires_grad=True), torch.arange(16)
    for denominator in (16, 16.0, np.int64(16), torch.tensor(16), torch.tensor(16.0)):
        loss = running().learn(losses, index, denominator=denominator)
        assert torch.equal(loss, losses.mean())
        assert loss.dtype == losses.dtype


def test_weights_of_samples_and_a_denominator_go_together():
    selector = running()
    weights = torch.linspace(0.5, 1.5, SIZE)
    selector.weights_of = lambda index: weights[index]
    losses, index = torch.rand(16, requires_grad=True), torch.arange(16)
    loss = selector.learn(losses, index, denominator=5.0)
    assert loss.item() == pytest.approx(float((weights[:16] * losses.detach()).sum() / 5), rel=1e-6)


@pytest.mark.parametrize(
    ("denominator", "message"),
    [
        (0, "must be positive"),
        (torch.tensor(0), r"denominator=count\.clamp\(min=1\)"),
        (-1.0, "must be positive"),
        (float("nan"), "must be positive"),
        (torch.ones(16), r"shape \[16\].*one number"),
        (torch.tensor(True), "one number"),
        (True, "denominator is True; expected a number"),
        ("16", "denominator is '16'"),
    ],
)
def test_what_is_no_denominator_is_refused_before_anything_is_learnt(denominator, message):
    selector, losses = running(), torch.rand(16, requires_grad=True)
    with pytest.raises(InputError, match=message):
        selector.learn(losses, torch.arange(16), denominator=denominator)
    assert selector.visits == 0
    # The remedy for a batch in which nothing counts.
    count = torch.tensor(0)
    loss = selector.learn(losses * 0, torch.arange(16), denominator=count.clamp(min=1))
    assert loss.item() == 0


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("label", "labels"),
        ("lables", "labels"),
        ("logit", "logits"),
        ("feature", "features"),
        ("uncertanty", "uncertainty"),
        ("denominater", "denominator"),
        ("target", "labels"),
        ("targets", "labels"),
        ("y", "labels"),
        ("idx", "index"),
        ("outputs", "logits"),
    ],
)
def test_a_mistyped_argument_is_no_signal(typo, meant):
    selector, values = running(), torch.rand(16)
    learn = partial(selector.learn, torch.rand(16, requires_grad=True), torch.arange(16))
    with pytest.raises(InputError, match=f"got {typo}=.*Did you mean {meant}="):
        learn(**{typo: values})
    assert selector.visits == 0
    learn(age=values)
    assert selector.visits == 16


@pytest.mark.parametrize("name", ["weight", "weights", "sample_weight", "wieghts"])
def test_weights_are_no_signal_and_belong_in_the_losses(name):
    selector, index = running(), torch.arange(16)
    losses, weights = torch.rand(16, requires_grad=True), torch.rand(16)
    with pytest.raises(InputError, match=r"learn\(weights \* losses, index, denominator=weights"):
        selector.learn(losses, index, **{name: weights})
    loss = selector.learn(weights * losses, index, denominator=weights.sum())
    assert loss.item() == pytest.approx(float((weights * losses.detach()).sum() / weights.sum()))


def test_mistyped_arguments_of_a_class_and_of_a_loader_are_told_what_was_meant():
    base = {"num_samples": 100, "epochs": 4, "keep_ratio": 0.5}
    for make, typo, meant in (
        (partial(DataAgent, 100, 4), "keep_ratoi", "keep_ratio"),
        (partial(DataAgent, epochs=4), "num_sample", "num_samples"),
        (partial(LabelAware, **base), "label_rule", "label_rules"),
        (partial(LabelAware, **base), "onnonfinite", "on_nonfinite"),
        (DataAgentConfig, "entropy_bonsu", "entropy_bonus"),
        (LabelRules, "doubtful_label", "doubtful_labels"),
        (TrustedConfig, "sharpnes", "sharpness"),
    ):
        with pytest.raises(InputError, match=f"no argument '{typo}'.*Did you mean '{meant}'"):
            make(**{typo: 1})
    with pytest.raises(InputError, match="takes num_samples, epochs, keep_ratio, seed, config, tr"):
        DataAgent(100, 4, **{"schedule": "paper"})  # pyright: ignore[reportArgumentType]
    agent = DataAgent(100, 4)
    with pytest.raises(InputError, match=r"got batchsize=.*Did you mean 'batch_size'"):
        selection_loader(TensorDataset(torch.arange(100)), agent, batchsize=8)


def test_a_method_of_ones_own_may_take_what_it_likes():
    class Own(method_class("random")):
        def __init__(self, **options):
            self.temperature = options.pop("temperature")
            super().__init__(**options)

    own = Own(temperature=2.0, num_samples=9, epochs=2, keep_ratio=0.5)
    assert copy.deepcopy(own).temperature == 2.0
    rules = LabelRules(memory=0.25)
    assert pickle.loads(pickle.dumps(rules)) == copy.copy(rules) == rules


def test_mistyped_methods_and_options_are_told_what_was_meant():
    make = partial(make_selector, num_samples=SIZE, epochs=2, keep_ratio=0.5)
    for typo, meant in (("Data_Agent", "data-agent"), ("toploss", "top-loss"), ("ul2n", "el2n")):
        with pytest.raises(InputError, match=f"{typo!r} is unknown.*Did you mean {meant!r}"):
            make(typo)
    with pytest.raises(InputError, match=r"module:Class for one of your own\.$"):
        make("zzzzzz")
    with pytest.raises(InputError, match="Did you mean 'on_nonfinite'"):
        make("random", on_nonfinit="skip")
