"""Image data of the tests, small: encoded cells of tables, and loading of folders."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from data_agent_lab.data.image_data import ImageData
from data_agent_lab.data.images import load_images
from data_agent_lab.progress import silent
from data_agent_lab.tasks import recipe_for

IMAGES: Any = replace(recipe_for("image"), image_size=8, model="cnn")


def load(data: Path, **changes: Any) -> ImageData:
    return load_images(replace(IMAGES, data=str(data), **changes), progress=silent)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> dict[str, Any]:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return {"bytes": content.getvalue(), "path": None}
