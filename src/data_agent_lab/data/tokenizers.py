"""The tokenizer of a run: the model's own, another one by name, or one trained here."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import processors
from tokenizers.implementations import ByteLevelBPETokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data_agent.errors import InputError
from data_agent_lab.recipes import TextRecipe

logger = logging.getLogger(__name__)

BUILT = re.compile(r"(llama|bert)-(\d+)x(\d+)")  # names of models that are trained from scratch
_MAX_CHARACTERS = 20_000_000  # that a tokenizer is trained on


def find_tokenizer(recipe: TextRecipe) -> Any | None:
    """The recipe's tokenizer or its model's, which can pad; None where one is to be trained.

    Raises:
        InputError: it cannot be found, or has no token that ends a text (a classifier's: nor pads).
    """
    if recipe.tokenizer is None and BUILT.fullmatch(recipe.model):
        return None
    name = recipe.tokenizer or recipe.model
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no tokenizer {name!r} was found: {str(error).splitlines()[0]} Give a local path or a "
            "name of the Hugging Face hub, which needs a network (--tokenizer)."
        ) from error
    special = set(tokenizer.all_special_ids)
    if len(tokenizer) - len(special) < 2:  # what is made up for a folder without a tokenizer
        raise InputError(
            f"{name!r} comes without the files of a tokenizer (no token but {len(special)} special "
            "ones). Save the model's beside it, or name one with --tokenizer."
        )
    may_lack_end = recipe.kind == "text-classification" and tokenizer.pad_token is not None
    if tokenizer.eos_token is None and not may_lack_end:
        raise InputError(f"the tokenizer {name!r} has no token that ends a text. Take another one.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        logger.info("the tokenizer has no padding token; %r pads.", tokenizer.eos_token)
    return tokenizer


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int, frames: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (Sennrich et al. 2016, as in GPT-2), the same for the same texts.

    It has at most `vocab_size` tokens (300 or more), and learns from the first 20 million
    characters. With `frames` it puts texts between `[CLS]` and `[SEP]`, as encoders expect them.
    """
    special = {"eos_token": "<eos>", "pad_token": "<pad>"}
    if frames:
        special |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        _first(texts),
        vocab_size=vocab_size,
        min_frequency=0,
        special_tokens=list(special.values()),
        show_progress=False,
    )
    whole: Any = tokenizer._tokenizer  # pyright: ignore[reportPrivateUsage]
    names = ["input_ids", "attention_mask"]
    if frames:
        whole.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(name, whole.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
        )
        names.insert(1, "token_type_ids")
    return PreTrainedTokenizerFast(tokenizer_object=whole, model_input_names=names, **special)


def _first(texts: Iterable[str]) -> Iterator[str]:
    left = _MAX_CHARACTERS
    for text in texts:
        if left <= 0:
            return
        left -= len(text)
        yield text
