"""Small models, texts and Trainers of Hugging Face, with and without selection."""

from __future__ import annotations

from typing import Any

import torch
from replay import Recording, Replay, flat_weights
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from data_agent.integrations.transformers import SelectiveTrainer

SIZE, EPOCHS, BATCH, WIDTH, VOCAB = 40, 4, 4, 16, 48
SMALL = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT = {**SMALL, "vocab_size": VOCAB, "intermediate_size": 32, "max_position_embeddings": 32}
LLAMA = {**SMALL, "vocab_size": VOCAB, "intermediate_size": 32, "num_key_value_heads": 2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class Texts(torch.utils.data.Dataset):
    """Sample i begins with token i, so that a batch tells where its rows come from."""

    def __init__(self, labels="class", size=SIZE):
        self.labels, self.size = labels, size
        self.tokens = torch.randint(
            1, VOCAB, (size, 10), generator=torch.Generator().manual_seed(0)
        )
        self.tokens[:, 0] = torch.arange(size)

    def __len__(self):
        return self.size

    def __getitem__(self, i) -> Any:
        tokens = self.tokens[i].clone()
        sample = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        return {**sample, "labels": self.label(i, tokens), "unused": "removed"}

    def label(self, i, tokens) -> Any:
        if self.labels == "class":
            return int(tokens[1]) % 3
        if self.labels == "several":
            return [float(tokens[k] % 2) for k in (1, 2, 3)]
        if self.labels == "number":
            return float(tokens[1]) / VOCAB
        if self.labels == "token class":
            return tokens % 3
        masked = tokens.clone()
        masked[: i % 5 + 1] = -100
        return masked


def bert(kind=BertForSequenceClassification, **config):
    torch.manual_seed(0)
    return kind(BertConfig(**{**BERT, "num_labels": 3, **config}))


def llama(**config):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**LLAMA, **config}))


def arguments(folder, **changes):
    """The Trainer's arguments, as small and quiet as they get."""
    options = {
        **{"output_dir": str(folder), "use_cpu": True, "report_to": [], "disable_tqdm": True},
        **{"per_device_train_batch_size": BATCH, "num_train_epochs": EPOCHS, "logging_steps": 10},
        **{"save_strategy": "no", "learning_rate": 1e-2},
    }
    return TrainingArguments(**{**options, **changes})


class Ours(Recording, SelectiveTrainer):
    pass


class Watching(Ours):
    """Keeps the feedback of the first batch and the inputs it came from."""

    feedback: Any

    def training_step(self, model, inputs, *args, **kwargs):
        if not hasattr(self, "inputs"):
            self.inputs = {k: v for k, v in inputs.items() if k != "sample_index"}
            observe = self.selector.observe

            def keep(feedback):
                self.feedback = feedback
                self.selector.observe = observe
                observe(feedback)

            self.selector.observe = keep
        return super().training_step(model, inputs, *args, **kwargs)


class Theirs(Trainer):
    """Without us, over a given order."""

    order: Any

    def _get_train_sampler(self, train_dataset=None):
        return Replay(self.order)


def train(model, data, args, *, kind: Any = Ours, **options) -> Any:
    trainer = kind(model=model, args=args, train_dataset=data, **options)
    trainer.train()
    return trainer


def replay(ours, model, data, args, **options) -> Any:
    trainer = Theirs(model=model, args=args, train_dataset=data, **options)
    trainer.order = ours.order
    trainer.train()
    return trainer


def weights(trainer):
    return flat_weights(trainer.model)
