"""Data collators of the user's own in a Trainer: what they make of samples, and who each row is."""

import datasets
import pytest
import torch
from torch.utils.data import IterableDataset, TensorDataset, default_collate

transformers = pytest.importorskip("transformers", reason="needs the extra [transformers]")

from trainers import SIZE, VOCAB, Texts, arguments, bert, train, weights  # noqa: E402

from data_agent import IndexedDataset  # noqa: E402
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


LEFT_OUT = (3, 17)


class LeavesOut:
    """Looks at each row, of which two never come to the model, and writes all anew."""

    def __init__(self, *, carries):
        self.carries = carries

    def __call__(self, rows):
        tokens = torch.stack([torch.as_tensor(row["input_ids"]) for row in rows])
        is_kept = ~torch.isin(tokens[:, 0], torch.tensor(LEFT_OUT))
        tokens = tokens[is_kept]
        tokens[:, 1:] = (tokens[:, 1:] + 1) % VOCAB
        batch = {"input_ids": tokens, "labels": tokens[:, 1] % 3}
        if self.carries:
            batch["sample_index"] = torch.tensor([row["sample_index"] for row in rows])[is_kept]
        return batch


def as_table():
    columns = ("input_ids", "attention_mask", "labels", "unused")
    return datasets.Dataset.from_list(
        [{key: TEXTS[i][key] for key in columns} for i in range(SIZE)]
    ).with_format("torch")


@pytest.mark.filterwarnings("ignore:.*were not trained on:data_agent.errors.DataAgentWarning")
@pytest.mark.parametrize("selector", ["data-agent", "data-agent-in-batch"])
@pytest.mark.parametrize(
    ("make", "options"),
    [(Texts, {}), (Texts, {"remove_unused_columns": False}), (as_table, {})],
)
def test_a_collator_that_leaves_rows_out_carries_the_index(make, options, selector, tmp_path):
    args = arguments(tmp_path, per_device_train_batch_size=8, **options)
    choice = {"selector": selector, "keep_ratio": 0.5}
    with pytest.raises(InputError, match=r"cannot be told.*pass IndexedDataset\(dataset\) instead"):
        train(bert(), make(), args, data_collator=LeavesOut(carries=False), **choice)
    ours = train(
        *(bert(), IndexedDataset(make()), args),
        **{"data_collator": LeavesOut(carries=True), **choice},
    )
    came = {i for order in ours.order for i in order}
    assert came == {*range(SIZE)} - {*LEFT_OUT}
    assert all(index == tokens for _, index, tokens in ours.batches)


def test_any_collator_can_carry_the_index(tmp_path):
    args = arguments(tmp_path)
    carried, plain = (train(bert(), data, args) for data in (IndexedDataset(Texts()), Texts()))
    assert torch.equal(weights(carried), weights(plain))


def test_an_index_that_a_collator_leaves_behind_is_missed(tmp_path):
    collator = LeavesOut(carries=False)
    with pytest.raises(InputError, match="made a batch without 'sample_index'"):
        train(bert(), IndexedDataset(Texts()), arguments(tmp_path), data_collator=collator)
