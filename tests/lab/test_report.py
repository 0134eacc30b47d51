"""Reports of hand-made run folders, with numbers computed by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from data_agent import DataAgentError
from data_agent.lab.config import TrainConfig
from data_agent.lab.figure import FIGURES, draw
from data_agent.lab.report import Cell, Row, summarise
from data_agent.lab.runs import open_run
from data_agent.lab.statistics import Estimate, Spread
from data_agent.lab.tasks import recipe_for
from data_agent.lab.terminal import format_seconds
from data_agent.lab.writing import (
    columns_of,
    format_estimate,
    format_spread,
    notes,
    show,
    to_markdown,
    verdict,
    write,
)

# accuracy and seconds by method and seed; costs are 1 for full, 0.5 for the others
RUNS = {
    "full": [(90.0, 10.0), (92.0, 20.0)],
    "full-short": [(88.0, 5.0), (91.0, 10.0)],
    "random": [(87.0, 5.0), (91.0, 10.0)],
    "data-agent": [(89.0, 6.0), (93.0, 12.0)],
}
N, EPOCHS = 100, 60


def make_run(
    folder: Path,
    *,
    method: str,
    seed: int,
    value: float = 90.0,
    seconds: float = 10.0,
    cost: float = 0.5,
    keep_ratio: float = 0.5,
    accuracies: Sequence[float] = (),
    jobs: int = 1,
    finished: bool = True,
    result: dict[str, Any] | None = None,
    **changes: Any,
) -> None:
    """A run's folder; its evaluations are evenly spread and end with `value`."""
    config = {**TrainConfig(recipe=recipe_for("digits"), method=method, seed=seed).flat()}
    config |= {"keep_ratio": keep_ratio, **changes}
    visits = round(cost * N * EPOCHS)
    with open_run(folder, config, resume=False) as run:
        run.begin(config, device="cpu", jobs=jobs)
        evaluated = [*accuracies, value]
        for place, accuracy in enumerate(evaluated, start=1):
            done = visits * place // len(evaluated)
            line = {"step": place, "num_forward": done, "num_backward": done}
            run.append_metrics({**line, "accuracy": accuracy})
        if finished:
            run.finish(
                {
                    **{"metric": "accuracy", "unit": "%", "value": value},
                    "cost": cost,
                    "train_seconds": seconds,
                    "train_cpu_seconds": seconds / (2 if method == "full" else 1),
                    "overhead_seconds": seconds / 10 if method == "data-agent" else 0.0,
                    "num_train_samples": N,
                    "num_eval_samples": 50,
                    "num_noisy_labels": 0,
                    "evaluation": "split 'test'",
                    "schedule": "exact",
                    **(result or {}),
                }
            )


def make_runs(output: Path, *methods: str, seeds: int = 2, **options: Any) -> None:
    for method in methods or RUNS:
        for seed, (value, seconds) in enumerate(RUNS[method][:seeds]):
            is_full = method == "full"
            make_run(
                output / f"{method}-{seed}",
                method=method,
                seed=seed,
                value=value,
                seconds=seconds,
                **{
                    "cost": 1.0 if is_full else 0.5,
                    "keep_ratio": 1.0 if is_full else 0.5,
                    **options,
                },
            )


def cell_of(folder: Path) -> Cell:
    (task,) = summarise(folder).tasks
    (cell,) = task.cells
    return cell


def row_of(cell: Cell, method: str) -> Row:
    row = cell.row(method)
    assert row is not None
    return row


def numbers(value: Estimate | None) -> tuple[float, float | None]:
    assert value is not None
    return value.mean, value.half_width


def test_rows_by_hand(tmp_path: Path) -> None:
    make_runs(tmp_path)
    cell = cell_of(tmp_path)
    assert [row.method for row in cell.rows] == ["full", "full-short", "random", "data-agent"]
    full, short, random, agent = cell.rows
    assert [row.value.mean for row in cell.rows] == [91.0, 89.5, 89.0, 91.0]
    # t(0.975, 1) = 12.7062; differences of the agent to full are -1 and +1, to full-short 1 and 2,
    # to random 2 and 2
    assert numbers(agent.to_full) == pytest.approx((0.0, 12.7062), abs=1e-3)
    assert numbers(agent.to_full_short) == pytest.approx((1.5, 12.7062 / 2), abs=1e-3)
    assert numbers(agent.to_random) == pytest.approx((2.0, 0.0), abs=1e-3)
    assert (full.to_full, short.to_full_short, random.to_random) == (None, None, None)
    # 6/10 and 12/20 of full training's time with the same seed
    assert numbers(agent.time) == pytest.approx((0.6, 0.0))
    assert cell.clock == "wall-clock"
    assert (agent.cost, agent.overhead) == pytest.approx((0.5, 0.1))
    assert agent.by_seed == {0: 89.0, 1: 93.0}


def test_runs_in_parallel_are_timed_by_the_processor(tmp_path: Path) -> None:
    make_runs(tmp_path, jobs=2)
    cell = cell_of(tmp_path)
    assert cell.clock == "processor time"
    # full training took half of its wall-clock: 6/5 and 12/10
    assert numbers(row_of(cell, "data-agent").time) == pytest.approx((1.2, 0.0))
    assert any("Runs in parallel" in note for note in notes(summarise(tmp_path)))


def test_the_cost_to_reach_full_short_by_hand(tmp_path: Path) -> None:
    # full-short ends with 89.5 on average, at 50 % of the cost of full training. The agent's means
    # are 80, 89.5 and 91 at a third, two thirds and all of its 50 %: it is there at 33.3 %.
    make_runs(tmp_path, "full", "full-short")
    for seed, accuracies in enumerate([(80.0, 89.0), (80.0, 90.0)]):
        value, seconds = RUNS["data-agent"][seed]
        path = tmp_path / f"agent{seed}"
        make_run(
            path,
            method="data-agent",
            seed=seed,
            value=value,
            seconds=seconds,
            accuracies=accuracies,
        )
    make_run(tmp_path / "random", method="random", seed=0, value=89.4, accuracies=(89.0,))
    cell = cell_of(tmp_path)
    assert row_of(cell, "data-agent").cost_to_reach == pytest.approx(1 / 3)
    assert row_of(cell, "full-short").cost_to_reach == pytest.approx(0.5)
    assert row_of(cell, "full").cost_to_reach == pytest.approx(1.0)
    assert row_of(cell, "random").cost_to_reach is None


def test_full_training_stands_beside_every_budget_and_runs_are_found_however_deep(
    tmp_path: Path,
) -> None:
    make_runs(tmp_path / "a" / "b", "full", "random")
    make_run(tmp_path / "c", method="random", seed=0, keep_ratio=0.25, cost=0.25, value=80.0)
    (task,) = summarise(tmp_path).tasks
    half, quarter = task.cells
    assert (half.keep_ratio, quarter.keep_ratio) == (0.5, 0.25)
    assert row_of(half, "full").value == row_of(quarter, "full").value
    assert numbers(row_of(quarter, "random").to_full) == (-10.0, None)


def test_full_runs_of_one_budget_each_belong_to_theirs(tmp_path: Path) -> None:
    for ratio, value in ((0.5, 90.0), (0.25, 91.0)):
        make_run(
            tmp_path / f"full{ratio}",
            method="full",
            seed=0,
            keep_ratio=ratio,
            value=value,
            cost=1.0,
        )
        make_run(tmp_path / f"random{ratio}", method="random", seed=0, keep_ratio=ratio)
    (task,) = summarise(tmp_path).tasks
    assert [row_of(cell, "full").value.mean for cell in task.cells] == [90.0, 91.0]


def test_one_run_in_two_folders_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "a", method="random", seed=0)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(DataAgentError, match=r"/a and .*/b are runs of one configuration"):
        summarise(tmp_path)


def test_recipes_of_one_task_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    make_run(tmp_path / "a", method="random", seed=0, epochs=60)
    make_run(tmp_path / "b", method="random", seed=0, epochs=20)
    assert [task.name for task in summarise(tmp_path).tasks] == [
        "digits (epochs 20)",
        "digits (epochs 60)",
    ]


def test_runs_of_older_versions_lack_fields_and_are_read(tmp_path: Path) -> None:
    make_runs(tmp_path, "full", "random")
    path = tmp_path / "random-0" / "config.json"
    content = json.loads(path.read_text())
    for name in ("imbalance", "duplicates", "train_labels"):
        del content["config"][name]
    path.write_text(json.dumps(content))
    path = tmp_path / "random-0" / "environment.json"
    content = json.loads(path.read_text())
    del content["sessions"][0]["jobs"]
    path.write_text(json.dumps(content))
    assert row_of(cell_of(tmp_path), "random").value.count == 2


def test_unfinished_runs_are_listed_and_left_out(tmp_path: Path) -> None:
    make_runs(tmp_path)
    (tmp_path / "data-agent-1" / "result.json").unlink()
    report = summarise(tmp_path)
    assert report.unfinished == ["data-agent-1"]
    agent = row_of(cell_of(tmp_path), "data-agent")
    assert (agent.value.count, agent.value.half_width) == (1, None)
    assert numbers(agent.to_full) == (-1.0, None)
    assert "Not finished, so not in here: data-agent-1." in notes(report)


def test_other_programs_folders_are_passed_over(tmp_path: Path) -> None:
    make_runs(tmp_path)
    for name, content in (("bert", {"model": "bert"}), ("list", [1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content))
    assert len(cell_of(tmp_path).rows) == 4


def test_no_finished_run_and_damaged_ones_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataAgentError, match=r"no run under .* has finished.*0 unfinished"):
        summarise(tmp_path)
    make_run(tmp_path / "a", method="full", seed=0, finished=False)
    with pytest.raises(DataAgentError, match=r"1 unfinished run\(s\)"):
        summarise(tmp_path)
    (tmp_path / "a" / "result.json").write_text("{")
    with pytest.raises(DataAgentError, match=r"result\.json is damaged"):
        summarise(tmp_path)


@pytest.mark.parametrize(
    ("values", "tells"),
    [
        # full minus full-short: 5 and 6, mean 5.5, half-width 12.7062 / 2 = 6.35
        ([(90.0, 85.0), (92.0, 86.0)], False),
        # 5 and 5.1: mean 5.05, half-width 0.635
        ([(90.0, 85.0), (92.0, 86.9)], True),
        ([(90.0, 95.0), (92.0, 97.1)], False),
        ([(90.0, 85.0)], None),
    ],
)
def test_a_task_tells_methods_apart_if_full_training_is_better_than_less_of_it(
    tmp_path: Path, values: list[tuple[float, float]], tells: bool | None
) -> None:
    for seed, (full, short) in enumerate(values):
        make_run(tmp_path / f"f{seed}", method="full", seed=seed, value=full, cost=1.0)
        make_run(tmp_path / f"s{seed}", method="full-short", seed=seed, value=short)
    cell = cell_of(tmp_path)
    assert cell.tells_apart is tells
    words = {True: "can tell methods apart", False: "never-worse check", None: "not known"}
    assert words[tells] in verdict(cell)


def make_tasks(folder: Path, table: dict[str, dict[str, list[float]]]) -> None:
    """Runs of several tasks: accuracies by task, method and seed."""
    for task, methods in table.items():
        for method, values in methods.items():
            for seed, value in enumerate(values):
                path = folder / task / f"{method}{seed}"
                make_run(path, method=method, seed=seed, value=value, task=task)


def test_ranks_and_differences_over_tasks_by_hand(tmp_path: Path) -> None:
    make_tasks(
        tmp_path,
        {
            "t1": {"random": [50.0, 60.0], "full-short": [52.0, 58.0], "top-loss": [53.0, 63.0]},
            "t2": {"random": [70.0], "full-short": [70.0], "top-loss": [66.0], "ucb": [99.0]},
            "t3": {"random": [10.0], "full-short": [8.0], "top-loss": [11.0]},
        },
    )
    (across,) = summarise(tmp_path).across
    assert across.tasks == ["t1", "t2", "t3"]
    # random: t1 ranks 3 and 2, so 2.5; t2 ties for 1 with full-short, so 1.5; t3 2: mean 2.
    # top-loss: 1; 3; 1: mean 5/3. full-short: 2 and 3, so 2.5; 1.5; 3: mean 7/3.
    ranks = {standing.method: standing.rank for standing in across.standings}
    assert list(ranks) == ["top-loss", "random", "full-short", "ucb"]
    assert ranks["top-loss"] == pytest.approx(5 / 3)
    assert ranks["random"] == pytest.approx(2.0)
    assert ranks["full-short"] == pytest.approx(7 / 3)
    assert ranks["ucb"] is None  # two tasks lack it
    top, random, _, ucb = across.standings
    # top-loss to random: 3, -4, 1 by task, mean 0; of 27 resampled means the lowest is -4 (1/27)
    assert top.to_random is not None
    assert top.to_random.mean == pytest.approx(0.0)
    assert top.to_random.interval == pytest.approx((-4.0, 3.0))
    assert random.to_random is None
    assert ucb.to_random == Spread(29.0, None, 1)


def test_a_single_task_is_not_compared_across(tmp_path: Path) -> None:
    make_runs(tmp_path)
    assert summarise(tmp_path).across == []


def test_two_tasks_have_no_interval_across(tmp_path: Path) -> None:
    values = {"random": [50.0], "top-loss": [51.0]}
    make_tasks(tmp_path, {"t1": values, "t2": values})
    (across,) = summarise(tmp_path).across
    assert across.standings[0].to_random == Spread(1.0, None, 2)


def test_cells_show_means_with_intervals_and_signed_differences(tmp_path: Path) -> None:
    make_runs(tmp_path)
    cell = cell_of(tmp_path)
    row = row_of(cell, "data-agent")
    assert [text(row) for _, text in columns_of(cell)] == [
        "data-agent",
        "91.00 +- 25.41",
        "+0.00 +- 12.71",
        "+1.50 +- 6.35",
        "+2.00 +- 0.00",
        "50.0",
        "0.60 +- 0.00",
        "10.0",
        "50.0",
        "2",
    ]


def test_without_controls_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    make_runs(tmp_path, "data-agent")
    cell = cell_of(tmp_path)
    row = row_of(cell, "data-agent")
    assert [text(row) for _, text in columns_of(cell)][2:] == [
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


def test_different_machines_are_pointed_out(tmp_path: Path) -> None:
    make_runs(tmp_path)
    assert not any("different machines" in note for note in notes(summarise(tmp_path)))
    path = tmp_path / "full-0" / "environment.json"
    content = json.loads(path.read_text())
    content["sessions"][0]["cpu"] = "another"
    path.write_text(json.dumps(content))
    assert any("different machines" in note for note in notes(summarise(tmp_path)))


def test_tables_fit_into_120_columns(tmp_path: Path) -> None:
    for place, method in enumerate(("class-balanced-random", "full", "full-short", "random")):
        for seed in (0, 1, 2):
            value = 70.0 + place / 10 + seed / 20
            make_run(tmp_path / f"{method}{seed}", method=method, seed=seed, value=value)
    console = Console(width=120, record=True, markup=False)
    show(summarise(tmp_path), console)
    text = console.export_text()
    line = next(line for line in text.splitlines() if "class-balanced-random" in line)
    assert "70.05 +- 0.12" in line
    assert line.split()[-1] == "3"
    assert "\u2026" not in text  # nothing was cut short


def test_numbers_as_text() -> None:
    assert format_estimate(Estimate(1.234, 0.5, 3)) == "1.23 +- 0.50"
    assert format_estimate(Estimate(1.234, None, 1), sign=True) == "+1.23"
    assert format_estimate(None) == "-"
    assert format_spread(Spread(1.0, (-0.5, 2.0), 3)) == "+1.00 [-0.50, +2.00]"
    assert format_spread(Spread(1.0, None, 2)) == "+1.00"
    assert format_spread(None) == "-"
    assert [format_seconds(s) for s in (9.4, 61, 3725)] == ["9 s", "1 min 01 s", "1 h 02 min"]


def test_the_report_of_a_suite_names_every_task_and_budget(tmp_path: Path) -> None:
    values = {"random": [50.0], "top-loss": [51.0]}
    make_tasks(tmp_path, {"t1": values, "t2": values})
    text = to_markdown(summarise(tmp_path))
    assert "## Over 2 tasks, keep ratio 0.5" in text
    assert "### t1, keep ratio 0.5" in text
    assert "| top-loss | 1.00 | +1.00 | - | 2 |" in text


LOSSES = {"full": 2.0, "full-short": 2.5, "random": 2.4, "data-agent": 2.2, "top-loss": 2.6}


def make_language_runs(output: Path, *, task: str = "sft", seeds: int = 2) -> None:
    """Losses in nats; of every method seed 1 ends 0.1 above seed 0."""
    for method, loss in LOSSES.items():
        for seed in range(seeds):
            value = loss + 0.1 * seed
            mmlu = {"value": 25.0 + seed, "unit": "%", "direction": "higher", "num_items": 570}
            make_run(
                output / f"{method}-{seed}",
                method=method,
                seed=seed,
                value=value,
                cost=1.0 if method == "full" else 0.5,
                keep_ratio=1.0 if method == "full" else 0.5,
                accuracies=[3.0, 2.3],
                result={
                    **{"metric": "loss", "unit": "nats", "direction": "lower"},
                    **{"token_cost": 0.55, "further_metrics": {"mmlu": mmlu}},
                },
                task=task,
                kind="sft",
            )


def test_where_lower_is_better_the_lowest_is_first_and_is_reached_from_above(
    tmp_path: Path,
) -> None:
    make_language_runs(tmp_path)
    cell = cell_of(tmp_path)
    order = [row.method for row in cell.rows]
    assert order == ["full", "full-short", "random", "data-agent", "top-loss"]
    assert cell.tells_apart is True  # full is 0.5 below full-short, for both seeds
    agent, loss = row_of(cell, "data-agent"), row_of(cell, "top-loss")
    assert agent.to_random == Estimate(pytest.approx(-0.2), pytest.approx(0.0, abs=1e-9), 2)
    # Full-short ends with 2.55 on average: the second of three evaluations (2.3) is below.
    assert agent.cost_to_reach == pytest.approx(0.5 * 2 / 3)
    assert loss.cost_to_reach == pytest.approx(0.5 * 2 / 3)
    texts = {name: text(agent) for name, text in columns_of(cell)}
    assert texts["loss nats"] == "2.2500 +- 0.6353"
    assert texts["to random"] == "-0.2000 +- 0.0000"
    assert texts["tokens %"] == "55.0"


def test_other_metrics_have_a_table_of_their_own(tmp_path: Path) -> None:
    make_language_runs(tmp_path)
    text = to_markdown(summarise(tmp_path))
    assert "| mmlu % | data-agent | 25.50 +- 6.35 | +0.00 +- 0.00 | +0.00 +- 0.00 | 570 |" in text
    assert "| mmlu % | full | 25.50 +- 6.35 | - | +0.00 +- 0.00 | 570 |" in text


def test_tasks_of_several_metrics_share_ranks_and_average_the_most_common_only(
    tmp_path: Path,
) -> None:
    values = {"random": [50.0, 51.0], "data-agent": [52.0, 53.0]}
    make_tasks(tmp_path, {"t1": values, "t2": values})
    make_language_runs(tmp_path / "sft")
    (across,) = [a for a in summarise(tmp_path).across if a.keep_ratio == 0.5]
    by_method = {standing.method: standing for standing in across.standings}
    assert by_method["data-agent"].rank == 1.0  # ahead of random in points and in nats
    assert by_method["random"].rank == 2.0
    assert by_method["data-agent"].to_random == Spread(2.0, None, 2)
    assert any("those that measure accuracy %" in note for note in notes(summarise(tmp_path)))


def test_runs_of_one_recipe_with_several_metrics_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "a", method="random", seed=0)
    make_run(tmp_path / "b", method="random", seed=1, result={"metric": "loss", "unit": "nats"})
    with pytest.raises(DataAgentError, match=r"a measures accuracy %, .*b loss nats"):
        summarise(tmp_path)
