"""What a collate function does to order and number is followed exactly, or refused."""

from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from data_agent import make_selector, selection_loader
from data_agent.errors import InputError

SIZE = 64
LENGTHS = [(7 * i) % 13 + 1 for i in range(SIZE)]


class Rows(Dataset):
    """Sequences of many lengths that begin with their sample's number."""

    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return SIZE

    def __getitem__(self, i):
        ids = torch.full((LENGTHS[i],), i)
        if self.kind == "mapping":
            return {"ids": ids, "label": i % 4, "length": LENGTHS[i]}
        return [ids, i % 4] if self.kind == "list" else (ids, i % 4)


def parts_of(samples):
    if isinstance(samples[0], dict):
        return [s["ids"] for s in samples], torch.tensor([s["label"] for s in samples])
    return [s[0] for s in samples], torch.tensor([s[1] for s in samples])


def batch_of(samples):
    ids, labels = parts_of(samples)
    ids = pad_sequence(ids, batch_first=True)
    return {"ids": ids, "label": labels} if isinstance(samples[0], dict) else (ids, labels)


def length(sample):
    return len(sample["ids"] if isinstance(sample, dict) else sample[0])


def plain(samples):
    return batch_of(samples)


def sorts_in_place(samples):
    samples.sort(key=length, reverse=True)
    return batch_of(samples)


def sorts_a_copy(samples):
    return batch_of(sorted(samples, key=length, reverse=True))


def unpacks(samples):
    ids, labels = zip(*sorted(samples, key=length), strict=True)
    return pad_sequence(list(ids), batch_first=True), torch.tensor(labels)


def sorts_by_another_field(samples):
    return batch_of(sorted(samples, key=lambda s: s["length"]))


def drops(samples):
    return batch_of([s for s in samples if length(s) > 3])


def drops_and_sorts(samples):
    return batch_of(sorted((s for s in samples if length(s) > 3), key=length))


def fills_up(samples):
    kept = [s for s in samples if length(s) > 3]
    return batch_of(kept + kept[: len(samples) - len(kept)])


def repeats(samples):
    return batch_of(samples + samples[:2])


def copies_and_sorts(samples):
    copies = [dict(s) if isinstance(s, dict) else tuple(s) for s in samples]
    return batch_of(sorted(copies, key=length))


def looks_at_the_first_at_last(samples):
    batch = batch_of(samples)
    assert length(samples[0]) > 0
    return batch


def looks_at_the_last_at_last(samples):
    batch = batch_of(samples)
    assert length(samples[-1]) > 0
    return batch


def sorts_in_place_and_looks_at_the_first_at_last(samples):
    samples.sort(key=length, reverse=True)
    return looks_at_the_first_at_last(samples)


def looks_first_and_sorts_a_copy(samples):
    assert length(samples[0]) > 0
    return sorts_a_copy(samples)


def parts_in_different_orders(samples):
    ids, _ = parts_of(sorted(samples, key=length))
    _, labels = parts_of(samples)
    ids = pad_sequence(ids, batch_first=True)
    return {"ids": ids, "label": labels} if isinstance(samples[0], dict) else (ids, labels)


def batches(kind, collate):
    selector = make_selector("random", num_samples=SIZE, epochs=4, keep_ratio=0.5)
    selector.begin_epoch(0)
    for batch in selection_loader(Rows(kind), selector, batch_size=8, collate_fn=collate):
        if isinstance(batch, dict):
            yield batch["ids"], batch["label"], batch["sample_index"]
        else:
            yield tuple(batch)


@pytest.mark.parametrize("kind", ["mapping", "tuple", "list"])
@pytest.mark.parametrize(
    "collate",
    [
        *(plain, sorts_in_place, sorts_a_copy, looks_at_the_first_at_last),
        *(looks_at_the_last_at_last, sorts_in_place_and_looks_at_the_first_at_last),
        *(looks_first_and_sorts_a_copy,),
    ],
)
def test_each_row_has_the_index_of_its_own_sample(kind, collate):
    for ids, labels, index in batches(kind, collate):
        assert torch.equal(ids[:, 0], index)
        assert torch.equal(labels, index % 4)


class Texts(Dataset):
    """Nothing in a batch but the order of reads tells which sample a row is."""

    def __len__(self):
        return SIZE

    def __getitem__(self, i):
        return {"text": str(i)}


@pytest.mark.parametrize("look", [0, -1, slice(2)])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_texts_that_are_looked_at_again_keep_their_index(look, num_workers):
    def tokenizes(samples):
        ids = torch.tensor([[int(sample["text"])] for sample in samples])
        again = samples[look]
        assert [sample["text"] for sample in (again if isinstance(again, list) else [again])]
        return {"ids": ids}

    selector = make_selector("random", num_samples=SIZE, epochs=4, keep_ratio=0.5)
    selector.begin_epoch(0)
    loader = selection_loader(
        Texts(), selector, batch_size=7, collate_fn=tokenizes, num_workers=num_workers
    )
    for batch in loader:
        assert torch.equal(batch["ids"][:, 0], batch["sample_index"])


@pytest.mark.parametrize("kind", ["mapping", "tuple", "list"])
@pytest.mark.parametrize("collate", [drops, drops_and_sorts])
def test_rows_that_are_left_out_are_followed_or_the_batch_is_refused(kind, collate):
    try:
        for ids, _, index in batches(kind, collate):
            assert torch.equal(ids[:, 0], index)
    except InputError:
        with pytest.raises(InputError, match="which samples it left out cannot be told"):
            list(batches(kind, collate))


@pytest.mark.parametrize("kind", ["mapping", "tuple", "list"])
@pytest.mark.parametrize("collate", [fills_up, repeats])
def test_rows_that_are_filled_up_are_refused(kind, collate):
    with pytest.raises(InputError, match="the collate function got 8 samples"):
        list(batches(kind, collate))


@pytest.mark.parametrize("kind", ["tuple", "list"])
def test_samples_that_are_unpacked_are_followed(kind):
    for ids, _, index in batches(kind, unpacks):
        assert torch.equal(ids[:, 0], index)


def test_a_field_that_is_only_sorted_by_does_not_confuse():
    for ids, _, index in batches("mapping", sorts_by_another_field):
        assert torch.equal(ids[:, 0], index)


@pytest.mark.parametrize("kind", ["mapping", "tuple"])
@pytest.mark.parametrize("collate", [copies_and_sorts, parts_in_different_orders])
def test_what_cannot_be_followed_is_refused_with_what_to_do(kind, collate):
    with pytest.raises(InputError, match=r"pass IndexedDataset\(dataset\) instead"):
        list(batches(kind, collate))


def test_the_remedy_that_is_named_works():
    from data_agent import IndexedDataset

    def carries(samples):
        samples = sorted([dict(s) for s in samples], key=length)
        batch: Any = batch_of(samples)
        return {**batch, "sample_index": torch.tensor([s["sample_index"] for s in samples])}

    selector = make_selector("random", num_samples=SIZE, epochs=4, keep_ratio=0.5)
    selector.begin_epoch(0)
    data = IndexedDataset(Rows("mapping"))
    for batch in selection_loader(data, selector, batch_size=8, collate_fn=carries):
        assert torch.equal(batch["ids"][:, 0], batch["sample_index"])
