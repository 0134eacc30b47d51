"""The recipes at full size: their commands exist, and their code path runs on small data."""

import importlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="needs pip install '.[transformers]'")
pytest.importorskip("accelerate", reason="needs pip install '.[transformers]'")

import datasets
import datasets.config
import numpy as np
from example_scripts import share_a_run
from PIL import Image
from ranks import run_ranks
from torch.distributed.run import parse_args as parse_torchrun

from data_agent import SelectionSchedule
from data_agent_lab.cli import main
from data_agent_lab.commands import Compare, Report, Train, parse
from data_agent_lab.methods import expected_cost

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "image_classification.py"
GRPO = ROOT / "examples" / "grpo_math.py"  # its code path: test_grpo_recipe.py
PAGES = sorted((ROOT / "docs" / "recipes").glob("*.md"))
OTHERS = ("pip install ", "hf auth login", "for ", "done")  # lines that start no training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:.*'pin_memory' argument is set as true.*:UserWarning"),
]


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory, monkeypatch):
    """No test uses the user's caches or the network, or leaves its settings to the next."""
    caches = tmp_path_factory.mktemp("caches")
    for name, folder in (("DATA_AGENT_CACHE", "lab"), ("HF_DATASETS_CACHE", "datasets")):
        monkeypatch.setenv(name, str(caches / folder))  # for processes that a test starts
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", caches / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    num_threads, generator_state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(num_threads)
    torch.set_rng_state(generator_state)


@pytest.fixture
def example(monkeypatch) -> Any:
    """The image script as a module, which worker processes can find by name."""
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    return importlib.import_module(EXAMPLE.stem)


# What the pages say.


def blocks_of(page, language) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def commands_of(page) -> list[list[str]]:
    """The words of each command on a page; a loop's variables have their first value."""
    commands: list[list[str]] = []
    for block in blocks_of(page, "bash"):
        text = block.replace("\\\n", " ")
        for name, first in re.findall(r"for (\w+) in (\S+)", text):
            text = re.sub(rf"\${name}\b", first, text)
        lines = (line.strip() for line in text.splitlines())
        commands += [shlex.split(line) for line in lines if line and not line.startswith(OTHERS)]
    return commands


def parsed(words, example) -> Any:
    """A command as what it starts reads it; flags that do not exist end the process."""
    if words[0] == "data-agent":
        return parse(words[1:])
    assert words[0] == "torchrun", words
    launched = parse_torchrun(words[1:])
    if launched.module:
        assert launched.training_script == "data_agent_lab.cli"
        return parse(launched.training_script_args)
    if ROOT / launched.training_script == GRPO:
        pytest.importorskip("trl", reason="needs pip install '.[trl]'")
        example = importlib.import_module(GRPO.stem)  # beside the other, which `example` found
    else:
        assert ROOT / launched.training_script == EXAMPLE
    return example.PARSER.parse_args(launched.training_script_args)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_parses(page, example):
    commands = [parsed(words, example) for words in commands_of(page)]
    kinds = {type(command).__name__ for command in commands}
    assert (
        kinds
        == {
            "README": set(),
            "instruction-tuning": {Train.__name__, Compare.__name__, Report.__name__},
            "imagenet": {"Namespace"},
            "grpo": {"Namespace"},
            "cifar-tiny-imagenet": {Train.__name__, Compare.__name__},
        }[page.stem]
    )


def test_commands_of_one_recipe_agree_on_how_to_train(example):
    """All of them train on steps of 128 rows, whichever way they are started."""
    page = next(page for page in PAGES if page.stem == "instruction-tuning")
    commands = [parsed(words, example) for words in commands_of(page)]
    recipes = [
        c.config.recipe if isinstance(c, Train) else c.recipe
        for c in commands
        if c.__class__ is not Report
    ]
    assert len(recipes) == 5
    for recipe in recipes:
        assert recipe.batch_size * recipe.accumulation == 128
        assert recipe.learning_rate == 2e-4
        assert recipe.lora_rank == 16
        assert recipe.mmlu == "mmlu"
    assert [recipe.epochs for recipe in recipes] == [3, 3, 1, 1, 3]


def test_what_the_budget_of_the_instruction_recipe_means():
    schedule = SelectionSchedule(num_samples=46802, epochs=3, keep_ratio=0.5)
    phases = [schedule.plan(epoch).phase for epoch in range(3)]
    assert phases == ["warm-up", "warm-up", "selected"]
    assert schedule.num_kept == 23401
    assert expected_cost("data-agent-in-batch", 0.5, epochs=1) == pytest.approx(1 / 3 + 1 / 2)


def test_the_lines_that_get_mmlu_write_what_the_lab_reads(tmp_path, monkeypatch):
    """On a stand-in for the hub's cais/mmlu, with its columns and types."""
    pytest.importorskip("lm_eval")
    from data_agent_lab.lm_eval import load_mmlu

    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "subject": datasets.Value("string"),
            "choices": datasets.List(datasets.Value("string")),
            "answer": datasets.ClassLabel(names=["A", "B", "C", "D"]),
        }
    )
    asked: list[tuple[str, ...]] = []

    def load_dataset(*names, split):
        asked.append((*names, split))
        row = {"question": "How many?", "subject": "anatomy", "choices": list("1234"), "answer": 2}
        return datasets.Dataset.from_list([row] * 5, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    page = next(page for page in PAGES if page.stem == "instruction-tuning")
    (block,) = blocks_of(page, "python")
    exec(block, {})
    assert asked == [("cais/mmlu", "all", "dev"), ("cais/mmlu", "all", "test")]
    monkeypatch.undo()
    task = load_mmlu(tmp_path / "mmlu")["tasks"]["mmlu_anatomy"]
    assert [question["answer"] for question in task.test_docs()] == [2] * 5
    assert len(list(task.fewshot_docs())) == 5


# ImageNet's script.

SIZE, EPOCHS, BATCH = 48, 4, 8
STEPS = EPOCHS * SIZE // 2 // BATCH
FLAGS = [
    *("--keep-ratio", "0.5", "--num-train-epochs", str(EPOCHS), "--use-cpu", "--report-to", "none"),
    *("--per-device-train-batch-size", str(BATCH), "--image-size", "32", "--disable-tqdm", "true"),
]
SGD = ["--optim", "sgd", "--optim-args", "momentum=0.9", "--learning-rate", "0.02"]


def pixels_of(rng, *, is_light, size=(40, 56)) -> np.ndarray:
    return (rng.integers(0, 100, (*size, 3)) + 120 * is_light).astype("uint8")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """An image folder of 48 and 16 dark or light images, one grey and one with transparency."""
    folder, rng = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for split, count in (("train", SIZE), ("val", 16)):
        for i in range(count):
            path = folder / split / ("dark", "light")[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(pixels_of(rng, is_light=i % 2 == 1))
            image.convert({2: "L", 4: "RGBA"}.get(i, "RGB")).save(path)
    return folder


def photos_of(example, *images, seed=None, size=32, **changes) -> Any:
    """The script's data set of some images (uint8 `[H, W, 3]`), all of label 1."""
    rows = [{"image": Image.fromarray(image), "label": 1} for image in images]
    return example.Photos(rows, example.Recipe(data="", image_size=size, **changes), seed=seed)


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ("resnet-micro", [*SGD, "--label-smoothing-factor", "0.1"]),
        ("vit-micro", ["--learning-rate", "2e-3", "--method", "random"]),
    ],
)
def test_the_script_trains_on_half_of_an_image_folder(model, flags, example, photos, tmp_path):
    argv = ["--data", str(photos), "--model", model, "--output-dir", str(tmp_path / "run")]
    trainer = example.main([*argv, *FLAGS, *flags, "--save-strategy", "no"])
    assert trainer.selector.visits == EPOCHS * SIZE / 2
    assert trainer.state.global_step == STEPS
    assert int(trainer.train_dataset.epoch) == EPOCHS - 1
    assert trainer.optimizer.param_groups[0].get("momentum") == (
        0.9 if flags[0] == "--optim" else None
    )
    assert type(trainer.selector).name == ("random" if "random" in flags else "data-agent")
    found = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    assert found["eval_accuracy"] == 100  # dark or light


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(example, photos, tmp_path, monkeypatch):
    run = tmp_path / "run"
    argv = [
        "--data",
        str(photos),
        "--model",
        "resnet-micro",
        "--output-dir",
        str(run),
        *FLAGS,
        *SGD,
    ]
    argv += ["--save-strategy", "steps", "--save-steps", "5", "--resume-from-checkpoint", "last"]
    workers = ["--dataloader-num-workers", "2", "--dataloader-persistent-workers"]
    whole = example.main([*argv, *workers])  # there is no checkpoint yet, nor the folder
    assert STEPS // EPOCHS == 3  # so that step 5 is in the middle of an epoch
    for step in (10, STEPS):
        shutil.rmtree(run / f"checkpoint-{step}")
    loaded: list[int] = []
    load = example.Photos.__getitem__

    def count(data, i):
        loaded.extend([] if data.seed is None else [i])  # training images only
        return load(data, i)

    monkeypatch.setattr(example.Photos, "__getitem__", count)
    resumed = example.main(argv)
    assert resumed.state.global_step == STEPS
    assert len(loaded) == (STEPS - 5) * BATCH  # nothing is decoded in order to be skipped
    assert resumed.selector.visits == whole.selector.visits
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_the_seed_decides_weights_and_images(example, photos, tmp_path):
    argv = ["--data", str(photos), "--model", "vit-micro", "--output-dir", str(tmp_path), *FLAGS]
    argv += ["--max-steps", "7", "--save-strategy", "no", "--seed"]
    first, same, other = (
        torch.cat([w.detach().flatten() for w in example.main([*argv, seed]).model.parameters()])
        for seed in ("7", "7", "8")
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.distributed
def test_two_processes_share_a_run(photos, tmp_path):
    argv = ["--data", str(photos), "--model", "resnet-micro", *FLAGS, *SGD, "--output-dir", "run"]
    argv += ["--per-device-train-batch-size", str(BATCH // 2), "--save-steps", str(STEPS)]
    printed = "".join(run_ranks(share_a_run, tmp_path, EXAMPLE, tmp_path, argv))
    assert printed.count("96 visits = 50.0% of a full run") == 1
    state = json.loads(
        (tmp_path / "run" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text()
    )
    assert state["global_step"] == state["max_steps"] == STEPS
    assert json.loads((tmp_path / "run" / "eval_results.json").read_text())["eval_accuracy"] == 100


def test_augmentation_follows_from_seed_epoch_and_row(example):
    image = pixels_of(np.random.default_rng(0), is_light=False)
    one, same, other = (photos_of(example, image, image, seed=seed) for seed in (3, 3, 4))
    first = one[0]["pixel_values"]
    one[1]  # draws of other rows leave no trace
    assert np.array_equal(one[0]["pixel_values"], same[0]["pixel_values"])
    assert not np.array_equal(first, other[0]["pixel_values"])
    assert not np.array_equal(first, one[1]["pixel_values"])
    one.epoch.fill_(1)
    assert not np.array_equal(first, one[0]["pixel_values"])
    one.epoch.fill_(0)
    assert np.array_equal(first, one[0]["pixel_values"])


def test_random_crops_cover_what_they_should(example):
    rng, width, height = np.random.default_rng(0), 400, 400
    boxes = np.array([example.random_box(width, height, rng) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    assert ((left >= 0) & (top >= 0) & (right <= width) & (bottom <= height)).all()
    area = (right - left) * (bottom - top) / (width * height)
    ratio = (right - left) / (bottom - top)
    assert 0.079 < area.min() < 0.1
    assert 0.95 < area.max() <= 1
    assert 0.74 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.34
    assert np.median(np.log(ratio)) == pytest.approx(0, abs=0.03)
    assert example.random_box(1000, 10, rng) == (495, 0, 505, 10)  # no crop fits: the middle


def test_half_of_the_training_images_are_flipped(example):
    image = np.zeros((32, 32, 3), dtype="uint8")
    image[:, 16:] = 255  # the right half is white; crops keep some of both, or are of one colour
    data = photos_of(example, *[image] * 400, seed=0)
    rows = [data[i]["pixel_values"].mean(axis=(0, 1)) for i in range(400)]
    differences = [row[-1] - row[0] for row in rows if row[-1] != row[0]]
    assert len(differences) > 200
    share = sum(difference < 0 for difference in differences) / len(differences)
    assert 0.4 < share < 0.6


def test_evaluation_takes_the_middle_and_normalises_as_usual(example):
    assert example.middle(640, 480) == (110, 30, 530, 450)
    image = np.zeros((64, 128, 3), dtype="uint8")
    image[4:60, 36:92] = 255  # the middle square of 56 pixels
    sample = photos_of(example, image)[0]
    assert sample["labels"] == 1
    assert sample["pixel_values"].shape == (3, 32, 32)
    assert sample["pixel_values"].dtype == np.float32
    inside = sample["pixel_values"][:, 2:-2, 2:-2]
    for channel, white in zip(inside, (2.2489, 2.4286, 2.6400), strict=True):  # (1 - mean) / std
        assert channel == pytest.approx(white, abs=1e-4)


# The lab's recipes.


def shrunk(words, **changes) -> list[str]:
    """A page's command with other values, and flags that make it small."""
    small = {"width": "16", "epochs": "4", "batch_size": "16", "precision": "fp32"}
    small |= {"device": "cpu", "num_threads": "1"}
    for name, value in {**small, **changes}.items():
        flag = f"--{name.replace('_', '-')}"
        if flag in words:
            words[words.index(flag) + 1] = str(value)
        else:
            words = [*words, flag, str(value)]
    return words[1:]


def commands_with(text) -> list[str]:
    (words,) = (words for page in PAGES for words in commands_of(page) if text in " ".join(words))
    return words


def test_the_cifar100_recipe_on_parquet_files_of_its_layout(tmp_path):
    folder, rng = tmp_path / "cifar100", np.random.default_rng(0)
    folder.mkdir()
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine_label": datasets.ClassLabel(names=list("abcd")),
            "coarse_label": datasets.ClassLabel(names=list("xy")),
        }
    )
    for split, count in (("train", 64), ("test", 16)):
        rows = [
            {
                "img": Image.fromarray(pixels_of(rng, is_light=i % 2 == 1, size=(32, 32))),
                "fine_label": i % 4,
                "coarse_label": i % 2,
            }
            for i in range(count)
        ]
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")
    words = commands_with("train --task image --data uoft-cs/cifar100")
    assert main(shrunk(words, data=folder, output=tmp_path / "run")) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["num_classes"], result["num_train_samples"], result["cost"]) == (4, 64, 0.5)


def test_the_tiny_imagenet_recipe_on_an_image_folder(tmp_path):
    folder, rng = tmp_path / "tiny", np.random.default_rng(0)
    for split, count in (("train", 64), ("val", 12)):
        for i in range(count):
            path = folder / split / f"n0000000{i % 3}" / f"{i}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels_of(rng, is_light=i % 3 == 1, size=(64, 64))).save(path)
    words = commands_with("--data zh-plus/tiny-imagenet")
    few = {"methods": "full-short,data-agent", "keep_ratios": "0.5", "seeds": "1", "jobs": "1"}
    assert main(shrunk(words, data=folder, output=tmp_path / "all", **few)) == 0
    results = [json.loads(path.read_text()) for path in tmp_path.rglob("result.json")]
    assert [result["cost"] for result in results] == [0.5, 0.5]
    assert {result["evaluation"] for result in results} == {"split 'validation'"}
    assert {result["num_classes"] for result in results} == {3}
    assert "data-agent" in (tmp_path / "all" / "comparison.md").read_text()
