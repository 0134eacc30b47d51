"""What a sample looks like: a small image, or the beginning of its text."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_agent.errors import DataAgentError
from data_agent_lab.configurations import recipe_of
from data_agent_lab.page.markup import Markup, tag
from data_agent_lab.tasks import load_kept

if TYPE_CHECKING:
    from data_agent_lab.data.boxes import DetectionData
    from data_agent_lab.data.image_data import ImageData
    from data_agent_lab.data.texts import LanguageData

logger = logging.getLogger(__name__)

LARGEST = 64  # pixels of a side that are kept
LONGEST = 220  # characters of a text
_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Pictures:
    """The samples of a task, to look at."""

    count: int  # of training samples
    draw: Callable[[int], Markup]  # by position
    class_names: Sequence[str]  # empty where nothing is classified
    true_labels: Sequence[int] | None  # before any noise; None where nothing is classified


def load_pictures(config: Mapping[str, Any], *, may_download: bool) -> Pictures | None:
    """The samples of a run's training data; None, with a line in the log, if it is not there.

    Without `may_download` nothing is loaded that a configuration names and this machine has not.
    """
    if "generations" in config:  # prompts have no pictures yet
        return None
    if not may_download and (away := _not_here(config)):
        logger.info("the page comes without pictures of samples: %s is not here", ", ".join(away))
        return None
    try:
        data = load_kept(recipe_of(config))
    except (DataAgentError, TypeError) as error:
        logger.info("the page comes without pictures of samples: %s", error)
        return None
    return pictures_of(data)


def fitting(pictures: Pictures | None, num_samples: int) -> Pictures | None:
    """None where the data are not those that so many numbers are of."""
    return pictures if pictures is not None and pictures.count == num_samples else None


def _not_here(config: Mapping[str, Any]) -> list[str]:
    """What a run's data are made of and no file or folder has the name of."""
    names = [config.get(name) for name in ("data", "trusted", "tokenizer")]
    foreign, is_text = config.get("foreign_data"), "kind" in config
    names += [n.strip() for n in foreign.split(",")] if foreign and is_text else [foreign]
    if is_text and config.get("tokenizer") is None:
        from data_agent_lab.data.tokenizers import BUILT  # imports transformers

        names.append(None if BUILT.fullmatch(config["model"]) else config["model"])
    return [name for name in names if name and not Path(name).expanduser().exists()]


def pictures_of(data: ImageData | LanguageData | DetectionData) -> Pictures:
    """The training samples of loaded data."""
    if hasattr(data, "train_objects"):
        from data_agent_lab.page.boxed import boxed_tag

        boxes: Any = data
        return Pictures(boxes.num_train, lambda index: boxed_tag(boxes, index), (), None)
    if hasattr(data, "train_images"):
        images: Any = data
        return Pictures(
            images.num_train,
            lambda index: image_tag(images.train_images[index].numpy(), f"sample {index}"),
            images.class_names,
            images.true_labels.tolist(),
        )
    texts: Any = data
    samples = texts.samples
    labels = samples["labels"] if texts.class_names else None
    return Pictures(
        texts.num_train,
        lambda index: text_tag(_decoded(texts, samples[index]["input_ids"][:_TOKENS])),
        texts.class_names,
        None if labels is None else list(labels),
    )


def _decoded(data: LanguageData, tokens: Sequence[int]) -> str:
    return data.tokenizer.decode(tokens, skip_special_tokens=True)


def image_tag(pixels: Any, alt: str) -> Markup:
    """A thumbnail of uint8 `[C, H, W]`, C 1 or 3, in the page itself."""
    return tag("img", src=source_of(pixels), alt=alt)


def source_of(pixels: Any, *, kind: str = "PNG") -> str:
    """A link that holds a picture: a PNG of the size of thumbnails, or a JPEG of any size."""
    from PIL import Image

    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    if kind == "PNG":
        image.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    image.save(file, format=kind, optimize=True)
    content = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{content}"


def text_tag(text: str) -> Markup:
    """The beginning of a text."""
    cut = text if len(text) <= LONGEST else text[:LONGEST].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    return tag("blockquote", cut)
