"""Whatever batches bring, trusted rows are learned from: in a plain loop, stopped and gone on."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from data_agent import DataAgent, selection_loader
from data_agent.trusted import TrustedConfig

NUM_SAMPLES, NUM_TRUSTED, EPOCHS, WIDTH = 800, 60, 8, 6
IS_WANTED = torch.arange(NUM_SAMPLES) % 3 > 0  # but for trusted ones, which are all
IS_WANTED[:NUM_TRUSTED] = True


def inputs():
    draws = torch.Generator().manual_seed(0)
    return torch.randn(NUM_SAMPLES, WIDTH, generator=draws), draws


def classes():
    """Of rows that are not wanted the labels are wrong."""
    x, _ = inputs()
    truth = (x[:, 0] > 0).long() + (x[:, 1] > 0)
    return x, torch.where(IS_WANTED, truth, (truth + 1) % 3), 3


def of_classes(model, x, y):
    logits = model(x)
    return F.cross_entropy(logits, y, reduction="none"), {"logits": logits, "labels": y}


def without_labels(model, x, y):
    losses, brought = of_classes(model, x, y)
    return losses, {"logits": brought["logits"]}


def halves():
    x, _ = inputs()
    truth = (x[:, 0] > 0).long()
    return x, torch.where(IS_WANTED, truth, 1 - truth), 1


def of_one_logit(model, x, y):
    logit = model(x).squeeze(1)
    losses = F.binary_cross_entropy_with_logits(logit, y.float(), reduction="none")
    return losses, {"logits": logit, "labels": y}


def numbers():
    """Of rows that are not wanted the targets are noise."""
    x, draws = inputs()
    noise = 3 * torch.randn(NUM_SAMPLES, generator=draws)
    return x, torch.where(IS_WANTED, x[:, 0] - x[:, 1], noise), 1


def of_a_regression(model, x, y):
    return (model(x).squeeze(1) - y).square(), {}


def sources():
    """Rows that are not wanted are of another source, by what the features are; no harder."""
    x, _ = inputs()
    x[:, 5] += torch.where(IS_WANTED, 1.5, -1.5)
    return x, (x[:, 0] > 0).long(), 2


def foreign():
    """Rows that are not wanted are of another source, under labels at random."""
    x, draws = inputs()
    truth = (x[:, 0] > 0).long() + (x[:, 1] > 0)
    x[:, 5] += torch.where(IS_WANTED, 1.0, -1.0)
    return x, torch.where(IS_WANTED, truth, torch.randint(3, truth.shape, generator=draws)), 3


def of_foreign_rows(model, x, y):
    losses, brought = of_classes(model, x, y)
    return losses, {**brought, "features": x}


def of_tokens(model, x, y):
    """A language model's: the mean over tokens of loss and of entropy, and the pooled feature."""
    logits = model(x)
    entropy = torch.special.entr(logits.softmax(1)).sum(1) / torch.tensor(2.0).log()
    losses = F.cross_entropy(logits, y, reduction="none")
    return losses, {"uncertainty": entropy.clamp(0, 1), "features": x}


KINDS = {
    "classes": (classes, of_classes),
    "classes and features": (foreign, of_foreign_rows),
    "one logit": (halves, of_one_logit),
    "logits without labels": (classes, without_labels),
    "losses of a regression": (numbers, of_a_regression),
    "tokens": (sources, of_tokens),
}


def run(kind, *, stop_at=None, state=None):
    """Selections by epoch of a linear model's run, its agent, and what was saved at a step."""
    make, learn = KINDS[kind]
    x, y, width = make()
    torch.manual_seed(0)
    model = torch.nn.Linear(WIDTH, width)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    config = TrustedConfig(update_every=5)
    agent = DataAgent(NUM_SAMPLES, EPOCHS, trusted=range(NUM_TRUSTED), config=config)
    if state is not None:
        agent.load_state_dict(state["agent"])
        model.load_state_dict(state["model"])
    loader = selection_loader(TensorDataset(x, y), agent, batch_size=40)
    selections, step, saved = {}, 0, None
    for epoch in agent.epochs():
        selections[epoch] = agent.select(epoch).index
        for inputs, targets, index in loader:
            losses, brought = learn(model, inputs, targets)
            agent.learn(losses, index, **brought).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step == stop_at:
                saved = {"agent": agent.state_dict(), "model": model.state_dict()}
                return selections, agent, copy.deepcopy(saved)
    return selections, agent, saved


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wanted_is_chosen_more_often_and_a_stop_changes_nothing(kind):
    whole, agent, _ = run(kind)
    others = torch.arange(NUM_SAMPLES) >= NUM_TRUSTED
    last = whole[EPOCHS - 1]
    share = float(IS_WANTED[last[others[last]]].float().mean())
    assert share > 0.71  # of two thirds
    metrics = agent.metrics()
    assert metrics["trusted_separation_held_back"] > 0.52
    assert metrics["trusted_calibration"] > 0.1
    assert 0 <= metrics["avoided_share"] < 1
    assert f"avoids {100 * metrics['avoided_share']:.0f} % of all rows" in agent.summary()
    for stop_at in (3, 47, 70):
        _, _, saved = run(kind, stop_at=stop_at)
        rest, resumed, _ = run(kind, state=saved)
        assert all(torch.equal(rest[epoch], whole[epoch]) for epoch in rest)
        assert EPOCHS - 1 in rest
        assert resumed.describe() == agent.describe()


def test_features_tell_foreign_rows_where_labels_alone_tell_less(monkeypatch):
    shares = {}
    for kind, learn in (("with", of_foreign_rows), ("without", of_classes)):
        monkeypatch.setitem(KINDS, kind, (foreign, learn))
        last = run(kind)[0][EPOCHS - 1]
        shares[kind] = float(IS_WANTED[last].float().mean())
    assert shares["with"] > shares["without"] + 0.03
