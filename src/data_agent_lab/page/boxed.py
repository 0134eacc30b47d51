"""Pictures with their boxes: each class in a colour of its own, and how many there are of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from data_agent_lab.page.markup import Markup, joined, named, tag
from data_agent_lab.page.pictures import source_of
from data_agent_lab.page.styles import NUM_COLOURS, short

if TYPE_CHECKING:
    from data_agent_lab.data.boxes import DetectionData


def boxed_tag(data: DetectionData, index: int) -> Markup:
    """A training image of a data set with boxes, drawn in the page itself."""
    pixels, objects = data.train_images[index].numpy(), data.train_objects
    height, width = pixels.shape[1:]
    pairs = zip(objects.classes[index].tolist(), objects.boxes[index].tolist(), strict=True)
    found = [(number, sides) for number, sides in pairs if number >= 0]
    picture = tag(
        "svg",
        tag("image", href=source_of(pixels, kind="JPEG"), width=width, height=height),
        *[_box(sides, number, data.class_names[number]) for number, sides in found],
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"sample {index}",
    )
    numbers = [number for number, _ in found]
    return joined([picture, _counts(numbers, data.class_names)])


def _box(sides: Sequence[float], number: int, name: str) -> Markup:
    left, upper, right, lower = sides
    return tag(
        "rect",
        tag("title", name),
        x=short(left),
        y=short(upper),
        width=short(right - left),
        height=short(lower - upper),
        class_=f"box c{number % NUM_COLOURS}",
    )


def _counts(numbers: Sequence[int], names: Sequence[str]) -> Markup:
    """How many objects of each class there are, in the colour of its boxes."""
    if not numbers:
        return tag("small", "no object", class_="counts")
    parts = [
        tag(
            "span",
            f"{numbers.count(number)} ",
            named(names[number]),
            class_=f"c{number % NUM_COLOURS}",
        )
        for number in sorted(set(numbers))
    ]
    return tag("small", *parts, class_="counts")
