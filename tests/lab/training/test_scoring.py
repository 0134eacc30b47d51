"""What the lab makes for methods that must be given something: on the real digits, in seconds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data_agent import Selector, make_selector
from data_agent.baselines.static import NUM_NETWORKS, Static
from data_agent.errors import CheckpointError, DataAgentError, InputError
from data_agent.methods import METHODS, method_class
from data_agent_lab.data.image_data import corrupt_labels
from data_agent_lab.progress import silent
from data_agent_lab.recipes import RunConfig
from data_agent_lab.runs.folder import RunFolder
from data_agent_lab.tasks import load_task, recipe_for
from data_agent_lab.training.images import ImageEngine
from data_agent_lab.training.scoring import Proxy, prepare, prepare_once

NEEDY = [name for name in METHODS if set(method_class(name).required) & {"scores", "groups"}]
SIZE = 200


@pytest.fixture(scope="module")
def data():
    return load_task(replace(recipe_for("digits"), subset=SIZE))


def proxy_of(data, *, seed=0, keep_ratio=0.5, labels=None, progress=silent, **changes):
    digits: Any = recipe_for("digits")
    recipe = replace(digits, **{"width": 8, "epochs": 20, **changes})

    config = RunConfig(recipe=recipe, method="random", keep_ratio=keep_ratio, seed=seed)
    engine = ImageEngine(config, data, RunFolder(Path("unused")), device=torch.device("cpu"))
    engine.labels = data.train_labels if labels is None else labels
    engine.progress = progress
    return Proxy(engine)


def test_the_lab_makes_what_every_method_here_needs(data):
    """A tenth of 20 epochs is 2, a fifth 4; looks cost a forward pass over everything."""
    visits = {
        "el2n": (NUM_NETWORKS * 3, NUM_NETWORKS * 2),
        "grand": (NUM_NETWORKS * 3, NUM_NETWORKS * 2),
        "forgetting": (4, 4),
        "k-center": (5, 4),
        "d2-pruning": (5, 4),
        "rl-selector": (4, 4),
        "cluster-balanced-random": (3, 2),
        "spread-over-duplicates": (0, 0),
    }
    assert set(NEEDY) == set(visits)
    proxy = proxy_of(data)
    for name, (num_forward, num_backward) in visits.items():
        before = torch.get_rng_state()
        made = prepare(name, proxy)
        assert torch.equal(torch.get_rng_state(), before), f"{name} moved the global generator"
        assert (made.num_forward, made.num_backward) == (num_forward * SIZE, num_backward * SIZE)
        assert 0 < made.seconds < 60
        ((option, values),) = made.options.items()
        assert values.shape == (SIZE,)
        assert (option,) == method_class(name).required
        assert not values.isnan().any()
        assert len(values.unique()) >= 3, f"{name} gives all samples the same value"
        again = prepare(name, proxy_of(data)).options[option]
        assert torch.equal(values, again), f"{name} is not deterministic"
        other = prepare(name, proxy_of(data, seed=1)).options[option]
        is_of_data = name == "spread-over-duplicates"  # and of no network
        assert torch.equal(values, other) == is_of_data, f"{name} and the seed"
        selector = make_selector(name, num_samples=SIZE, epochs=20, keep_ratio=0.5, **made.options)
        assert len(selector.select(3)) == SIZE // 2


def test_noisy_labels_stand_out(data):
    noisy = corrupt_labels(data.train_labels, 0.2, num_classes=10, seed=0)
    is_noisy = noisy != data.train_labels
    proxy = proxy_of(data, labels=noisy, epochs=60, width=None)
    scores = prepare("el2n", proxy).options["scores"]
    # The score reads the labels of the run: it is high where they are wrong.
    assert scores[is_noisy].mean() > scores[~is_noisy].mean() + 0.3
    highest = scores.argsort(descending=True)[: int(is_noisy.sum())]
    assert is_noisy[highest].float().mean() > 0.8
    never_right = prepare("forgetting", proxy).options["scores"].isinf()
    assert never_right[is_noisy].float().mean() > never_right[~is_noisy].float().mean() + 0.3


def test_orders_are_as_long_as_the_budget(data):
    for name in ("k-center", "d2-pruning"):
        scores = prepare(name, proxy_of(data, keep_ratio=0.3)).options["scores"]
        assert sorted((-scores[scores > -SIZE]).tolist()) == list(range(60))
        assert int((scores == -SIZE).sum()) == 140


def test_methods_that_need_nothing_or_labels_cost_nothing(data):
    proxy = proxy_of(data)
    assert prepare("random", proxy).options == {}
    for name in ("class-balanced-random", "rcap"):
        made = prepare(name, proxy)
        assert torch.equal(made.options["labels"], data.train_labels)
        assert (made.num_forward, made.num_backward, made.seconds) == (0, 0, 0)


class Wanting(Selector):
    name = "wanting"
    required = ("scores", "groups")


def test_a_method_that_does_not_say_how_its_scores_are_made_is_refused(data):
    with pytest.raises(
        InputError, match=r"'wanting' needs scores and groups and does not say how.*prepare\(cls"
    ):
        prepare(f"{__name__}:Wanting", proxy_of(data))


class Unsure(Static):
    """Keeps the samples of which a short training is least sure."""

    name = "unsure"

    @classmethod
    def prepare(cls, proxy, budget):
        logits, _ = proxy.train(budget.epochs // 10).look()
        return {"scores": -logits.softmax(1).amax(1)}


def test_a_method_of_ones_own_makes_its_scores_and_pays_for_them(data, tmp_path):
    path, name = tmp_path / "prepared.safetensors", f"{__name__}:Unsure"
    made = prepare_once(path, name, proxy_of(data))
    assert (made.num_forward, made.num_backward) == (3 * SIZE, 2 * SIZE)
    assert made.seconds > 0
    assert torch.equal(
        prepare_once(path, name, proxy_of(data)).options["scores"], made.options["scores"]
    )
    selector = make_selector(name, num_samples=SIZE, epochs=20, keep_ratio=0.5, **made.options)
    kept = selector.select(3).index
    assert made.options["scores"][kept].min() >= made.options["scores"].median()


def test_a_continued_run_reads_what_was_made(data, tmp_path):
    path = tmp_path / "prepared.safetensors"
    first = prepare_once(path, "forgetting", proxy_of(data))

    def never(*args):
        raise AssertionError("trained again")

    second = prepare_once(path, "forgetting", proxy_of(data, progress=never))
    assert torch.equal(first.options["scores"], second.options["scores"])
    assert first.options["scores"].isinf().any()  # infinity survives the file
    assert (first.num_forward, first.seconds) == (second.num_forward, second.seconds)
    with pytest.raises(CheckpointError, match="other data or another method"):
        prepare_once(path, "el2n", proxy_of(data))
    with pytest.raises(CheckpointError, match="other data or another method"):
        prepare_once(path, "forgetting", proxy_of(data, labels=data.train_labels.flip(0)))


def test_what_costs_nothing_is_not_written(data, tmp_path):
    path = tmp_path / "prepared.safetensors"
    prepare_once(path, "random", proxy_of(data))
    assert not path.exists()


def test_progress_is_told(data):
    told = []
    prepare("forgetting", proxy_of(data, progress=lambda *args: told.append(args)))
    assert told[0] == ("scores", 1, 28)  # 4 epochs of 7 batches
    assert told[-1] == ("scores", 28, 28)


def test_a_proxy_that_diverges_is_an_error(data):
    with pytest.raises(DataAgentError, match=r"diverged.*lower --learning-rate"):
        prepare("el2n", proxy_of(data, learning_rate=1e9))
