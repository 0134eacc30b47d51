"""Indices ride inside the batch, whatever the batch is and whoever loads it."""

from collections import namedtuple
from itertools import chain

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from data_agent import (
    DataAgent,
    Feedback,
    IndexedDataset,
    SelectionSampler,
    make_selector,
    selection_loader,
)
from data_agent.errors import InputError, StateError

Pair = namedtuple("Pair", "x y")
KINDS = {
    "tuple": lambda i: (torch.tensor(i), torch.tensor(i * 10)),
    "list": lambda i: [torch.tensor(i), torch.tensor(i * 10)],
    "named tuple": lambda i: Pair(torch.tensor(i), torch.tensor(i * 10)),
    "mapping": lambda i: {"x": torch.tensor(i), "y": torch.tensor(i * 10)},
    "tensor": lambda i: torch.tensor(i),
}


class Revealing(Dataset):
    """Samples that reveal their own position."""

    def __init__(self, kind="tuple", size=20):
        self.kind = kind
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return KINDS[self.kind](index)


class Batched(Revealing):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


def collate(samples):
    """A collate function of one's own: knows nothing of indices."""
    first = samples[0]
    if isinstance(first, dict):
        return {"stacked": torch.stack([s["x"] for s in samples])}
    if isinstance(first, torch.Tensor):
        return torch.stack(samples)
    return [torch.stack([s[0] for s in samples])]


def x_and_index(batch):
    if isinstance(batch, dict):
        return batch.get("x", batch.get("stacked")), batch["sample_index"]
    return batch[0], batch[-1]


def selector(size=20, **options):
    return make_selector("random", num_samples=size, epochs=8, keep_ratio=0.5, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("collate_fn", [None, collate], ids=["default", "own collate"])
def test_each_sample_carries_its_own_index(kind, num_workers, collate_fn):
    chosen = selector()
    options = {"collate_fn": collate_fn, "num_workers": num_workers}
    if num_workers:
        options |= {"persistent_workers": True, "prefetch_factor": 3}
    loader = selection_loader(Revealing(kind), chosen, batch_size=4, **options)
    for epoch in range(3):
        chosen.begin_epoch(epoch)
        seen = []
        for batch in loader:
            x, index = x_and_index(batch)
            assert torch.equal(x, index)
            assert index.dtype == torch.int64
            assert index.device.type == "cpu"
            seen.append(index)
        for index in seen:
            chosen.observe(Feedback(index, torch.rand(len(index))))
        assert torch.equal(torch.cat(seen).sort().values, chosen.select(epoch).index)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_named_tuples_keep_their_names_and_get_one_for_the_index(num_workers):
    chosen = selector()
    chosen.begin_epoch(0)
    data = Revealing("named tuple")
    for batch in selection_loader(data, chosen, batch_size=4, num_workers=num_workers):
        assert torch.equal(batch.x, batch.sample_index)
        x, y, index = batch
        assert torch.equal(y, 10 * index)
        assert x is batch.x


def test_workers_and_order_do_not_change_the_selection():
    orders = []
    for num_workers in (0, 2):
        chosen = selector(seed=4)
        loader = selection_loader(Revealing(), chosen, batch_size=3, num_workers=num_workers)
        orders.append(torch.cat([batch[-1] for batch in loader]))
    assert torch.equal(*orders)


def test_a_dataset_that_fetches_whole_batches_is_asked_for_them():
    loader = selection_loader(Batched(), selector(), batch_size=4)
    assert all(torch.equal(batch[0], batch[-1]) for batch in loader)
    assert IndexedDataset(Batched()).__getitems__([3, 1])[0][-1] == 3


def test_an_existing_loader_keeps_its_settings():
    old = DataLoader(
        Revealing(),
        batch_size=4,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        prefetch_factor=5,
        persistent_workers=True,
        timeout=30,
        collate_fn=collate,
    )
    chosen = selector()
    new = selection_loader(old, chosen)
    for name in ("batch_size", "drop_last", "num_workers", "prefetch_factor", "timeout"):
        assert getattr(new, name) == getattr(old, name)
    assert new.persistent_workers
    assert chosen.schedule.num_kept == 8  # drop_last is honoured: 10 samples are 2 full batches
    assert len(new) == 2
    assert len(selection_loader(old, selector(), batch_size=5)) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shuffle", True),
        ("sampler", RandomSampler(range(20))),
        ("batch_sampler", BatchSampler(RandomSampler(range(20)), 2, drop_last=False)),
    ],
)
def test_options_that_contradict_a_selection_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name}= cannot be combined with a selection"):
        selection_loader(Revealing(), selector(), **{name: value})


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Revealing(), sampler=WeightedRandomSampler(torch.ones(20), 20)),
        DataLoader(Revealing(), sampler=RandomSampler(range(20), num_samples=5)),
        DataLoader(Revealing(), batch_sampler=BatchSampler(range(20), 2, drop_last=False)),
    ],
)
def test_a_loader_whose_sampling_would_be_lost_is_refused(loader):
    with pytest.raises(InputError, match="Pass the dataset itself"):
        selection_loader(loader, selector())


def test_a_collate_function_gets_the_datasets_own_samples():
    def by_name(samples):
        return {"x": torch.stack([s.x for s in samples])}  # named tuples stay named tuples

    loader = selection_loader(
        Revealing("named tuple"), selector(), batch_size=4, collate_fn=by_name
    )
    for batch in loader:
        assert torch.equal(batch["x"], batch["sample_index"])
    again = selection_loader(loader, selector())
    for batch in again:
        assert torch.equal(batch["x"], batch["sample_index"])


def test_a_collate_function_may_carry_the_index_itself():
    def with_index(samples):
        return torch.stack([x for x, _, _ in samples]), torch.tensor([i for _, _, i in samples])

    loader = selection_loader(
        IndexedDataset(Revealing()), selector(), batch_size=4, collate_fn=with_index
    )
    for x, index in loader:
        assert torch.equal(x, index)


def test_a_field_called_like_our_key_is_not_overwritten():
    taken = [{"sample_index": 7}] * 20
    with pytest.raises(InputError, match="'sample_index' of their own"):
        next(iter(selection_loader(taken, selector())))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(20))


def test_datasets_that_cannot_be_indexed_are_refused():
    with pytest.raises(InputError, match="not a map-style dataset"):
        selection_loader(Stream(), selector())
    with pytest.raises(InputError, match=r"the dataset has 21 samples.*num_samples=20"):
        selection_loader(Revealing(size=21), selector())
    with pytest.raises(InputError, match="a selector is needed"):
        SelectionSampler("random")


def test_a_batch_type_that_cannot_carry_an_index_is_refused():
    loader = selection_loader(Revealing(), selector(), collate_fn=lambda samples: object())
    with pytest.raises(InputError, match="the collate function returned object"):
        next(iter(loader))


def test_ranks_share_an_epoch_without_overlap():
    shares = []
    for rank in range(3):
        chosen = selector(size=46)  # 23 samples: 1 round of 3 x 5 and a rest of 8 = 3 + 3 + 2
        shares.append(list(SelectionSampler(chosen, batch_size=5, rank=rank, world=3)))
        assert len(SelectionSampler(chosen, batch_size=5, rank=rank, world=3)) == len(shares[-1])
    assert [len(share) for share in shares] == [8, 8, 7]
    together = torch.tensor(sorted(chain(*shares)))
    assert torch.equal(together, chosen.select(0).index)


def test_ranks_agree_with_one_process_on_the_global_batches():
    whole = list(SelectionSampler(selector(size=40)))
    ranks = [
        list(SelectionSampler(selector(size=40), batch_size=2, rank=rank, world=2))
        for rank in range(2)
    ]
    for step in range(5):
        batch = [*ranks[0][2 * step : 2 * step + 2], *ranks[1][2 * step : 2 * step + 2]]
        assert batch == whole[4 * step : 4 * step + 4]


def test_torch_samplers_may_call_iter_again():
    sampler = SelectionSampler(selector())
    batches = list(BatchSampler(sampler, 3, drop_last=False))
    assert sorted(chain(*batches)) == selector().select(0).index.tolist()
    iterator = iter(sampler)
    assert iter(iterator) is iterator


def test_drop_last_reaches_the_budget():
    agent = DataAgent(num_samples=20, epochs=8, keep_ratio=0.5)
    loader = selection_loader(TensorDataset(torch.arange(20)), agent, batch_size=4, drop_last=True)
    assert [len(batch[-1]) for batch in loader] == [4, 4]
    assert agent.schedule.total_visits == 8 * 8


def restored_after(num_batches, batch_size=4):
    """A selector restored in the middle of epoch 0 of 10 samples, and its order."""
    chosen = selector()
    loader = selection_loader(Revealing(), chosen, batch_size=batch_size)
    chosen.begin_epoch(0)
    order = list(loader.sampler)
    for start in range(0, num_batches * batch_size, batch_size):
        index = torch.tensor(order[start : start + batch_size])
        chosen.observe(Feedback(index, torch.ones(len(index))))
    restored = selector()
    loader = selection_loader(Revealing(), restored, batch_size=batch_size)
    restored.load_state_dict(chosen.state_dict())
    next(iter(loader))
    return restored, order


def observe_from(chosen, order, start, batch_size=4):
    chosen.begin_epoch(0)
    index = torch.tensor(order[start : start + batch_size])
    chosen.observe(Feedback(index, torch.ones(len(index))))


def test_a_loader_that_begins_a_restored_epoch_again_is_refused():
    restored, order = restored_after(1)
    with pytest.raises(StateError, match=r"behind 4 observed samples \(1 batches\).*began the epo"):
        observe_from(restored, order, 0)
    observe_from(restored, order, 4, batch_size=3)  # nothing was lost: the right batch is taken
    assert restored.visits == 7


def test_batches_that_are_skipped_twice_after_a_restore_are_refused():
    restored, order = restored_after(1)
    with pytest.raises(StateError, match="4 samples further on: batches were skipped twice"):
        observe_from(restored, order, 8)
    assert restored.visits == 4


def test_an_epoch_whose_rest_was_skipped_twice_does_not_end_silently():
    restored, _ = restored_after(2)
    for _ in selection_loader(Revealing(), restored, batch_size=4):
        pass  # what skip_first_batches(loader, 2) leaves of the last batch: nothing
    with pytest.raises(StateError, match="the rest was delivered, and not one batch of it was ob"):
        restored.begin_epoch(1)


def test_a_framework_that_skips_by_itself_gets_the_whole_epoch():
    restored, order = restored_after(1)
    own = SelectionSampler(restored, batch_size=4)
    whole = SelectionSampler(restored, batch_size=4, skip_observed=False)
    assert list(own) == order[4:]
    assert list(whole) == order


def test_where_a_framework_deals_the_batches_every_rank_gets_the_whole_epoch():
    chosen = selector(size=46)
    sampler = SelectionSampler(chosen, batch_size=5, rank=None, world=3)
    assert sorted(sampler) == chosen.select(0).index.tolist()
    assert len(sampler) == 23
    assert chosen.schedule.steps(0) == 2
    chosen.begin_epoch(0)
    list(sampler)
    assert chosen._running.num_delivered == 23 // 3
