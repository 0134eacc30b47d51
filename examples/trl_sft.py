"""TRL's SFTTrainer with a selection: `SelectiveSFTTrainer` in the place of `SFTTrainer`.

    python examples/trl_sft.py

LoRA on a tiny Llama of random weights; only completions count, and half of the samples are visited
in each epoch. Replace `model`, `tokenizer` and `train_set` by what you load with `from_pretrained`
and `load_dataset`.
"""

import random

from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig

from data_agent.integrations.trl import SelectiveSFTTrainer


def main():
    words = [f"word{i}" for i in range(30)]
    vocabulary = {word: i for i, word in enumerate([*words, "repeat", "<pad>", "<eos>"])}
    splitter = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    splitter.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=splitter, pad_token="<pad>", eos_token="<eos>"
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    chosen = random.Random(0).choices(words, k=200)
    train_set = Dataset.from_dict(
        {"prompt": [f"repeat {w}" for w in chosen], "completion": [f" {w}" for w in chosen]}
    )
    trainer = SelectiveSFTTrainer(
        model=LlamaForCausalLM(config),
        args=SFTConfig(
            output_dir="sft-output",
            save_strategy="no",
            num_train_epochs=6,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            bf16=False,  # leave this line out on a GPU with bf16
        ),
        train_dataset=train_set,
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
        keep_ratio=0.5,
    )
    trainer.train()
    print(trainer.selector.summary())


if __name__ == "__main__":
    main()
