"""Reports of hand-made run folders, with numbers computed by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from page_runs import group, report
from run_folders import (
    RUNS,
    cell_of,
    make_language_run,
    make_language_runs,
    make_run,
    make_runs,
    make_tasks,
    numbers,
    row_of,
)

from data_agent import DataAgentError
from data_agent.errors import InputError
from data_agent_lab.results.report import summarise
from data_agent_lab.results.statistics import Spread
from data_agent_lab.results.tables import over_tasks_table, verdict
from data_agent_lab.results.writing import notes


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


def test_language_runs_of_older_versions_lack_fields_and_are_read(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_language_run(tmp_path / str(seed), method="random", seed=seed, value=2.0)
    path = tmp_path / "0" / "config.json"
    content = json.loads(path.read_text())
    del content["config"]["harness_limit"]
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
        # full minus full-short: 5, 2 and 8, mean 5, s 3, half-width 4.3027 * 3 / sqrt(3) = 7.45
        ([(90.0, 85.0), (92.0, 90.0), (91.0, 83.0)], False),
        # 20, 20 and 20.3: mean 20.1, half-width 0.43; 50 evaluation samples: +- 13.8
        ([(90.0, 70.0), (92.0, 72.0), (91.0, 70.7)], True),
        ([(70.0, 90.0), (72.0, 92.0), (70.7, 91.0)], False),
        # two seeds, and one, are no claim
        ([(90.0, 70.0), (92.0, 72.0)], None),
        ([(90.0, 70.0)], None),
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


@pytest.mark.parametrize(("num_eval_samples", "tells"), [(200, False), (2000, True)])
def test_few_evaluation_samples_do_not_tell_methods_apart(
    tmp_path: Path, num_eval_samples: int, tells: bool
) -> None:
    # Full training has 80 %, full-short 75 %, with every seed. On 200 samples two accuracies differ
    # by 1.96 * sqrt((0.8 * 0.2 + 0.75 * 0.25) / 200) = 8.17 points by chance, on 2,000 by 2.58.
    for seed in range(3):
        for method, value in (("full", 80.0), ("full-short", 75.0)):
            path = tmp_path / f"{method}{seed}"
            make_run(path, method=method, seed=seed, value=value)
            rewrite_result(path, num_eval_samples=num_eval_samples)
    cell = cell_of(tmp_path)
    assert cell.sampling_error == pytest.approx(8.17 if num_eval_samples == 200 else 2.58, abs=0.01)
    assert cell.tells_apart is tells
    assert f"sampling error of {num_eval_samples:,} evaluation samples (at most +-" in verdict(cell)


def test_where_one_method_ran_there_is_no_rank(tmp_path: Path) -> None:
    make_tasks(tmp_path, {"t1": {"ucb": [50.0]}, "t2": {"ucb": [60.0]}})
    (over,) = summarise(tmp_path).over_tasks
    assert [found.rank for found in over.methods] == [None]
    assert over_tasks_table(over).title.endswith(": no ranks of a single method")


def test_tasks_on_which_one_method_ran_do_not_count_for_ranks(tmp_path: Path) -> None:
    both = {"random": [50.0], "ucb": [51.0]}
    make_tasks(tmp_path, {"t1": both, "t2": both, "t3": {"ucb": [70.0]}})
    (over,) = summarise(tmp_path).over_tasks
    assert {found.method: found.rank for found in over.methods} == {"ucb": 1.0, "random": 2.0}
    assert (over.tasks, over.ranked) == (["t1", "t2", "t3"], ["t1", "t2"])
    table = over_tasks_table(over)
    assert table.title.endswith("ranks over the 2 with two methods or more")
    counts = {row[0]: row[-1] for row in table.rows}  # tasks that differences are averaged over
    assert counts == {"ucb": "2", "random": "-"}


def test_tasks_with_no_two_methods_in_common_have_no_ranks(tmp_path: Path) -> None:
    make_tasks(
        tmp_path,
        {"t1": {"random": [50.0], "ucb": [51.0]}, "t2": {"top-loss": [50.0], "ucb": [51.0]}},
    )
    (over,) = summarise(tmp_path).over_tasks
    assert {found.rank for found in over.methods} == {None}


def test_ranks_and_differences_over_tasks_by_hand(tmp_path: Path) -> None:
    make_tasks(
        tmp_path,
        {
            "t1": {"random": [50.0, 60.0], "full-short": [52.0, 58.0], "top-loss": [53.0, 63.0]},
            "t2": {"random": [70.0], "full-short": [70.0], "top-loss": [66.0], "ucb": [99.0]},
            "t3": {"random": [10.0], "full-short": [8.0], "top-loss": [11.0]},
        },
    )
    (over,) = summarise(tmp_path).over_tasks
    assert over.tasks == ["t1", "t2", "t3"]
    # random: t1 ranks 3 and 2, so 2.5; t2 ties for 1 with full-short, so 1.5; t3 2: mean 2.
    # top-loss: 1; 3; 1: mean 5/3. full-short: 2 and 3, so 2.5; 1.5; 3: mean 7/3.
    ranks = {found.method: found.rank for found in over.methods}
    assert list(ranks) == ["top-loss", "random", "full-short", "ucb"]
    assert ranks["top-loss"] == pytest.approx(5 / 3)
    assert ranks["random"] == pytest.approx(2.0)
    assert ranks["full-short"] == pytest.approx(7 / 3)
    assert ranks["ucb"] is None  # two tasks lack it
    top, random, _, ucb = over.methods
    # top-loss to random: 3, -4, 1 by task, mean 0; sqrt(13 / 3) * t(0.975, 2) = 2.0817 * 4.3027
    assert top.to_random is not None
    assert top.to_random.mean == pytest.approx(0.0)
    assert top.to_random.interval == pytest.approx((-8.957, 8.957), abs=1e-3)
    assert random.to_random is None
    assert ucb.to_random == Spread(29.0, None, 1)


def test_a_single_task_is_not_compared_over(tmp_path: Path) -> None:
    make_runs(tmp_path)
    assert summarise(tmp_path).over_tasks == []


def test_two_tasks_have_no_interval_over(tmp_path: Path) -> None:
    values = {"random": [50.0], "top-loss": [51.0]}
    make_tasks(tmp_path, {"t1": values, "t2": values})
    (over,) = summarise(tmp_path).over_tasks
    assert over.methods[0].to_random == Spread(1.0, None, 2)


def test_different_machines_are_pointed_out(tmp_path: Path) -> None:
    make_runs(tmp_path)
    assert not any("different machines" in note for note in notes(summarise(tmp_path)))
    path = tmp_path / "full-0" / "environment.json"
    content = json.loads(path.read_text())
    content["sessions"][0]["cpu"] = "another"
    path.write_text(json.dumps(content))
    assert any("different machines" in note for note in notes(summarise(tmp_path)))


def test_where_lower_is_better_the_lowest_is_first(tmp_path: Path) -> None:
    make_language_runs(tmp_path)
    cell = cell_of(tmp_path)
    order = [row.method for row in cell.rows]
    assert order == ["full", "full-short", "random", "data-agent", "top-loss"]
    # A difference keeps its sign: 2.2 and 2.3 of the agent, 2.4 and 2.5 of random choice.
    assert numbers(row_of(cell, "data-agent").to_random) == pytest.approx((-0.2, 0.0), abs=1e-9)


def test_where_lower_is_better_a_loss_is_reached_from_above(tmp_path: Path) -> None:
    # Full-short ends with 2.5 on average. The agent is at 3.0, 2.45 and 2.6 after a third, two
    # thirds and all of its 50 %; top-loss starts below where it ends, but never comes to 2.5.
    for seed, loss in enumerate((2.4, 2.6)):
        make_language_run(tmp_path / f"s{seed}", method="full-short", seed=seed, value=loss)
    for method, losses, value in (("data-agent", (3.0, 2.45), 2.6), ("top-loss", (2.51,), 2.52)):
        make_language_run(tmp_path / method, method=method, seed=0, value=value, losses=losses)
    cell = cell_of(tmp_path)
    assert row_of(cell, "data-agent").cost_to_reach == pytest.approx(1 / 3)
    assert row_of(cell, "top-loss").cost_to_reach is None


@pytest.mark.parametrize(("full", "tells"), [((2.0, 2.1, 2.0), True), ((2.9, 3.0, 2.9), False)])
def test_where_lower_is_better_full_training_has_to_be_lower(
    tmp_path: Path, full: tuple[float, ...], tells: bool
) -> None:
    for seed, (ours, short) in enumerate(zip(full, (2.5, 2.6, 2.5), strict=True)):
        make_language_run(tmp_path / f"f{seed}", method="full", seed=seed, value=ours)
        make_language_run(tmp_path / f"s{seed}", method="full-short", seed=seed, value=short)
    cell = cell_of(tmp_path)
    assert cell.tells_apart is tells
    assert "evaluation samples is not known)" in verdict(cell)


def test_tasks_of_several_metrics_share_ranks_and_average_the_most_common_only(
    tmp_path: Path,
) -> None:
    values = {"random": [50.0, 51.0], "data-agent": [52.0, 53.0]}
    make_language_runs(tmp_path / "a-sft", task="a-sft")
    make_tasks(tmp_path, {"t1": values, "t2": values})
    (over,) = summarise(tmp_path).over_tasks
    assert (over.tasks, over.averaged) == (["a-sft", "t1", "t2"], ["t1", "t2"])
    assert over.metric.in_words() == "accuracy %"
    by_method = {found.method: found for found in over.methods}
    assert by_method["data-agent"].rank == 1.0  # ahead of random in points and in nats
    assert by_method["random"].rank == 2.0
    assert by_method["data-agent"].to_random == Spread(2.0, None, 2)
    # Only the language task has it: a rank needs all tasks, and nats are not averaged here.
    top = by_method["top-loss"]
    assert (top.rank, top.to_random) == (None, None)


def test_further_metrics_have_means_and_differences_of_their_own(tmp_path: Path) -> None:
    for method, values in (("full", (30.0, 32.0)), ("random", (25.0,)), ("ucb", (26.0, 27.0))):
        for seed, value in enumerate(values):
            mmlu = {"value": value, "unit": "%", "direction": "higher", "num_truncated": seed}
            make_language_run(
                tmp_path / f"{method}{seed}",
                method=method,
                seed=seed,
                value=2.0,
                further={"mmlu": mmlu},
            )
    make_language_run(tmp_path / "ucb2", method="ucb", seed=2, value=2.0)  # without mmlu
    ucb = row_of(cell_of(tmp_path), "ucb")
    assert ucb.value.count == 3
    mmlu = ucb.other_metrics["mmlu"]
    assert mmlu.value.count == 2
    # To full: -4 and -5, mean -4.5, half-width 12.7062 / 2; to random only seed 0 pairs.
    assert numbers(mmlu.to_full) == pytest.approx((-4.5, 6.3531), abs=1e-3)
    assert numbers(mmlu.to_random) == (1.0, None)
    assert (mmlu.num_items, mmlu.num_cut) == (None, 1)
    full = row_of(cell_of(tmp_path), "full")
    assert full.other_metrics["mmlu"].to_full is None


def test_image_runs_have_no_further_metrics_and_no_tokens(tmp_path: Path) -> None:
    make_runs(tmp_path)
    row = row_of(cell_of(tmp_path), "random")
    assert (row.other_metrics, row.token_cost) == ({}, None)


def test_tokens_are_averaged_over_seeds(tmp_path: Path) -> None:
    for seed, share in enumerate((0.5, 0.6)):
        path = tmp_path / str(seed)
        make_language_run(path, method="random", seed=seed, value=2.0, token_cost=share)
    assert row_of(cell_of(tmp_path), "random").token_cost == pytest.approx(0.55)


def rewrite_result(folder: Path, **changes: Any) -> None:
    path = folder / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"metric": "accuracy", "unit": "%", "direction": "higher"},
            r"/a measures loss nats \(lower is better\), .*/b measures accuracy % \(higher is",
        ),
        ({"direction": "higher"}, r"\(lower is better\), .* loss nats \(higher is better\)"),
        (
            {
                "further_metrics": {
                    "mmlu": {"value": 1.0, "unit": "%", "direction": "higher", "num_items": 57}
                }
            },
            r"/a measures mmlu % on 1,570 items .*/b measures mmlu % on 57 items",
        ),
        ({"direction": "down"}, r"direction of 'loss' is 'down'.*higher or lower"),
    ],
)
def test_runs_of_one_recipe_that_measure_differently_are_refused(
    tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    mmlu = {"value": 25.0, "unit": "%", "direction": "higher", "num_items": 1570}
    for seed, name in enumerate("ab"):
        path = tmp_path / name
        make_language_run(path, method="ucb", seed=seed, value=2.0, further={"mmlu": mmlu})
    rewrite_result(tmp_path / "b", **changes)
    with pytest.raises(DataAgentError, match=match):
        summarise(tmp_path)


def test_runs_of_one_recipe_on_changed_data_are_not_compared() -> None:
    made = group({"full": 90.0, "random": 89.0})
    changed = replace(
        made.records[-1], result={**made.records[-1].result, "num_train_samples": 191}
    )
    with pytest.raises(InputError, match=r"num_train_samples .* the data changed between them"):
        report(replace(made, records=[*made.records[:-1], changed]))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("result", "value", "60"),
        ("result", "value", None),
        ("result", "cost", float("nan")),
        ("result", "num_eval_samples", 0),
        ("configuration", "keep_ratio", "half"),
        ("configuration", "epochs", 0),
    ],
)
def test_results_that_are_no_numbers_are_named(part: str, name: str, value: object) -> None:
    made = group({"full": 90.0}).records[0]
    content = {**getattr(made, part), name: value}
    with pytest.raises(InputError, match=f"{name} in the {part} of the run .* is "):
        replace(made, **{part: content})
