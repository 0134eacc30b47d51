"""Runs in one file: written, read, refused, and the committed ones against their reports."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from run_folders import make_language_runs, make_run, make_runs

from data_agent import DataAgentError
from data_agent_lab.cli import main
from data_agent_lab.results.records import find_runs, write_archive
from data_agent_lab.results.report import summarise
from data_agent_lab.results.writing import to_markdown

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def in_json(source: Path) -> object:
    """What comparison.json holds of these runs."""
    return json.loads(json.dumps(asdict(summarise(source))))


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/runs.jsonl")), ids=lambda p: p.parent.name)
def test_committed_reports_are_what_the_committed_runs_show(path: Path) -> None:
    assert in_json(path) == json.loads((path.parent / "comparison.json").read_text())
    assert in_json(path.parent) == in_json(path)
    text = (path.parent / "comparison.md").read_text()
    assert to_markdown(summarise(path), figures=False) == text


def test_an_archive_reports_what_its_folders_did(tmp_path: Path) -> None:
    make_runs(tmp_path / "images")
    make_language_runs(tmp_path / "deeper" / "sft")
    before, text = in_json(tmp_path), to_markdown(summarise(tmp_path))
    said = write_archive(tmp_path)
    assert "Wrote 18 run(s)" in said
    assert in_json(tmp_path) == before  # folders and archive: every run counts once
    shutil.rmtree(tmp_path / "images")
    assert in_json(tmp_path) == before  # some folders and the archive
    shutil.rmtree(tmp_path / "deeper")
    assert in_json(tmp_path) == in_json(tmp_path / "runs.jsonl") == before
    assert to_markdown(summarise(tmp_path)) == text


def test_the_commands_archive_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_runs(tmp_path / "runs")
    path = tmp_path / "kept" / "half.jsonl"
    path.parent.mkdir()
    assert main(["archive", str(tmp_path / "runs"), "--output", str(path)]) == 0
    assert "Wrote 8 run(s)" in capsys.readouterr().out
    assert main(["report", str(path), "--no-figures", "--no-html"]) == 0
    written = {"half.jsonl", "comparison.md", "comparison.json"}
    assert {entry.name for entry in path.parent.iterdir()} == written
    assert main(["report", str(path), "--no-figures"]) == 0
    assert {entry.name for entry in path.parent.iterdir()} == {*written, "report.html"}
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is neither a folder nor a file" in capsys.readouterr().err


def test_lines_are_sorted_and_the_same_each_time(tmp_path: Path) -> None:
    make_runs(tmp_path / "runs")
    for name in ("one", "two"):
        write_archive(tmp_path / "runs", tmp_path / f"{name}.jsonl")
    one, two = (tmp_path / f"{name}.jsonl" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    lines = [json.loads(line) for line in one.read_text().splitlines()]
    names = [line["name"] for line in lines]
    assert names == sorted(names)
    assert len(names) == 8
    assert list(lines[0]) == [
        *("format", "version", "name", "configuration", "environment", "result", "evaluations")
    ]
    assert lines[0]["configuration"]["method"] == "data-agent"


def test_lines_of_metrics_without_an_evaluation_are_left_out(tmp_path: Path) -> None:
    make_run(tmp_path / "a", method="random", seed=0, accuracies=(80.0,))
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "train_loss": 0.5}\n')
    write_archive(tmp_path)
    ((record,), _) = find_runs(tmp_path / "runs.jsonl")
    assert [line["accuracy"] for line in record.evaluations] == [80.0, 90.0]


def test_a_metric_that_is_no_number_is_left_out_as_json_has_none(tmp_path: Path) -> None:
    make_run(tmp_path / "a", method="random", seed=0, accuracies=(80.0,))
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "accuracy": NaN}\n')  # such a line holds no evaluation
        file.write('{"step": 3, "accuracy": 95.0, "selector": {"visits": 5, "action": NaN}}\n')
    before = in_json(tmp_path)
    write_archive(tmp_path)
    ((record,), _) = find_runs(tmp_path / "runs.jsonl")
    assert record.evaluations[-1] == {"step": 3, "accuracy": 95.0, "selector": {"visits": 5}}
    assert [line["accuracy"] for line in record.evaluations] == [80.0, 90.0, 95.0]
    assert in_json(tmp_path / "runs.jsonl") == before


def test_unfinished_runs_are_named_and_left_out(tmp_path: Path) -> None:
    make_runs(tmp_path)
    (tmp_path / "data-agent-1" / "result.json").unlink()
    said = write_archive(tmp_path)
    assert "Wrote 7 run(s)" in said
    assert "Not finished, so left out: data-agent-1." in said
    assert summarise(tmp_path).unfinished == ["data-agent-1"]


def test_an_archive_written_again_keeps_the_runs_whose_folders_are_gone(tmp_path: Path) -> None:
    make_runs(tmp_path)
    write_archive(tmp_path)
    for folder in tmp_path.glob("random-*"):
        shutil.rmtree(folder)
    make_run(tmp_path / "new", method="top-loss", seed=0)
    assert "Wrote 9 run(s)" in write_archive(tmp_path)


def test_an_output_with_other_runs_is_not_overwritten(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / "runs" / name / name, method="random", seed=0)
    output = tmp_path / "kept.jsonl"
    write_archive(tmp_path / "runs" / "a", output)
    before = output.read_bytes()
    with pytest.raises(DataAgentError, match=r"kept.jsonl holds 1 run\(s\) that are not under"):
        write_archive(tmp_path / "runs" / "b", output)
    assert output.read_bytes() == before


def test_two_results_for_one_run_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "a", method="random", seed=0)
    write_archive(tmp_path)
    path = tmp_path / "a" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "value": 12.0}))
    with pytest.raises(DataAgentError, match=r"runs.jsonl holds another result for .*/a"):
        summarise(tmp_path)


def test_nothing_to_archive_and_no_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataAgentError, match=r"no run under .* has finished"):
        write_archive(tmp_path)
    with pytest.raises(DataAgentError, match="is no folder"):
        write_archive(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: text[:-20], r"runs.jsonl is damaged after 0 run"),
        (lambda text: text + "{}\n", r"line 2 of .*runs.jsonl is no run of this data-agent"),
        (lambda text: text + "[" * 100_000, r"damaged after 1 run\(s\) \(nested too deeply"),
        (lambda text: text.replace('"result": {', '"results": {'), r"line 1 has no result"),
        (
            lambda text: text.replace('"seed": 0', '"sead": 0'),
            r"the configuration of the run .*/a has no seed. .*restore the file",
        ),
        (lambda text: text.replace('"cost": 0.5, ', ""), r"the result of the run .* has no cost"),
    ],
)
def test_damaged_archives_are_errors_that_say_where(tmp_path: Path, change, match: str) -> None:
    make_run(tmp_path / "runs" / "a", method="random", seed=0)
    path = tmp_path / "runs.jsonl"
    write_archive(tmp_path / "runs", path)
    path.write_text(change(path.read_text()))
    with pytest.raises(DataAgentError, match=match):
        summarise(path)
