"""What the documentation says, runs; what it links to, exists."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from data_agent import DataAgent, Feedback, losses, make_selector
from data_agent.errors import InputError
from data_agent.runtime import checkpoint

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "AGENTS.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]
)
OF_TASKS = {"segmentation", "multi_label", "regression", "tabular", "token_classification"}


def blocks_of(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def feedback(index, **changes):
    size = len(index)
    columns = {
        "losses": torch.rand(size),
        "logits": torch.randn(size, 5),
        "features": torch.randn(size, 7),
        "labels": torch.randint(0, 5, (size,)),
    }
    return Feedback(index, **{**columns, **changes})


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(torch.relu(self.body(x)))


def test_the_loop_of_the_readme():
    x = torch.randn(256, 6)
    model = Model()
    names: dict[str, Any] = {
        "F": F,
        "train_set": TensorDataset(x, x[:, :3].argmax(1)),
        "rows": range(20),
        "model": model,
        "device": "cpu",
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    (block,) = blocks_of(ROOT / "README.md")
    exec(block, names)
    assert names["agent"].visits == 256 * 200 / 2


def test_the_page_on_trusted_rows():
    x = torch.randn(320, 6)
    names: dict[str, Any] = {
        **{"DataAgent": DataAgent, "torch": torch, "rows": range(20)},
        "train_set": TensorDataset(x[:200], x[:200, :3].argmax(1)),
        "trusted_set": TensorDataset(x[200:220], x[200:220, :3].argmax(1)),
        "test_set": TensorDataset(x[220:], x[220:, :3].argmax(1)),
        "groups": x[:220, :4].argmax(1),
    }
    *blocks, by_group = blocks_of(ROOT / "docs" / "trusted.md")
    for block in blocks:
        exec(block, names)
    names["agent"].begin_epoch(0)
    exec(by_group, names)
    assert len(names["train_set"]) == len(names["groups"]) == 220
    counts = torch.bincount(names["groups"])
    assert float((names["share"] * counts).sum()) == pytest.approx(110)


def test_which_algorithm_runs():
    names: dict[str, Any] = {"train_set": range(256), "rows": range(20)}
    for block in blocks_of(ROOT / "docs" / "loop.md"):
        exec(block, names)
    said = {name: names[name].describe() for name in ("policy", "rules", "likeness", "both")}
    assert said["policy"] == "policy, rewarded by difficulty and uncertainty; no label rules"
    assert said["rules"].startswith("label rules: equal class shares;")
    assert said["rules"].endswith("no policy")
    assert said["likeness"].startswith("trusted examples (20 rows)")
    assert said["likeness"].endswith("no label rules")
    assert "policy" in said["both"]
    assert "equal class shares" in said["both"]
    assert names["ranked"].label_rules is not None


def test_rewards_of_ones_own():
    names = {}
    for block in blocks_of(ROOT / "docs" / "rewards.md"):
        exec(block, names)
    agent, fresh, regression = names["agent"], names["fresh_agent"], names["regression"]
    for one in (agent, fresh, regression):
        one.begin_epoch(0)
    index = agent.select(0).index[:32]
    agent.observe(feedback(index))
    index = fresh.select(0).index[:32]
    fresh.observe(feedback(index, labels=None, signals={"age_in_days": torch.rand(32) * 400}))
    regression.observe(feedback(index, logits=None, labels=None))
    for one in (agent, fresh, regression):
        one.settle()  # as an update or the next epoch does
    assert agent.metrics()["reward_weight/small_margin"] > 0
    assert fresh.metrics()["reward_weight/freshness"] > 0
    assert regression.metrics()["reward_weight/difficulty"] == 1


def test_signals_of_ones_own_model():
    agent = DataAgent(num_samples=64, epochs=4)
    agent.begin_epoch(0)
    classes = torch.randint(0, 3, (8, 6, 6))
    classes[:2, 0] = 255
    names: dict[str, Any] = {
        **{"agent": agent, "index": agent.select(0).index[:8], "F": F, "classes": classes},
        **{"images": torch.rand(8, 1, 6, 6), "body": nn.Conv2d(1, 4, 3, padding=1)},
        "head": nn.Conv2d(4, 3, 1),
    }
    by_pixel, adds_up = blocks_of(ROOT / "docs" / "signals.md")
    exec(by_pixel, names)
    assert agent.visits == 8
    exec(adds_up, names)
    torch.testing.assert_close(names["loss"], names["whole"])
    assert names["samples"].counts.tolist() == [30] * 2 + [36] * 6


def test_the_page_on_signals_names_every_loss():
    text = (ROOT / "docs" / "signals.md").read_text()
    helpers = [name for name in losses.__all__ if name.endswith("_losses")]
    kinds = {"sample_losses", "class_losses", "binary_losses"}  # of Trainers; F's own will do
    for name in set(helpers) - kinds:
        assert f"{name}(" in text, name


def test_prompts_in_a_loop_of_ones_own():
    names: dict[str, Any] = {
        **{"prompts": range(200), "steps": 3, "features_of": lambda index: index.unsqueeze(1) / 10},
        "roll_out": lambda index: torch.rand(len(index), 8),
    }
    frozen, loop, method = blocks_of(ROOT / "docs" / "prompts.md")
    assert "prompt_features" in frozen  # runs in tests/integrations
    exec(loop, names)
    assert names["agent"].step == 3
    exec(method, names)


class Stream(IterableDataset):
    def __iter__(self):
        for _ in range(4 * 128):
            x = torch.randn(6)
            yield x, x[:3].argmax()


def test_the_loop_of_afss():
    (block,) = blocks_of(ROOT / "docs" / "comparing-detection.md")
    looks: list[int] = []

    def train_epoch(selector):
        index = selector.select(selector.epoch).index
        selector.learn(torch.rand(len(index), requires_grad=True), index)

    def goodness_of_all():
        looks.append(1)
        return torch.rand(20)

    names: dict[str, Any] = {"make_selector": make_selector, "train_set": range(20)}
    exec(block, {**names, "train_epoch": train_epoch, "goodness_of_all": goodness_of_all})
    assert len(looks) == 8  # before epochs 2, 7, ..., 37


def test_the_weights_that_a_run_leaves(tmp_path, monkeypatch):
    (block,) = blocks_of(ROOT / "docs" / "comparing.md")
    folder = tmp_path / "runs" / "digits-data-agent-seed0"
    folder.mkdir(parents=True)
    model = Model()
    checkpoint.save(folder / "checkpoint.safetensors", {"model": model.state_dict()})
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)
    Model().load_state_dict(names["weights"])
    assert torch.equal(names["weights"]["fc.bias"], model.fc.bias)


def test_the_loop_over_a_stream():
    model = Model()
    names: dict[str, Any] = {
        **{"F": F, "torch": torch, "stream": Stream(), "steps": 4, "model": model},
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    (block,) = blocks_of(ROOT / "docs" / "streaming.md")
    exec(block, names)
    assert names["agent"].visits == 4 * 32
    assert names["agent"].metrics()["planned_cost"] == pytest.approx(0.58, abs=0.005)


def test_the_streaming_example(capsys):
    names = runpy.run_path(str(ROOT / "examples" / "streaming.py"))
    agent = names["main"]()
    assert agent.visits == names["STEPS"] * names["POOL"] // 4
    assert "data-agent-in-batch: epoch 1/1" in capsys.readouterr().out


def test_the_example_with_trusted_images(capsys):
    pytest.importorskip("sklearn", reason="its images come with scikit-learn")
    wrong, accuracy = runpy.run_path(str(ROOT / "examples" / "trusted_images.py"))["main"]()
    assert "trusted examples (100 rows)" in capsys.readouterr().out
    assert wrong < 0.15  # of 0.4
    assert accuracy > 0.9


def test_examples_are_short():
    for path in ROOT.glob("examples/*.py"):
        if path.name != "single_file_reference.py":
            most = {"image_classification": 140, "grpo_math": 91}.get(path.stem, 60)  # recipes
            most = 80 if path.stem in OF_TASKS else most
            assert len(path.read_text().splitlines()) <= most, path.name


def test_a_signal_takes_less_than_ten_lines():
    block = blocks_of(ROOT / "docs" / "rewards.md")[0]
    function = block[block.index("def ") : block.index("config =")].strip()
    assert len(function.splitlines()) + 1 < 10


def test_a_method_of_ones_own(tmp_path, monkeypatch):
    names: dict[str, Any] = {"__name__": "rising"}
    blocks = blocks_of(ROOT / "docs" / "extending.md")
    for block in blocks:
        exec(block, names)
    assert len(blocks[0].strip().splitlines()) <= 34  # thirty and the imports
    (tmp_path / "rising.py").write_text(blocks[0])
    monkeypatch.syspath_prepend(tmp_path)
    selector = make_selector("rising:Rising", num_samples=100, epochs=20, keep_ratio=0.5)
    assert [len(selector.select(epoch)) for epoch in (0, 5, 19)] == [50, 50, 50]
    with pytest.raises(InputError, match="cannot be imported"):
        make_selector("rising:Falling", num_samples=100, epochs=20, keep_ratio=0.5)


def test_the_page_on_extending_names_every_public_module():
    text = (ROOT / "docs" / "extending.md").read_text()
    for path in ROOT.glob("src/data_agent/**/*.py"):
        name = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        if "__all__ = [" in path.read_text() and path.parent.name != "integrations":
            assert f"`{name.removesuffix('.__init__')}`" in text, name
        elif path.parent.name == "integrations" and not path.name.startswith("_"):
            assert f".{path.stem}`" in text, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_function_that_the_method_page_names_exists():
    text = (ROOT / "docs" / "method.md").read_text()
    for path in re.findall(r"`(agent\.(?:reward|objective)\.\w+)`", text):
        _, module, name = path.split(".")
        source = (ROOT / "src" / "data_agent" / "agent" / f"{module}.py").read_text()
        assert f"def {name}(" in source, path
