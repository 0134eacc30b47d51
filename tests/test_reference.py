"""The package against the single-file reference: the fast way against the plain way."""

import importlib.util
import itertools
from pathlib import Path

import torch

from data_agent import DataAgent, DataAgentConfig, Feedback

EXAMPLE = Path(__file__).parents[1] / "examples" / "single_file_reference.py"
SIZE, EPOCHS, BATCH_SIZE, SEED = 700, 20, 35, 3


def load_reference():
    spec = importlib.util.spec_from_file_location("single_file_reference", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Package:
    """The package behind the reference's two calls."""

    def __init__(self):
        config = DataAgentConfig(dtype="float64", schedule="exact")
        self.agent = DataAgent(SIZE, EPOCHS, keep_ratio=0.4, seed=SEED, config=config)

    def select(self, epoch):
        self.agent.begin_epoch(epoch)
        return self.agent.select(epoch).index.tolist()

    def observe(self, index, losses, logits, features):
        self.agent.observe(Feedback(index, losses, logits, features))


def test_the_package_chooses_the_samples_of_the_reference():
    reference = load_reference()
    plain = reference.ReferenceAgent(SIZE, EPOCHS, 0.4, seed=SEED, batch_size=BATCH_SIZE)
    package = Package()
    task = {"num_samples": SIZE, "epochs": EPOCHS, "batch_size": BATCH_SIZE, "seed": SEED}
    runs = zip(reference.train(plain, **task), reference.train(package, **task), strict=True)
    selections = [(ours, theirs) for theirs, ours in runs]
    assert len(selections) == EPOCHS
    for epoch, (ours, theirs) in enumerate(selections):
        assert torch.equal(ours, theirs), f"epoch {epoch} differs"
    selected = [ours for ours, _ in selections[3:-2]]
    assert any(not torch.equal(a, b) for a, b in itertools.pairwise(selected))

    learner = package.agent.policy.learner
    assert learner.tau is not None
    assert abs(learner.tau - plain.tau) < 1e-7
    for network, parameters in enumerate((plain.actor, plain.critic)):
        for (weight, _), theirs in zip(learner.networks.layers, parameters[::2], strict=True):
            ours = weight[network, :, : len(theirs)].T
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
        for (_, bias), theirs in zip(learner.networks.layers, parameters[1::2], strict=True):
            torch.testing.assert_close(
                bias[network, 0, : len(theirs)], theirs, rtol=1e-6, atol=1e-8
            )


def test_the_reference_imports_nothing_of_ours():
    assert "data_agent" not in EXAMPLE.read_text()
