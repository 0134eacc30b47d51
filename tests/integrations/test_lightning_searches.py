"""Lightning's searches leave no trace or are refused; dropout goes on as without a stop."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

L = pytest.importorskip("lightning.pytorch", reason="needs .[lightning]")

from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint  # noqa: E402
from lightning.pytorch.tuner import Tuner  # noqa: E402
from tests.integrations.test_lightning import (  # noqa: E402
    BATCH_SIZE,
    EPOCHS,
    SIZE,
    Module,
    build_agent,
    build_trainer,
    check_resumed,
    dataset,
    fit,
    pytestmark,  # noqa: F401 # pyright: ignore[reportUnusedImport] - Lightning's own warnings
    weights,
)

from data_agent.errors import InputError  # noqa: E402
from data_agent.integrations.lightning import SelectionCallback  # noqa: E402


class Sized(Module):
    """With the attributes that a Tuner looks for."""

    def __init__(self, agent=None, **options):
        super().__init__(agent, **options)
        self.lr, self.batch_size = 0.1, BATCH_SIZE

    def train_dataloader(self):
        self.loader_options["batch_size"] = self.batch_size
        return super().train_dataloader()


class Unselected(Sized):
    def train_dataloader(self):
        return DataLoader(dataset(), batch_size=self.batch_size)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])


@pytest.mark.parametrize("num_training", [3, 20])  # within an epoch, and over several
def test_a_search_for_a_learning_rate_leaves_no_trace(tmp_path, num_training):
    module = Sized(build_agent())
    trainer = build_trainer(tmp_path, SelectionCallback(module.agent))
    found = Tuner(trainer).lr_find(module, num_training=num_training, update_attr=False)
    assert found is not None
    assert module.agent.visits == 0
    module.seen.clear()
    trainer.fit(module)
    plain = fit(tmp_path, Sized(build_agent()))
    assert module.seen == plain.seen
    assert torch.equal(weights(module), weights(plain))
    assert torch.equal(module.agent.expected_actions(), plain.agent.expected_actions())


def test_a_learning_rate_finder_as_a_callback_too(tmp_path):
    module = Sized(build_agent())
    fit(tmp_path, module, LearningRateFinder(num_training_steps=4, update_attr=False))
    assert module.agent.visits == EPOCHS * SIZE // 2


def test_a_search_for_a_batch_size_is_refused_with_a_remedy_that_works(tmp_path):
    module = Sized(build_agent())
    trainer = build_trainer(tmp_path, SelectionCallback(module.agent))
    with pytest.raises(InputError, match=r"Search first, without a selection.*plain DataLoader"):
        Tuner(trainer).scale_batch_size(module, steps_per_trial=2, max_trials=2)
    assert module.agent.epoch is None
    searched = Unselected()
    size = Tuner(build_trainer(tmp_path)).scale_batch_size(
        searched, steps_per_trial=2, max_trials=2
    )
    module: Any = Sized(build_agent())
    module.batch_size = size
    assert fit(tmp_path, module).agent.visits == EPOCHS * SIZE // 2


@pytest.fixture(scope="module")
def with_dropout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dropout")
    return {
        kind: fit(folder, Module(build_agent(), dropout=0.3, **options))
        for kind, options in LOADERS.items()
    }


LOADERS = {"plain": {}, "generator": {"generator": torch.Generator()}}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("saving", "at"),
    [
        ({"every_n_train_steps": 1}, (1, 12, 15)),
        ({"every_n_epochs": 1}, (5, 35)),
        ({"save_on_train_epoch_end": False, "every_n_epochs": 1}, (10,)),
    ],
)
def test_dropout_goes_on_as_without_a_stop(with_dropout, tmp_path, loader, saving, at):
    options = {"dropout": 0.3, **LOADERS[loader]}
    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **saving)
    fit(tmp_path, Module(build_agent(), **options), keep)
    for step in at:
        torch.manual_seed(step)  # another process draws other numbers
        module = Module(build_agent(), **options)
        torch.rand(step)
        check_resumed(
            fit(tmp_path, module, ckpt_path=tmp_path / f"step={step}.ckpt"), with_dropout[loader]
        )
