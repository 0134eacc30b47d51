from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data_agent import __version__
from data_agent_lab.runs import environment


def test_an_environment_tells_machine_versions_and_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/data-agent", "train", "--data", "my photos"])
    found = environment.describe_environment("cpu")
    assert found["command"] == "data-agent train --data 'my photos'"
    assert found["device"] == "cpu"
    assert found["gpu"] is None
    assert found["torch"] == torch.__version__
    assert found["data_agent"] == __version__
    assert found["num_cpus"] >= 1
    assert found["cpu"]
    assert json.loads(json.dumps(found)) == found


@pytest.fixture
def source_in_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the package inside another repository, not yet committed."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    source = tmp_path / "environment.py"
    source.write_text("")
    git(tmp_path, "init", "--quiet")
    monkeypatch.setattr(environment, "__file__", str(source))
    environment.commit_of_sources.cache_clear()
    return source


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    command = ["git", *identity, *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_an_installed_package_does_not_claim_the_commit_of_a_repository_around_it(
    source_in_a_repository: Path,
) -> None:
    git(source_in_a_repository.parent, "commit", "--quiet", "--allow-empty", "-m", "unrelated")
    assert environment.commit_of_sources() is None


def test_a_checkout_tells_its_commit_and_whether_it_was_changed(
    source_in_a_repository: Path,
) -> None:
    folder = source_in_a_repository.parent
    git(folder, "add", "environment.py")
    git(folder, "commit", "--quiet", "-m", "ours")
    commit = git(folder, "rev-parse", "HEAD")
    assert environment.commit_of_sources() == commit
    source_in_a_repository.write_text("changed")
    environment.commit_of_sources.cache_clear()
    assert environment.commit_of_sources() == f"{commit}-dirty"


def test_without_git_there_is_no_commit(
    monkeypatch: pytest.MonkeyPatch, source_in_a_repository: Path
) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment.commit_of_sources() is None
