"""Images as people have them: folders, labels of many kinds, damaged files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_images import encoded, load

from data_agent import DataAgentError
from data_agent_lab.data.image_data import ImageData


def made(root: Path, *folders: str, size: int = 6) -> Path:
    for number, name in enumerate(folders):
        (root / name).mkdir(parents=True)
        for i in range(size):
            Image.new("RGB", (8, 8), (40 * i, number, 0)).save(root / name / f"{i}.png")
    return root


def num_images(data: ImageData) -> int:
    return data.num_train + data.num_eval


def test_classes_may_be_paths_of_folders(tmp_path: Path) -> None:
    data = load(made(tmp_path, "apple/red", "apple/green", "pear/red", "pear/green"))
    assert data.class_names == ("apple/green", "apple/red", "pear/green", "pear/red")
    assert num_images(data) == 24


@pytest.mark.parametrize(
    ("folders", "class_names"),
    [
        (("control", "test"), ("control", "test")),
        (("test/a", "bus"), ("bus", "test/a")),
        (("freight-train", "bus"), ("bus", "freight-train")),
        (("test_tube", "train-set", "cup"), ("cup", "test_tube", "train-set")),
        (("train/train", "train/bus"), ("bus", "train")),
        (("all/test", "all/bus"), ("bus", "test")),
        (("pets/train/cat", "pets/train/dog", "pets/val/cat", "pets/val/dog"), ("cat", "dog")),
        (("Train/cat", "Train/dog", "TEST/cat"), ("cat", "dog")),
        (("seg_train/cat", "seg_train/dog", "seg_test/cat"), ("cat", "dog")),
    ],
)
def test_no_image_is_lost_to_a_name(
    tmp_path: Path, folders: tuple[str, ...], class_names: tuple[str, ...]
) -> None:
    data = load(made(tmp_path, *folders))
    assert data.class_names == class_names
    assert num_images(data) == 6 * len(folders)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("bus", "car", "train"), "holds train, named like a split, beside bus, car"),
        (("bus/front", "train/front"), "If all of them are classes, put them into one folder"),
        (("train/a", "train/b", "test/a", "rest/a"), "holds test, train, .* beside rest"),
        (("train", "test"), "6 images to train on lie in no class folder.*named like splits"),
        (("train/a", "train/b", "train/b/.hidden/c", "train"), "6 images to train on lie in no"),
        (("train/a", "train/b", "test/c"), "split 'test' holds the label 'c' .6 such rows"),
    ],
)
def test_folders_that_can_be_read_in_two_ways_are_refused(
    tmp_path: Path, folders: tuple[str, ...], message: str
) -> None:
    for number, name in enumerate(folders):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for i in range(6):
            Image.new("RGB", (8, 8), (40 * i, number, 0)).save(tmp_path / name / f"{i}.png")
    with pytest.raises(DataAgentError, match=message):
        load(tmp_path)


def test_what_is_no_image_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path, "a", "b")
    (tmp_path / "a" / "6.heic").write_bytes(b"")
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "7.JPG", "JPEG")
    with caplog.at_level(logging.WARNING):
        assert num_images(load(tmp_path)) == 13
    assert "left out what is no image by its suffix: 1 .heic" in caplog.text


def test_a_test_split_without_classes_is_not_evaluated_on(tmp_path: Path) -> None:
    data = load(made(tmp_path, "train/a", "train/b", "test"))
    assert data.evaluation == "1 samples held out of 'train' (10 %)"


def test_links_are_followed_and_hidden_files_are_not(tmp_path: Path) -> None:
    made(tmp_path / "store", "a", "b", "__MACOSX", ".git")
    (tmp_path / "store" / "a" / "._0.png").write_bytes(b"x")
    (tmp_path / "data").mkdir()
    for name in ("a", "b", "__MACOSX", ".git"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "store" / name)
    assert num_images(load(tmp_path / "data")) == 12
    (tmp_path / "data" / "a" / "gone.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataAgentError, match=r"1 of 13 images .*\n.*gone\.png"):
        load(tmp_path / "data")


def test_changed_images_are_decoded_anew(tmp_path: Path) -> None:
    made(tmp_path, "a", "b")
    before = load(tmp_path).train_images
    for file in tmp_path.rglob("*.png"):
        Image.new("RGB", (8, 8), (0, 0, 250)).save(file)
    assert load(tmp_path).train_images[:, 2].min() == 250 > before[:, 2].max()


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_have_labels_of_any_kind(tmp_path: Path, name: str) -> None:
    made(tmp_path, "train", size=20)
    rows = [(f"{i}.png", ("None", "mild", "NA")[i % 3]) for i in range(20)]
    lines = [f"{file},{word}" for file, word in rows]
    if name.endswith("jsonl"):
        lines = [f'{{"file_name": "{file}", "label": "{word}"}}' for file, word in rows]
    else:
        lines.insert(0, "file_name,label")
    (tmp_path / "train" / name).write_text("\n".join(lines))
    data = load(tmp_path)
    assert (data.class_names, num_images(data)) == (("NA", "None", "mild"), 20)
    (tmp_path / "train" / "4.png").unlink()
    (tmp_path / "train" / "5.png").unlink()
    with pytest.raises(
        DataAgentError, match=r"list 2 images that do not exist: .*4\.png, .*5\.png"
    ):
        load(tmp_path)


def with_labels(path: Path, labels: Any) -> Path:
    cells = [encoded(Image.new("RGB", (8, 8), (i, 0, 0))) for i in range(len(labels))]
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": cells, "label": labels}), path)
    return path


def declared(path: Path, names: list[str], labels: Any) -> Path:
    """Images with labels whose file names the classes."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    cells = [encoded(Image.new("RGB", (8, 8), (i, 0, 0))) for i in range(len(labels))]
    datasets.Dataset.from_dict({"image": cells, "label": labels}, features).to_parquet(path)
    return path


@pytest.mark.parametrize("column", [None, "label"])
@pytest.mark.parametrize(
    ("labels", "class_names"),
    [
        (["cat", "dog"], ("cat", "dog")),
        (["pos", "neg ", " pos", "neg"], ("neg", "pos")),
        ([True, False], ("False", "True")),
        ([0.0, 1.0], ("0", "1")),
        ([-1, 1], ("-1", "1")),
        ([-2, -1, 0, 1], ("-2", "-1", "0", "1")),
        ([100, 101, 9], ("9", "100", "101")),
        ([2**62, 5], ("5", str(2**62))),
        (pa.array([2**64 - 1, 7] * 10, pa.uint64()), ("7", str(2**64 - 1))),
        (pa.array([255, 0] * 10, pa.uint8()), ("0", "255")),
        (["10", "9"], ("9", "10")),
        (["None", "NA"], ("NA", "None")),
    ],
)
def test_labels_are_numbered_by_what_there_is(
    tmp_path: Path, labels: Any, class_names: tuple[str, ...], column: str | None
) -> None:
    labels = labels * (20 // len(labels)) if isinstance(labels, list) else labels
    data = load(with_labels(tmp_path / "train.parquet", labels), label_column=column)
    assert data.class_names == class_names
    assert set(data.train_labels.tolist()) == set(range(len(class_names)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -1, -1], "10 of 20 rows have no label .an empty cell, or -1.*write the classes as"),
        (["a", "", "b", "b"], "5 of 20 rows have no label"),
        ([0.5, 1.0], "holds 0.5; expected a class"),
        ([["a"], ["b"]], r"holds \['a'\]; expected a class"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, labels: list[Any], message: str) -> None:
    with pytest.raises(DataAgentError, match=message):
        load(with_labels(tmp_path / "train.parquet", labels * (20 // len(labels))))


def test_splits_are_matched_by_the_names_of_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_labels(tmp_path / "d" / "train.parquet", ["b", "c", "a"] * 4)
    with_labels(tmp_path / "d" / "test.parquet", ["c", "a"])
    with caplog.at_level(logging.INFO):
        assert load(tmp_path / "d").eval_labels.tolist() == [2, 0]
    assert "split 'test' has no row of 1 of the 3 classes: b." in caplog.text
    with_labels(tmp_path / "d" / "test.parquet", ["c", "x"])
    with pytest.raises(DataAgentError, match=r"'test' holds the label 'x' \(1 such.*: a, b, c\."):
        load(tmp_path / "d")


def test_classes_that_are_declared_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    for split, names in (("train", ["cat", "dog"]), ("test", ["dog", "cat"])):
        declared(tmp_path / f"{split}.parquet", names, ["dog", "cat"] * 3)
    data = load(tmp_path)
    assert data.eval_labels.tolist() == data.train_labels.tolist() == [1, 0] * 3


def test_other_training_labels_may_be_words(tmp_path: Path) -> None:
    data = with_labels(tmp_path / "train.parquet", [100, 101] * 10)
    pq.write_table(pa.table({"y": ["101"] * 20}), tmp_path / "y.parquet")
    found = load(data, train_labels=f"{tmp_path / 'y.parquet'}:y")
    assert found.train_labels.tolist() == [1] * 18


@pytest.mark.parametrize("spelling", ["caf\u00e9", "cafe\u0301", " caf\u00e9 "])
def test_spellings_of_one_class_are_one_class(tmp_path: Path, spelling: str) -> None:
    data = declared(tmp_path / "train.parquet", ["caf\u00e9", "tea"], ["tea", "caf\u00e9"] * 10)
    other = declared(tmp_path / "y.parquet", ["tea", spelling], [spelling] * 20)
    assert load(data, train_labels=f"{other}:label").train_labels.tolist() == [0] * 18
    both = declared(
        tmp_path / "both.parquet", ["caf\u00e9", "cafe\u0301 ", "tea"], [0, 1, 2, 2] * 5
    )
    assert load(both).class_names == ("caf\u00e9", "tea")
    assert load(both).train_labels.bincount().tolist() == [9, 9]


def test_other_training_labels_may_name_their_classes_in_the_file(tmp_path: Path) -> None:
    data = declared(tmp_path / "train.parquet", ["cat", "dog"], ["cat", "dog"] * 10)
    for labels, num_noisy in ((["cat", "dog"] * 10, 0), (["dog", "cat"] * 10, 18)):
        other = declared(tmp_path / "other.parquet", ["dog", "cat"], labels)
        found = load(data, train_labels=f"{other}:label")
        assert found.class_names == ("cat", "dog")
        assert found.num_noisy(found.train_labels) == num_noisy
    other = declared(tmp_path / "other.parquet", ["dog", "cow"], ["dog", "cow"] * 10)
    with pytest.raises(DataAgentError, match=r"holds the label 'cow' .*training data: cat, dog"):
        load(data, train_labels=f"{other}:label")


def test_a_misspelt_column_or_path_is_told_the_nearest(tmp_path: Path) -> None:
    data = with_labels(tmp_path / "train.parquet", [0, 1] * 10)
    with pytest.raises(DataAgentError, match=r"no column 'lable'.* Did you mean label\?"):
        load(data, label_column="lable")
    with pytest.raises(DataAgentError, match=r"does not exist\. Did you mean train\.parquet?"):
        load(tmp_path / "trian.parquet")


def test_parquet_files_beside_images_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_labels(tmp_path / "train.parquet", [0, 1] * 10)
    Image.new("RGB", (8, 8)).save(tmp_path / "preview.png")
    with caplog.at_level(logging.WARNING):
        assert num_images(load(tmp_path)) == 20
    assert "1 image files beside the data are left out" in caplog.text


# Damaged files.


def broken_chunk() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    content = bytearray(encoded(Image.fromarray(noise))["bytes"])
    at = content.index(b"IDAT", content.index(b"IDAT") + 4)
    content[at : at + 4] = b">f\xc0\x83"  # its second chunk of pixels
    return bytes(content)


def test_damaged_images_are_named_all_at_once(tmp_path: Path) -> None:
    made(tmp_path, "train/a", "train/b", "test/a", size=12)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    photo = encoded(Image.fromarray(noise), "JPEG")["bytes"]
    files = {
        "train/a/3.png": photo[:-150],
        "train/a/5.png": b"",
        "train/b/7.png": broken_chunk(),
        "train/b/8.png": encoded(Image.new("1", (20000, 20000)))["bytes"],
        "test/a/9.png": b"<html>not found</html>",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataAgentError, match="5 of 36 images cannot be decoded") as caught:
        load(tmp_path)
    for name in files:
        assert str(tmp_path / name) in str(caught.value)
    assert "decompression bomb" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 6


def test_damaged_images_of_a_table_are_named_by_their_rows_and_paths(tmp_path: Path) -> None:
    cells = [encoded(Image.new("RGB", (8, 8))) for _ in range(20)]
    cells[3], cells[11] = {"bytes": b"x", "path": "a/3.png"}, {"bytes": None, "path": None}
    table = pa.table({"image": cells, "label": [0, 1] * 10})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataAgentError) as caught:
        load(tmp_path / "train.parquet")
    assert "a/3.png (row 3 of train): cannot identify" in str(caught.value)
    assert "row 11 of train: the cell is empty" in str(caught.value)
