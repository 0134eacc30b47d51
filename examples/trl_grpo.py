"""TRL's GRPOTrainer with prompts that are chosen: `SelectiveGRPOTrainer` in its place.

    python examples/trl_grpo.py

A tiny Llama of random weights is rewarded for saying the prompt's word. Prompts with "never" are
never won: the agent learns to leave them. Replace `model`, `tokenizer` and `train_set` by what you
load with `from_pretrained` and `load_dataset`, and `reward` by your verifier.
"""

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig

from data_agent.integrations.trl_prompts import SelectiveGRPOTrainer


def reward(completions, answer, **_):
    return [float(a in text.split()) for text, a in zip(completions, answer, strict=True)]


def main():
    words = [f"word{i}" for i in range(8)]
    vocabulary = {word: i for i, word in enumerate([*words, "say", "never", "<pad>", "<eos>"])}
    splitter = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    splitter.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=splitter, pad_token="<pad>", eos_token="<eos>"
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    prompts = [f"say {word}" for word in words] + [f"never {word}" for word in words]
    answers = words + ["nothing"] * len(words)
    train_set = Dataset.from_dict({"prompt": 20 * prompts, "answer": 20 * answers})
    trainer = SelectiveGRPOTrainer(
        model=LlamaForCausalLM(config),
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir="grpo-output",
            max_steps=30,
            per_device_train_batch_size=32,
            learning_rate=3e-3,
            num_generations=4,
            max_completion_length=4,
            bf16=False,  # leave this line out on a GPU with bf16
        ),
        train_dataset=train_set,
        processing_class=tokenizer,
    )
    trainer.train()
    print(trainer.prompt_selector.summary())


if __name__ == "__main__":
    main()
