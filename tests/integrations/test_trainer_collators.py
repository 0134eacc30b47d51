"""Data collators of the user's own in a Trainer: what they make of samples, and who each row is."""

import pytest
import torch
from torch.utils.data import IterableDataset, TensorDataset, default_collate

transformers = pytest.importorskip("transformers", reason="needs the extra [transformers]")

from trainers import Texts, arguments, bert, train, weights  # noqa: E402

from data_agent.errors import InputError  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*'pin_memory' argument is set as true.*:UserWarning"),
]
TEXTS = Texts()
PAIRS = TensorDataset(TEXTS.tokens, TEXTS.tokens[:, 1] % 3)


class Pairs(IterableDataset):
    def __iter__(self):
        return iter(PAIRS)


def in_a_dict(rows):
    """As the message says."""
    return {
        "input_ids": torch.stack([x for x, _ in rows]),
        "labels": torch.stack([y for _, y in rows]),
    }


@pytest.mark.parametrize("data", [PAIRS, Pairs()], ids=["rows", "stream"])
def test_batches_that_are_no_dicts_are_refused(data, tmp_path):
    args, options = arguments(tmp_path, max_steps=10), {"selector": "data-agent-in-batch"}
    with pytest.raises(InputError, match="collator made a list, but a Trainer's batch must be a d"):
        train(bert(), data, args, data_collator=default_collate, **options)
    assert train(bert(), data, args, data_collator=in_a_dict, **options).selector.visits == 20
