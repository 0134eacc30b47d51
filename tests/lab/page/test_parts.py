"""Parts of the page by hand: places, ticks, curves, classes, and which samples are shown."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from page_runs import Page, group, page, record, report
from shapes import shapes

from data_agent import DataAgentError
from data_agent_lab.configurations import recipe_of
from data_agent_lab.data.image_data import ImageData
from data_agent_lab.data.texts import LanguageData
from data_agent_lab.page import pictures as pictures_module
from data_agent_lab.page.classes import class_chart, classes_in_words
from data_agent_lab.page.curves import learning_curves, over_time, over_visits
from data_agent_lab.page.detail import Detail
from data_agent_lab.page.drawing import apart
from data_agent_lab.page.gallery import gallery
from data_agent_lab.page.markup import tag
from data_agent_lab.page.pictures import (
    LONGEST,
    load_pictures,
    pictures_of,
    text_tag,
)
from data_agent_lab.page.samples import groups_of, read_samples
from data_agent_lab.page.scales import Scale, round_step, spanning, tick_format
from data_agent_lab.page.styles import styles_of
from data_agent_lab.page.timeline import picture_of_classes
from data_agent_lab.results.findings import OfClass, Row
from data_agent_lab.results.statistics import Estimate
from data_agent_lab.tasks import recipe_for

ALL = Detail(points=60, lines=9, classes=24, seeds=True, samples=True)


def test_scales_and_ticks() -> None:
    scale = Scale(0.0, 10.0, 100.0, 0.0)
    assert (scale(0.0), scale(2.5), scale.inside(99.0)) == (100.0, 75.0, 0.0)
    assert scale.ticks(5) == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert [round_step(x) for x in (0.3, 1.0, 2.2, 40.0)] == [0.5, 1.0, 2.5, 50.0]
    assert [tick_format([-0.5, 0.0])(t) for t in (-0.5, 0.0)] == ["\N{MINUS SIGN}0.5", "0.0"]
    assert tick_format([0.0, 1000.0])(1000.0) == "1,000"
    flat = spanning([5.0, 5.0, float("nan")], 0.0, 1.0)
    assert flat.low < 5.0 < flat.high


def test_names_at_the_ends_of_lines_are_moved_apart() -> None:
    assert apart([10.0, 12.0, 80.0], 14.0, top=0.0, bottom=90.0) == [10.0, 24.0, 80.0]
    assert apart([70.0, 80.0, 85.0], 14.0, top=0.0, bottom=90.0) == [62.0, 76.0, 90.0]


def test_curves_are_means_over_seeds_at_what_they_cost_by_then() -> None:
    runs = {"random": {seed: record("random", seed, value=90.0 + 2 * seed) for seed in (0, 1)}}
    (line,) = learning_curves(runs, styles_of(["random"]), over_visits, has_bands=True)
    # four evaluations up to 50 % of the cost; the seeds end at 90 and 92
    assert [x for x, _ in line.points] == pytest.approx([12.5, 25.0, 37.5, 50.0])
    assert [y for _, y in line.points] == [88.0, 89.0, 90.0, 91.0]
    assert line.band[-1] == (90.0, 92.0)
    (line,) = learning_curves(runs, styles_of(["random"]), over_time("wall-clock"), has_bands=False)
    assert [x for x, _ in line.points] == [5.0, 10.0, 15.0, 20.0]
    old = over_time("processor time")  # which these runs did not write down
    assert learning_curves(runs, styles_of(["random"]), old, has_bands=False) == []


def row(**differences: tuple[float, float | None, int]) -> Row:
    """A row whose classes differ from random so much: mean, half-width, seeds."""
    (made, *_) = [r for r in _rows() if r.method == "data-agent"]
    classes = {
        name: OfClass(mean=90.0 + place, to_full=None, to_random=Estimate(*difference))
        for place, (name, difference) in enumerate(differences.items())
    }
    return replace(made, classes=classes)


def _rows() -> list[Row]:
    return report(group(seeds=(0,))).tasks[0].cells[0].rows


def test_harm_to_a_class_is_said_beyond_the_intervals_of_three_seeds() -> None:
    found = row(a=(-3.0, 1.0, 5), b=(-3.0, 4.0, 5), c=(2.0, 1.0, 5), d=(-9.0, 0.1, 2))
    assert classes_in_words(found, "random", "accuracy") == (
        "1 of 4 classes lose (a) against random beyond the seeds' intervals, 1 gain. The lowest "
        "accuracy of a class is 90.0 % (a)."
    )
    assert classes_in_words(row(a=(-70.0, None, 1), b=(9.0, 1.0, 2)), "random", "accuracy") == (
        "Whether classes lose against random is not known from so few seeds. The lowest accuracy "
        "of a class is 90.0 % (a)."
    )
    chart = Page(class_chart(found, ALL, "accuracy") or "")
    kinds = [
        a["class"] for n, a in chart.elements if n == "g" and "m" in (a["class"] or "").split()
    ]
    assert sorted(kinds) == ["m better", "m same", "m same", "m worse"]
    (long,) = [row(**{"a name that is long": (-3.0, 1.0, 5)})]
    drawn = str(class_chart(long, ALL, "accuracy"))
    assert "</title>a name that \N{HORIZONTAL ELLIPSIS}</text>" in drawn
    few = Detail(points=60, lines=9, classes=2, seeds=True, samples=True)
    assert Page(class_chart(found, few, "accuracy") or "").count("g", class_="m") == 2


def test_classes_that_are_visited_more_than_equally_have_a_warm_shade() -> None:
    lines = [{"visited": {"classes": [0.9, 0.1]}}, {"visited": {"classes": [0.5, 0.5]}}]
    found = Page(picture_of_classes([lines], ["cat", "dog"]) or "")
    shades = [a["class"] for n, a in found.elements if n == "path"]
    assert shades == ["heat h0", "heat h6"]  # what is equal is the ground
    assert "cat" in found.texts
    long = str(picture_of_classes([lines], ["a name that is long", "dog"]))
    assert "<title>a name that is long</title>a name tha\N{HORIZONTAL ELLIPSIS}</text>" in long
    unknown = picture_of_classes([lines], ["dog"]) or ""  # one of both was never evaluated
    assert "dog" not in unknown
    assert picture_of_classes([[{"step": 1}]], ["cat"]) is None


def columns(**changes: Any) -> dict[str, np.ndarray]:
    made: dict[str, Any] = {
        "index": [0, 1, 2, 3],
        "visits": [9, 1, 5, 5],
        "margin": [0.9, -0.8, -0.1, float("nan")],
        "score": [0.2, -1.0, 3.0, 0.1],
        "suspected": [0.0, 0.0, 1.0, 0.0],
        "label": [0, 1, 1, 0],
        "suggested_label": [0, 0, 0, 0],
        **changes,
    }
    return {name: np.asarray(values) for name, values in made.items() if values is not None}


def test_samples_worth_a_look_by_hand() -> None:
    found = {group.title: group.rows.tolist() for group in groups_of(columns())}
    assert found == {
        "Never believed": [2, 1],  # the suspected one first; not where the label is likeliest
        "Scored highest": [2, 0, 3, 1],
        "Chosen most": [0, 2, 3, 1],
        "Chosen least": [1, 3, 2, 0],
    }
    titles = [group.title for group in groups_of(columns(), has_trusted=True)]
    assert titles[1] == "Most like trusted rows"
    few = columns(margin=None, score=None, suspected=None)
    assert [group.rows.tolist() for group in groups_of(few, count=2)] == [[0, 2], [1, 2]]
    same = columns(visits=[3] * 4, score=[1.0] * 4, margin=None, suspected=None)
    assert groups_of(same) == []


def test_trusted_rows_are_no_examples_of_what_was_chosen() -> None:
    shown = groups_of(columns(trusted=[1.0, 0.0, 1.0, 0.0]), has_trusted=True)
    assert {group.title: group.rows.tolist() for group in shown} == {
        "Never believed": [2, 1],  # a trusted label can be wrong too
        "Most like trusted rows": [3, 1],
        "Chosen most": [3, 1],
        "Chosen least": [1, 3],
    }
    assert [group.note for group in shown[1:]] == [
        "What trusted rows taught the agent to choose. Trusted rows, which are in every epoch, are "
        "left out.",
        "Up to 5 visits in training. Trusted rows, which are in every epoch, are left out.",
        "As few as 1 visits in training. Trusted rows, which are in every epoch, are left out.",
    ]
    assert not any("left out" in group.note for group in groups_of(columns()))
    alike = columns(visits=[9, 5, 9, 5], trusted=[1.0, 0.0, 1.0, 0.0], score=None, margin=None)
    assert groups_of(alike) == []


def pictures(true_labels: list[int]) -> Any:
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    labels = torch.tensor(true_labels)
    return pictures_of(
        ImageData(
            train_images=images,
            train_labels=labels,
            eval_images=images,
            eval_labels=labels,
            class_names=("<cat>", "dog"),
            evaluation="made up",
        )
    )


def test_cards_show_the_picture_what_is_believed_and_what_is_true() -> None:
    found = Page(gallery(columns(), pictures([0, 0, 1, 0])) or "")
    assert found.count("img") == 14
    assert "<cat>" in found.texts
    said = "".join(found.texts)
    assert "1 visitmargin \N{MINUS SIGN}0.80" in said
    assert said.count("\N{MULTIPLICATION SIGN} truly <cat>") == 4  # sample 1, once in each group
    assert "1 of these 2 truly have a wrong label; of all samples, 25%." in said
    assert "\N{MULTIPLICATION SIGN} foreign" in "".join(
        Page(gallery(columns(), pictures([0, -1, 1, 0])) or "").texts
    )


def test_cards_without_the_data_show_the_number_of_the_sample() -> None:
    found = Page(gallery(columns(), None) or "")
    assert found.count("img") == 0
    assert "#2" in found.texts
    assert "truly" not in "".join(found.texts)


def test_boxes_are_drawn_on_their_picture_and_names_of_classes_stay_texts() -> None:
    names = ("<img src=x onerror=alert(1)>", "square")
    boxed = pictures_of(replace(shapes(8, 2), class_names=names))
    assert (boxed.count, boxed.class_names, boxed.true_labels) == (8, (), None)
    data = shapes(8, 2)
    found = Page(boxed.draw(2))  # three objects
    assert found.count("rect", class_="box") == 3
    assert [attributes for name, attributes in found.elements if name == "img"] == []
    (picture,) = [attributes for name, attributes in found.elements if name == "svg"]
    assert picture["viewbox"] == "0 0 64 48"
    places = {(a["x"], a["y"]) for name, a in found.elements if name == "rect"}
    assert places == {(f"{b[0]:g}", f"{b[1]:g}") for b in data.train_objects.boxes[2].tolist()}
    kinds = data.train_objects.classes[2].tolist()
    said = "".join(found.texts)
    assert all(f"{kinds.count(k)} {names[k]}" in said for k in set(kinds))
    assert Page(boxed.draw(6)).texts == ["no object"]


def test_texts_are_cut_and_stay_texts() -> None:
    assert text_tag("<b>hi</b>") == tag("blockquote", "<b>hi</b>")
    assert len(Page(text_tag("word " * 99)).texts[0]) <= LONGEST + 1


def test_rows_of_texts_are_decoded() -> None:
    class Words:
        def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
            assert skip_special_tokens
            return " ".join(f"<{number}>" for number in ids)

    rows = datasets.Dataset.from_dict({"input_ids": [[1, 2], [3]], "labels": [1, 0]})
    data = LanguageData(
        tokenizer=Words(),
        train=rows,
        evaluation=rows,
        trusted=datasets.Dataset.from_dict({"input_ids": [[4, 5]], "labels": [1]}),
        class_names=("bad", "good"),
        evaluation_source="made up",
        dropped={},
    )
    found = pictures_of(data)
    assert Page(found.draw(0)).texts == ["<1> <2>"]
    assert Page(found.draw(2)).texts == ["<4> <5>"]
    assert (found.count, found.true_labels, found.class_names) == (3, [1, 0, 1], ("bad", "good"))


def test_samples_are_read_from_the_folder_of_a_run(tmp_path: Path) -> None:
    assert read_samples(tmp_path) is None
    path = tmp_path / "samples.parquet"
    table = {"index": [0, 1], "visits": [3, 4], "suspected": [True, None], "margin": [0.5, None]}
    origins = {"row": [7, None], "file": ["cats/1.png", None]}
    pq.write_table(pa.table(table | origins), path)
    found = read_samples(tmp_path)
    assert found is not None
    assert found.keys() == {*table, "row"}
    assert found["visits"].tolist() == [3, 4]
    assert found["suspected"][0] == 1.0
    assert np.isnan(found["margin"][1])
    pq.write_table(pa.table({"index": [0]}), path)
    assert groups_of(read_samples(tmp_path) or {}) == []
    pq.write_table(pa.table({"visits": [0]}), path)
    with pytest.raises(DataAgentError, match="has no column index; expected one row a sample"):
        read_samples(tmp_path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataAgentError, match=r"samples\.parquet is damaged"):
        read_samples(tmp_path)


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ({"task": "image", "data": "owner/name"}, "owner/name"),
        ({"task": "image", "data": ".", "trusted": "owner/checked"}, "owner/checked"),
        ({"task": "sft", "kind": "sft", "data": ".", "model": "owner/model"}, "owner/model"),
        (
            {"task": "sft", "kind": "sft", "data": ".", "model": "llama-64x2"}
            | {"foreign_data": ".,owner/other"},
            "owner/other",
        ),
    ],
)
def test_a_report_downloads_nothing_that_a_run_names(
    config: dict[str, Any],
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr(pictures_module, "load_kept", loaded.append)
    caplog.set_level("INFO", logger="data_agent_lab.page.pictures")
    assert load_pictures(config, may_download=False) is None
    assert loaded == []
    assert f": {missing} is not here" in caplog.text


def test_data_that_are_gone_leave_the_page_without_pictures(tmp_path: Path) -> None:
    config = {**asdict(recipe_for("image")), "data": str(tmp_path)}
    assert load_pictures(config, may_download=False) is None


def test_the_page_shows_the_digits_of_a_run(tmp_path: Path) -> None:
    """The data are loaded anew, by the configuration that the run left."""
    recipe = recipe_for("digits")
    assert recipe_of({**asdict(recipe), "method": "random", "seed": 0}) == recipe
    index = np.arange(448)
    labels = index % 10
    numbers = {"index": index, "visits": index % 7, "margin": index / 448.0, "label": labels}
    pq.write_table(pa.table(numbers), tmp_path / "samples.parquet")
    made = group(seeds=(0,), path=tmp_path, **asdict(recipe))
    agent = [r for r in made.records if r.configuration["method"] == "data-agent"]
    found = Page(page(replace(made, records=agent)))
    assert found.count("img") == 2 * 18
    assert "Of the run data-agent, seed 0." in found.texts
