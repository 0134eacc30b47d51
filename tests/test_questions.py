"""The questions of the first hour: their code runs, and what they quote is what the library says.

At keep ratio 1 the code of a page must end in the weights of the same code without us: an agent
that is not there takes the agent's place.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import DataAgent
from data_agent.errors import CheckpointError, InputError, StateError

PAGE = (Path(__file__).parents[1] / "docs" / "questions.md").read_text()
QUESTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))
TRAIN = [title for title, text in QUESTIONS.items() if "optimizer.zero_grad" in text]
"""What trains, and so has a twin without us."""


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(torch.relu(self.body(x)))


class Absent:
    """What a loop has where it has no agent: the batches, and a mean of the losses."""

    def __init__(self, batches, epochs):
        self.epochs = lambda: range(epochs)
        self.batches = batches

    def learn(self, losses, index, *, labels=None, denominator=None):
        return losses.mean() if denominator is None else losses.sum() / denominator

    def forget_forward(self):
        pass

    def metrics(self):
        return {"visits_of_full_run": 0.0}

    def summary(self):
        return "no agent"


class Writer:
    """As one of TensorBoard: what it was told, by name."""

    def __init__(self):
        self.told = {}

    def add_scalar(self, name, value, step):
        self.told.setdefault(name, []).append((step, value))


class Noting:
    """A loader's batches, epoch by epoch, noted as they come."""

    def __init__(self, loader):
        self.loader, self.batches = loader, []

    def __iter__(self):
        self.batches.append(list(self.loader))
        return iter(self.batches[-1])


def code_of(text):
    return "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))


def quote_of(title):
    """The first refusal that a question quotes."""
    quotes = re.findall(r"(?:^> .+\n)+", QUESTIONS[title], flags=re.MULTILINE)
    return " ".join(quotes[0].replace("> ", "").split())


def a_place(*, keep_ratio, epochs=6):
    """What the page's blocks find, from the page's own first block."""
    torch.manual_seed(0)
    x = torch.randn(316, 6)
    samples = TensorDataset(x, x[:, :3].argmax(1))
    names: dict[str, Any] = {"model": Model(), "teacher": Model(), "epochs": epochs}
    names["train_set"] = torch.utils.data.Subset(samples, range(256))
    names["more"] = torch.utils.data.Subset(samples, range(256, 316))
    names["optimizer"] = torch.optim.SGD(names["model"].parameters(), lr=0.1)
    names.update(keep_ratio=keep_ratio, writer=Writer())
    exec(code_of(PAGE.partition("\n## ")[0]), names)
    return names


def trained(title, names):
    exec(code_of(QUESTIONS[title]), names)
    return [parameter.detach().clone() for parameter in names["model"].parameters()]


@pytest.mark.parametrize("title", TRAIN)
def test_at_keep_ratio_one_the_weights_are_those_without_us(title):
    names = a_place(keep_ratio=1)
    names["loader"] = Noting(names["loader"])
    with_us = trained(title, names)

    twin = a_place(keep_ratio=1)
    twin["agent"] = Absent(names["loader"].batches, epochs=6)
    epochs = iter(names["loader"].batches)
    twin["loader"] = type("Replayed", (), {"__iter__": lambda self: iter(next(epochs))})()
    without_us = trained(title, twin)
    assert all(torch.equal(*pair) for pair in zip(with_us, without_us, strict=True))


@pytest.mark.parametrize("title", TRAIN)
def test_at_half_the_budget_it_trains_on_half(title):
    names = a_place(keep_ratio=0.5)
    trained(title, names)
    num_epochs = 4 if title == "Early stopping" else 6  # of six, left after the fourth
    assert names["agent"].visits == 128 * num_epochs
    assert names["agent"].metrics()["skipped_nonfinite"] == 0


def test_most_questions_have_a_twin():
    assert len(TRAIN) == 10
    assert {"Mixup", "CutMix", "SAM, and other second forward passes", "Distillation"} < {*TRAIN}


def test_early_stopping_pays_for_what_was_visited():
    names = a_place(keep_ratio=0.5)
    trained("Early stopping", names)
    assert names["paid"] == pytest.approx(4 / 6 / 2)


def test_switching_off():
    names = a_place(keep_ratio=1)
    exec(code_of(QUESTIONS["How do I switch it off?"]), names)
    assert len(names["full"].select(0)) == 256


def test_a_grown_data_set_needs_a_new_selector():
    title = "A data set that grew"
    names = a_place(keep_ratio=0.5)
    names["agent"].begin_epoch(0)
    state = names["agent"].state_dict()
    exec(code_of(QUESTIONS[title]), names)
    assert len(names["agent"].select(0)) == 158  # half of 316
    with pytest.raises(CheckpointError) as error:
        DataAgent(num_samples=300, epochs=6).load_state_dict(state)
    assert quote_of(title) in str(error.value)


REFUSALS = {
    "Mixup": (InputError, "labels=labels", "labels=F.one_hot(labels, 3)"),
    "SAM, and other second forward passes": (StateError, "agent.forget_forward()", "pass"),
    "Contrastive losses: refused, and why": (InputError, "agent", "agent"),
}
"""The error, and what of a question's code to write in whose place so that it is refused."""


@pytest.mark.parametrize("title", REFUSALS)
def test_what_is_refused_is_quoted(title):
    kind, old, new = REFUSALS[title]
    code = code_of(QUESTIONS[title])
    assert old in code
    with pytest.raises(kind) as error:
        exec(code.replace(old, new), a_place(keep_ratio=0.5))
    assert quote_of(title) in str(error.value)


def test_what_is_logged(capsys):
    names = a_place(keep_ratio=0.5)
    trained("How do I log what it does?", names)
    visits = [(epoch, 128 * (epoch + 1)) for epoch in range(6)]
    assert names["writer"].told["data_agent/visits"] == visits
    assert len(capsys.readouterr().out.splitlines()) == 6
