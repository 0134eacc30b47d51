from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from data_agent import _checkpoint as checkpoint
from data_agent._errors import CheckpointError, InputError


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
    with pytest.raises(OSError, match="disk full"):
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


def test_a_newer_version_says_so(path: Path) -> None:
    metadata = {"format": checkpoint.FORMAT, "version": "2", "skeleton": json.dumps({"dict": []})}
    save_file({}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"version 2, this data-agent reads version 1"):
        checkpoint.load(path)
