"""A table that ranks share, each with every world-th sample: who may, and other numbers of ranks.

docs/decisions/0017-shards.md says what is chosen then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from data_agent.budget.schedule import SelectionSchedule
from data_agent.errors import CheckpointError, InputError, StateError
from data_agent.runtime.masks import packed, unpacked
from data_agent.runtime.shards import Shard
from data_agent.selecting.method import Method

__all__ = ["reshard"]
KINDS = ("exact", "uniform")  # schedules whose epochs are equally long and that need no turns


def check_can_shard(method: Method, schedule: SelectionSchedule, *, by_rules: bool) -> None:
    """Ranks can share what this method remembers.

    Raises:
        InputError: they cannot; the message says why and what can be done.
    """
    name, kind = method.name, schedule.kind
    if not method.can_shard:
        why = f"{name} compares all samples with each other"
    elif by_rules:
        why = "label rules and trusted rows are counted over all samples"
    elif kind not in KINDS:
        why = f"in a {kind!r} schedule epochs differ in length, or all samples take turns"
    else:
        return
    raise InputError(
        f"{name} cannot be sharded as it is: {why}. Leave out sharded=True (one rank keeps at most "
        "8 bytes a sample), or take data-agent or random, without label rules and trusted rows, in "
        f"a schedule of {' or '.join(map(repr, KINDS))}."
    )


def check_loader(shard: Shard, world: int) -> None:
    """A loader deals to as many ranks as share the tables.

    Raises:
        StateError: it does not.
    """
    if shard.is_part and world != shard.world:
        raise StateError(
            f"the selector is sharded over {shard.world} ranks, but the loader deals an epoch to "
            f"{world}. Build both after dist.init_process_group()."
        )


def check_rank(shard: Shard, rank: int | None) -> None:
    """A sampler delivers this rank's samples.

    Raises:
        StateError: a framework deals batches to ranks, or they are another rank's.
    """
    if rank != shard.rank:
        whose = "a framework would deal to all ranks" if rank is None else f"are for rank {rank}"
        raise StateError(
            f"the selector is sharded and keeps the samples of rank {shard.rank}, but its batches "
            f"{whose}. Use data_agent.selection_loader in a loop of your own (DDP, FSDP), or leave "
            "out sharded=True."
        )


def reshard(states: Sequence[Mapping[str, Any]], world: int) -> list[dict[str, Any]]:
    """The pieces of a sharded selector's state for another number of ranks.

    Args:
        states: what `state_dict` returned on each rank, in rank order, after the last batch of an
            epoch.
        world: how many ranks go on, 2 or more.

    Returns:
        A piece for each of them, in rank order.

    Raises:
        CheckpointError: pieces are missing, or not of one moment, or in the middle of an epoch.
        InputError: fewer than two ranks.
    """
    if world < 2:
        raise InputError(f"world is {world}; a sharded selector runs on 2 ranks or more.")
    _check_pieces(states)
    size = int(states[0]["num_samples"])
    old, new = ([Shard(rank, of) for rank in range(of)] for of in (len(states), world))
    pieces: list[dict[str, Any]] = [{**states[0], "shard": [s.rank, s.world]} for s in new]
    for piece, shard in zip(pieces, new, strict=True):
        piece.update(_rows_of(states, shard))
    table = _whole_table(states, old, size)
    for piece, shard in zip(pieces, new, strict=True):
        own = {n: None if whole is None else _part(whole, shard) for n, whole in table.items()}
        piece["method"] = {**states[0]["method"], **({"table": own} if own else {})}
    if states[0]["running"] is not None:
        chosen, put_off = _epoch(states, old, size)
        for piece, shard in zip(pieces, new, strict=True):
            piece["running"] = _running_of(states, chosen, put_off, shard)
    return pieces


def _rows_of(states: Sequence[Mapping[str, Any]], shard: Shard) -> dict[str, Any]:
    """The rows of feedback, and the labels that are looked at, which fall to a shard."""
    index, rows = _staged(states)
    is_own = index % shard.world == shard.rank
    sketch = torch.cat([state["sketch"] for state in states])
    sketch = sketch[sketch[:, 0] % shard.world == shard.rank]
    return {
        "staged_index": index[is_own],
        "staged_rows": {name: column[is_own] for name, column in rows.items()},
        "staged_sizes": [int(is_own.sum())],
        "num_skipped": 0 if shard.rank else sum(int(state["num_skipped"]) for state in states),
        "sketch": sketch,
        "sketch_sizes": [len(sketch)],
    }


def _whole_table(
    states: Sequence[Mapping[str, Any]], shards: list[Shard], size: int
) -> dict[str, Tensor | None]:
    """The columns `[N, ...]` of a method that has a table, by name."""
    tables = [state["method"].get("table", {}) for state in states]
    return {name: _whole([table[name] for table in tables], shards, size) for name in tables[0]}


def _epoch(
    states: Sequence[Mapping[str, Any]], shards: list[Shard], size: int
) -> tuple[Tensor, Tensor]:
    """Of the epoch that is over: who was in it, bool `[N]`, and whose visit was put off."""
    running = [state["running"] for state in states]
    pairs = list(zip(running, shards, strict=True))
    chosen = _whole([unpacked(r["selection"], s.size(size)) for r, s in pairs], shards, size)
    assert chosen is not None
    return chosen, _oldest_first([s.samples(r["displaced"]) for r, s in pairs])


def _staged(states: Sequence[Mapping[str, Any]]) -> tuple[Tensor, dict[str, Tensor]]:
    """The rows of all ranks; one without any does not know how wide they are."""
    columns = [state["staged_rows"] for state in states]
    widest = max(columns, key=lambda rows: rows["values"].shape[1])
    rows = {
        name: torch.cat([each[name] for each in columns if len(each[name])] or [widest[name]])
        for name in widest
    }
    return torch.cat([state["staged_index"] for state in states]), rows


def _check_pieces(states: Sequence[Mapping[str, Any]]) -> None:
    found = [state.get("shard") for state in states]
    if not states or found != [[rank, len(states)] for rank in range(len(states))]:
        raise CheckpointError(
            f"the pieces are of shards {found}; expected those of all ranks, in rank order."
        )
    moments = {(s["seed"], s["visits"], (s["running"] or {}).get("epoch")) for s in states}
    if len(moments) > 1:
        raise CheckpointError(f"the pieces are not of one moment: {sorted(map(str, moments))}.")
    for state in states:
        running = state["running"]
        if any(state["block"]) or (running is not None and not _is_over(state)):
            raise CheckpointError(
                "the state was saved in the middle of an epoch, whose batches cannot be dealt "
                "anew. Go on on as many ranks to its end, or take a state from the end of one."
            )


def _is_over(state: Mapping[str, Any]) -> bool:
    running, (rank, world) = state["running"], state["shard"]
    size = Shard(rank, world).size(int(state["num_samples"]))
    return int(running["position"]) == int(unpacked(running["selection"], size).sum())


def _running_of(
    states: Sequence[Mapping[str, Any]], whole: Tensor, put_off: Tensor, shard: Shard
) -> dict[str, Any]:
    """Of the epoch that is over what falls to a shard, of whose samples all came."""
    chosen = _part(whole, shard)
    count = int(chosen.sum())
    return {
        **states[0]["running"],
        "world": shard.world,
        "position": count,
        "selection": packed(chosen),
        "observed": packed(torch.ones(count, dtype=torch.bool)),
        "first": None,
        "displaced": shard.places(put_off[put_off % shard.world == shard.rank]),
    }


def _oldest_first(parts: list[Tensor]) -> Tensor:
    """The ranks' samples, int64 `[D]`, each rank's oldest before all ranks' second oldest."""
    age = torch.cat([torch.arange(len(part)) for part in parts])
    return torch.cat(parts)[age.argsort(stable=True)]


def _whole(parts: Sequence[Tensor | None], shards: list[Shard], size: int) -> Tensor | None:
    """`[N, ...]` of each shard's part; None where no shard has one yet."""
    if all(part is None for part in parts):
        return None
    if parts[0] is None or any(part is None for part in parts):
        raise CheckpointError("some pieces have no table yet, as no batch of theirs was finite.")
    whole = parts[0].new_empty((size, *parts[0].shape[1:]))
    for part, shard in zip(parts, shards, strict=True):
        assert part is not None  # for the type checker
        whole[shard.rank :: shard.world] = part
    return whole


def _part(whole: Tensor, shard: Shard) -> Tensor:
    return whole[shard.rank :: shard.world].clone()
