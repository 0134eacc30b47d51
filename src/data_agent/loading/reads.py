"""In which order a collate function read its samples when it made the rows of a batch.

All that is known are the places of samples in the order in which one of their parts was read, from
the first read to the last. A function may read all to sort by, all again to make rows of them, some
to see how long they are, and one more to look at it (`isinstance(batch[0]["label"], list)`).
"""

from __future__ import annotations

from collections.abc import Sequence

_FEW = 2  # reads behind the last pass: a look at what samples are made of


def orders_of(
    places: Sequence[int], size: int, count: int, listed: Sequence[int], *, is_changed: bool
) -> set[tuple[int, ...]]:
    """The orders in which rows may have been made: one, or two that cannot be told apart, or none.

    From the front the reads are passes over all samples, with looks between and behind them; from
    the back they end with the last pass. Where a look comes last, `0 1 2 0`, the second reading is
    the first one turned (`1 2 0`), and what settles it is the list of samples as it was left.

    Args:
        places: of the samples read, in [0, size).
        size: samples that the function got.
        count: samples in the orders that are looked for, fewer where some were left out.
        listed: the samples' places as the function left the list that it got.
        is_changed: whether it left that list in another order.
    """
    fronts, is_look = _passes(places, size) if count == size else _runs(places, count)
    back = _last_run(places)
    if len(back) != count:
        return {*fronts[-1:]} if is_look else set()
    orders = {back, *fronts[-1:]}
    if len(orders) < 2 or not is_look:
        return orders
    front, is_among = fronts[-1], set(back)
    kept = tuple(place for place in listed if place in is_among)
    if kept == front and (is_changed or all(one == front for one in fronts)):
        return {front}
    if kept == back and (is_changed or len(fronts) == 1):
        return {back}
    return orders


def _passes(places: Sequence[int], size: int) -> tuple[list[tuple[int, ...]], bool]:
    """All passes over `size` samples, one behind the other, and whether only a look is behind them.

    A sample that is read several times in a row counts once.
    """
    found: list[tuple[int, ...]] = []
    run: dict[int, None] = {}
    last, repeats, usual, num_behind = -1, 0, 0, 0
    for place in places:
        if place == last and (run or repeats < usual):
            repeats += 1
            continue
        num_behind += 1
        if place in run:  # a pass cannot hold it twice: it begins behind the first of the two
            before = list(run)
            run = dict.fromkeys(before[before.index(place) + 1 :])
        run[place] = None
        usual, last, repeats = repeats, place, 0
        if len(run) == size:
            found.append(tuple(run))
            run, num_behind = {}, 0
    return found, num_behind < size and num_behind <= max(_FEW, size // 2)


def _runs(places: Sequence[int], count: int) -> tuple[list[tuple[int, ...]], bool]:
    """The last run of `count` samples in which none comes twice, if only a look is behind it."""
    runs: list[list[int]] = [[]]
    for place in places:
        if place in runs[-1]:
            if place == runs[-1][-1]:
                continue
            runs.append([])
        runs[-1].append(place)
    long = [number for number, run in enumerate(runs) if len(run) >= count]
    if not long or len(runs[long[-1]]) != count:
        return [], True
    num_behind = sum(len(run) for run in runs[long[-1] + 1 :])
    is_look = num_behind < count and num_behind <= _FEW
    return [tuple(runs[long[-1]])] if is_look else [], True


def _last_run(places: Sequence[int]) -> tuple[int, ...]:
    """The longest end of the reads in which no sample comes twice, but several times in a row."""
    seen: dict[int, None] = {}
    last = None
    for place in reversed(places):
        if place in seen:
            if place == last:  # `sample[k] if sample[k] else ...`
                continue
            break
        seen[place] = None
        last = place
    return (*reversed(seen),)
