"""Near-duplicates: samples whose sketches are almost the same.

Sketches are made of the inputs, once, before training. The features of the network in training
would not do: its augmented inputs and its weights change from visit to visit, and those of a class
come to lie together, whether its samples are alike or not (docs/audit.md has the numbers).

    groups = image_groups(images)  # or text_groups(tokens), feature_groups(embeddings)
    selector = make_selector("spread-over-duplicates", groups=groups, ...)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from hashlib import blake2b
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from data_agent.errors import InputError

__all__ = [
    "FEATURE_LIKENESS",
    "IMAGE_LIKENESS",
    "TEXT_LIKENESS",
    "TokenPairs",
    "alike_pairs",
    "are_same_picture",
    "are_same_text",
    "feature_groups",
    "image_groups",
    "image_sketches",
    "small_images",
    "stars",
    "text_groups",
    "text_sketches",
    "token_pairs",
]

IMAGE_LIKENESS = 0.98
"""Cosine of sketches from which on two images are worth a look at their pixels."""

TEXT_LIKENESS = 0.9
"""Cosine of roots of the counts of token pairs from which on two texts are near-duplicates."""

FEATURE_LIKENESS = 0.985
"""Cosine of embeddings from which on two samples are near-duplicates."""

_ROUGHLY = 0.75  # correlation of 8 x 8 pixels from which on two images are laid over each other
_NEARLY = 0.8  # of pixels, from which on their places are made exact
_SAME_PICTURE = 0.97
_ZOOM = 0.95  # of the one that is made larger, before it is made exact
_SHIFTS = (-2.0, -1.0, 0.0, 1.0, 2.0)  # pixels of 16
_FINER = (1.0, 0.5, 0.25)  # steps in which places are made exact, in pixels
_ZOOM_STEP = 0.05  # that goes with a pixel
_INNER = 10  # pixels that are compared, in the middle: no zoom or shift leaves the image
MOST_SAMPLES = 200_000  # each is compared with all others
_SIDE = 16  # pixels to which images are reduced
_LOW = 5  # frequencies that are kept
_TEXT_WIDTH = 512
_MOST_PAIRS = 256  # of a text in its sketch: half of its places
_MANY_TEXTS = 20  # from which on a pair that most of them have says nothing
_PLACE_SHIFT = 10  # of hashes, to places where the texts that have a pair are counted
_BLOCK = 1024


def small_images(images: Tensor) -> Tensor:
    """Images uint8 `[N, C, H, W]` at 16 x 16 pixels, uint8 `[N, C, 16, 16]`."""
    blocks = images.split(_BLOCK)
    small = [F.interpolate(block.float(), (_SIDE, _SIDE), mode="area") for block in blocks]
    return torch.cat([block.round().to(torch.uint8) for block in small])


def image_sketches(small: Tensor) -> Tensor:
    """Roots of the amplitudes of low frequencies, which shift, light and mirror leave as they are.

    Args:
        small: uint8 `[N, C, 16, 16]`.

    Returns:
        float32 `[N, 45 C]`, each of length one.
    """
    return torch.cat([_of_images(block.float()) for block in small.split(_BLOCK)])


def _of_images(images: Tensor) -> Tensor:
    amplitude = torch.fft.rfft2(images - images.mean((1, 2, 3), keepdim=True)).abs()[..., :_LOW]
    up, down = amplitude[:, :, 1:_LOW], amplitude[:, :, 1 - _LOW :].flip(2)
    # A mirror exchanges these two, and their larger and their smaller one stay.
    parts = [amplitude[:, :, :1], torch.maximum(up, down), torch.minimum(up, down)]
    return F.normalize(torch.cat(parts, 2).flatten(1).sqrt(), dim=1)


def are_same_picture(small: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Bool `[M]`: whether two images agree, one laid over the other, pixel by pixel.

    One may be mirrored, shifted by up to two pixels of 16 and larger by up to a tenth.

    Args:
        small: uint8 `[N, C, 16, 16]`.
        first: int64 `[M]`, one of each pair.
        second: int64 `[M]`, the other one.
    """
    tiny = F.interpolate(small.float(), (_SIDE // 2, _SIDE // 2), mode="area")
    own, mirrored = _standardised(tiny), _standardised(tiny.flip(3))
    same = torch.zeros(len(first), dtype=torch.bool)
    for part in torch.arange(len(first)).split(_BLOCK * 8):
        a, b = first[part], second[part]
        plain, turned = (own[a] * own[b]).sum(1), (mirrored[a] * own[b]).sum(1)
        like = torch.maximum(plain, turned) > _ROUGHLY
        part, mirror = part[like], torch.where(turned > plain, -1.0, 1.0)[like]
        a, b = small[first[part]].float(), small[second[part]].float()
        found = _best(a, b, mirror) > _SAME_PICTURE
        found[~found] = _best(b[~found], a[~found], mirror[~found]) > _SAME_PICTURE
        same[part] = found
    return same


def _best(images: Tensor, others: Tensor, mirror: Tensor) -> Tensor:
    """The correlation of images with others, made larger, where these lie best: `[M]`.

    It is made exact only where that decides whether it is above `_SAME_PICTURE`. Images are float32
    `[M, C, 16, 16]`; `mirror` says by -1 which of the others are mirrored.
    """
    middle = _standardised(_laid(images, torch.tensor([[1.0, 1.0, 0.0, 0.0]])))
    best, place = torch.full((len(images),), -1.0), torch.zeros(len(images), 4)
    start = torch.stack(
        [mirror, torch.full_like(mirror, _ZOOM), *[torch.zeros_like(mirror)] * 2], 1
    )
    for right, down in product(_SHIFTS, repeat=2):
        _take_better(best, place, start + torch.tensor([0.0, 0.0, right, down]), middle, others)
    near = (best > _NEARLY) & (best <= _SAME_PICTURE)  # of others nothing more is to be found out
    found, middle, others, place = best[near], middle[near], others[near], place[near]
    for step in _FINER:
        start = place.clone()
        for zoom, right, down in product((-step, 0.0, step), repeat=3):
            change = torch.tensor([0.0, _ZOOM_STEP * zoom, right, down])
            _take_better(found, place, start + change, middle, others)
    best[near] = found
    return best


def _take_better(
    best: Tensor, place: Tensor, tried: Tensor, middle: Tensor, others: Tensor
) -> None:
    """Write down where others, laid as `tried`, correlate better with the middles than `best`."""
    value = (middle * _standardised(_laid(others, tried))).sum(1)
    is_better = value > best
    best[is_better], place[is_better] = value[is_better], tried[is_better]


def _laid(images: Tensor, place: Tensor) -> Tensor:
    """The middle of images at places `[M, 4]`: mirror (1 or -1), zoom, pixels right and down."""
    mirror, zoom, right, down = place.expand(len(images), 4).T[:, :, None]
    at = torch.arange(_INNER) - (_INNER - 1) / 2
    columns, rows = (mirror * zoom * at + right) * 2 / _SIDE, (zoom * at + down) * 2 / _SIDE
    grid = torch.stack(
        [
            columns[:, None, :].expand(-1, _INNER, _INNER),
            rows[:, :, None].expand(-1, _INNER, _INNER),
        ],
        -1,
    )
    return F.grid_sample(images, grid, mode="bilinear", align_corners=False)


def _standardised(images: Tensor) -> Tensor:
    values = images.flatten(1)
    return F.normalize(values - values.mean(1, keepdim=True), dim=1)


class TokenPairs(NamedTuple):
    """The pairs of neighbouring tokens of a text: a vector of length one, where it is not zero."""

    keys: NDArray[np.uint32]  # hashes of the pairs, ascending, each once
    roots: NDArray[np.float32]  # of how often each is there, as shares of the text's length


def token_pairs(tokens: Iterable[ArrayLike]) -> list[TokenPairs]:
    """The token pairs of each text, without those that say nothing, as most texts have them.

    Of twenty texts or more those count that no more than half of them have: a system prompt is no
    likeness. Texts that are made of nothing else keep theirs.

    Args:
        tokens: the token numbers of each text, `[T]` each.

    Raises:
        InputError: something else came for a text.
    """
    texts = [_pairs_of(row, ids) for row, ids in enumerate(tokens)]
    if len(texts) < _MANY_TEXTS:
        return texts
    counts = np.zeros(1 << 32 - _PLACE_SHIFT, np.int32)
    for keys, _ in texts:
        counts[keys >> _PLACE_SHIFT] += 1  # once a text
    is_rare = counts <= len(texts) / 2
    return [_only(text, is_rare[text.keys >> _PLACE_SHIFT]) for text in texts]


def _pairs_of(row: int, ids: ArrayLike) -> TokenPairs:
    try:
        numbers = np.asarray(ids)
    except ValueError:  # lists of unlike lengths
        numbers = np.empty((0, 0))
    if numbers.ndim != 1 or (numbers.dtype.kind not in "iu" and numbers.size):
        raise InputError(
            f"text {row} came as {ids!r:.80}; expected its token numbers, whole ones [T], as a "
            "tokenizer makes them (input_ids)."
        )
    numbers = numbers.astype(np.uint64)
    pairs = numbers[:-1] * np.uint64(1_000_003) + numbers[1:] if len(numbers) > 1 else numbers
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # of splitmix64
        pairs = (pairs ^ (pairs >> np.uint64(shift))) * np.uint64(factor)
    keys, counts = np.unique((pairs >> np.uint64(32)).astype(np.uint32), return_counts=True)
    return TokenPairs(keys, np.sqrt(counts / max(1, len(pairs))).astype(np.float32))


def _only(text: TokenPairs, among: NDArray[np.bool_]) -> TokenPairs:
    """Those pairs of a text alone, if there are any."""
    if among.all() or not among.any():
        return text
    roots = text.roots[among]
    return TokenPairs(text.keys[among], (roots / np.linalg.norm(roots)).astype(np.float32))


def text_sketches(texts: Sequence[TokenPairs]) -> Tensor:
    """Token pairs hashed to 512 places: float32 `[N, 512]`, length one, zero of an empty text.

    Of longer texts the 256 pairs of the lowest hashes stand for all, the same ones in a text and
    in its copy: all pairs would fill all places, and long texts would look alike.
    """
    sketches = np.zeros((len(texts), _TEXT_WIDTH), np.float32)
    for sketch, (keys, roots) in zip(sketches, texts, strict=True):
        keys, shares = keys[:_MOST_PAIRS], roots[:_MOST_PAIRS] ** 2
        sketch[:] = np.sqrt(np.bincount(keys % _TEXT_WIDTH, shares, _TEXT_WIDTH))
    return F.normalize(torch.from_numpy(sketches), dim=1)


def are_same_text(texts: Sequence[TokenPairs], first: Tensor, second: Tensor) -> Tensor:
    """Bool `[M]`: whether two texts agree in their token pairs, by the cosine of all of them.

    Args:
        texts: N texts.
        first: int64 `[M]`, one of each pair, a text of one token or more.
        second: int64 `[M]`, the other one.
    """
    seen: dict[bytes, int] = {}  # exact copies are compared once
    number = np.arange(len(texts))
    for row in torch.cat([first, second]).unique().tolist():
        content = blake2b(b"".join(texts[row]), digest_size=16).digest()
        number[row] = seen.setdefault(content, row)
    ends = number[first.numpy()] * len(texts) + number[second.numpy()]
    different, place = np.unique(ends, return_inverse=True)
    pairs = [divmod(end, len(texts)) for end in different.tolist()]
    same = [a == b or _cosine(texts[a], texts[b]) > TEXT_LIKENESS for a, b in pairs]
    return torch.tensor(same, dtype=torch.bool)[torch.from_numpy(place)]


def _cosine(text: TokenPairs, other: TokenPairs) -> float:
    _, here, there = np.intersect1d(text.keys, other.keys, True, return_indices=True)
    return float(text.roots[here] @ other.roots[there])


def alike_pairs(
    sketches: Tensor,
    likeness: float,
    confirm: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """All pairs of samples that are near-duplicates: int64 `[M]` twice, the lower number first.

    Args:
        sketches: float32 `[N, D]`; compared by the cosine of the angle between them.
        likeness: cosine from which on two are alike, in (0, 1].
        confirm: of pairs that are, int64 `[M]` twice, which are near-duplicates; None takes all.

    Raises:
        InputError: more than `MOST_SAMPLES`, whose comparison would take too long.
    """
    if (size := len(sketches)) > MOST_SAMPLES:
        raise InputError(
            f"{size:,} samples cannot be compared with each other in sensible time, at most "
            f"{MOST_SAMPLES:,}. Leave near-duplicates out (in an audit --no-duplicates), or look "
            "for them with a tool for large data and hand over its groups."
        )
    first, second = _alike(F.normalize(sketches, dim=1), likeness)
    if confirm is not None:
        is_one = confirm(first, second)
        first, second = first[is_one], second[is_one]
    return first, second


def _alike(unit: Tensor, likeness: float) -> tuple[Tensor, Tensor]:
    """All pairs, the first before the second, whose cosine is above `likeness`."""
    pairs = [torch.empty(2, 0, dtype=torch.int64)]
    for start in range(0, len(unit), _BLOCK):
        alike = unit[start : start + _BLOCK] @ unit[start:].T > likeness
        pairs.append(alike.triu_(1).nonzero().T + start)
    first, second = torch.cat(pairs, 1).unbind(0)
    return first, second


def stars(first: Tensor, second: Tensor, size: int) -> Tensor:
    """Groups in which every sample is alike to one and the same of them: int64 `[N]`.

    That one names the group by its number. The sample with most others like it takes them; of
    those that are left the next one does. What is alike only by way of others is not joined: digits
    that are written alike would become one group, though its ends differ.

    Args:
        first: int64 `[M]`, one of each pair that is alike.
        second: int64 `[M]`, the other one.
        size: N.
    """
    here, there = torch.cat([first, second]), torch.cat([second, first])
    order = here.argsort(stable=True)
    degree = torch.bincount(here, minlength=size)
    others = np.split(there[order].numpy(), degree.cumsum(0)[:-1].numpy())
    group = np.full(size, -1)
    for centre in degree.argsort(descending=True, stable=True)[: int((degree > 0).sum())].tolist():
        if group[centre] < 0:
            free = others[centre][group[others[centre]] < 0]
            group[free] = group[centre] = centre
    return torch.from_numpy(np.where(group < 0, np.arange(size), group))


def image_groups(images: Tensor) -> Tensor:
    """Groups of near-duplicates among images: int64 `[N]`, see `stars`.

    Args:
        images: uint8 `[N, C, H, W]`, without augmentation.

    Raises:
        InputError: another shape or dtype, or too many images.
    """
    if not _is_tensor(images) or images.ndim != 4 or images.dtype != torch.uint8:
        raise InputError(
            f"images came as {_kind_of(images)}; expected torch.uint8 [N, C, H, W], pixels from 0 "
            "to 255."
        )
    if not len(images):
        return torch.empty(0, dtype=torch.int64)
    small = small_images(images)
    return _groups(image_sketches(small), IMAGE_LIKENESS, partial(are_same_picture, small))


def text_groups(tokens: Iterable[ArrayLike]) -> Tensor:
    """Groups of near-duplicates among texts, of the token numbers of each: int64 `[N]`.

    Raises:
        InputError: too many texts, or something else than token numbers.
    """
    texts = token_pairs(tokens)
    return _groups(text_sketches(texts), TEXT_LIKENESS, partial(are_same_text, texts))


def feature_groups(features: Tensor) -> Tensor:
    """Groups of near-duplicates by any embedding, float `[N, D]`: int64 `[N]`, see `stars`.

    Raises:
        InputError: another shape or dtype, or too many samples.
    """
    if not _is_tensor(features) or features.ndim != 2 or not features.is_floating_point():
        raise InputError(
            f"features came as {_kind_of(features)}; expected floats [N, D], a row for each "
            "sample, as a tensor."
        )
    return _groups(features.float(), FEATURE_LIKENESS)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _kind_of(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}"
    return f"{type(value).__name__} (torch.from_numpy makes a tensor of an array)"


def _groups(
    sketches: Tensor,
    likeness: float,
    confirm: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    return stars(*alike_pairs(sketches, likeness, confirm), len(sketches))
