"""How the command line starts: without torch where it only talks, and on any system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import data_agent_lab
from data_agent_lab.cli import main
from data_agent_lab.image_models import IMAGE_MODELS
from data_agent_lab.tasks import SUITES, TASKS
from data_agent_lab.training.models import build_model


def modules_loaded_by(*argv: str) -> set[str]:
    code = (
        "import sys\nfrom data_agent_lab.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "line",
    [
        *(
            "--version",
            "--help",
            "train --help",
            "compare --help",
            "report --help",
            "archive --help",
        ),
        *("train --task sft --help", "train --task digits --method randm", "compare --task imag"),
    ],
)
def test_what_only_talks_does_not_import_torch(line: str) -> None:
    assert "torch" not in modules_loaded_by(*line.split())


def test_the_test_above_can_fail(tmp_path: Path) -> None:
    assert "torch" in modules_loaded_by("report", str(tmp_path))


def test_what_takes_long_to_import_is_not_imported_for_the_embedded_task() -> None:
    """Each process of a comparison would wait for it; so would the report."""
    code = (
        "import sys\nfrom data_agent_lab.comparing import workers\n"
        "from data_agent_lab.results import report, writing\n"
        "from data_agent_lab.tasks import load_task, recipe_for\n"
        "from data_agent_lab.training import run\n"
        "load_task(recipe_for('digits'))\nprint('\\n'.join(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"sklearn", "scipy.stats", "pandas", "transformers", "matplotlib"}


@pytest.mark.slow
def test_every_module_imports_where_there_is_no_fcntl() -> None:
    """As on Windows."""
    root = Path(data_agent_lab.__file__).parent
    files = [path.relative_to(root.parent).with_suffix("") for path in root.rglob("*.py")]
    names = sorted(".".join(path.parts).removesuffix(".__init__") for path in files)
    assert len(names) > 30
    code = (
        "import importlib, sys\n"
        "import portalocker  # of lm-eval: it goes by the system's name\n"
        "sys.modules['fcntl'] = None\n"
        "for name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("train --task digit", "digits"),
        ("train --task text-clasification", "text-classification"),
        ("train --model resnet18", "resnet-18"),
        ("train --method data_agent", "data-agent"),
        ("compare --methods full,radnom", "random"),
        ("compare --suite helt-out", "held-out"),
        ("compare --tasks tiny-imagnet", "tiny-imagenet"),
        ("compare --suite quick --tasks cifar10-noise", "cifar10-noise30"),
    ],
)
def test_a_name_with_a_typo_is_answered_with_the_nearest(
    line: str, nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    assert capsys.readouterr().err.endswith(f"Did you mean {nearest!r}?\n")


def test_a_name_like_no_other_gets_the_list_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--task", "xyzzy"]) == 2
    assert capsys.readouterr().err.endswith(f"{list(TASKS)[-1]}.\n")


def test_the_names_in_helps_are_those_there_are() -> None:
    for name in IMAGE_MODELS:
        build_model(name, in_channels=1, num_classes=2, image_size=16)
    assert set(TASKS) >= {task for tasks in SUITES.values() for task in tasks}


@pytest.mark.parametrize("task", ["digits", "sft"])
def test_help_says_whose_defaults_it_shows(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--task", task, "--help"])
    assert f"Flags and defaults are those of --task {task}; each task has its own" in (
        " ".join(capsys.readouterr().out.split())
    )
