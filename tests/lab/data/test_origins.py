"""Where samples come from: the rows and files of the user's data, through all that is left out."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import HEIGHT, WIDTH, scenes, write_coco, write_parquet, write_voc
from small_images import load
from small_rows import recipe, write

from data_agent_lab.cli import main
from data_agent_lab.data.boxes import load_detection
from data_agent_lab.data.origins import NO_ROW, origin_columns
from data_agent_lab.data.texts import LanguageData, load_language
from data_agent_lab.progress import silent
from data_agent_lab.runs.samples import read_columns
from data_agent_lab.tasks import recipe_for

CLASSIFY = "text-classification"
WORDS = ("ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen")
TEXTS = [f"{WORDS[i % 8]} {WORDS[i // 8]}" for i in range(48)]


def texts_of(data: LanguageData) -> list[str]:
    return [
        data.tokenizer.decode(ids, skip_special_tokens=True) for ids in data.samples["input_ids"]
    ]


def check_texts(data: LanguageData, rows: list[str]) -> None:
    """Each sample has the text of the row that it says it is."""
    assert data.rows is not None
    assert len(data.rows) == data.num_train
    for row, text in zip(data.rows.tolist(), texts_of(data), strict=True):
        assert row == NO_ROW or rows[row] in text


@pytest.mark.parametrize("changes", [{}, {"subset": 20}, {"trusted_rows": 6}])
def test_texts_with_a_class_know_their_row(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Rows are held out, empty ones left out, a subset drawn, trusted ones put behind."""
    rows = [{"text": t if i % 5 else "  ", "label": i % 2} for i, t in enumerate(TEXTS)]
    data = load_language(recipe(write(tmp_path / "rows.jsonl", rows), CLASSIFY, **changes))
    check_texts(data, TEXTS)
    assert data.rows is not None
    assert (data.rows >= 0).all()
    assert len(data.rows.unique()) == data.num_train
    part = data.at(torch.tensor([1, 4]))
    check_texts(part, TEXTS)
    assert part.num_train == 2 + data.num_trusted


def test_instructions_know_their_row_and_others_have_none(tmp_path: Path) -> None:
    """Without answers and too long ones are left out; what is mixed in or given has no row."""
    own = [{"prompt": "say ", "completion": text} for text in TEXTS]
    own[3]["completion"] = ""
    own[7]["prompt"] = " ".join(TEXTS)
    far = [{"prompt": "say ", "completion": "far away"}] * 40
    given = [{"prompt": "say ", "completion": "trusted"}] * 5
    options = {"data": write(tmp_path / "own.jsonl", own), "max_length": 32}
    mixed = {"foreign_data": str(write(tmp_path / "far.jsonl", far)), "foreign_share": 0.5}
    for changes, num_others in (
        ({}, 0),
        ({"trusted_rows": 4}, 0),
        ({**mixed, "subset": 30}, 15),
        ({**mixed, "subset": 30, "trusted_rows": 4}, 15),
        ({"trusted": str(write(tmp_path / "given.jsonl", given))}, 5),
    ):
        data = load_language(recipe(**options, **changes))
        check_texts(data, TEXTS)
        assert data.rows is not None
        assert int((data.rows == NO_ROW).sum()) == num_others
        found = data.rows[data.rows >= 0].tolist()
        assert len(set(found)) == len(found)
        assert set(found).isdisjoint({3, 7})
        is_other = ["far away" in t or "trusted" in t for t in texts_of(data)]
        assert is_other == (data.rows == NO_ROW).tolist()


def test_blocks_of_texts_are_no_rows(tmp_path: Path) -> None:
    rows = [{"text": text} for text in TEXTS]
    data = load_language(recipe(write(tmp_path / "rows.jsonl", rows), "lm", max_length=16))
    assert origin_columns(data) == {}


def images(root: Path, count: int = 30, first: int = 40) -> Path:
    """Images of two classes, each a grey level of its own, which its name tells."""
    for level in range(first, first + count):
        folder = root / f"class-{level % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), level).save(folder / f"{level}.png")
    return root


@pytest.mark.parametrize("changes", [{}, {"subset": 12}, {"duplicates": 0.4}, {"imbalance": 3.0}])
def test_images_know_their_file(tmp_path: Path, changes: dict[str, Any]) -> None:
    data = load(images(tmp_path / "photos"), **changes)
    columns = origin_columns(data)
    levels = data.train_images[:, 0, 0, 0].tolist()
    assert len(columns["file"]) == data.num_train
    for level, file, row in zip(levels, columns["file"], columns["row"], strict=True):
        assert file == (None if row is None else f"class-{level % 2}/{level}.png")
    num_copies = int(0.4 * 27 + 0.5) if "duplicates" in changes else 0
    assert sum(file is None for file in columns["file"]) == num_copies
    part = origin_columns(data.at([2, 5]))
    assert part["file"].tolist() == columns["file"][[2, 5]].tolist()


def test_images_of_other_data_have_no_row(tmp_path: Path) -> None:
    own, others = images(tmp_path / "own"), images(tmp_path / "others", 8, 200)
    data = load(own, foreign_data=str(others), foreign_share=0.2, trusted=str(others))
    assert data.rows is not None
    assert (data.rows[-8:] == NO_ROW).all()
    assert ((data.rows == NO_ROW)[:-8] == (data.true_labels[:-8] < 0)).all()
    columns = origin_columns(data)
    assert [file is None for file in columns["file"]] == (data.rows == NO_ROW).tolist()


def test_images_in_tables_know_their_row(parquet_folder: Path) -> None:
    data = load(parquet_folder, subset=10)
    columns = origin_columns(data)
    assert columns.keys() == {"row"}
    red = [10 * (row % 2) + row for row in columns["row"]]
    assert data.train_images[:, 0, 0, 0].tolist() == red


@pytest.mark.parametrize("form", ["coco", "voc", "parquet"])
def test_images_with_boxes_know_their_file(tmp_path: Path, form: str) -> None:
    part, root = scenes(9), tmp_path / "data"
    if form == "coco":
        write_coco(root / "train" / "_annotations.coco.json", root / "train", part)
    elif form == "voc":
        write_voc(root, "train", part)
    else:
        write_parquet(root / "train.parquet", part)
    task = replace(recipe_for("detection"), data=str(root), subset=5)
    data = load_detection(replace(task, image_width=WIDTH, image_height=HEIGHT), progress=silent)
    columns = origin_columns(data)
    for place, row in enumerate(columns["row"]):
        image = data.train_images[place].permute(1, 2, 0).numpy()
        assert np.array_equal(image, part[row].pixels)
        if form != "parquet":
            assert np.array_equal(np.asarray(Image.open(root / columns["file"][place])), image)
    assert ("file" in columns) == (form != "parquet")
    assert origin_columns(data.at([0, 3]))["row"].tolist() == columns["row"][[0, 3]].tolist()


def test_an_audit_names_the_rows_of_the_file_that_it_was_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the rows of a table are one text: what an audit calls alike are these very rows."""
    file, kinds = tmp_path / "rows.csv", ("the same words again", "")
    with file.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("text", "label"))
        for i, text in enumerate(TEXTS):
            table.writerow((kinds[0] if i % 2 else f"{text} {text[::-1]}", ("no", "yes")[i % 2]))
    line = ["train", "--task", CLASSIFY, "--data", str(file), "--model", "bert-32x1"]
    line += ["--epochs", "2", "--device", "cpu", "--method", "full", "--num-evaluations", "1"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*line, "--output", str(first)]) == 0
    assert main(["audit", str(first), "--drop", "redundant", "--budget", "7"]) == 0
    said = capsys.readouterr().out
    columns, _ = read_columns(first / "audit" / "findings.parquet")
    is_copy = columns["kind"] == "redundant"
    rows = columns["row"][is_copy].astype(int).tolist()
    assert len(rows) == 7
    assert all(row % 2 for row in rows)
    assert f"(yes, row {rows[0]}): one of" in said
    assert f"(row {rows[0]}): one of" in (first / "audit" / "audit.html").read_text()
    found = json.loads((first / "audit" / "audit.json").read_text())["findings"]
    assert [f["row"] for f in found if f["kind"] == "redundant"] == rows
    # The next round knows the rows of the file as well.
    kept = str(first / "audit" / "kept.parquet")
    assert main([*line, "--keep-index", kept, "--output", str(second)]) == 0
    before, _ = read_columns(first / "samples.parquet")
    after, _ = read_columns(second / "samples.parquet")
    assert after["row"].tolist() == before["row"][after["index_in_data"]].tolist()
    assert set(rows).isdisjoint(after["row"].tolist())


def test_numbers_of_ones_own_may_name_files_or_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = "mean_loss,margin,label,suggested_label"
    for name, cells, shown in (
        ("file", ("a.png", "b.png"), "sample 1 (0, b.png): 1 was"),
        ("row", ("70", "71"), "sample 1 (0, row 71): 1 was"),
        ("row", ("A70", ""), "sample 1 (0): 1 was"),
    ):
        path = tmp_path / "numbers.csv"
        path.write_text(f"{columns},{name}\n0.1,0.9,0,0,{cells[0]}\n3.0,-0.5,0,1,{cells[1]}\n")
        assert main(["audit", str(path)]) == 0
        assert shown in capsys.readouterr().out
