"""Boxes from files to the canvas: every form says the same, and what is no box is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from shapes import (
    HEIGHT,
    NAMES,
    WIDTH,
    objects_of,
    scenes,
    shapes,
    write_coco,
    write_images,
    write_parquet,
    write_voc,
    xywh,
)

from data_agent import DataAgentError
from data_agent.errors import DataAgentWarning
from data_agent_lab.data.boxes import DetectionData, load_detection
from data_agent_lab.progress import silent
from data_agent_lab.tasks import recipe_for
from data_agent_lab.training.plan import sizes

RECIPE: Any = replace(recipe_for("detection"), image_width=WIDTH, image_height=HEIGHT)
TRAIN, TEST = scenes(9), scenes(5, seed=1)


def load(data: Path, **changes: Any) -> DetectionData:
    return load_detection(replace(RECIPE, data=str(data), **changes), progress=silent)


def parquet(root: Path) -> Path:
    write_parquet(root / "train.parquet", TRAIN)
    write_parquet(root / "test.parquet", TEST)
    return root


def coco(root: Path) -> Path:
    for split, part in (("train", TRAIN), ("val", TEST)):
        file = root / "annotations" / f"instances_{split}2017.json"
        write_coco(file, root / f"{split}2017", part)
    return root


def roboflow(root: Path) -> Path:
    for split, part in (("train", TRAIN), ("valid", TEST)):
        write_coco(root / split / "_annotations.coco.json", root / split, part)
    return root


def voc(root: Path) -> Path:
    write_voc(root, "train", TRAIN)
    write_voc(root, "test", TEST)
    return root


@pytest.mark.parametrize("write", [parquet, coco, roboflow, voc])
def test_every_form_says_the_same(tmp_path: Path, write: Any) -> None:
    data = load(write(tmp_path / "data"))
    assert data.class_names == NAMES
    for objects, images, part in (
        (data.train_objects, data.train_images, TRAIN),
        (data.eval_objects, data.eval_images, TEST),
    ):
        expected = objects_of(part)
        assert torch.equal(objects.boxes, expected.boxes)
        assert torch.equal(objects.classes, expected.classes)
        assert torch.equal(images[1], torch.from_numpy(part[1].pixels).permute(2, 0, 1))
    assert "9 training images, 1 of them empty, with " in data.in_words()


def test_objects_may_be_structs_in_a_list_and_boxes_four_sides(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    names = write_images(folder / "train", TRAIN)
    lines = [
        {
            "file_name": f"train/{name}",
            "objects": [
                {"box": [float(side) for side in box], "label": NAMES[kind]}
                for box, kind in zip(scene.boxes, scene.classes, strict=True)
            ],
        }
        for name, scene in zip(names, TRAIN, strict=True)
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = load(folder, box_format="xyxy")
    held = int(data.evaluation.split()[0])
    assert (data.num_train, data.num_eval) == (9 - held, held)
    assert data.evaluation == f"{held} images held out of 'train' (10 %)"
    assert {
        tuple(b) for b in data.train_objects.boxes[data.train_objects.classes >= 0].tolist()
    } <= {tuple(map(float, box)) for scene in TRAIN for box in scene.boxes}


def test_boxes_are_laid_on_the_canvas_with_their_image(tmp_path: Path) -> None:
    data = load(parquet(tmp_path / "data"), image_width=32, image_height=48)
    # 64 x 48 pixels become 32 x 24, in the upper half; the rest is black
    torch.testing.assert_close(data.train_objects.boxes, objects_of(TRAIN).boxes / 2)
    assert data.train_images.shape[2:] == (48, 32)
    assert not data.train_images[:, :, 24:].any()
    assert data.train_images[:, :, :24].any()


def test_photos_are_upright_before_boxes_are_laid_on_them(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_coco(folder / "train.json", folder, TRAIN)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter: 48 wide, 64 high
    Image.fromarray(TRAIN[0].pixels).save(folder / "000.png", exif=exif)
    content = json.loads((folder / "train.json").read_text())
    content["annotations"][0]["bbox"] = [50, 0, 10, 10]
    (folder / "train.json").write_text(json.dumps(content))
    with pytest.raises(DataAgentError, match="48 x 64 pixels"):
        load(folder)


def with_box(root: Path, box: Any, kind: int = 3) -> Path:
    """The data as COCO's JSON, the first box another one."""
    write_coco(root / "train.json", root, TRAIN)
    content = json.loads((root / "train.json").read_text())
    content["annotations"][0].update(bbox=box, category_id=kind)
    (root / "train.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    ("box", "kind", "message"),
    [
        (
            [60, 0, 10, 10],
            3,
            r"1 reach out of their image, such as \[60, 0, 70, 10\] 'disc' in row",
        ),
        ([-5, 0, 10, 10], 3, "1 reach out of their image"),
        ([4, 4, 0, 10], 3, r"1 have no area, such as \[4, 4, 4, 14\]"),
        ([4, 4, float("nan"), 10], 3, "1 are no four numbers"),
        ([4, 4, 10], 3, r"1 are no four numbers, such as \[4, 4, 10\]"),
        (["4", "4", "9", "9"], 3, r"1 are no four numbers, such as \['4', '4', '9', '9'\]"),
        ("4,4,9,9", 3, "1 are no four numbers, such as 4,4,9,9"),
    ],
)
def test_what_is_no_box_is_refused_and_counted(
    tmp_path: Path, box: Any, kind: int, message: str
) -> None:
    with pytest.raises(DataAgentError, match=message) as caught:
        load(with_box(tmp_path / "data", box, kind))
    num_boxes = sum(len(scene.boxes) for scene in TRAIN)
    assert str(caught.value).startswith(f"1 of {num_boxes} boxes cannot be used:\n")
    assert "64 x 48 pixels" in str(caught.value)
    assert str(caught.value).endswith("Repair or remove them.")


def test_a_side_may_lie_off_by_one_pixel_and_is_cut(tmp_path: Path) -> None:
    data = load(with_box(tmp_path / "data", [-1, 0, 66, 48]), image_width=WIDTH)
    assert [0.0, 0.0, float(WIDTH), float(HEIGHT)] in data.train_objects.boxes[:, 0].tolist() + (
        data.eval_objects.boxes[:, 0].tolist()
    )


def test_categories_are_those_of_the_training_data(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    squares = [s._replace(boxes=s.boxes[:1], classes=[1] * len(s.classes[:1])) for s in TRAIN]
    write_parquet(folder / "train.parquet", squares)
    write_parquet(folder / "test.parquet", TEST)
    with pytest.raises(DataAgentError, match=r"have a category that the training data do not"):
        load(folder)
    write_parquet(folder / "test.parquet", [s for s in squares if s.boxes])
    assert load(folder).class_names == ("square",)


def test_data_without_any_box_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_parquet(folder / "train.parquet", [s._replace(boxes=[], classes=[]) for s in TRAIN])
    with pytest.raises(DataAgentError, match=r"the \d training images have no box at all"):
        load(folder)


def test_crowds_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "data"
    write_coco(folder / "train.json", folder, TRAIN)
    content = json.loads((folder / "train.json").read_text())
    content["annotations"][0]["iscrowd"] = 1
    (folder / "train.json").write_text(json.dumps(content))
    data = load(folder)
    objects = sum(int((o.classes >= 0).sum()) for o in (data.train_objects, data.eval_objects))
    assert objects == sum(len(s.boxes) for s in TRAIN) - 1
    assert "train.json: 1 regions of crowds are left out." in caplog.text


def test_a_split_without_boxes_is_not_evaluated_on(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_parquet(folder / "train.parquet", TRAIN)
    write_parquet(folder / "test.parquet", [s._replace(boxes=[], classes=[]) for s in TEST])
    assert load(folder).evaluation.endswith("held out of 'train' (10 %)")


def images_called(name: str) -> list[dict[str, Any]]:
    return [{"id": row, "file_name": name} for row in range(len(TRAIN))]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "000.png").unlink(), "1 of 9 images are not there"),
        (lambda f: (f / "train.json").write_text("{"), "train.json cannot be read as JSON"),
        (lambda f: (f / "000.png").write_bytes(b"?"), r"1 of 9 images cannot be decoded"),
        (
            lambda f: write_coco(f / "train.json", f, TRAIN, annotations=[{"image_id": 0}]),
            "train.json is not as COCO's JSON is .*category_id",
        ),
        (
            lambda f: write_coco(f / "train_more.json", f, TRAIN),
            "train.json and .*train_more.json both are about the split train",
        ),
        (
            lambda f: write_coco(f / "train.json", f, TRAIN, images=images_called("/etc/hostname")),
            "9 of 9 images are not there",
        ),
        (
            lambda f: write_coco(f / "train.json", f, TRAIN, images=images_called("000.png")[:1]),
            "objects belong to images that the file does not list",
        ),
        (
            lambda f: write_coco(f / "train.json", f, TRAIN, images=images_called("000.png")),
            r"listed more than once: .*000.png",
        ),
    ],
)
def test_files_that_are_damaged_are_named(tmp_path: Path, damage: Any, message: str) -> None:
    folder = tmp_path / "data"
    write_coco(folder / "train.json", folder, TRAIN)
    damage(folder)
    with pytest.raises(DataAgentError, match=message):
        load(folder)


def test_xml_that_is_not_voc_is_named(tmp_path: Path) -> None:
    folder = voc(tmp_path / "data")
    file = folder / "Annotations" / "train-000.xml"
    file.write_text("<annotation><object><name>disc</name></object></annotation>")
    with pytest.raises(DataAgentError, match=r"train-000.xml cannot be read as XML of Pascal VOC"):
        load(folder)


def test_rows_that_hold_no_objects_are_answered_with_the_columns(
    parquet_folder: Path,
) -> None:
    with pytest.raises(DataAgentError, match=r"which column holds the objects\?.*--objects-column"):
        load(parquet_folder)


def test_a_subset_and_kept_rows_are_part_of_the_training_images(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "data")
    part = load(folder, subset=4)
    assert (part.num_train, part.num_eval) == (4, 5)
    whole = load(folder)
    kept = whole.at(torch.tensor([1, 4]))
    assert torch.equal(kept.train_images, whole.train_images[[1, 4]])
    assert torch.equal(kept.train_objects.boxes, whole.train_objects.boxes[[1, 4]])


def test_trusted_rows_are_some_of_the_images_or_a_data_set_of_their_own(tmp_path: Path) -> None:
    data = shapes()
    rows = data.trusted(replace(RECIPE, trusted_rows=6))
    assert rows is not None
    assert len(rows.unique()) == 6
    assert data.trusted(RECIPE) is None
    assert sizes(replace(RECIPE, trusted_rows=6), data) == (48, 6)
    with pytest.raises(DataAgentError, match="--trusted-rows is 25; there are 48 training images"):
        data.trusted(replace(RECIPE, trusted_rows=25))
    folder, own = parquet(tmp_path / "data"), tmp_path / "own"
    write_parquet(own / "train.parquet", scenes(3, seed=2))
    both = load(folder, trusted=str(own))
    assert both.trusted(RECIPE).tolist() == [9, 10, 11]
    assert sizes(replace(RECIPE, trusted=str(own)), both) == (12, 3)
    assert torch.equal(both.train_objects.boxes[9:], objects_of(scenes(3, seed=2)).boxes)
    assert both.at(torch.tensor([0])).num_train == 4
    write_parquet(own / "train.parquet", TEST[:2])
    with pytest.warns(DataAgentWarning, match="2 of 2 trusted rows are among the evaluation data"):
        load(folder, trusted=str(own))
    with pytest.raises(DataAgentError, match=f"^--trusted {tmp_path / 'nowhere'} does not exist"):
        load(folder, trusted=str(tmp_path / "nowhere"))


def test_data_must_be_named_and_exist(tmp_path: Path) -> None:
    with pytest.raises(DataAgentError, match="the task detection needs --data"):
        load_detection(RECIPE, progress=silent)
    with pytest.raises(DataAgentError, match="does not exist"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"image_width": 100}, r"--image-width is 100.*such as 96"),
        ({"model": "yolo"}, r"--model is 'yolo'; expected detector-WIDTH"),
        ({"model": "detector-8"}, r"a detector needs at least 16 channels\. Use detector-16\."),
        ({"label_noise": 0.1}, "--label-noise is for samples with a class each"),
        ({"box_format": "cxcywh"}, "--box-format is 'cxcywh'; expected one of xywh, xyxy"),
        ({"learning_rate": 0.2}, "adamw diverges"),
    ],
)
def test_recipes_refuse_what_no_detector_has(field: Any, message: str) -> None:
    with pytest.raises(DataAgentError, match=message):
        replace(RECIPE, **field)


def test_four_sides_are_what_width_and_height_say() -> None:
    assert xywh([1, 2, 4, 8]) == [1, 2, 3, 6]
