"""Recipes and files of the language tests, small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_agent_lab.recipes import TextRecipe


def recipe(data: Path | str | None = None, kind: Any = "sft", **changes: Any) -> TextRecipe:
    model = "bert-32x1" if kind == "text-classification" else "llama-32x1"
    return TextRecipe(
        **{
            **{"task": kind, "kind": kind, "data": None if data is None else str(data)},
            **{"model": model, "vocab_size": 300, "max_length": 64, "epochs": 3},
            **{"batch_size": 4, "learning_rate": 1e-3, **changes},
        }
    )


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def turns(*texts: str) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(texts)
    return [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]
