"""The collators that transformers has: each row keeps the index of its own sample."""

from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs pip install '.[transformers]'")
pytest.importorskip("accelerate", reason="needs pip install '.[transformers]'")

from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from trainers import BATCH, VOCAB, WIDTH, Watching, arguments, bert, replay, train, weights  # noqa: E402
from transformers import (  # noqa: E402
    BertForMultipleChoice,
    DataCollatorForLanguageModeling,
    DataCollatorForMultipleChoice,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    T5Config,
    T5ForConditionalGeneration,
    default_data_collator,
)

from data_agent import make_selector, selection_loader  # noqa: E402

SIZE = 40


def tokenizer():
    words = {"<pad>": 0, **{f"w{i}": i for i in range(1, VOCAB)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", mask_token=f"w{VOCAB - 1}"
    )


def tokens_of(i, length=None):
    """Begins with the sample's number, of a length of its own."""
    return [i + 1] + [1 + (3 * i + k) % 40 for k in range(i % 5 if length is None else length)]


def padded(i):
    return {"input_ids": tokens_of(i), "attention_mask": [1] * len(tokens_of(i))}


COLLATORS = {
    "default": (lambda _: default_data_collator, lambda i: {"input_ids": tokens_of(i, 3)}),
    "padding": (DataCollatorWithPadding, lambda i: {**padded(i), "label": i % 3}),
    "token classes": (
        DataCollatorForTokenClassification,
        lambda i: {**padded(i), "labels": tokens_of(i)},
    ),
    "language model": (lambda t: DataCollatorForLanguageModeling(t, mlm=False), padded),
    "sequence to sequence": (
        DataCollatorForSeq2Seq,
        lambda i: {**padded(i), "labels": tokens_of(i)[::-1]},
    ),
    "sequences without labels": (DataCollatorForSeq2Seq, padded),
    "multiple choice": (
        DataCollatorForMultipleChoice,
        lambda i: {"input_ids": [tokens_of(i), tokens_of(i, 2)], "label": i % 2},
    ),
}


@pytest.mark.parametrize("name", COLLATORS)
@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_each_row_keeps_the_index_of_its_sample(name, batch_size):
    make, row_of = COLLATORS[name]
    selector = make_selector("random", num_samples=SIZE, epochs=4, keep_ratio=0.5)
    selector.begin_epoch(0)
    rows = [row_of(i) for i in range(SIZE)]
    loader = selection_loader(rows, selector, batch_size=batch_size, collate_fn=make(tokenizer()))
    for batch in loader:
        first = batch["input_ids"].flatten(1)[:, 0]
        assert torch.equal(first, batch["sample_index"] + 1)


def t5():
    torch.manual_seed(0)
    sizes: Any = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(
        T5Config(vocab_size=VOCAB, dropout_rate=0.0, **sizes, **{"decoder_start_token_id": 0})
    )


def test_a_model_of_sequences_trains_as_without_us_where_all_is_kept(tmp_path):
    _, row_of = COLLATORS["sequence to sequence"]
    options = {"data_collator": DataCollatorForSeq2Seq(tokenizer())}
    rows = [row_of(i) for i in range(SIZE)]
    ours = train(t5(), rows, arguments(tmp_path), keep_ratio=1.0, **options)
    theirs = replay(ours, t5(), rows, arguments(tmp_path), **options)
    assert torch.equal(weights(ours), weights(theirs))
    half = train(t5(), rows, arguments(tmp_path), **options)
    assert half.selector.visits == 2 * SIZE
    assert half.selector.name == "data-agent"  # of tokens, though rows name labels


def test_multiple_choice_has_a_feature_for_each_question(tmp_path):
    _, row_of = COLLATORS["multiple choice"]
    model = bert(BertForMultipleChoice)
    options = {"data_collator": DataCollatorForMultipleChoice(tokenizer())}
    rows = [row_of(i) for i in range(SIZE)]
    ours = train(
        *(model, rows, arguments(tmp_path)),
        **{"selector": "data-agent", "head": model.classifier, "kind": Watching, **options},
    )
    assert ours.selector.visits == 2 * SIZE
    assert ours.feedback.features.shape == (BATCH, WIDTH)
