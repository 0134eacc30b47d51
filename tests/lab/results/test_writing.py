"""Reports as text: what tables, captions and notes say."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from run_folders import (
    cell_of,
    make_language_run,
    make_language_runs,
    make_run,
    make_runs,
    make_tasks,
)

from data_agent_lab.results.figure import draw
from data_agent_lab.results.findings import Cell
from data_agent_lab.results.records import write_archive
from data_agent_lab.results.report import summarise
from data_agent_lab.results.statistics import Estimate, Spread
from data_agent_lab.results.tables import (
    FIGURES,
    cell_table,
    describe,
    format_estimate,
    format_spread,
)
from data_agent_lab.results.writing import notes, show, to_markdown, write
from data_agent_lab.terminal import format_seconds


def texts_of(cell: Cell, method: str) -> dict[str, str]:
    """The texts of a method's row, by column."""
    table = cell_table(cell)
    (row,) = (row for row in table.rows if row[0] == method)
    return dict(zip(table.columns, row, strict=True))


def test_cells_show_means_with_intervals_and_signed_differences(tmp_path: Path) -> None:
    for method, values in {"full": (91.0, 92.0, 93.0), "ucb": (88.0, 91.0, 91.0)}.items():
        for seed, value in enumerate(values):
            make_run(tmp_path / f"{method}{seed}", method=method, seed=seed, value=value)
    # ucb: s = sqrt(3), half-width 4.3027; differences -3, -1 and -2: 4.3027 / sqrt(3)
    texts = texts_of(cell_of(tmp_path), "ucb")
    assert list(texts.values()) == [
        *(
            "ucb",
            "90.00 +- 4.30",
            "-2.00 +- 2.48",
            "-",
            "-",
            "50.0",
            "1.00 +- 0.00",
            "0.0",
            "-",
            "3",
        )
    ]
    assert not any("no claim" in note for note in notes(summarise(tmp_path)))


def test_intervals_of_two_seeds_stand_in_brackets_and_are_no_claim(tmp_path: Path) -> None:
    make_runs(tmp_path)
    texts = texts_of(cell_of(tmp_path), "data-agent")
    assert list(texts.values()) == [
        "data-agent",
        "91.00 (+- 25.41)",
        "+0.00 (+- 12.71)",
        "+1.50 (+- 6.35)",
        "+2.00 (+- 0.00)",
        "50.0",
        "0.60 (+- 0.00)",
        "10.0",
        "50.0",
        "2",
    ]
    report = summarise(tmp_path)
    assert "Intervals in brackets are of 2 seeds: no claim. Use --seeds 3 or more." in notes(report)


def test_without_controls_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    make_runs(tmp_path, "data-agent")
    assert list(texts_of(cell_of(tmp_path), "data-agent").values())[2:] == [
        "-",
        "-",
        "-",
        "50.0",
        "-",
        "10.0",
        "-",
        "2",
    ]


def test_the_report_is_written_with_all_numbers_and_figures(tmp_path: Path) -> None:
    make_runs(tmp_path, seeds=1)
    report = summarise(tmp_path)
    write(report, tmp_path)
    draw(report, tmp_path / FIGURES)
    content = json.loads((tmp_path / "comparison.json").read_text())
    (task,) = content["tasks"]
    assert task["cells"][0]["rows"][0]["by_seed"] == {"0": 90.0}
    text = (tmp_path / "comparison.md").read_text()
    assert "| data-agent | 89.00 | -1.00 | +1.00 | +2.00 | 50.0 |" in text
    assert "One seed has no interval" in text
    assert "| command |" in text
    figures = {path.name for path in (tmp_path / FIGURES).iterdir()}
    assert figures == {"digits-frontier.png", "digits-keep0.5.png"}
    for name in figures:
        assert f"({FIGURES}/{name})" in text
        assert (tmp_path / FIGURES / name).read_bytes().startswith(b"\x89PNG")


def test_without_figures_none_is_linked(tmp_path: Path) -> None:
    make_runs(tmp_path)
    write(summarise(tmp_path), tmp_path, figures=False)
    assert ".png" not in (tmp_path / "comparison.md").read_text()


def test_what_old_runs_are_called_now_is_said(tmp_path: Path) -> None:
    make_runs(tmp_path / "runs")
    path = tmp_path / "runs.jsonl"
    write_archive(tmp_path / "runs", path)
    shutil.rmtree(tmp_path / "runs")
    words = "recorded as data-agent; ran the label rules"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["configuration"]["method"] == "data-agent":
            line["configuration"]["method"] = "label-aware"
            line["relabelled"] = words
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = summarise(path)
    assert "label-aware" in [row.method for row in report.tasks[0].cells[0].rows]
    assert f"Renamed since they ran: label-aware ({words})." in notes(report)
    write_archive(tmp_path, tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_text().count(words) == 2


def test_tables_fit_into_120_columns(tmp_path: Path) -> None:
    for place, method in enumerate(("class-balanced-random", "full", "full-short", "random")):
        cost = 1.0 if method == "full" else 0.5
        for seed in (0, 1, 2):
            value, loss = 70.0 + place / 10 + seed / 20, 2.0 + place / 10 + seed / 20
            name, labels = f"{method}{seed}", {"method": method, "seed": seed, "cost": cost}
            make_run(tmp_path / "images" / name, value=value, **labels)
            make_language_run(tmp_path / "sft" / name, value=loss, token_cost=1.0, **labels)
    console = Console(width=120, record=True, markup=False)
    show(summarise(tmp_path), console)
    text = console.export_text()
    image, language, _ = (
        line for line in text.splitlines() if line.startswith("class-balanced-random")
    )
    assert "70.05 +- 0.12" in image
    assert image.split()[-1] == "3"
    # Too wide with four decimals: the intervals are in the line below.
    assert language.split()[:2] == ["class-balanced-random", "2.0500"]
    assert "+- 0.1242" in text.split(language)[1].splitlines()[1]
    assert "\u2026" not in text  # nothing was cut short


def test_a_narrow_terminal_shows_whole_names_and_says_what_is_left_out(tmp_path: Path) -> None:
    methods = ("class-balanced-random", "full", "full-short", "random")
    for method in methods:
        for seed in (0, 1, 2):
            labels = {"method": method, "seed": seed, "cost": 1.0 if method == "full" else 0.5}
            make_run(tmp_path / f"{method}{seed}", value=70.0 + seed, **labels)
    for width, left_out in (
        (120, ""),
        (100, ""),
        (80, "seeds, reach %, select %"),
        (70, "seeds, reach %, select %, time / full"),
        (56, "seeds, reach %, select %, time / full"),  # the rest is folded, names are not
    ):
        console = Console(width=width, record=True, markup=False)
        show(summarise(tmp_path), console)
        lines = console.export_text().splitlines()
        table = lines[: lines.index("")]
        for method in methods:
            assert any(line.startswith(f"{method} ") for line in table)
        assert "\u2026" not in "".join(table)
        _, said, named = " ".join(" ".join(table).split()).partition(
            "Left out, as the terminal is narrow:"
        )
        assert bool(said) == bool(left_out)
        assert named.strip(" .") == left_out


def test_the_terminal_shows_further_metrics(tmp_path: Path) -> None:
    make_language_runs(tmp_path)
    console = Console(width=120, record=True, markup=False)
    show(summarise(tmp_path), console)
    text = console.export_text()
    assert "sft, keep ratio 0.5, other metrics" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "mmlu % top-loss 25.50 (+- 6.35) +0.00 (+- 0.00) +0.00 (+- 0.00) 1,570 2" in lines


def test_numbers_as_text() -> None:
    assert format_estimate(Estimate(1.234, 0.5, 3)) == "1.23 +- 0.50"
    assert format_estimate(Estimate(1.234, 0.5, 2)) == "1.23 (+- 0.50)"
    assert format_estimate(Estimate(1.234, None, 1), sign=True) == "+1.23"
    assert format_estimate(None) == "-"
    assert format_spread(Spread(1.0, (-0.5, 2.0), 3)) == "+1.00 [-0.50, +2.00]"
    assert format_spread(Spread(1.0, None, 2)) == "+1.00"
    assert format_spread(Spread(0.01234, (0.01, 0.02), 3), digits=4) == "+0.0123 [+0.0100, +0.0200]"
    assert format_spread(None) == "-"
    assert [format_seconds(s) for s in (9.4, 61, 3725)] == ["9 s", "1 min 01 s", "1 h 02 min"]


def test_the_report_of_a_suite_names_every_task_and_budget(tmp_path: Path) -> None:
    values = {"random": [50.0], "top-loss": [51.0]}
    make_tasks(tmp_path, {"t1": values, "t2": values})
    text = to_markdown(summarise(tmp_path))
    assert "## Over 2 tasks, keep ratio 0.5" in text
    assert "### t1, keep ratio 0.5" in text
    assert "| top-loss | 1.00 | +1.00 | - | 2 |" in text


def test_a_loss_has_its_unit_four_decimals_and_tokens(tmp_path: Path) -> None:
    make_language_runs(tmp_path, token_cost=0.55)
    texts = texts_of(cell_of(tmp_path), "data-agent")
    assert texts["loss nats"] == "2.2500 (+- 0.6353)"
    assert texts["to random"] == "-0.2000 (+- 0.0000)"
    assert (texts["cost %"], texts["tokens %"]) == ("50.0", "55.0")


def test_further_metrics_have_a_table_of_their_own(tmp_path: Path) -> None:
    make_language_runs(tmp_path)
    text = to_markdown(summarise(tmp_path))
    assert "| metric | method | value | to full | to random | items | seeds |" in text
    for method, to_full, to_random in (
        ("full", "-", "+0.00 (+- 0.00)"),
        ("random", "+0.00 (+- 0.00)", "-"),
        ("top-loss", "+0.00 (+- 0.00)", "+0.00 (+- 0.00)"),
    ):
        numbers = f"25.50 (+- 6.35) | {to_full} | {to_random} | 1,570 | 2"
        assert f"| mmlu % | {method} | {numbers} |" in text
    make_runs(tmp_path / "images")
    assert "Other metrics" not in to_markdown(summarise(tmp_path / "images"))


def test_items_that_were_cut_are_counted_and_explained(tmp_path: Path) -> None:
    mmlu = {"value": 25.0, "unit": "%", "direction": "higher", "num_items": 570}
    further = {"mmlu": {**mmlu, "num_truncated": 569}}
    make_language_run(tmp_path / "a", method="random", seed=0, value=2.0, further=further)
    report = summarise(tmp_path)
    assert "| mmlu % | random | 25.00 | - | - | 570 (569 cut) | 1 |" in to_markdown(report)
    assert any(note.startswith("Cut items did not fit") for note in notes(report))


def test_image_and_language_tasks_stand_side_by_side(tmp_path: Path) -> None:
    values = {"random": [50.0, 51.0], "data-agent": [52.0, 53.0]}
    make_language_runs(tmp_path / "sft")
    make_tasks(tmp_path, {"t1": values, "t2": values})
    report = summarise(tmp_path)
    text = to_markdown(report)
    assert (
        "## Over 3 tasks, keep ratio 0.5: ranks over all of them, differences over the 2 that "
        "measure accuracy %"
    ) in text
    assert "| data-agent | 1.00 | +2.00 | - | 2 |" in text
    assert "| method | accuracy % | to full | to full-short | to random | cost % | time" in text
    assert "| method | loss nats | to full | to full-short | to random | cost % | tokens %" in text
    said = " ".join(notes(report))
    assert "Loss or accuracy is that of the last epoch." in said
    assert "differences are in nats or points and paired by seed" in said
    assert "Lower is better for loss: there, a method with a negative difference is better" in said


def test_differences_over_language_tasks_keep_their_decimals(tmp_path: Path) -> None:
    for task, gain in (("a", 0.0123), ("b", 0.0125), ("c", 0.0127)):
        for method, value in (("random", 2.0), ("ucb", 2.0 - gain)):
            path = tmp_path / task / method
            make_language_run(path, method=method, seed=0, value=value, task=task)
    text = to_markdown(summarise(tmp_path))
    assert "## Over 3 tasks, keep ratio 0.5\n" in text
    assert "| ucb | 1.00 | -0.0125 [-0.0130, -0.0120] | - | 3 |" in text


def test_a_task_says_what_its_labels_are_if_it_has_some(tmp_path: Path) -> None:
    make_runs(tmp_path / "images", "random")
    make_language_run(tmp_path / "sft", method="random", seed=0, value=2.0)
    images, sft = summarise(tmp_path).tasks
    assert "cnn, 100 training samples, 60 epochs" in describe(images)  # nobody knows which err
    for known in ({"label_noise": 0.1}, {"train_labels": "a.parquet:b"}, {"foreign_share": 0.1}):
        told = replace(images, config={**images.config, **known})
        assert "100 training samples (0 with a wrong label" in describe(told)
    assert "llama-32x1, 100 training samples, 60 epochs; evaluated on 50 samples" in describe(sft)


def test_a_task_says_how_far_its_trusted_samples_are_to_be_trusted(tmp_path: Path) -> None:
    make_runs(tmp_path, "random")
    (task,) = summarise(tmp_path).tasks
    errors = {"trusted_rows": 20, "trusted_noise": 0.1, "trusted_imbalance": 5.0}
    task = replace(task, config={**task.config, **errors})
    assert (
        "20 of them trusted and 10 % of these wrong, of the first class 5 times as many as of the "
        "last; every method had these)"
    ) in describe(task)
