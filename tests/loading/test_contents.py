"""Tensors that a collate function sorts, shuffles or fills up: followed by contents, or refused."""

from collections import UserDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from data_agent import make_selector, selection_loader
from data_agent.errors import InputError
from data_agent.loading.collating import CollateWithIndex, IndexedSample

SIZE = 64
DRAW = torch.Generator().manual_seed(0)
SIGNALS = [
    torch.randn(int(n), 3, generator=DRAW) for n in torch.randint(2, 9, (SIZE,), generator=DRAW)
]
IMAGES = torch.randn(SIZE, 1, 8, 8, generator=DRAW)
LABELS = torch.randint(0, 10, (SIZE,), generator=DRAW).tolist()
for number in range(SIZE):
    SIGNALS[number][:, 0] = IMAGES[number, 0, 0, 0] = number  # which sample it is


@dataclass
class Record:
    signal: torch.Tensor
    label: int


class Data(Dataset):
    def __init__(self, sample):
        self.sample = sample

    def __len__(self):
        return SIZE

    def __getitem__(self, i):
        return self.sample(i)


def pair(i):
    return SIGNALS[i], LABELS[i]


def image(i):
    return IMAGES[i], LABELS[i]


def record(i):
    return Record(*pair(i))


def columns(samples):
    parts = [vars(s).values() if isinstance(s, Record) else s for s in samples]
    signals, labels = zip(*parts, strict=True)
    return pad_sequence(list(signals), batch_first=True), torch.tensor(labels)


def pads_and_sorts(samples):
    signals, labels = columns(samples)
    lengths = torch.tensor([len(s[0]) for s in samples])
    order = lengths.argsort(descending=True)
    return signals[order], lengths[order], labels[order]


def pads_left_and_sorts(samples):
    signals, labels = columns([(signal.flip(0), label) for signal, label in samples])
    order = torch.randperm(len(labels))
    return signals.flip(1)[order], labels[order]


def renames(samples):
    signals, _, labels = pads_and_sorts(samples)
    return {"input_values": signals, "targets": labels}


def nests(samples):
    signals, _, labels = pads_and_sorts(samples)
    return [{"inputs": {"values": signals}}, labels]


def puts_back(samples):
    order = sorted(range(len(samples)), key=lambda place: -len(samples[place][0]))
    signals, labels = columns([samples[place] for place in order])
    back = torch.tensor(order).argsort()
    return {"signals": signals[back], "labels": labels[back]}


def swaps_and_shuffles(samples):
    order = torch.randperm(len(samples))
    labels = torch.tensor([label for _, label in samples])
    return labels[order], torch.stack([pixels for pixels, _ in samples])[order]


def sorts_records(samples):
    return columns(sorted(samples, key=lambda sample: len(sample.signal)))


def sorts_tensors(samples):
    return pad_sequence(sorted(samples, key=len), batch_first=True)


def copies_mappings(samples):
    copies = sorted([sample.copy() for sample in samples], key=lambda sample: len(sample["signal"]))
    signals, labels = columns([(sample["signal"], sample["label"]) for sample in copies])
    return {"signal": signals, "label": labels}


def mapping(kind):
    return lambda i: kind(signal=SIGNALS[i], label=LABELS[i])


def run(sample, collate, batch_size=8):
    selector = make_selector("random", num_samples=SIZE, epochs=4, keep_ratio=0.5)
    selector.begin_epoch(0)
    yield from selection_loader(Data(sample), selector, batch_size=batch_size, collate_fn=collate)


def number_of(batch):
    """Which samples the rows are, from what is written into their signals."""
    values = batch.values() if isinstance(batch, dict) else batch
    for value in values:
        if isinstance(value, dict | list | tuple) and (found := number_of(value)) is not None:
            return found
        if isinstance(value, torch.Tensor) and value.ndim > 2:
            return value.flatten(2)[:, 0, 0] if value.ndim == 4 else value[:, :, 0].max(1).values
    return None


@pytest.mark.parametrize(
    ("sample", "collate"),
    [
        (pair, pads_and_sorts),
        (pair, pads_left_and_sorts),
        (pair, renames),
        (pair, nests),
        (pair, puts_back),
        (image, swaps_and_shuffles),
        (record, sorts_records),
        (lambda i: SIGNALS[i], sorts_tensors),
        (mapping(dict), copies_mappings),
        (mapping(UserDict), copies_mappings),
    ],
)
def test_rows_that_are_sorted_or_shuffled_are_followed(sample, collate):
    for batch in run(sample, collate):
        index = batch["sample_index"] if isinstance(batch, dict) else batch[-1]
        assert torch.equal(number_of(batch), index.float())


def fills_up(samples):
    signals, labels = columns(samples)
    order = torch.tensor([0, 0, *range(1, len(samples) - 1)])
    return signals[order], labels[order]


def sorts_only_one(samples):
    signals, labels = columns(samples)
    return signals.flip(0), labels


def sorts_and_scales(samples):
    return 2 * pad_sequence(sorted(samples, key=len), batch_first=True)


def sorts_records_and_scales(samples):
    return 2 * sorts_records(samples)[0]


def sorts_labels_of_records(samples):
    signals, labels = sorts_records(samples)
    return 2 * signals, labels


@pytest.mark.parametrize(
    ("sample", "collate", "why"),
    [
        (pair, fills_up, "some of its rows are repeated"),
        (pair, sorts_only_one, "its parts are in different orders"),
        (lambda i: SIGNALS[i], sorts_and_scales, "nothing in the batch tells their order"),
        (record, sorts_records_and_scales, "nothing in the batch tells their order"),
        (record, sorts_labels_of_records, "their contents are in another order|nothing in"),
    ],
)
def test_rows_that_cannot_be_followed_are_refused_with_what_to_do(sample, collate, why):
    with pytest.raises(InputError, match=why) as error:
        next(run(sample, collate))
    assert "IndexedDataset(dataset)" in str(error.value)


def test_labels_alone_that_are_shuffled_are_refused_after_some_batches():
    def shuffles(samples):
        order = torch.randperm(len(samples))
        pixels = torch.stack([pixels + torch.randn(1) for pixels, _ in samples])
        return pixels[order], torch.tensor([label for _, label in samples])[order]

    collate = CollateWithIndex(shuffles)

    def collates_many():
        for _ in range(20):
            chosen = torch.randperm(SIZE)[:8].tolist()
            collate([IndexedSample(image(i), i) for i in chosen])

    with pytest.raises(InputError, match="their contents are in another order"):
        collates_many()


BINARY = [label % 2 for label in LABELS]
LETTERS = torch.randint(0, 4, (SIZE, 40), generator=DRAW).tolist()


def stacked(samples):
    return torch.stack([pixels for pixels, _ in samples])


def labels_of(samples):
    return torch.tensor([label for _, label in samples])


def mixes(samples):
    pixels, labels, order = stacked(samples), labels_of(samples), torch.randperm(len(samples))
    return pixels, pixels[order], labels, labels[order]


def adds_noise(samples):
    labels = labels_of(samples)
    return stacked(samples), torch.where(torch.rand(len(labels)) < 0.2, 1 - labels, labels)


def augments_and_turns(samples):
    return stacked(samples) + torch.randn(1), 1 - labels_of(samples)


def crops(samples):
    begins = torch.randint(0, 20, (len(samples),)).tolist()
    letters = [s["letters"][at : at + 16] for s, at in zip(samples, begins, strict=True)]
    return {"letters": torch.tensor(letters), "label": torch.tensor([s["label"] for s in samples])}


def masks(samples):
    letters = torch.tensor([s["letters"] for s in samples])
    drawn = torch.where(
        torch.rand(letters.shape) < 0.3, torch.randint(0, 4, letters.shape), letters
    )
    return {"letters": drawn, "label": torch.tensor([s["label"] for s in samples])}


def flips(samples):
    rows = [row if torch.rand(()) > 0.5 else row[::-1] for row, _ in samples]
    return torch.tensor(rows), labels_of(samples)


def of_binary(i):
    return IMAGES[i], BINARY[i]


def of_letters(i):
    return {"letters": LETTERS[i], "label": BINARY[i]}


@pytest.mark.parametrize(
    ("sample", "collate"),
    [
        (of_binary, lambda rows: (stacked(rows), F.one_hot(labels_of(rows), 2).float())),
        (of_binary, lambda rows: (stacked(rows), 1 - labels_of(rows))),
        (of_binary, mixes),
        (of_binary, adds_noise),
        (of_binary, augments_and_turns),
        (
            lambda i: (IMAGES[i], BINARY[i], (BINARY[i] + i) % 2),
            lambda rows: (
                torch.stack([r[0] for r in rows]),
                torch.tensor([r[2] for r in rows]),
                torch.tensor([r[1] for r in rows]),
            ),
        ),
        (of_letters, crops),
        (of_letters, masks),
        (lambda i: ([float(n % 3) for n in LETTERS[i]], BINARY[i]), flips),
        (lambda i: (np.full(4, np.nan), LABELS[i]), torch.utils.data.default_collate),
    ],
)
@pytest.mark.parametrize("batch_size", [2, 4, 8])
def test_correct_functions_are_not_refused_by_a_coincidence(sample, collate, batch_size):
    torch.manual_seed(0)

    def through(samples):
        return collate(samples)

    for _ in range(12):
        for batch in run(sample, through, batch_size):
            assert "sample_index" in batch or len(batch[-1]) == batch_size


def test_one_function_sees_many_batches_without_a_false_word():
    """The doubts of labels that are turned in the function do not add up."""
    collate, draw = CollateWithIndex(augments_and_turns), torch.Generator().manual_seed(1)
    for _ in range(1000):
        chosen = torch.randperm(SIZE, generator=draw)[:8].tolist()
        batch = collate([IndexedSample(of_binary(i), i) for i in chosen])
        assert batch[-1].tolist() == chosen


def test_arrays_texts_and_nested_tensors_in_a_batch_are_read_or_passed_over():
    def arrays(samples):
        pixels = np.stack([pixels.numpy() for _, pixels in samples])[::-1]
        pixels.flags.writeable = False
        return {"pixels": pixels, "texts": [text for text, _ in samples][::-1]}

    def texts(samples):
        ragged = torch.nested.nested_tensor([torch.zeros(len(s.text)) for s in samples])
        return {"texts": [s.text for s in samples], "ragged": ragged}

    @dataclass
    class Text:
        text: str

    for batch in run(lambda i: (str(i), IMAGES[i]), arrays):
        assert batch["pixels"][:, 0, 0, 0].tolist() == batch["sample_index"].tolist()
    with pytest.warns(UserWarning, match="nested"):
        batches = list(run(lambda i: Text("x" * (i + 1)), texts))
    for batch in batches:
        assert [len(text) - 1 for text in batch["texts"]] == batch["sample_index"].tolist()
