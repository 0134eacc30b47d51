"""What a release says of itself agrees; `make release-check` also builds it and looks inside."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def check():
    path = Path(__file__).parent / "check_release.py"
    spec = importlib.util.spec_from_file_location("check_release", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_version_citation_and_changelog_agree(check):
    assert check.version_problems() == []


def test_another_version_is_found(check, tmp_path, monkeypatch):
    (tmp_path / "src" / "data_agent").mkdir(parents=True)
    (tmp_path / "src" / "data_agent" / "_version.py").write_text('__version__ = "9.9.9"\n')
    (tmp_path / "CITATION.cff").write_text("version: 1.0.0\n")
    (tmp_path / "CHANGELOG.md").write_text("# C\n\n## [1.0.0]\n\n### Added\n\n### Added\n")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    citation, changes, twice = check.version_problems()
    assert citation == "CITATION.cff does not name version 9.9.9, which _version.py does"
    assert changes == "CHANGELOG.md begins with ['1.0.0'], not with [9.9.9]"
    assert twice == "CHANGELOG.md: [1.0.0] has a heading twice"


def test_results_and_large_files_do_not_belong_in_it(check):
    sizes = {
        "benchmarks/results/core/runs.jsonl": 10,
        "src/data_agent_lab/results/report.py": 10,
        "docs/demo.png": 60_000,
        "docs/huge.png": 600_000,
    }
    assert check.content_problems(sizes) == [
        "benchmarks/results/core/runs.jsonl does not belong in it",
        "docs/huge.png has 600,000 bytes",
    ]
