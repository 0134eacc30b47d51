from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from data_agent import DataAgentError
from data_agent.errors import DataAgentWarning
from data_agent_lab.data import decoding
from data_agent_lab.data.decoding import cache_folder
from data_agent_lab.data.image_data import ImageData, trusted_of, trusted_rows
from data_agent_lab.data.images import load_images
from data_agent_lab.data.pixels import Canvas
from data_agent_lab.progress import Progress, silent
from data_agent_lab.tasks import recipe_for

MakeSplit = Callable[..., datasets.Dataset]


IMAGES = replace(recipe_for("image"), image_size=8, model="cnn")


def load(data: Path | str, *, progress: Progress = silent, **changes: Any) -> ImageData:
    return load_images(replace(IMAGES, data=str(data), **changes), progress=progress)


def first_pixels(images: torch.Tensor) -> list[int]:
    """The value that marks each image of `make_split`."""
    return images[:, 0, 0, 0].tolist()


def test_a_folder_of_parquet_files(parquet_folder: Path) -> None:
    data = load(parquet_folder)
    assert data.train_images.shape == (40, 3, 8, 8)
    assert data.train_images.dtype == torch.uint8
    assert first_pixels(data.train_images) == [10 * (i % 2) + i for i in range(40)]
    assert data.train_labels.tolist() == [i % 2 for i in range(40)]
    assert len(data.eval_labels) == 20
    assert data.class_names == ("class-0", "class-1")
    assert data.evaluation == "split 'test'"


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002", "train-00001-of-00002", "validation"),
        ("a_train", "b_train", "valid_part"),
        ("train/part0", "train/part1", "val/part0"),
        ("one", "two", "some.test"),
    ],
)
def test_splits_are_found_by_the_names_of_files_and_folders(
    tmp_path: Path, make_split: MakeSplit, names: tuple[str, str, str]
) -> None:
    for name, size in zip(names, (10, 14, 6), strict=True):
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        make_split(size).to_parquet(path)
    data = load(tmp_path)
    assert (len(data.train_labels), len(data.eval_labels)) == (24, 6)


def test_a_test_split_is_preferred_to_a_validation_split(
    parquet_folder: Path, make_split: MakeSplit
) -> None:
    make_split(8).to_parquet(parquet_folder / "validation.parquet")
    assert len(load(parquet_folder).eval_labels) == 20


def test_a_single_file_holds_out_a_tenth_and_says_so(tmp_path: Path, make_split: MakeSplit) -> None:
    path = tmp_path / "all.parquet"
    make_split(50).to_parquet(path)
    data = load(path)
    assert (len(data.train_labels), len(data.eval_labels)) == (45, 5)
    assert data.evaluation == "5 samples held out of 'train' (10 %)"
    marks = first_pixels(data.train_images) + first_pixels(data.eval_images)
    assert sorted(marks) == sorted(10 * (i % 2) + i for i in range(50))


def test_an_unlabelled_test_split_is_not_used(tmp_path: Path, make_split: MakeSplit) -> None:
    make_split(40).to_parquet(tmp_path / "train.parquet")
    make_split(10).to_parquet(tmp_path / "validation.parquet")
    unlabelled = make_split(6)
    without = unlabelled.remove_columns("label").add_column("label", [-1] * 6)
    without.cast(unlabelled.features).to_parquet(tmp_path / "test.parquet")
    assert load(tmp_path).evaluation == "split 'validation'"


def test_an_image_folder_has_its_classes_as_folders(tmp_path: Path) -> None:
    for split, size in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(size):
                Image.new("RGB", (20, 10), (i, 100, 0)).save(folder / f"{i}.png")
    data = load(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert data.train_images.shape == (8, 3, 8, 8)
    assert len(data.eval_labels) == 4


@pytest.mark.parametrize("grey", [True, False])
def test_grey_images_have_one_channel(tmp_path: Path, make_split: MakeSplit, grey: bool) -> None:
    make_split(20, grey=grey).to_parquet(tmp_path / "train.parquet")
    assert load(tmp_path).train_images.shape[1] == (1 if grey else 3)


def test_columns_are_found_under_other_names(tmp_path: Path, make_split: MakeSplit) -> None:
    make_split(20, image="img", label="fine_label").add_column("coarse", [0] * 20).to_parquet(
        tmp_path / "train.parquet"
    )
    assert load(tmp_path).num_classes == 2


def test_named_columns_win(tmp_path: Path, make_split: MakeSplit) -> None:
    made = make_split(20).add_column("animal", [7, 9] * 10)
    made.to_parquet(tmp_path / "train.parquet")
    data = load(tmp_path, label_column="animal")
    assert data.class_names == ("7", "9")
    assert set(data.train_labels.tolist()) == {0, 1}


def test_plain_bytes_of_other_programs_are_images(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (9, 0, 0)).save(tmp_path / "one.png")
    content = (tmp_path / "one.png").read_bytes()
    rows = datasets.Dataset.from_dict({"picture": [content] * 20, "class": [0, 1] * 10})
    (tmp_path / "data").mkdir()
    rows.to_parquet(tmp_path / "data" / "train.parquet")
    assert first_pixels(load(tmp_path / "data").train_images) == [9] * 18


def test_a_missing_label_column_is_answered_with_the_columns_there_are(
    tmp_path: Path, make_split: MakeSplit
) -> None:
    made = make_split(20).remove_columns("label").add_column("score", [0.5] * 20)
    made.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataAgentError, match=r"image \(Image\), score \(float64\).*--label-column"):
        load(tmp_path)


def test_a_named_column_that_does_not_fit_is_refused(parquet_folder: Path) -> None:
    with pytest.raises(DataAgentError, match=r"the column 'image' does not fit"):
        load(parquet_folder, label_column="image")
    with pytest.raises(DataAgentError, match=r"there is no column 'nothing'"):
        load(parquet_folder, image_column="nothing")


def test_unlabelled_training_samples_are_refused(tmp_path: Path, make_split: MakeSplit) -> None:
    made = make_split(20)
    labels = [-1, *made["label"][1:]]
    made = made.remove_columns("label").add_column("label", labels)
    made.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataAgentError, match=r"1 of 20 rows have no label"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "there.parquet"])
def test_a_path_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(DataAgentError, match=r"does not exist\. Expected a \.parquet file"):
        load(name)


def test_a_hub_name_that_cannot_be_loaded_is_refused() -> None:
    with pytest.raises(DataAgentError, match=r"--data nobody/nothing could not be loaded"):
        load("nobody/nothing")


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,b\n")
    with pytest.raises(DataAgentError, match=r"holds \.csv; files of one kind are expected"):
        load(tmp_path / "data.csv")


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"nonsense")
    with pytest.raises(DataAgentError, match=r"could not be loaded"):
        load(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(DataAgentError, match=r"holds \.txt; files of one kind are expected"):
        load(tmp_path)


def test_a_folder_without_training_data_is_refused(tmp_path: Path, make_split: MakeSplit) -> None:
    make_split(20).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(DataAgentError, match=r"no split 'train', but test"):
        load(tmp_path)


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path, make_split: MakeSplit) -> None:
    made = make_split(20).cast_column("image", datasets.Image(decode=False))
    cells = [{"bytes": cell["bytes"], "path": None} for cell in made["image"]]
    cells[13]["bytes"] = b"not a picture"
    features = datasets.Features({"image": datasets.Image(), "label": made.features["label"]})
    columns = {"image": cells, "label": list(made["label"])}
    broken = datasets.Dataset.from_dict(columns, features=features)
    broken.to_parquet(tmp_path / "train.parquet")
    make_split(10).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(
        DataAgentError, match=r"1 of 30 images .*\n  row 13 of train: cannot identify"
    ):
        load(tmp_path)


def test_a_subset_is_part_of_the_training_data_only(parquet_folder: Path) -> None:
    whole, part = load(parquet_folder), load(parquet_folder, subset=10)
    assert torch.bincount(part.train_labels).tolist() == [5, 5]
    assert set(first_pixels(part.train_images)) <= set(first_pixels(whole.train_images))
    assert torch.equal(part.eval_images, whole.eval_images)


def test_images_are_decoded_once(parquet_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(parquet_folder)
    monkeypatch.setattr(decoding, "_decode", None)
    again = load(parquet_folder)
    assert torch.equal(first.train_images, again.train_images)
    assert torch.equal(first.eval_images, again.eval_images)


@pytest.mark.parametrize("change", [{"image_size": 9}, {"subset": 20}])
def test_other_sizes_and_subsets_are_decoded_anew(
    parquet_folder: Path, change: dict[str, int]
) -> None:
    load(parquet_folder)
    load(parquet_folder, **change)
    assert len(list(cache_folder().iterdir())) == 2


def test_changed_files_are_decoded_anew(parquet_folder: Path, make_split: MakeSplit) -> None:
    load(parquet_folder)
    make_split(40, grey=True).to_parquet(parquet_folder / "train.parquet")
    make_split(20, grey=True).to_parquet(parquet_folder / "test.parquet")
    assert load(parquet_folder).train_images.shape[1] == 1


def test_a_damaged_cache_is_made_again(parquet_folder: Path) -> None:
    expected = load(parquet_folder).train_images
    (cached,) = cache_folder().iterdir()
    cached.write_bytes(b"damaged")
    assert torch.equal(load(parquet_folder).train_images, expected)


def test_without_a_cache_images_are_decoded_each_time_and_it_is_said_once(
    parquet_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DATA_AGENT_CACHE", str(tmp_path / "file" / "cache"))
    first, again = load(parquet_folder), load(parquet_folder)
    assert torch.equal(first.train_images, again.train_images)
    assert caplog.text.count("decoded images are not kept") == 1
    assert "DATA_AGENT_CACHE names another folder" in caplog.text


def test_progress_counts_every_image(parquet_folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    load(parquet_folder, progress=lambda _, done, total: seen.append((done, total)))
    assert seen[-1] == (60, 60)


def test_more_images_than_memory_are_refused(parquet_folder: Path) -> None:
    with pytest.raises(DataAgentError, match=r"60 images .* GB of memory.*--image-size"):
        load(parquet_folder, image_size=10_000_000)


def test_an_oblong_image_is_cropped_to_its_middle() -> None:
    pixels = np.zeros((4, 12), dtype=np.uint8)
    pixels[:, 4:8] = 200
    assert np.asarray(Canvas(4, 4).place(Image.fromarray(pixels))).tolist() == [[200] * 4] * 4


def with_labels(path: Path, labels: list[int], column: str = "worse") -> str:
    datasets.Dataset.from_dict({column: labels}).to_parquet(path)
    return f"{path}:{column}"


def test_training_labels_of_another_file_belong_to_the_rows_before_the_subset(
    parquet_folder: Path, tmp_path: Path
) -> None:
    # Rows alternate between two classes; the last 20 rows are relabelled as class 1.
    other = [i % 2 for i in range(20)] + [1] * 20
    source = with_labels(tmp_path / "noisy.parquet", other)
    plain, data = (
        load(parquet_folder, subset=10),
        load(parquet_folder, subset=10, train_labels=source),
    )
    # The subset is that of the clean labels, so the images are the same.
    assert torch.equal(plain.train_images, data.train_images)
    values = first_pixels(data.train_images)  # 10 * clean label + row
    clean = plain.train_labels.tolist()
    rows = [value - 10 * label for value, label in zip(values, clean, strict=True)]
    assert data.train_labels.tolist() == [other[row] for row in rows]
    assert data.num_noisy(data.train_labels) == sum(row >= 20 and row % 2 == 0 for row in rows)
    assert data.num_noisy(data.train_labels) > 0
    assert torch.equal(data.eval_labels, plain.eval_labels)


def test_training_labels_are_class_numbers_as_the_files_have_them(
    tmp_path: Path, make_split: MakeSplit
) -> None:
    made = make_split(20).remove_columns("label").add_column("label", [7, 9] * 10)
    (tmp_path / "data").mkdir()
    made.to_parquet(tmp_path / "data" / "train.parquet")
    source = with_labels(tmp_path / "other.parquet", [9] * 20)
    data = load(tmp_path / "data", train_labels=source)
    assert data.class_names == ("7", "9")
    assert data.train_labels.tolist() == [1] * 18


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0] * 39, "holds 39 labels, but the training data has 40 rows"),
        (
            [0] * 38 + [2, 2],
            r"holds the label '2' \(2 such rows\).*no class of the training data: 0, 1",
        ),
        ([-1] + [0] * 39, "1 of 40 rows have no label"),
        ([0] * 39 + [None], "1 of 40 rows have no label"),
        ([0.5] * 40, "holds 0.5; expected a class"),
    ],
)
def test_training_labels_that_do_not_fit_are_refused(
    parquet_folder: Path, tmp_path: Path, labels: list[Any], message: str
) -> None:
    source = with_labels(tmp_path / "other.parquet", labels)
    with pytest.raises(DataAgentError, match=message):
        load(parquet_folder, train_labels=source)


def test_a_file_or_column_of_training_labels_that_is_missing_is_named(
    parquet_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataAgentError, match=r"the file nowhere.parquet does not exist"):
        load(parquet_folder, train_labels="nowhere.parquet:x")
    with_labels(tmp_path / "other.parquet", [0] * 40)
    with pytest.raises(DataAgentError, match=r"has no column 'x', but worse"):
        load(parquet_folder, train_labels=f"{tmp_path / 'other.parquet'}:x")
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"nonsense")
    with pytest.raises(DataAgentError, match="could not be read"):
        load(parquet_folder, train_labels=f"{path}:x")


@pytest.mark.parametrize("changes", [{"imbalance": 4.0}, {"duplicates": 0.5}])
def test_regimes_are_the_same_from_the_cache_and_leave_it_as_it_was(
    parquet_folder: Path, changes: dict[str, float]
) -> None:
    first, again = (load(parquet_folder, **changes) for _ in range(2))
    assert torch.equal(first.train_images, again.train_images)
    assert torch.equal(first.train_labels, again.train_labels)
    plain = load(parquet_folder)
    assert first_pixels(plain.train_images) == [10 * (i % 2) + i for i in range(40)]


def test_recipes_with_the_same_images_share_what_was_decoded(
    parquet_folder: Path, tmp_path: Path
) -> None:
    load(parquet_folder, subset=10)
    load(parquet_folder, subset=10, label_noise=0.2)
    load(parquet_folder, subset=10, train_labels=with_labels(tmp_path / "o.parquet", [0] * 40))
    assert len(list(cache_folder().iterdir())) == 1


def test_foreign_images_make_up_their_share_under_labels_drawn_at_random(
    parquet_folder: Path, tmp_path: Path, make_split: MakeSplit
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    made = make_split(60, num_classes=5)  # their own classes do not matter
    made.to_parquet(other / "train.parquet")
    changes = {"foreign_data": str(other), "foreign_share": 0.25, "label_noise": 0.0}
    data, again = (load(parquet_folder, **changes) for _ in range(2))
    assert data.clean_labels is not None
    is_foreign = data.clean_labels == -1
    assert (len(is_foreign), int(is_foreign.sum())) == (40, 10)
    assert torch.equal(data.train_images, again.train_images)
    assert torch.equal(data.train_labels, again.train_labels)
    own = load(parquet_folder, subset=30)
    found = data.train_images[~is_foreign]
    assert sorted(first_pixels(found)) == sorted(first_pixels(own.train_images))
    assert set(data.train_labels[is_foreign].tolist()) <= {0, 1}
    assert data.num_noisy(data.train_labels) == 10
    assert torch.equal(data.eval_images, own.eval_images)
    assert not set(trusted_rows(data.clean_labels, 8).tolist()) & set(
        is_foreign.nonzero().flatten().tolist()
    )


def test_more_foreign_images_than_there_are_and_half_a_request_are_refused(
    parquet_folder: Path, tmp_path: Path, make_split: MakeSplit
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    make_split(4).to_parquet(other / "train.parquet")
    with pytest.raises(DataAgentError, match=r"asks for 20 images; .*other has 4\."):
        load(parquet_folder, foreign_data=str(other), foreign_share=0.5)
    with pytest.raises(DataAgentError, match="one means nothing without the other"):
        load(parquet_folder, foreign_share=0.5)


def test_trusted_images_of_their_own_come_last_with_their_labels(
    parquet_folder: Path, tmp_path: Path, make_split: MakeSplit
) -> None:
    few = tmp_path / "few.parquet"
    make_split(6).to_parquet(few)
    changes = {"trusted": str(few), "duplicates": 0.5}
    with pytest.warns(DataAgentWarning, match=r"6 of 6 trusted rows are .*20 of 20 rows"):
        data = load(parquet_folder, **changes)
    plain = load(parquet_folder, duplicates=0.5)
    assert data.num_trusted == 6
    assert torch.equal(data.train_images[:-6], plain.train_images)
    assert torch.equal(data.eval_images, plain.eval_images)
    assert data.train_labels[-6:].tolist() == data.true_labels[-6:].tolist() == [0, 1] * 3
    trusted = trusted_of(data, replace(IMAGES, **changes))
    assert trusted is not None
    assert trusted.tolist() == list(range(40, 46))
    assert trusted_of(plain, IMAGES) is None


def test_what_is_wrong_with_trusted_images_is_said_of_them(
    parquet_folder: Path, tmp_path: Path, make_split: MakeSplit
) -> None:
    missing, table, few = tmp_path / "none.parquet", tmp_path / "rows.csv", tmp_path / "few.parquet"
    table.write_text("image,label\n")
    for path, says in ((missing, "does not exist"), (table, "holds .csv; files of one kind")):
        for name in ("trusted", "foreign_data"):
            share: dict[str, Any] = {"foreign_share": 0.5} if name == "foreign_data" else {}
            with pytest.raises(DataAgentError, match=f"^--{name.replace('_', '-')} {path} {says}"):
                load(parquet_folder, **share, **{name: str(path)})
    make_split(6).remove_columns("label").add_column("label", [7] * 6).to_parquet(few)
    with pytest.raises(
        DataAgentError, match=r"^the column .label. of the trusted data holds the label"
    ):
        load(parquet_folder, trusted=str(few))
    damaged: Any = make_split(6).cast_column("image", datasets.Image(decode=False))
    rows = [{**row, "image": {"bytes": b"none", "path": None}} for row in damaged]
    datasets.Dataset.from_list(rows, features=damaged.features).to_parquet(few)
    with pytest.raises(DataAgentError, match=r"row 0 of the trusted data: "):
        load(parquet_folder, trusted=str(few))
