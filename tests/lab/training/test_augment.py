from __future__ import annotations

import pytest
import torch

from data_agent_lab.training.batches import augment, random_bits

MASK = (1 << 64) - 1


def plain_bits(seed: int, epoch: int, index: int) -> int:
    """SplitMix64 with Python's own integers."""

    def finish(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    state = finish((seed + golden) & MASK)
    state = finish(((state ^ epoch) + golden) & MASK)
    return finish((state + index * golden) & MASK)


def plain_augment(
    image: torch.Tensor, index: int, *, seed: int, epoch: int, padding: int, flip: bool
) -> torch.Tensor:
    """One image: pad, crop, mirror, as one would write it by hand."""
    bits = plain_bits(seed, epoch, index)
    down = (bits & 0xFFFFF) % (2 * padding + 1)
    right = (bits >> 20 & 0xFFFFF) % (2 * padding + 1)
    channels, height, width = image.shape
    canvas = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    canvas[:, padding : padding + height, padding : padding + width] = image
    crop = canvas[:, down : down + height, right : right + width]
    return crop.flip(2) if flip and bits >> 40 & 1 else crop


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("padding", "flip"), [(0, False), (0, True), (2, False), (3, True)])
def test_equals_the_plain_loop_over_samples(padding: int, flip: bool, dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (40, 3, 8, 6)).to(dtype)
    index = torch.randperm(2**40 // 2**20)[:40] * 2**20
    found = augment(images, index, seed=7, epoch=3, padding=padding, flip=flip)
    expected = [
        plain_augment(image, int(i), seed=7, epoch=3, padding=padding, flip=flip)
        for image, i in zip(images, index, strict=True)
    ]
    assert found.dtype == dtype
    assert torch.equal(found, torch.stack(expected))


def test_a_sample_looks_the_same_in_any_batch() -> None:
    images, index = torch.randint(0, 256, (16, 1, 8, 8)), torch.arange(16)
    whole = augment(images, index, seed=0, epoch=1, padding=1, flip=True)
    order = torch.randperm(16)[:5]
    part = augment(images[order], index[order], seed=0, epoch=1, padding=1, flip=True)
    assert torch.equal(whole[order], part)


def test_leaves_the_global_generator_and_its_input_alone() -> None:
    images = torch.randint(0, 256, (4, 1, 8, 8))
    before, state = images.clone(), torch.get_rng_state()
    augment(images, torch.arange(4), seed=0, epoch=0, padding=2, flip=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)


@pytest.mark.parametrize("change", ["seed", "epoch", "index"])
def test_bits_of_other_seeds_epochs_and_samples_are_unrelated(change: str) -> None:
    index = torch.arange(20_000)
    bits = random_bits(index, seed=0, epoch=0)
    if change == "index":
        other = random_bits(index + 1, seed=0, epoch=0)
    else:
        other = random_bits(index, seed=int(change == "seed"), epoch=int(change == "epoch"))
    # 64 bits of each pair differ in half of the places: mean 32, standard error 4 / sqrt(20000)
    differing = sum(((bits ^ other) >> place & 1).float() for place in range(64))
    assert float(torch.as_tensor(differing).mean()) == pytest.approx(32, abs=0.15)


def test_shifts_and_flips_are_uniform() -> None:
    # A single bright pixel in the middle shows where the image went.
    images = torch.zeros(9000, 1, 5, 5)
    images[:, :, 2, 1] = 1
    moved = augment(images, torch.arange(9000), seed=1, epoch=0, padding=1, flip=True)
    counts = moved.sum((0, 1))
    assert counts[0].sum() == counts[4].sum() == 0
    # Rows 1 to 3 a third each; unmirrored columns 0, 1, 2 and mirrored 4, 3, 2 a sixth each.
    assert (counts.sum(1)[1:4] / 3000).tolist() == pytest.approx([1] * 3, abs=0.06)
    assert (counts.sum(0) / 1500).tolist() == pytest.approx([1, 1, 2, 1, 1], abs=0.1)
