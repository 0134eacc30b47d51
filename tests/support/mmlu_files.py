"""A small made-up MMLU, and models of which the answers are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SUBJECTS = ("astronomy", "anatomy", "high_school_us_history")
NUM_ITEMS = {"astronomy": 5, "anatomy": 3, "high_school_us_history": 4}
END = "<|end|>"


def item(subject: str, i: int, *, split: str) -> dict[str, Any]:
    """Question i: every third one is long, its answer is i modulo 4."""
    story = " The story is long, and told with care." * (12 if i % 3 == 2 else i)
    return {
        "question": f" In {subject}, what is number {i} of {split}?{story} ",
        "subject": subject,
        "choices": [f"the {letter}th of {i}" for letter in "wxyz"],
        "answer": i % 4,
    }


def rows_of(split: str) -> list[dict[str, Any]]:
    """The test file's subjects take turns; the dev file has six examples of each."""
    if split == "dev":
        return [item(subject, i, split=split) for i in range(6) for subject in SUBJECTS[::-1]]
    return [
        item(subject, i, split=split)
        for i in range(max(NUM_ITEMS.values()))
        for subject in SUBJECTS
        if i < NUM_ITEMS[subject]
    ]


def write(folder: Path, **files: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder


def write_mmlu(folder: Path) -> Path:
    return write(folder, dev=rows_of("dev"), test=rows_of("test"))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte, so that a text has as many tokens as bytes, and " A" has two."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([END, *alphabet])}
    return _wrapped(Tokenizer(models.BPE(vocab=vocabulary, merges=[])))


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-pair encoding trained on the questions; " A" to " D" are single tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [row["question"] for row in rows_of("dev")]
    tokenizer.train_from_iterator([*texts, *["Answer: A B C D"] * 20], trainer)
    return _wrapped(tokenizer)


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def random_model(tokenizer: Any, *, context: int) -> LlamaForCausalLM:
    """Large random weights, so that answers are not equally likely; in training it drops out."""
    generator_state = torch.get_rng_state()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        initializer_range=0.3,
        attention_dropout=0.5,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    torch.set_rng_state(generator_state)
    return model


def constant_model(tokenizer: Any, odds: dict[str, float], *, context: int) -> GPT2LMHeadModel:
    """Whatever it reads, it says a token with these odds, and each other token with odds of 1."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=context,
        n_embd=4,
        n_layer=1,
        n_head=1,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.transformer.ln_f.bias[0] = 1  # the last hidden state, always
        for token, value in odds.items():
            model.transformer.wte.weight[tokenizer.convert_tokens_to_ids(token), 0] = math.log(
                value
            )
    return model
