"""The audit of a run with planted errors, end to end, and what is made of it."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch

from data_agent.errors import InputError
from data_agent_lab.auditing.audit import audit_of, kept_index, make_audit
from data_agent_lab.auditing.datalab import pred_probs
from data_agent_lab.auditing.inputs import Sketches
from data_agent_lab.auditing.numbers import numbers_of
from data_agent_lab.auditing.words import in_words
from data_agent_lab.cli import main
from data_agent_lab.data.image_data import corrupt_labels
from data_agent_lab.runs.samples import kept_rows, read_columns, read_index, write_columns
from data_agent_lab.tasks import load_task, recipe_for

NOISE = 0.1
TRAIN = [
    *("train", "--task", "digits", "--label-noise", str(NOISE), "--epochs", "10"),
    *("--num-evaluations", "1", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "full"
    assert main([*TRAIN, "--method", "full", "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def is_wrong() -> np.ndarray:
    data: Any = load_task(recipe_for("digits"))
    noisy = corrupt_labels(data.train_labels, NOISE, num_classes=10, seed=0)
    return (noisy != data.train_labels).numpy()


def test_planted_errors_are_found_first(run: Path, is_wrong: np.ndarray) -> None:
    audit = audit_of(run, budget=30)
    found = audit.of_kind("wrong-label")
    assert len(found) == 30
    assert np.mean([is_wrong[finding.index] for finding in found]) >= 0.9
    data: Any = load_task(recipe_for("digits"))
    true = data.train_labels
    right = [str(int(true[f.index])) == f.suggested for f in found if is_wrong[f.index]]
    assert np.mean(right) >= 0.7


def test_what_is_dropped_is_left_out_of_the_next_training(
    run: Path, is_wrong: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "audit"
    line = ["audit", str(run), "--budget", "40", "--drop", "wrong-label", "--datalab"]
    assert main([*line, "--no-duplicates", "--output", str(found)]) == 0
    said = capsys.readouterr().out
    (total,) = re.findall(r"Labels likely wrong, the first 5 of (\d+):", said)
    assert "408 of 448 samples are kept." in said
    assert f"{int(total) - 40} are beyond the budget and stay; a higher --budget leaves" in said
    assert said.endswith(f"Open it in a browser: {(found / 'audit.html').as_uri()}\n")
    assert "data:image/png;base64" in (found / "audit.html").read_text()
    content = json.loads((found / "audit.json").read_text())
    table = pyarrow.parquet.read_table(found / "findings.parquet").to_pylist()
    assert [row["index"] for row in table] == [f["index"] for f in content["findings"]]
    arrays = np.load(found / "datalab.npz")
    assert arrays["pred_probs"].shape == (448, 10)
    clean = tmp_path / "clean"
    keep = ["--keep-index", str(found / "kept.parquet"), "--output", str(clean)]
    assert main([*TRAIN, "--method", "random", *keep]) == 0
    result = json.loads((clean / "result.json").read_text())
    kept = read_index(found / "kept.parquet", 448)
    assert result["num_train_samples"] == 408
    assert result["num_noisy_labels"] == is_wrong[kept].sum() <= 15  # the same ones as before
    again = audit_of(clean, budget=5)  # its data are those that were kept
    assert len(again.numbers) == 408


def test_data_that_were_shuffled_since_the_training_are_refused(
    parquet_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = tmp_path / "run", parquet_folder / "train.parquet"
    line = (
        "train",
        "--task",
        "image",
        "--data",
        str(parquet_folder),
        "--image-size",
        "8",
        "--model",
        "cnn",
    )
    noise = ("--label-noise", "0.2", "--trusted-rows", "6", "--trusted-noise", "0.2")
    length = ("--epochs", "4", "--num-evaluations", "1", "--device", "cpu", "--seed", "3")
    assert main([*line, *noise, *length, "--method", "full", "--output", str(run)]) == 0
    assert main(["audit", str(run)]) == 0
    table = pyarrow.parquet.read_table(file)
    pyarrow.parquet.write_table(table.take(np.arange(len(table))[::-1]), file)
    capsys.readouterr()
    for wanted in ([], ["--no-duplicates"]):
        assert main(["audit", str(run), *wanted]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "have another label in the data than they had in the training" in said
        assert "Put the data back as they were, or train again." in said
    assert main(["audit", str(run / "samples.parquet")]) == 0


def test_numbers_of_ones_own_are_audited_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text(
        "index,mean_loss,margin,label,suggested_label\n5,0.1,0.9,0,0\n6,3.0,-0.5,0,1\n7,0.2,,,\n"
    )
    np.save(tmp_path / "features.npy", np.array([[1.0, 0.0], [1.0, 0.001], [0.0, 1.0]]))
    assert main(["audit", str(path), "--features", str(tmp_path / "features.npy")]) == 0
    said = capsys.readouterr().out
    assert "sample 6 (0): 1 was believed instead" in said
    assert "sample 6 (0): one of 2 near-duplicates" in said
    assert (tmp_path / "audit-numbers" / "findings.csv").is_file()
    assert "like sample" in (tmp_path / "audit-numbers" / "audit.html").read_text()


def test_an_audit_leaves_nothing_of_an_earlier_one_beside_its_page(tmp_path: Path) -> None:
    path, found = tmp_path / "a.csv", tmp_path / "audit-a"
    columns = "mean_loss,margin,label,suggested_label,mean_probability\n"
    path.write_text(f"{columns}0.1,0.9,0,0,0.9\n3.0,-0.5,0,1,0.1\n")
    assert main(["audit", str(path), "--drop", "wrong-label", "--datalab"]) == 0
    optional = {"kept.parquet", "kept.csv", "datalab.npz"}
    assert optional < {file.name for file in found.iterdir()}
    assert main(["audit", str(path)]) == 0
    assert optional.isdisjoint(file.name for file in found.iterdir())


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("audit {0}", "has no samples.parquet: it is no run's folder"),
        ("audit {0}/none.csv", "there is no file"),
        ("audit {0}/numbers.csv --budget 0", "--budget is 0; expected a whole number, 1 or more"),
        ("audit {0}/numbers.csv --drop wrong-labels", "Did you mean 'wrong-label'?"),
        ("audit {0}/numbers.csv --features {0}/few.npy", "2 rows of features or data came for"),
        ("audit {0}/numbers.csv --datalab", "Datalab needs probabilities of classes"),
        ("audit {0}/none_known.csv --datalab", "Datalab needs probabilities of classes"),
        ("audit {0}/numbers.csv --output {0}/far.csv", "far.csv cannot be written (File exists)"),
        ("train --epochs 8 --keep-index {0}/numbers.csv", "has no column index, but mean_loss"),
        ("train --epochs 8 --keep-index {0}/far.csv", "is to name samples from 0 to 447"),
        ("train --keep-index {0}/far.csv --trusted-rows 9", "Hand trusted samples over with"),
    ],
)
def test_what_cannot_be_done_is_said(
    line: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "numbers.csv").write_text("mean_loss\n1.0\n2.0\n3.0\n")
    (tmp_path / "far.csv").write_text("index\n3\n448\n")
    (tmp_path / "none_known.csv").write_text(
        "mean_loss,margin,label,suggested_label,mean_probability\n1.0,,-1,-1,\n2.0,,-1,-1,\n"
    )
    np.save(tmp_path / "few.npy", np.ones((2, 2)))
    words = [word.format(tmp_path) for word in line.split()]
    output = ["--output", str(tmp_path / "run")] if words[0] == "train" else []
    assert main([*words, *output]) == 2
    assert text in " ".join(capsys.readouterr().err.split())


def test_a_second_round_names_and_keeps_the_samples_of_all_data(
    run: Path, is_wrong: np.ndarray, tmp_path: Path
) -> None:
    """The run of the second round numbers what it was given from 0 on; the data go on as before."""
    rounds = [run, *(tmp_path / name for name in ("second", "third"))]
    kept = [np.arange(len(is_wrong))]
    for before, after in itertools.pairwise(rounds):
        found = tmp_path / f"audit-{after.name}"
        line = ("audit", str(before), "--output", str(found), "--drop", "wrong-label")
        assert main([*line, "--budget", "20", "--no-duplicates"]) == 0
        kept.append(read_columns(found / "kept.parquet")[0]["index"])
        dropped = np.setdiff1d(kept[-2], kept[-1])
        assert len(dropped) == 20  # all of them of those that were there
        assert is_wrong[dropped].mean() > 0.5
        index = ("--keep-index", str(found / "kept.parquet"))
        assert main([*TRAIN, "--method", "full", *index, "--output", str(after)]) == 0
    result = json.loads((rounds[-1] / "result.json").read_text())
    assert result["num_noisy_labels"] == is_wrong[kept[-1]].sum() < is_wrong.sum() - 20
    columns, _ = read_columns(rounds[-1] / "samples.parquet")
    columns.pop("index_in_data")  # as an earlier version wrote it
    write_columns(rounds[-1] / "samples.parquet", columns)
    with pytest.raises(InputError, match="by an earlier version, which did not note"):
        audit_of(rounds[-1], budget=3, duplicates=False)


def test_trusted_samples_are_kept_whatever_is_found_in_them() -> None:
    columns = {
        "index": np.arange(10, 16),
        "mean_loss": np.array([9.0, 8, 1, 1, 1, 1]),
        "margin": np.array([-0.9, -0.8, 0.5, 0.5, 0.5, 0.5]),
        "label": np.zeros(6),
        "suggested_label": np.array([1, 1, 0, 0, 0, 0]),
        "trusted": np.array([0, 1, 0, 0, 0, 0]),
    }
    audit = make_audit(numbers_of(columns), budget=2, sketches=None)
    assert [finding.index for finding in audit.of_kind("wrong-label")] == [10, 11]
    assert kept_index(audit, ["wrong-label"]).tolist() == [11, 12, 13, 14, 15]
    assert in_words(audit, drop=["wrong-label"])[-1] == (
        "5 of 6 samples are kept, all trusted ones among them."
    )


def test_an_index_that_leaves_trusted_samples_out_keeps_them(tmp_path: Path) -> None:
    """They come last, of a data set of their own; labels and images are taken by the same rows."""
    write_columns(tmp_path / "kept.parquet", {"index": np.array([0, 2, 7])})
    assert kept_rows(tmp_path / "kept.parquet", 9, 3).tolist() == [0, 2, 6, 7, 8]
    assert kept_rows(tmp_path / "kept.parquet", 9, 0).tolist() == [0, 2, 7]


def test_duplicates_that_nobody_looked_for_are_neither_counted_nor_dropped() -> None:
    audit = make_audit(numbers_of({"mean_loss": np.ones(3)}), budget=2, sketches=None)
    assert "Near-duplicates were not looked for." in in_words(audit)
    with pytest.raises(InputError, match="--drop redundant leaves out near-duplicates, which were"):
        kept_index(audit, ["redundant"])


def test_visits_that_nobody_counted_are_not_named() -> None:
    columns = {"loss": np.array([9.0, 0.1]), "label": np.array([0, 1])}
    (finding,) = make_audit(numbers_of(columns), budget=2, sketches=None).of_kind("never-learned")
    assert finding.reason == "the last visit cost 9.00, and guessing among 2 classes costs 0.69"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mean_loss,label\n1.0,cat\n", "the column label holds other things than numbers"),
        ("mean_loss,index\n1.0,a\n", "the column index holds other things than numbers"),
        ("mean_loss,index\n1.0,0\n2.0,\n", "index has gaps or fractions"),
        ("mean_loss\n1.0\ninf\n", "the column mean_loss is infinite in row 1"),
        ("loss,label\n", "there is no row"),
    ],
)
def test_files_that_hold_no_numbers_are_refused_by_their_column(
    text: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "NUMBERS.CSV"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        audit_of(path, budget=3)


def test_files_hold_what_was_written(tmp_path: Path) -> None:
    columns = {"index": np.arange(3), "loss": np.array([0.5, np.nan, 2.0], np.float32)}
    write_columns(tmp_path / "a.parquet", columns, class_names=["cat", "dog"])
    back, names = read_columns(tmp_path / "a.parquet")
    assert names == ("cat", "dog")
    np.testing.assert_array_equal(back["loss"], columns["loss"])
    assert (tmp_path / "a.csv").read_text().splitlines()[2] == "1,"


def test_probabilities_for_datalab_by_hand() -> None:
    numbers = numbers_of(
        {
            "mean_loss": np.ones(3),
            "mean_probability": np.array([0.7, 0.1, np.nan]),
            "margin": np.array([0.5, -0.6, np.nan]),
            "label": np.array([0, 0, -1]),
            "suggested_label": np.array([0, 2, -1]),
        },
        ("cat", "dog", "owl"),
    )
    third = 1 / 3
    expected = [[0.7, 0.15, 0.15], [0.1, 0.2, 0.7], [third, third, third]]
    np.testing.assert_allclose(pred_probs(numbers), expected)


def test_datalab_finds_the_label_issues_that_we_hand_over(run: Path) -> None:
    datalab = pytest.importorskip("cleanlab", reason="cleanlab is not installed").Datalab
    audit = audit_of(run, budget=30)
    label = audit.numbers.label
    lab = datalab({"label": label}, label_name="label")
    lab.find_issues(pred_probs=pred_probs(audit.numbers))
    score = lab.get_issues("label")["label_score"].to_numpy()
    lowest = set(audit.numbers.index[np.argsort(score)[:30]])
    assert len(lowest & {f.index for f in audit.of_kind("wrong-label")}) >= 20


def test_sketches_of_another_number_of_samples_are_refused() -> None:
    numbers = numbers_of({"mean_loss": np.ones(3)})
    with pytest.raises(InputError, match="4 rows of features or data came for the numbers of 3"):
        make_audit(numbers, budget=1, sketches=Sketches(torch.eye(4), 0.9))


def test_a_keep_index_does_not_go_with_packs(tmp_path: Path) -> None:
    from data_agent_lab.recipes import RunConfig
    from data_agent_lab.training.text import check_text

    recipe = replace(recipe_for("sft"), data="x", packing=True, keep_index=str(tmp_path / "k.csv"))
    with pytest.raises(InputError, match="a sample is a pack of several"):
        check_text(RunConfig(recipe=recipe, method="random"))
