"""Random subsets, a fresh one each epoch, without replacement until every sample was seen (RS2).

Okanovic et al. 2024, "Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning",
https://arxiv.org/abs/2305.18424, Algorithm 1 ("without replacement"). Where a pass over the data
ends inside an epoch, the epoch goes on with the next pass and holds no sample twice.
"""

from data_agent.selecting.selector import Selector


class Random(Selector):
    """The stream of permutations of the unselected phases, from the first epoch to the last."""

    name = "random"
    can_shard = True
    default_schedule = "uniform"
