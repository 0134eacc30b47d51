"""Tables of texts: rows as they are written, words that look like gaps, and labels of all kinds."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path
from typing import Any

import pytest
from small_rows import recipe, write

from data_agent import DataAgentError
from data_agent_lab.data.sources import open_rows, read_table
from data_agent_lab.data.texts import load_language

CLASSIFY = "text-classification"


def rows_of(tmp_path: Path, content: str | bytes, suffix: str = ".csv") -> list[dict[str, Any]]:
    path = tmp_path / f"train{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [dict(row) for row in open_rows(str(path))["train"]]


@pytest.mark.parametrize(("suffix", "separator"), [(".tsv", "\t"), (".csv", ",")])
@pytest.mark.parametrize("quoted", [(5, 17, 25, 33), (5,), (5, 17)])
def test_a_quotation_mark_at_the_beginning_swallows_nothing(
    tmp_path: Path, suffix: str, separator: str, quoted: tuple[int, ...]
) -> None:
    texts = [('"' if i in quoted else "") + f"word number {i}" for i in range(40)]
    lines = [f"{text}{separator}{i % 2}" for i, text in enumerate(texts)]
    found = rows_of(tmp_path, f"text{separator}label\n" + "\n".join(lines), suffix)
    assert [row["text"] for row in found] == texts


def test_cells_that_span_lines_by_accident_are_read_line_by_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["text\tlabel", '"well , he said\t1', "no\t0", 'he is great . "\t0', "yes\t1"]
    with caplog.at_level(logging.INFO):
        found = rows_of(tmp_path, "\n".join(lines), ".tsv")
    assert [row["text"] for row in found] == [line.split("\t")[0] for line in lines[1:]]
    assert "a line is a row" in caplog.text


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_proper_quotes_are_read_as_quotes(tmp_path: Path, end: str) -> None:
    lines = ["text,label", '"a, b",0', '"he said ""no""",1', f'"two{end}lines",0', "plain,1", ""]
    found = rows_of(tmp_path, end.join(lines))
    assert [row["text"] for row in found] == ["a, b", 'he said "no"', f"two{end}lines", "plain"]
    tabbed = ["text\tlabel", '"a\tb"\t0', '"he said ""no"""\t1']
    found = rows_of(tmp_path, end.join(tabbed), ".tsv")
    assert [row["text"] for row in found] == ["a\tb", 'he said "no"']


@pytest.mark.parametrize(
    "text",
    ['a, b\nc "{i}"', "hello, line\nsecond {i}", "a\r\nb, c\nd{i}", "\n, {i}", 'a\n"'],
)
def test_line_breaks_in_quotes_are_parts_of_cells_also_if_each_line_could_be_a_row(
    tmp_path: Path, text: str
) -> None:
    rows = [{"text": text.format(i=i), "label": i % 2} for i in range(20)]
    content = io.StringIO(newline="")
    writer = csv.DictWriter(content, ["text", "label"])
    writer.writeheader()
    writer.writerows(rows)
    assert rows_of(tmp_path, content.getvalue()) == rows


def test_rows_that_quotation_marks_join_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["text,label", "no,0", '"well, he said', 'he is great . ",1', "yes,1"]
    with caplog.at_level(logging.INFO):
        assert len(rows_of(tmp_path, "\n".join(lines))) == 3
    assert "train.csv: its 4 lines are 3 rows, by the quotation marks" in caplog.text


@pytest.mark.parametrize(
    ("suffix", "content", "found"),
    [
        (".csv", "text;label\n" + "good film;1\n" * 4, "';'"),
        (".csv", "text;label\n" + "good, bad;1\na, b, c;0\n" * 2, "';'"),
        (".csv", '"text";"label"\n' + '"good film";1\n' * 4, "';'"),
        (".csv", "sep=;\ntext;label\n" + "good film;1\n" * 4, "';'"),
        (".csv", "text\tlabel\n" + "good film\t1\n" * 4, r"'\\t'"),
        (".csv", "text|label\n" + "good film|1\n" * 4, r"'\|'"),
        (".tsv", "text,label\n" + "good film,1\n" * 4, "','"),
        (".tsv", "text;label\n" + "good film;1\n" * 4, "';'"),
    ],
)
def test_other_separators_are_named(tmp_path: Path, suffix: str, content: str, found: str) -> None:
    with pytest.raises(DataAgentError, match=f"cells are parted by {found}.* with commas .*csv"):
        rows_of(tmp_path, content, suffix)


def test_words_that_look_like_gaps_are_texts(tmp_path: Path) -> None:
    texts = ["null", "NA", "nan", "None", "n/a", "NULL", "-", "good film"]
    found = rows_of(tmp_path, "text,label\n" + "\n".join(f"{t},{t}" for t in texts))
    assert [row["text"] for row in found] == [row["label"] for row in found] == texts


def test_other_encodings(tmp_path: Path) -> None:
    content = "text,label\nfür,0\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert rows_of(tmp_path, content.encode(encoding)) == [{"text": "für", "label": 0}]
    with pytest.raises(DataAgentError, match="line 2 is not UTF-8"):
        rows_of(tmp_path, content.encode("latin-1"))


def test_columns_of_numbers_are_numbers(tmp_path: Path) -> None:
    found = rows_of(tmp_path, "a,b,c,d\n1,0.5,007,x\n-2,,008,2\n")
    assert found[0] == {"a": 1, "b": 0.5, "c": "007", "d": "x"}
    assert found[1] == {"a": -2, "b": None, "c": "008", "d": "2"}


def test_texts_that_are_all_numbers_stay_texts(tmp_path: Path) -> None:
    lines = [f"{i} and {i}?,{2 * i}" for i in range(20)]
    (tmp_path / "train.csv").write_text("question,answer\n" + "\n".join(lines))
    data = load_language(recipe(tmp_path))
    assert (data.num_train + data.num_eval, data.dropped) == (20, {})
    lines = [f"{i},{i % 2}" for i in range(20)]
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(lines))
    assert load_language(recipe(tmp_path, CLASSIFY)).dropped == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,1\nb,c,0\n", "line 3 has 3 cells, not 2.*stand in double quotes"),
        ("text,label\na,1\nb\n", "line 3 has 1 cells, not 2"),
        ('text,label\na,1\n"b, c,0\n', r"line 3 .*cannot be read \(unexpected end"),
        ("", "is empty"),
        ("text,text\na,b\n", "several columns 'text'"),
    ],
)
def test_lines_that_are_no_rows_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataAgentError, match=message):
        read_table(tmp_path / "t.csv")


def test_cells_may_be_long_documents(tmp_path: Path) -> None:
    found = rows_of(tmp_path, f'text,label\n"{"word, " * 40_000}",1\n')
    assert len(found[0]["text"]) == 240_000


def test_names_of_files_in_capitals_and_other_words_for_splits(tmp_path: Path) -> None:
    for name, size in (("TRAIN.TSV", 12), ("dev.tsv", 6)):
        lines = [f"text {i}\t{i % 2}" for i in range(size)]
        (tmp_path / name).write_text("text\tlabel\n" + "\n".join(lines))
    found = load_language(recipe(tmp_path, CLASSIFY))
    assert (found.num_train, found.evaluation_source) == (12, "split 'validation'")


def test_files_beside_the_training_files_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train.csv", "sample_submission.csv"):
        (tmp_path / name).write_text("text,label\na,0\nb,1\n")
    with caplog.at_level(logging.WARNING):
        assert len(open_rows(str(tmp_path))["train"]) == 2
    assert "left out what is named after no split: sample_submission.csv" in caplog.text


def test_splits_that_are_not_used_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.csv").write_text("text,label\na,0\nb,1\n")
    with caplog.at_level(logging.INFO):
        assert load_language(recipe(tmp_path, CLASSIFY)).evaluation_source == "split 'test'"
    assert "left out: split 'validation' (2 rows)" in caplog.text
    (tmp_path / "test.csv").write_text("text,label\na,\nb,1\n")
    with caplog.at_level(logging.INFO):
        assert load_language(recipe(tmp_path, CLASSIFY)).evaluation_source == "split 'validation'"
    assert "left out: split 'test' (2 rows). Evaluation takes the first of test" in caplog.text


@pytest.mark.parametrize(
    ("labels", "class_names"),
    [
        (["pos", "pos ", "neg"], ("neg", "pos")),
        (["caf\u00e9", "cafe\u0301", "tea"], ("caf\u00e9", "tea")),
        (["None", "mild", "severe"], ("None", "mild", "severe")),
        (["-1", "1", "1"], ("-1", "1")),
        (["100", "101", "9"], ("9", "100", "101")),
        (["1.0", "0.0", "0.0"], ("0", "1")),
        (["1.0", "0", "1"], ("0", "1")),
        (["1", "01", "02"], ("01", "1", "02")),
        (["18446744073709551615", "3", "4"], ("3", "4", "18446744073709551615")),
        (["True", "False", "True"], ("False", "True")),
    ],
)
def test_labels_of_tables(tmp_path: Path, labels: list[str], class_names: tuple[str, ...]) -> None:
    lines = [f"some text {i},{labels[i % 3]}" for i in range(30)]
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(lines))
    data = load_language(recipe(tmp_path, CLASSIFY))
    assert data.class_names == class_names
    assert data.num_train + data.num_eval == 30


@pytest.mark.parametrize(
    ("labels", "class_names"),
    [([-1, 1], ("-1", "1")), ([2**63, 1], ("1", str(2**63))), ([True, False], ("False", "True"))],
)
def test_labels_of_json(tmp_path: Path, labels: list[Any], class_names: tuple[str, ...]) -> None:
    rows = [{"text": f"t {i}", "label": labels[i % 2]} for i in range(20)]
    data = load_language(recipe(write(tmp_path / "rows.jsonl", rows), CLASSIFY))
    assert data.class_names == class_names


def test_a_misspelt_column_is_told_the_nearest(tmp_path: Path) -> None:
    rows = [{"text": f"t {i}", "label": i % 2} for i in range(20)]
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataAgentError, match=r"'txet'.* Did you mean text\? Name one"):
        load_language(recipe(path, CLASSIFY, text_column="txet"))


def test_a_log_has_no_bars(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": f"t {i}", "label": i % 2} for i in range(20)]
    load_language(recipe(write(tmp_path / "rows.jsonl", rows), CLASSIFY))
    assert "examples/s" not in capfd.readouterr().err
