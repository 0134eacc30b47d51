"""What the agent adds to a training step inside each framework, against that framework alone.

    python benchmarks/integrations.py            # table, and benchmarks/results/integrations.json
    python benchmarks/integrations.py --frameworks trainer,lightning --rounds 3

Each round trains with the framework alone and with us, in turns, for as many optimizer steps, on
the same model and batch size, and takes the mean time from one optimizer step to the next (loading,
policy updates and the selection at an epoch's beginning are in it). Medians over rounds.
"""

import argparse
import importlib.metadata
import json
import logging
import statistics
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from data_agent import DataAgent, selection_loader
from data_agent_lab.runs.environment import describe_environment

NUM_SAMPLES, EPOCHS, BATCH_SIZE, WARM_UP = 512, 2, 16, 16
LENGTH, VOCABULARY, WIDTH = 64, 8192, 128
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 4 * WIDTH,
}
PACKAGES = ("accelerate", "transformers", "trl", "lightning")
agent_of = partial(DataAgent, keep_ratio=1.0)  # as many steps as the framework alone


class Timed(torch.optim.SGD):
    """Notes when each step is done."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.01)
        self.times = []

    def step(self, closure=None):
        """One step, and when it was done."""
        result = super().step(closure)
        self.times.append(time.perf_counter())
        return result

    def milliseconds(self):
        """Mean time from one step to the next, once all is warm."""
        times = self.times[WARM_UP:]
        return (times[-1] - times[0]) / (len(times) - 1) * 1e3


class Rows(Dataset):
    """Sequences of tokens with a class each."""

    def __init__(self):
        draws = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(3, VOCABULARY, (NUM_SAMPLES, LENGTH), generator=draws)

    def __len__(self):
        return NUM_SAMPLES

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index], "labels": index % 4}


def classifier():
    """A small BERT with four classes."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SHAPE, num_labels=4))


def language_model():
    """A small Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, pad_token_id=0))


def plain_loop(model, optimizer, with_agent, accelerator=None):
    """A loop of one's own, with or without Accelerate."""
    backward = torch.Tensor.backward if accelerator is None else accelerator.backward
    head = model.classifier
    if not with_agent:
        loader = DataLoader(Rows(), batch_size=BATCH_SIZE, shuffle=True)
        if accelerator is not None:
            model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        for _ in range(EPOCHS):
            for batch in loader:
                logits = model(batch["input_ids"]).logits
                backward(F.cross_entropy(logits, batch["labels"]))
                optimizer.step()
                optimizer.zero_grad()
        return
    agent = agent_of(num_samples=NUM_SAMPLES, epochs=EPOCHS)
    agent.watch(head)
    if accelerator is None:
        loader = selection_loader(Rows(), agent, batch_size=BATCH_SIZE)
    else:
        from data_agent.integrations.accelerate import selection_loader as accelerate_loader

        loader = accelerate_loader(Rows(), agent, accelerator, batch_size=BATCH_SIZE)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for _ in agent.epochs():
        for batch in loader:
            logits = model(batch["input_ids"]).logits
            losses = F.cross_entropy(logits, batch["labels"], reduction="none")
            backward(agent.learn(losses, batch["sample_index"]))
            optimizer.step()
            optimizer.zero_grad()


def run_plain(with_agent):
    """A loop of one's own."""
    model = classifier()
    optimizer = Timed(model.parameters())
    plain_loop(model, optimizer, with_agent)
    return optimizer


def run_accelerate(with_agent):
    """The same loop, prepared by Accelerate."""
    from accelerate import Accelerator

    model = classifier()
    optimizer = Timed(model.parameters())
    plain_loop(model, optimizer, with_agent, Accelerator(cpu=True))
    return optimizer


def arguments(kind, folder, **options):
    """What Trainer and SFTTrainer have in common."""
    return kind(
        output_dir=folder,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH_SIZE,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        logging_steps=50,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )


def run_trainer(with_agent):
    """Hugging Face Trainer."""
    from transformers import Trainer, TrainingArguments

    from data_agent.integrations.transformers import SelectiveTrainer

    model = classifier()
    optimizer = Timed(model.parameters())
    kind = partial(SelectiveTrainer, selector=agent_of) if with_agent else Trainer
    with tempfile.TemporaryDirectory() as folder:
        kind(
            model=model,
            args=arguments(TrainingArguments, folder),
            train_dataset=Rows(),
            optimizers=(optimizer, None),
        ).train()
    return optimizer


def run_sft(with_agent):
    """TRL's SFTTrainer."""
    from datasets import Dataset as Table
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    from data_agent.integrations.trl import SelectiveSFTTrainer

    words = {"[PAD]": 0, "[EOS]": 1, **{f"w{i}": i for i in range(2, VOCABULARY)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="[EOS]")),
        pad_token="[PAD]",
        eos_token="[EOS]",
    )
    table = Table.from_dict({"input_ids": Rows().tokens.tolist()})
    model = language_model()
    optimizer = Timed(model.parameters())
    kind = partial(SelectiveSFTTrainer, selector=agent_of) if with_agent else SFTTrainer
    with tempfile.TemporaryDirectory() as folder:
        kind(
            model=model,
            args=arguments(SFTConfig, folder, max_length=LENGTH),
            train_dataset=table,
            processing_class=tokenizer,
            optimizers=(optimizer, None),
        ).train()
    return optimizer


def run_lightning(with_agent):
    """Lightning's Trainer."""
    import lightning.pytorch as L

    from data_agent.integrations.lightning import SelectionCallback

    agent = agent_of(num_samples=NUM_SAMPLES, epochs=EPOCHS) if with_agent else None

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = classifier()

        def training_step(self, batch, _):
            logits = self.model(batch["input_ids"]).logits
            if agent is None:
                return F.cross_entropy(logits, batch["labels"])
            losses = F.cross_entropy(logits, batch["labels"], reduction="none")
            return agent.learn(losses, batch["sample_index"])

        def train_dataloader(self):
            if agent is None:
                return DataLoader(Rows(), batch_size=BATCH_SIZE, shuffle=True)
            return selection_loader(Rows(), agent, batch_size=BATCH_SIZE)

        def configure_optimizers(self):
            self.optimizer = Timed(self.model.parameters())
            return self.optimizer

    module = Module()
    if agent is not None:
        agent.watch(module.model.classifier)
    L.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SelectionCallback(agent)] if agent is not None else [],
    ).fit(module)
    return module.optimizer


RUNS = {
    "plain PyTorch": run_plain,
    "accelerate": run_accelerate,
    "trainer": run_trainer,
    "sft": run_sft,
    "lightning": run_lightning,
}


def measure(name, rounds):
    """Milliseconds a step, the framework alone and with the agent."""
    run = RUNS[name]
    pairs = [(run(False).milliseconds(), run(True).milliseconds()) for _ in range(rounds)]
    alone, with_us = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "framework": name,
        "alone_ms": round(alone, 3),
        "with_us_ms": round(with_us, 3),
        "added_ms": round(with_us - alone, 3),
        "added_percent": round(100 * (with_us / alone - 1), 2),
        "rounds": rounds,
    }


def main():
    """Measure all frameworks, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frameworks", default=",".join(RUNS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/integrations.json"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    rows = []
    print(f"{'framework':16} {'alone ms':>9} {'with us ms':>11} {'added':>8}")
    for name in options.frameworks.split(","):
        row = measure(name, options.rounds)
        rows.append(row)
        print(
            f"{name:16} {row['alone_ms']:9.2f} {row['with_us_ms']:11.2f} "
            f"{row['added_percent']:7.1f}%",
            flush=True,
        )
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    result = {
        "environment": {**describe_environment("cpu"), **versions},
        "setting": {
            "model": f"2 layers of width {WIDTH}; BERT with 4 classes, for sft Llama",
            "num_samples": NUM_SAMPLES,
            "epochs": EPOCHS,
            "batch_size": BATCH_SIZE,
            "sequence_length": LENGTH,
            "vocabulary": VOCABULARY,
        },
        "rows": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
