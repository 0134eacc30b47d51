"""The models of language runs: by name from the hub or a path, or built small and from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from data_agent.errors import InputError
from data_agent_lab.data.texts import LanguageData
from data_agent_lab.data.tokenizers import BUILT
from data_agent_lab.recipes import TextRecipe

if TYPE_CHECKING:
    from peft import LoraConfig

_LEAST_CONTEXT = 2048  # of models that are built here


def build_model(recipe: TextRecipe, data: LanguageData) -> Any:
    """The recipe's model of transformers in float32, for the tokenizer and the classes of its data.

    What is drawn anew follows torch's global generator. Code from a model's repository is never
    executed.

    Raises:
        InputError: no such model, one of another kind, too short a context for `max_length`, too
            few embeddings for the tokenizer, or one that cannot train on packs.
    """
    found = BUILT.fullmatch(recipe.model)
    if found is None:
        model = _load(recipe, data)
        if recipe.kind != "text-classification":
            _check_decoder(model, recipe)
    else:
        model = _build(recipe, data, found[1], hidden=int(found[2]), layers=int(found[3]))
    context, num_embeddings = _context(model), model.get_input_embeddings().num_embeddings
    if context is not None and context < recipe.max_length:
        raise InputError(
            f"--max-length is {recipe.max_length}, but {recipe.model} reads {context} tokens at "
            f"most. Use --max-length {context} or less."
        )
    if len(data.tokenizer) > num_embeddings:
        raise InputError(
            f"the tokenizer has {len(data.tokenizer)} tokens, but {recipe.model} embeds "
            f"{num_embeddings}. Take the model's own (without --tokenizer)."
        )
    return model


def lora_config(recipe: TextRecipe) -> LoraConfig | None:
    """Low-rank adapters (Hu et al. 2022) on all linear layers, scaled by 2; None without."""
    if recipe.lora_rank is None:
        return None
    from peft import LoraConfig  # takes a second to import

    return LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=2 * recipe.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="SEQ_CLS" if recipe.kind == "text-classification" else "CAUSAL_LM",
    )


def _context(model: Any) -> int | None:
    """How many tokens a model reads at most; None where nothing limits it."""
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            return module.num_embeddings - padding - 1  # RoBERTa counts on from padding
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _check_decoder(model: Any, recipe: TextRecipe) -> None:
    """A token's prediction must stay as it is, whatever comes behind it.

    Of two texts in one row, told by positions only as TRL packs them, the second must ignore the
    first. Models that count positions by the attention mask do not see it.
    """
    name = f"--model {recipe.model} ({type(model).__name__})"
    one, other = (_logits(model, [1, 1, last]) for last in (1, 2))
    if not torch.allclose(one[0], other[0], atol=1e-4):
        raise InputError(
            f"{name} sees the tokens that it is to predict, so it cannot learn {recipe.kind}. Take "
            "a decoder, such as GPT or Llama."
        )
    if not recipe.packing:
        return
    try:
        positions = [0, 1, 2, 0, 1, 2]
        one, other = (_logits(model, [t, t, t, 1, 1, 1], position_ids=positions) for t in (1, 2))
        keeps_apart = torch.allclose(one[3:], other[3:], atol=1e-4)
    except TypeError:  # it takes no positions
        keeps_apart = False
    if not keeps_apart:
        raise InputError(
            f"{name} takes texts that are packed into one row for one text. Train it without "
            "--packing."
        )


@torch.no_grad()
def _logits(model: Any, ids: list[int], **rows: list[int]) -> Tensor:
    """`[T, V]` of one row, in evaluation mode, as models are loaded."""
    inputs = {name: torch.tensor([row]) for name, row in {"input_ids": ids, **rows}.items()}
    return model(**inputs, use_cache=False).logits[0].float()


def _build(recipe: TextRecipe, data: LanguageData, family: str, *, hidden: int, layers: int) -> Any:
    """As Llama (Touvron et al. 2023), with tied embeddings, or as BERT (Devlin et al. 2019)."""
    is_classifier, tokenizer = recipe.kind == "text-classification", data.tokenizer
    if (family == "bert") != is_classifier:
        raise InputError(
            f"--model {recipe.model} does not suit {recipe.kind}. Use "
            f"{'bert' if is_classifier else 'llama'}-{hidden}x{layers}, or a model of the hub."
        )
    head = 64 if hidden % 64 == 0 and hidden > 64 else 32
    if layers < 1 or hidden < 1 or hidden % head:
        raise InputError(
            f"--model {recipe.model}: the hidden size must be a multiple of 32, with one layer or "
            f"more, for example {family}-128x2."
        )
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // head,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if is_classifier:
        shape["num_labels"] = len(data.class_names)
        config = BertConfig(
            **shape,
            intermediate_size=4 * hidden,
            max_position_embeddings=max(512, recipe.max_length),
        )
        return BertForSequenceClassification(config)
    config = LlamaConfig(
        **shape,
        intermediate_size=32 * round(8 * hidden / 3 / 32),
        max_position_embeddings=max(_LEAST_CONTEXT, recipe.max_length),
        num_key_value_heads=hidden // head,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    return LlamaForCausalLM(config)


def _load(recipe: TextRecipe, data: LanguageData) -> Any:
    kind, options = AutoModelForCausalLM, {}
    if recipe.kind == "text-classification":
        kind = AutoModelForSequenceClassification
        options = {
            "num_labels": len(data.class_names),
            "pad_token_id": data.tokenizer.pad_token_id,
            "ignore_mismatched_sizes": True,  # a head for other classes is drawn anew
        }
    try:
        return kind.from_pretrained(recipe.model, dtype=torch.float32, **options)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--model {recipe.model} cannot be loaded for {recipe.kind}: "
            f"{str(error).splitlines()[0]} Expected a name of the Hugging Face hub (which needs a "
            "network), a local path, llama-HIDDENxLAYERS or bert-HIDDENxLAYERS."
        ) from error
