"""What is read from a watched head: one output or many, and only what is needed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import DataAgent, DataAgentConfig, Feedback, make_selector, selection_loader
from data_agent.agent.reward import difficulty
from data_agent.agent.reward import uncertainty as uncertainty_of
from data_agent.errors import InputError, StateError
from data_agent.selecting import taps
from data_agent.selecting.taps import HeadTap

SIZE = 32
X = torch.randn(SIZE, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).float()
DIFFICULTY_ALONE = DataAgentConfig(signals=(difficulty,))


def train(head, losses_of, *, data=None, agent=None, **given):
    """Three epochs; `given` are functions of a batch for further arguments of `learn`."""
    agent = DataAgent(SIZE, 3) if agent is None else agent
    agent.watch(head)
    data = TensorDataset(X, Y) if data is None else data
    for _ in agent.epochs():
        for x, y, index in selection_loader(data, agent, batch_size=8):
            outputs = head(x)
            more = {name: of(x, y, outputs) for name, of in given.items()}
            agent.learn(losses_of(outputs, y), index, **more).backward()
    assert agent.visits == agent.schedule.total_visits
    return agent


def bce(outputs, labels, **options):
    outputs = outputs.flatten()
    return F.binary_cross_entropy_with_logits(outputs, labels, reduction="none", **options)


def squared(outputs, labels):
    return (outputs.flatten() - labels) ** 2


def weighted_bce(outputs, labels):
    return bce(outputs, labels, pos_weight=torch.tensor(5.0))


# One logit.


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_one_logit_is_that_of_the_second_of_two_classes(shape):
    logit = torch.linspace(-3, 3, 8)
    feedback = Feedback(torch.arange(8), torch.ones(8), logits=logit.view(shape))
    assert feedback.logits is not None
    assert torch.allclose(feedback.logits.softmax(1)[:, 1], logit.sigmoid())
    p = logit.sigmoid()
    entropy = (torch.special.entr(p) + torch.special.entr(1 - p)) / torch.log(torch.tensor(2.0))
    assert torch.allclose(uncertainty_of(feedback), entropy, atol=1e-6)


class Squeezed(nn.Linear):
    def forward(self, input):
        return super().forward(input).squeeze(1)


@pytest.mark.parametrize("kind", [nn.Linear, Squeezed])
def test_a_watched_head_of_one_logit_needs_nothing_further(kind):
    torch.manual_seed(0)
    agent = train(kind(4, 1), bce)
    assert "reward_weight/uncertainty" in agent.metrics()
    labelled = make_selector("label-aware", num_samples=SIZE, epochs=3, keep_ratio=0.5)
    train(kind(4, 1), bce, agent=labelled, labels=lambda x, y, out: y.long())


def test_the_entropy_of_a_watched_logit_is_what_the_reward_sees():
    head, x = nn.Linear(4, 1), X[:8]
    tap = HeadTap(head)
    losses = bce(head(x), Y[:8]).detach()
    completed = tap.complete(Feedback(torch.arange(8), losses))
    given = Feedback(torch.arange(8), losses, logits=head(x))
    assert torch.equal(uncertainty_of(completed), uncertainty_of(given))


def test_smoothed_labels_and_half_precision_are_binary_cross_entropy_too():
    head = nn.Linear(4, 1)
    for labels in (Y[:8] * 0.8 + 0.1, torch.rand(8)):
        for dtype in (torch.float32, torch.bfloat16):
            tap = HeadTap(head)
            losses = bce(head(X[:8]).detach().to(dtype), labels.to(dtype))
            completed = tap.complete(Feedback(torch.arange(8), losses))
            assert completed.logits is not None


def test_a_single_output_that_is_no_logit_tells_no_uncertainty_and_the_remedies_work():
    torch.manual_seed(0)
    with pytest.raises(InputError, match=r"A regression has none.*signals=\(difficulty,\)"):
        train(nn.Linear(4, 1), squared)
    train(nn.Linear(4, 1), squared, agent=DataAgent(SIZE, 3, config=DIFFICULTY_ALONE))
    with pytest.raises(InputError, match=r"without pos_weight: else pass logits="):
        train(nn.Linear(4, 1), weighted_bce)
    train(nn.Linear(4, 1), weighted_bce, logits=lambda x, y, out: out)
    train(nn.Linear(4, 1), squared, uncertainty=lambda x, y, out: torch.zeros(len(x)))


def test_a_single_output_of_an_accelerator_is_looked_at_a_few_times_only(monkeypatch):
    looks = []
    single = taps._SingleOutput()
    logit = torch.randn(8, device="meta")

    def fake_any(self):
        looks.append(1)
        return torch.tensor(False)

    monkeypatch.setattr(torch.Tensor, "any", fake_any)
    feedback = Feedback(torch.arange(8), torch.ones(8))
    object.__setattr__(feedback, "losses", torch.ones(8, device="meta"))
    assert all(single.is_logit(logit, feedback) for _ in range(30))
    assert len(looks) == taps.NUM_LOOKS


# Only what is needed.


def pixel_losses(outputs, labels):
    return F.cross_entropy(outputs, labels, reduction="none").flatten(1).mean(1)


def test_segmentation_is_refused_with_a_remedy_that_works():
    data = TensorDataset(torch.randn(SIZE, 3, 4, 4), torch.randint(0, 5, (SIZE, 4, 4)))
    with pytest.raises(InputError, match=r"\[8, 3, 4, 4\].*features=.*uncertainty=.*x\.mean"):
        train(nn.Conv2d(3, 5, 1), pixel_losses, data=data)
    pooled = {"features": lambda x, y, out: x.mean((2, 3))}
    with pytest.raises(InputError, match=r"output \(logits\) has shape \[8, 5, 4, 4\]"):
        train(nn.Conv2d(3, 5, 1), pixel_losses, data=data, **pooled)
    train(
        nn.Conv2d(3, 5, 1), pixel_losses, data=data, **pooled, logits=lambda x, y, o: o.mean((2, 3))
    )
    train(
        nn.Conv2d(3, 5, 1),
        pixel_losses,
        data=data,
        **pooled,
        uncertainty=lambda x, y, out: torch.rand(len(x)),
    )


def test_what_came_needs_no_forward_and_is_never_replaced():
    tap = HeadTap(nn.Linear(4, 3))
    given = Feedback(
        torch.arange(8), torch.ones(8), features=torch.ones(8, 2), uncertainty=torch.rand(8)
    )
    completed = tap.complete(given)
    assert completed.features is given.features
    assert completed.logits is None


def test_logits_are_read_for_label_rules_even_where_uncertainty_came():
    head = nn.Linear(4, 3)
    tap = HeadTap(head)
    head(X[:8])
    completed = tap.complete(
        Feedback(torch.arange(8), torch.ones(8), features=X[:8], uncertainty=torch.rand(8))
    )
    assert completed.logits is not None
    assert completed.logits.shape == (8, 3)


# Forwards that no learn() belongs to.


def classes():
    return TensorDataset(X, (X[:, 0] > 0).long())


def cell(agent, loader, head, interrupt=None):
    for _ in agent.epochs():
        for count, (x, y, index) in enumerate(loader):
            outputs = head(x)
            if count == interrupt:
                raise KeyboardInterrupt
            agent.learn(F.cross_entropy(outputs, y, reduction="none"), index).backward()


def test_an_epoch_that_begins_forgets_the_forwards_before_it():
    agent, head = DataAgent(SIZE, 4), nn.Linear(4, 3)
    agent.watch(head)
    loader = selection_loader(classes(), agent, batch_size=4)
    for x, y, _ in loader:  # a search for a learning rate
        F.cross_entropy(head(x), y).backward()
    with pytest.raises(KeyboardInterrupt):
        cell(agent, loader, head, interrupt=2)
    cell(agent, loader, head)
    assert agent.visits == agent.schedule.total_visits


def test_the_remedies_for_forwards_too_few_or_too_many_work():
    agent, head = DataAgent(SIZE, 4, keep_ratio=1.0), nn.Linear(4, 3)
    agent.watch(head)
    agent.begin_epoch(0)
    batches = iter(selection_loader(classes(), agent, batch_size=4))

    def step(before=lambda x: None, **given):
        x, y, index = next(batches)
        before(x)
        outputs = head(x)
        more = {name: of(x, outputs) for name, of in given.items()}
        return agent.learn(F.cross_entropy(outputs, y, reduction="none"), index, **more)

    with pytest.raises(StateError, match="2 training forwards"):
        step(head)
    step(torch.no_grad()(head))
    step(lambda x: (head.eval()(x), head.train()))
    step(head, features=lambda x, out: x, logits=lambda x, out: out)
    head.eval()
    with pytest.raises(StateError, match=r"eval mode \(call model\.train\(\)\)"):
        step()
    step(features=lambda x, out: x, logits=lambda x, out: out)
    head.train()
    step()


def test_a_head_of_another_batch_or_without_tensors_is_told():
    head = nn.Linear(4, 3)
    tap = HeadTap(head)
    head(X[:5])
    with pytest.raises(InputError, match="has 5 rows, but 8 losses"):
        tap.complete(Feedback(torch.arange(8), torch.ones(8)))

    class ByName(nn.Module):
        def forward(self, *, x):
            return {"logits": x}

    other = ByName()
    tap = HeadTap(other)
    other(x=X[:8])
    with pytest.raises(InputError, match="Watch the last linear layer, or hand features="):
        tap.complete(Feedback(torch.arange(8), torch.ones(8)))
    other(x=X[:8])
    tap.complete(Feedback(torch.arange(8), torch.ones(8), features=X[:8], logits=X[:8]))
