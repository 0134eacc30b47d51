"""Data whose samples carry their own index, inside the batch, whoever loads them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sized
from typing import Any, cast

from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from data_agent.errors import DataAgentWarning, InputError
from data_agent.loading.collating import IndexedSample, with_index
from data_agent.selecting.batch_selector import BatchSelector


class ForwardsAttributes:
    """Reads and writes attributes on the data that it wraps, but for its own.

    What a user sets on `loader.dataset` (a transform, an epoch) is meant for the data in it. Its
    own are those that are set before `wrapped`; their names begin with two underscores, so that
    Python makes them different from all names in the data.
    """

    wrapped: Any

    def __getattr__(self, name: str) -> Any:
        if "wrapped" not in vars(self) or name.startswith("__"):  # while a copy is being made
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        return getattr(self.wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = vars(self)
        if "wrapped" not in own or name in own or hasattr(type(self), name):
            super().__setattr__(name, value)
        else:
            setattr(self.wrapped, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.wrapped, name)


class IndexedDataset(ForwardsAttributes, Dataset[Any]):
    """A map-style dataset whose samples carry their own index, whoever loads them.

    Tuples and lists get it as a further last element (named tuples as the field "sample_index"),
    mappings under the key "sample_index", anything else becomes the pair (sample, index).
    Attributes that are read or set here are those of the dataset, which itself is `wrapped`.

    Args:
        dataset: has `__getitem__` and `__len__`; `__getitems__` is used where it exists.
        as_pairs: make every sample the pair `IndexedSample(sample, index)`, itself unchanged.

    Raises:
        InputError: not a map-style dataset.
    """

    def __init__(self, dataset: Any, *, as_pairs: bool = False) -> None:
        _check_map_style(dataset)
        self.__with_index = IndexedSample if as_pairs else with_index
        self.__num_samples = len(dataset)
        self.wrapped = dataset

    def __len__(self) -> int:
        return len(self.wrapped)

    def __getitem__(self, index: int) -> Any:
        check_length(self.wrapped, self.__num_samples)
        return self.__with_index(self.wrapped[index], index)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        check_length(self.wrapped, self.__num_samples)
        fetch = getattr(self.wrapped, "__getitems__", None)
        samples = fetch(indices) if fetch else [self.wrapped[index] for index in indices]
        if not isinstance(samples, list) or len(cast("list[Any]", samples)) != len(indices):
            size = f" of length {len(samples)}" if isinstance(samples, Sized) else ""
            raise InputError(
                f"__getitems__ of {type(self.wrapped).__name__} was asked for {len(indices)} "
                f"samples and returned a {type(samples).__name__}{size}. It must return a list of "
                "samples, one for each index and in their order; what makes a batch of them is "
                "collate_fn."
            )
        rows = cast("list[Any]", samples)
        return [self.__with_index(sample, i) for sample, i in zip(rows, indices, strict=True)]


def check_length(data: Sized, num_samples: int) -> None:
    """Positions of a dataset that grew or shrank are no longer those that were selected."""
    if len(data) != num_samples:
        raise InputError(
            f"the dataset has {len(data)} samples now, but had {num_samples} when its loader was "
            "built: what was learned belongs to their positions. Keep its length through a run; "
            "for other data build a new selector and a new loader (data that grow while a model "
            "trains are a stream)."
        )


def _check_map_style(dataset: Any) -> None:
    name, has_items = type(dataset).__name__, hasattr(dataset, "__getitem__")
    if not has_items and any(
        isinstance(value, DataLoader) for value in getattr(dataset, "__dict__", {}).values()
    ):
        raise InputError(
            f"{name} is a wrapper around a DataLoader. Wrap what selection_loader(...) returns "
            f"instead: {name}(selection_loader(dataset, agent, batch_size=...))."
        )
    if isinstance(dataset, IterableDataset) or not has_items:
        raise InputError(
            f"{name} is not a map-style dataset: samples are selected by "
            "their position, so dataset[i] and len(dataset) are needed. From a stream a batch "
            "selector chooses: make_selector('data-agent-in-batch', num_samples=<what the "
            "stream will offer>, epochs=1, keep_ratio=...)."
        )
    if not isinstance(dataset, Sized):
        raise InputError(f"{name} has no length; len(dataset) is needed.")


class IndexedStream(ForwardsAttributes, IterableDataset[Any]):
    """A stream whose samples carry their position among all that it offers.

    It ends after the selector's `num_samples`, over all ranks and worker processes; each of these
    must bring samples of its own (as `datasets` does for workers, and `split_dataset_by_node` for
    ranks). After a restore the samples that were offered before are read and dropped; with worker
    processes the pools may then come in another order, each sample still once.

    Args:
        stream: an iterable dataset.
        selector: chooses inside each batch.
        batch_size: samples in a pool on each rank.
        rank: this process among those that read a part of the stream each.
        world: how many these are; 1 where a framework reads on one process for all.
        as_pairs: make every sample the pair `IndexedSample(sample, index)`, itself unchanged.
        skip_observed: after a restore drop what was offered; False where the framework does.
    """

    def __init__(
        self,
        stream: IterableDataset[Any],
        selector: BatchSelector,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        as_pairs: bool = False,
        skip_observed: bool = True,
    ) -> None:
        self.__selector: BatchSelector | None = selector
        self.__num_samples = selector.schedule.num_samples
        self.__num_done = 0  # what a copy without selector, in a worker process, is to skip
        self.__skip_observed = skip_observed
        self.__batch_size = batch_size
        self.__rank = rank
        self.__world = world
        self.__with_index = IndexedSample if as_pairs else with_index
        self.wrapped = stream

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`; frameworks that count epochs call this."""
        assert self.__selector is not None
        if callable(forward := getattr(self.wrapped, "set_epoch", None)):
            forward(epoch)
        self.__selector.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        if self.__selector is not None:
            self.__selector.forget_forward()
        worker = get_worker_info()
        number, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        num_done, count = self.__done(), 0
        for count, sample in enumerate(self.wrapped, start=1):
            # Workers make whole batches in turn, and in each turn every rank has one.
            batch, place = divmod(count - 1, self.__batch_size)
            batch = (batch * num_workers + number) * self.__world + self.__rank
            index = batch * self.__batch_size + place
            if index >= self.__num_samples:
                return
            if index >= num_done:
                yield self.__with_index(sample, index)
        if count * num_workers * self.__world < self.__num_samples:
            warnings.warn(
                f"the stream ended after {count} samples (in each of {num_workers} worker(s) on "
                f"each of {self.__world} rank(s)), but the selector was built for num_samples="
                f"{self.__num_samples}: its budget is not used up.",
                DataAgentWarning,
                stacklevel=2,
            )

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes: without the selector, which stays in the main process."""
        return {
            **self.__dict__,
            "_IndexedStream__selector": None,
            "_IndexedStream__num_done": self.__done(),
        }

    def __done(self) -> int:
        if self.__selector is None or not self.__skip_observed:
            return self.__num_done
        epoch = self.__selector.epoch
        return 0 if epoch is None else self.__selector.position(epoch)
