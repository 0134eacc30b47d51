"""What a selection's loader takes over, hands on, and refuses: nothing is lost silently."""

import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from data_agent import DataAgent, IndexedDataset, make_selector, selection_loader
from data_agent.errors import InputError

SIZE = 40


class Images(Dataset):
    """A dataset with attributes that users change while they train."""

    def __init__(self, size=SIZE):
        self.size, self.scale, self.epoch = size, 1, 0

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return torch.tensor(index * self.scale), torch.tensor(self.epoch)

    def set_epoch(self, epoch):
        self.epoch = epoch


def agent(size=SIZE):
    return make_selector("random", num_samples=size, epochs=8, keep_ratio=0.5)


def own_collate(rows):
    return default_collate(rows)


def test_attributes_called_like_our_own_and_deleted_ones_are_the_datas():
    images: Any = Images()
    loader: Any = selection_loader(images, agent(), batch_size=8)
    loader.dataset._num_samples = 9
    loader.dataset.transform = None
    assert (images._num_samples, images.transform) == (9, None)
    del loader.dataset.transform
    assert not hasattr(images, "transform")
    assert len(next(iter(loader))[-1]) == 8


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("collate_fn", [None, own_collate])
def test_attributes_set_on_the_loaders_dataset_reach_the_data(num_workers, collate_fn):
    images: Any = Images()
    loader: Any = selection_loader(
        images, agent(), batch_size=8, num_workers=num_workers, collate_fn=collate_fn
    )
    loader.dataset.scale = 3
    loader.dataset.set_epoch(5)
    loader.dataset.new = "made there"
    assert (images.scale, images.epoch, images.new) == (3, 5, "made there")
    assert loader.dataset.scale == 3
    for x, epoch, index in loader:
        assert torch.equal(x, 3 * index)
        assert (epoch == 5).all()
    with pytest.raises(AttributeError, match=r"Images.*nothing"):
        _ = loader.dataset.nothing


def test_attributes_reach_through_as_many_layers_as_without_us():
    images: Any = Images()
    loader: Any = selection_loader(Subset(images, range(20)), agent(20), batch_size=4)
    loader.dataset.dataset.scale = 2  # as with DataLoader(Subset(images, ...))
    assert images.scale == 2
    assert loader.dataset.indices == range(20)
    assert loader.dataset.wrapped.dataset is images


def test_a_wrapped_dataset_is_pickled_and_copied():
    copy = pickle.loads(pickle.dumps(IndexedDataset(Images())))
    copy.scale = 7
    assert copy.wrapped.scale == 7
    assert copy[2][0] == 14


class Stream(IterableDataset):
    scale = 1

    def __iter__(self):
        return iter(torch.arange(32) * self.scale)


def test_attributes_set_on_a_stream_reach_it():
    chosen = make_selector("data-agent-in-batch", num_samples=32, epochs=1, keep_ratio=0.5)
    loader: Any = selection_loader(Stream(), chosen, batch_size=8)
    loader.dataset.scale = 2
    assert [x[-1].item() for x, _ in loader] == [14, 30, 46, 62]


class Prefetching(DataLoader):
    def __iter__(self) -> Any:
        for x, y in super().__iter__():
            yield x.float() / 255, y


class Shorter(DataLoader):
    def __len__(self):
        return 2


class Named(DataLoader):
    """Adds nothing to what is iterated."""


class Chosen(DataLoader):
    @property
    def _index_sampler(self):
        return [[0, 1]]


@pytest.mark.parametrize(
    ("kind", "own"),
    [(Prefetching, "__iter__"), (Shorter, "__len__"), (Chosen, "_index_sampler")],
)
def test_loaders_with_an_iteration_of_their_own_are_refused(kind, own):
    with pytest.raises(InputError, match=f"{kind.__name__} has {own} of its own") as error:
        selection_loader(kind(Images(), batch_size=8, shuffle=True), agent())
    assert "Pass the dataset itself" in str(error.value)
    old = kind(Images(), batch_size=8)
    assert len(selection_loader(old.dataset, agent(), batch_size=8)) == 3  # the remedy
    assert len(selection_loader(Named(Images(), batch_size=8), agent())) == 3


class Wrapper:
    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        return iter(self.loader)


def test_a_wrapper_around_a_loader_goes_around_ours():
    with pytest.raises(InputError, match=r"Wrapper is a wrapper around a DataLoader.*Wrapper\("):
        selection_loader(Wrapper(DataLoader(Images())), agent())
    assert len(list(Wrapper(selection_loader(Images(), agent(), batch_size=8)))) == 3


@pytest.mark.parametrize(
    ("sampler", "match"),
    [
        (SequentialSampler(range(10)), "SequentialSampler samples from 10 positions"),
        (RandomSampler(range(10)), "a number of samples of its own"),
        (DistributedSampler(range(10), 1, 0), "DistributedSampler samples from 10 positions"),
        (DistributedSampler(range(SIZE), 4, 1), "num_replicas=4 ranks, but.* connects 1,"),
    ],
)
def test_samplers_that_mean_something_else_than_all_samples_are_refused(sampler, match):
    with pytest.raises(InputError, match=match):
        selection_loader(DataLoader(Images(), batch_size=8, sampler=sampler), agent())


def test_samplers_of_all_samples_are_replaced():
    for sampler in (None, SequentialSampler(range(SIZE)), DistributedSampler(range(SIZE), 1, 0)):
        loader = DataLoader(Images(), batch_size=8, sampler=sampler)
        assert len(selection_loader(loader, agent())) == 3
    subset = Subset(Images(), range(10))  # what the refusal of fewer positions advises
    assert len(selection_loader(DataLoader(subset, batch_size=5), agent(10))) == 1


def test_a_loader_that_makes_no_batches_is_refused():
    with pytest.raises(InputError, match="SequentialSampler and batch_size=None, which"):
        selection_loader(DataLoader(Images(), batch_size=None), agent())


class Rows(Dataset):
    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        return {"x": torch.ones(2), "sample_index": 1000 + index}


def without_the_field(rows):
    return {"x": torch.stack([row["x"] for row in rows])}


def test_a_field_called_like_the_index_is_never_overwritten():
    for options in ({}, {"collate_fn": own_collate}):
        with pytest.raises(InputError, match=r"'sample_index' of their own.*Rename that field"):
            next(iter(selection_loader(Rows(), agent(), batch_size=4, **options)))
    loader = selection_loader(Rows(), agent(), batch_size=4, collate_fn=without_the_field)
    assert next(iter(loader))["sample_index"].max() < SIZE  # "leave it out in the collate function"


class Whole(Images):
    def __getitems__(self, indices):
        return torch.tensor(indices), torch.zeros(len(indices))


def test_samples_that_are_fetched_as_a_batch_are_refused():
    loader = selection_loader(Whole(), agent(), batch_size=4)
    with pytest.raises(InputError, match=r"asked for 4 samples and returned a tuple of length 2"):
        next(iter(loader))


@pytest.mark.parametrize("size", [SIZE + 24, SIZE - 1])
@pytest.mark.parametrize(
    "options", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}]
)
def test_a_dataset_that_changes_its_length_is_noticed_at_the_next_epoch(size, options):
    images, chosen, trained = Images(), DataAgent(SIZE, 6), []

    def train():
        for epoch in chosen.epochs():
            images.size = SIZE if epoch < 2 else size
            for _, _, index in loader:
                trained.extend(index.tolist())
                given = {"logits": torch.rand(len(index), 3), "features": torch.rand(len(index), 2)}
                chosen.learn(torch.ones(len(index), requires_grad=True), index, **given)

    loader = selection_loader(images, chosen, batch_size=8, **options)
    with pytest.raises(InputError, match=f"has {size} samples now, but had {SIZE} when its"):
        train()
    assert len(trained) == 2 * 20  # nothing was trained on behind the change


def test_a_loader_with_workers_can_be_opened_without():
    given = DataLoader(
        Images(), batch_size=8, num_workers=2, timeout=9, persistent_workers=True, prefetch_factor=4
    )
    loader = selection_loader(given, agent(), num_workers=0)
    assert (loader.num_workers, loader.timeout, loader.persistent_workers) == (0, 0, False)
    assert len(list(loader)) == len(loader)
    fewer = selection_loader(given, agent(), num_workers=1)
    assert (fewer.num_workers, fewer.timeout, fewer.prefetch_factor) == (1, 9, 4)


def test_a_list_or_tensor_dataset_is_wrapped_as_before():
    for data in ([(torch.tensor(i), i) for i in range(SIZE)], TensorDataset(torch.arange(SIZE))):
        for batch in selection_loader(data, agent(), batch_size=8):
            assert torch.equal(batch[0], batch[-1])
