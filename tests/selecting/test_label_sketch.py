"""Another data set behind the same positions is noticed after a restore, whatever the method."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from data_agent import make_selector, selection_loader
from data_agent.errors import CheckpointError, DataAgentWarning
from data_agent.selecting.label_sketch import LabelSketch

SIZE = 400
X = torch.randn(SIZE, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(SIZE) % 10
ORDER = torch.randperm(SIZE, generator=torch.Generator().manual_seed(1))


def go(selector, data, *, epochs, stop=None):
    """Train to the end of epoch `epochs`, or to batch `stop` of the next one."""
    head = nn.Linear(4, 10)
    selector.watch(head)
    loader = selection_loader(data, selector, batch_size=20)
    for epoch in selector.epochs():
        for number, (x, y, index) in enumerate(loader):
            if epoch == epochs and number == stop:
                return
            losses = F.cross_entropy(head(x), y, reduction="none")
            selector.learn(losses, index, labels=y)
        if epoch + 1 == epochs and stop is None:
            return


def resumed(name, data, *, stop=None):
    """What is said where a run goes on with `data`."""
    base = {"num_samples": SIZE, "epochs": 8, "keep_ratio": 0.5}
    first, second = make_selector(name, **base), make_selector(name, **base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        go(first, TensorDataset(X, Y), epochs=4, stop=stop)
    second.load_state_dict(first.state_dict())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        go(second, data, epochs=6)
        second.state_dict()
    return [str(w.message) for w in told if w.category is DataAgentWarning]


@pytest.mark.parametrize("stop", [None, 4])
@pytest.mark.parametrize("name", ["data-agent", "random", "top-loss", "label-aware"])
def test_another_order_after_a_restore_is_told_with_numbers(name, stop):
    told = resumed(name, TensorDataset(X[ORDER], Y[ORDER]), stop=stop)
    told = [text for text in told if "since the restore" in text]
    assert len(told) == 1  # though more epochs follow
    changed, compared = (int(told[0].split()[i]) for i in (3, 5))
    assert 40 < changed <= compared <= 256
    assert "file names sorted" in told[0]


@pytest.mark.parametrize("name", ["data-agent", "label-aware"])
def test_a_shift_by_one_of_files_that_are_listed_is_told(name):
    class Files(Dataset):
        """Has nothing but `__getitem__`."""

        def __len__(self):
            return SIZE

        def __getitem__(self, i):
            return X[i], int(Y[(i + 1) % SIZE])

    assert any("since the restore" in text for text in resumed(name, Files()))


@pytest.mark.parametrize("name", ["data-agent", "label-aware"])
@pytest.mark.parametrize("stop", [None, 4])
def test_the_same_data_are_no_news(name, stop):
    """Nor are a few labels that a person has put right in the meantime."""
    corrected = Y.clone()
    corrected[:6] += 1
    for labels in (Y, corrected % 10):
        assert not resumed(name, TensorDataset(X, labels), stop=stop)


def test_a_damaged_sketch_is_refused():
    for damage in (torch.zeros(3), torch.zeros(4, dtype=torch.int64)):
        with pytest.raises(CheckpointError, match="of a few samples are not int64"):
            LabelSketch(3).load_state_dict({"sketch": damage, "sketch_sizes": []})
