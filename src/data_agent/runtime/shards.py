"""Which samples a rank keeps where the ranks share the tables: every world-th one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from data_agent.runtime import distributed
from data_agent.runtime.random import Purpose, derived_seed


@dataclass(frozen=True, slots=True)
class Shard:
    """The samples i with `i % world == rank`, numbered from 0 by their place: `i // world`.

    Args:
        rank: in [0, world).
        world: how many shards there are; 1 is all samples, whose places are themselves.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_part(self) -> bool:
        """Whether there are others."""
        return self.world > 1

    def size(self, num_samples: int) -> int:
        """How many of `num_samples` are in it."""
        return (num_samples - self.rank + self.world - 1) // self.world

    def places(self, samples: Tensor) -> Tensor:
        """int64 `[M]`, places of samples that are in it."""
        return samples // self.world if self.is_part else samples

    def samples(self, places: Tensor) -> Tensor:
        """int64 `[M]`, the samples at places."""
        return places * self.world + self.rank if self.is_part else places

    def seed(self, seed: int) -> int:
        """A seed for draws by place; of the first shard it is `seed`."""
        return derived_seed(seed, Purpose.SHARD, self.rank) if self.rank else seed


WHOLE = Shard()


def own_shard() -> Shard:
    """This rank's."""
    return Shard(distributed.rank(), distributed.world_size())
