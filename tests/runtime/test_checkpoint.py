from __future__ import annotations

import logging
import math
import resource
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from data_agent.errors import CheckpointError, DataAgentError, InputError
from data_agent.runtime import checkpoint


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.safetensors"


STATE: dict[Any, Any] = {
    "tensors": {
        "float": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "long": torch.tensor(2**62),
        "bool": torch.tensor([True, False]),
        "empty": torch.empty(0, 5),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
    },
    "numbers": [0, -(2**80), 0.1, 1e-320, True, None, "text \u00fc"],
    "nested": ({}, [], (), {"tensor": "not a tensor"}, {"dict": [1]}),
    0: {"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}},
}


def test_a_nested_state_comes_back_equal(path: Path) -> None:
    checkpoint.save(path, STATE)
    assert_same(checkpoint.load(path), STATE)


def test_infinite_and_undefined_numbers_survive(path: Path) -> None:
    checkpoint.save(path, {"inf": -math.inf, "nan": math.nan})
    found = checkpoint.load(path)
    assert found["inf"] == -math.inf
    assert math.isnan(found["nan"])


def test_optimizer_state_comes_back_equal(path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    checkpoint.save(path, optimizer.state_dict())
    assert_same(checkpoint.load(path), optimizer.state_dict())


def test_a_single_value_of_a_wider_tensor_is_saved(path: Path) -> None:
    """Its stride is not 1, although the value is contiguous by torch's word."""
    state = {"weight": torch.arange(6.0).view(2, 3)[:1, -1].clone()}
    checkpoint.save(path, state)
    assert_same(checkpoint.load(path), state)


def test_views_and_shared_memory_are_saved_by_value(path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    checkpoint.save(path, {"base": base, "transposed": base.T, "row": base[1]})
    base.zero_()
    found = checkpoint.load(path)
    assert found["transposed"].tolist() == torch.arange(12.0).view(3, 4).T.tolist()
    assert found["row"].tolist() == [4.0, 5.0, 6.0, 7.0]


@pytest.mark.parametrize(
    ("state", "place"), [({"a": [object()]}, "/a/0"), ({"a": {1.5: 0}}, "/a"), ({"s": {1}}, "/s")]
)
def test_what_cannot_be_saved_is_refused_by_its_place(
    path: Path, state: dict[str, Any], place: str
) -> None:
    path.write_bytes(b"before")
    with pytest.raises(InputError, match=f"the state at {place} "):
        checkpoint.save(path, state)
    assert path.read_bytes() == b"before"


def test_a_failed_write_leaves_the_old_file_and_no_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(path, {"step": 1})

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(DataAgentError, match=r"could not be written \(disk full\).*is unchanged"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1}
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_file_is_said_to_be_missing(path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        checkpoint.load(path)


@pytest.mark.parametrize("length", [0, 5, 60, -1, -100])
def test_a_truncated_file_is_damaged(path: Path, length: int) -> None:
    checkpoint.save(path, {"weights": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"is damaged.*delete it to start over"):
        checkpoint.load(path)


@pytest.mark.parametrize("position", [-1, -200])
def test_a_flipped_bit_in_a_tensor_is_damage(path: Path, position: int) -> None:
    checkpoint.save(path, {"weights": torch.randn(100)})
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="its checksum does not match"):
        checkpoint.load(path)


def test_a_file_that_is_no_safetensors_file_is_refused(path: Path) -> None:
    torch.save({"a": 1}, path)
    with pytest.raises(CheckpointError, match="is damaged or no checkpoint"):
        checkpoint.load(path)


def test_another_programs_safetensors_file_is_foreign(path: Path) -> None:
    save_file({"w": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="no checkpoint of data-agent"):
        checkpoint.load(path)


def headed(path: Path, version: str | None, skeleton: str = '{"dict": []}') -> None:
    """A file with a header made by hand, and a good checksum."""
    metadata = {"format": checkpoint.FORMAT, "skeleton": skeleton}
    metadata["checksum"] = f"{zlib.crc32(skeleton.encode()):08x}"
    save_file({}, path, metadata=metadata if version is None else {**metadata, "version": version})


@pytest.mark.parametrize("version", ["3", "99", "1.5", "soon", None])
def test_a_newer_version_says_so(path: Path, version: str | None) -> None:
    headed(path, version)
    with pytest.raises(CheckpointError, match=r"this data-agent reads version 1 and 2. Use the"):
        checkpoint.load(path)


def test_files_of_version_1_are_still_read(path: Path) -> None:
    checkpoint.save(path, STATE)
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), "version": "1"}
    tensors = load_file(path)
    total = zlib.crc32(metadata["skeleton"].encode())
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    save_file(tensors, path, metadata={**metadata, "checksum": f"{total:08x}"})
    assert_same(checkpoint.load(path), STATE)


def test_another_shape_or_dtype_of_the_same_bytes_is_damage(path: Path) -> None:
    checkpoint.save(path, {"weights": torch.ones(2, 3)})
    content = path.read_bytes()
    for before, after in ((b"[2,3]", b"[3,2]"), (b'"F32"', b'"I32"')):
        assert content.count(before) == 1
        path.write_bytes(content.replace(before, after))
        with pytest.raises(CheckpointError, match="its checksum does not match"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    "skeleton",
    ['{"a": 1, "b": 2}', '{"dict": [[[], 1]]}', '{"tensor": "w"}', '{"list": 3}', "[]", "7", "{",
     '{"list": [' * 50_000, '{"dict": [[1, ' * 2_000 + "1" + "]]}" * 2_000, "9" * 5_000],
    ids=lambda skeleton: skeleton[:20],
)  # fmt: skip
def test_a_skeleton_made_by_hand_is_refused(path: Path, skeleton: str) -> None:
    headed(path, "2", skeleton)
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(path)


@given(data=st.data())
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_whatever_happens_to_a_file_it_is_whole_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "mangled.safetensors"
    checkpoint.save(path, STATE)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["overwrite", "cut", "insert", "drop"]))
    some = data.draw(st.binary(min_size=1, max_size=9))
    end = {"overwrite": place + len(some), "cut": len(content), "insert": place, "drop": place + 5}
    content[place : end[kind]] = b"" if kind in ("cut", "drop") else some
    path.write_bytes(content)
    try:
        found = checkpoint.load(path)
    except CheckpointError:
        return
    assert_same(found, STATE)


WRITE_LIMITED = """
import resource, signal, sys, torch
from pathlib import Path
from data_agent.runtime import checkpoint
from data_agent.errors import DataAgentError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
state = {"weights": torch.zeros(100_000)}
try:
    checkpoint.save(Path(sys.argv[1]), state, previous=Path(sys.argv[2]))
except DataAgentError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limits here")
def test_a_disk_that_is_full_leaves_the_old_file_and_says_what_to_do(path: Path) -> None:
    checkpoint.save(path, {"step": 1})
    before, command = path.read_bytes(), [sys.executable, "-c", WRITE_LIMITED, str(path)]
    done = subprocess.run(
        [*command, str(path) + ".old"], capture_output=True, text=True, check=True
    )
    assert "could not be written" in done.stdout
    assert "Free some space" in done.stdout
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataAgentError, match="could not be written"):
        checkpoint.save(tmp_path / "file" / "checkpoint.safetensors", {"step": 1})


@pytest.fixture
def pair(path: Path) -> tuple[Path, Path]:
    """The last checkpoint and the one before it."""
    previous = path.with_name("previous.safetensors")
    for step in (1, 2, 3):
        checkpoint.save(path, {"step": step, "weights": torch.ones(9)}, previous=previous)
    return path, previous


def test_the_file_before_is_kept(pair: tuple[Path, Path]) -> None:
    assert [checkpoint.load(path)["step"] for path in pair] == [3, 2]
    assert set(pair[0].parent.iterdir()) == set(pair)
    assert checkpoint.load_newest(*pair)[0] == pair[0]


@pytest.mark.parametrize("damage", [b"", b"damaged", None])
def test_after_a_damaged_file_the_one_before_is_used_and_said_so(
    pair: tuple[Path, Path], damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    if damage is None:
        save_file({"w": torch.ones(1)}, pair[0])  # another program's
    else:
        pair[0].write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        found, state = checkpoint.load_newest(*pair)
    assert (found, state["step"]) == (pair[1], 2)
    (record,) = caplog.records
    assert f"Going on from the checkpoint before it, {pair[1]}" in record.getMessage()
    assert str(pair[0]) in record.getMessage()


def test_where_no_file_is_whole_the_error_names_all(pair: tuple[Path, Path]) -> None:
    for path in pair:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_newest(*pair)
    assert all(str(path) in str(caught.value) for path in pair)


def test_a_newer_version_is_not_passed_over_for_an_older_file(pair: tuple[Path, Path]) -> None:
    headed(pair[0], "3")
    with pytest.raises(CheckpointError, match="Use the data-agent that wrote it"):
        checkpoint.load_newest(*pair)


def test_between_the_two_renames_the_one_before_is_the_newest(pair: tuple[Path, Path]) -> None:
    pair[0].replace(pair[1])  # what a crash there leaves
    assert checkpoint.load_newest(*pair)[1]["step"] == 3
    checkpoint.save(pair[0], {"step": 4}, previous=pair[1])
    assert [checkpoint.load(path)["step"] for path in pair] == [4, 3]


def test_what_was_loaded_does_not_change_with_its_file(pair: tuple[Path, Path]) -> None:
    _, state = checkpoint.load_newest(*pair)
    with pair[0].open("r+b") as file:  # as `cp` does, which keeps the file and replaces its bytes
        file.write(b"\1" * pair[0].stat().st_size)
    assert state["weights"].tolist() == [1.0] * 9


def test_nothing_in_a_file_is_executed(path: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "executed",))

    for write in (
        torch.save,
        lambda value, path: path.write_bytes(__import__("pickle").dumps(value)),
    ):
        write({"a": Evil()}, path)
        with pytest.raises(CheckpointError):
            checkpoint.load(path)
    assert not (tmp_path / "executed").exists()
