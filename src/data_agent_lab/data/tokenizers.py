"""The tokenizer of a run: the model's own, another one by name, or one trained here."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data_agent.errors import InputError
from data_agent_lab.training.text_models import is_from_scratch
from data_agent_lab.recipes import TextRecipe

logger = logging.getLogger(__name__)

_MAX_CHARACTERS = 20_000_000  # that a tokenizer is trained on


def find_tokenizer(recipe: TextRecipe) -> Any | None:
    """The recipe's tokenizer, which has tokens to end and to pad sequences with.

    Args:
        recipe: names a tokenizer, or a model that has one.

    Returns:
        A tokenizer of transformers; None where one is to be trained (`train_tokenizer`).

    Raises:
        InputError: it cannot be found, or has neither of the two tokens.
    """
    if recipe.tokenizer is None and is_from_scratch(recipe.model):
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
    if tokenizer.eos_token is None and recipe.kind != "text-classification":
        raise InputError(f"the tokenizer {name!r} has no token that ends a text. Take another one.")
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise InputError(f"the tokenizer {name!r} has no token to pad with. Take another one.")
        tokenizer.pad_token = tokenizer.eos_token
        logger.info("the tokenizer has no padding token; %r pads.", tokenizer.eos_token)
    return tokenizer


def make_tokenizer(recipe: TextRecipe, texts: Iterable[str]) -> Any:
    """The recipe's tokenizer: found, or trained on the texts of the training rows.

    Raises:
        InputError: as `find_tokenizer`.
    """
    found = find_tokenizer(recipe)
    if found is not None:
        return found
    frames = recipe.kind == "text-classification"
    return train_tokenizer(texts, vocab_size=recipe.vocab_size, frames=frames)


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int, frames: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (Sennrich et al. 2016, as in GPT-2), the same for the same texts.

    Args:
        texts: to train on; of more than 20 million characters the first ones.
        vocab_size: at most so many tokens, 300 or more.
        frames: put texts between `[CLS]` and `[SEP]`, as encoders expect them.
    """
    special = {"eos_token": "<eos>", "pad_token": "<pad>"}
    if frames:
        special |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = BpeTrainer(
        vocab_size=vocab_size,  # pyright: ignore[reportCallIssue]
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_first(texts), trainer)
    if frames:
        names = [special["cls_token"], special["sep_token"]]
        tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
            single=f"{names[0]} $A {names[1]}",
            pair=f"{names[0]} $A {names[1]} $B:1 {names[1]}:1",
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in names],
        )
    names = ["input_ids", *(["token_type_ids"] if frames else []), "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=names, **special)


def _first(texts: Iterable[str]) -> Iterator[str]:
    left = _MAX_CHARACTERS
    for text in texts:
        if left <= 0:
            return
        left -= len(text)
        yield text
