"""Instruction tuning on a mixture, towards what a few trusted rows look like.

    python examples/trusted_sft.py

A tiny Llama of random weights. Half of the rows say a word again, half shout another one; the
trusted ones all say it again. Replace model, tokenizer and the two tables by your own.
"""

import random

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig

from data_agent.integrations.trl import SelectiveSFTTrainer

WORDS = [f"word{i}" for i in range(30)]
SIZE, NUM_TRUSTED = 240, 24
TASKS = ("repeat", "shout")


def rows(size, tasks, seed):
    draw = random.Random(seed)
    asked = [(draw.choice(WORDS), tasks[i % len(tasks)]) for i in range(size)]
    answers = [f" {word if task == 'repeat' else draw.choice(WORDS)}" for word, task in asked]
    columns = {"prompt": [f"{task} {word}" for word, task in asked], "completion": answers}
    return Dataset.from_dict(columns)


def main():
    set_seed(0)
    vocabulary = {word: i for i, word in enumerate([*WORDS, *TASKS, "<pad>", "<eos>"])}
    splitter = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    splitter.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"pad_token": "<pad>", "eos_token": "<eos>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=splitter, **marks)
    config = LlamaConfig(
        **{"vocab_size": len(vocabulary), "hidden_size": 32, "intermediate_size": 64},
        **{"num_hidden_layers": 2, "num_attention_heads": 2},
    )
    trainer = SelectiveSFTTrainer(
        model=LlamaForCausalLM(config),
        args=SFTConfig(
            **{"output_dir": "sft-output", "save_strategy": "no", "num_train_epochs": 16},
            **{"per_device_train_batch_size": 8, "learning_rate": 3e-3, "bf16": False},
        ),
        train_dataset=rows(SIZE, TASKS, seed=0),
        trusted_dataset=rows(NUM_TRUSTED, TASKS[:1], seed=1),
        processing_class=tokenizer,
        keep_ratio=0.5,
    )
    trainer.train()
    print(trainer.selector.summary())
    chosen = trainer.selector.select(trainer.selector.epoch).index
    return (chosen[chosen < SIZE] % 2 == 0).float().mean().item()  # those that repeat: half of all


if __name__ == "__main__":
    print(f"{100 * main():.0f} % of the last epoch's other rows repeat.")
