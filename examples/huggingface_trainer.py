"""A Hugging Face Trainer with a selection: `SelectiveTrainer` in the place of `Trainer`.

    python examples/huggingface_trainer.py

A tiny BERT made here learns which of two words a sentence holds; half of the sentences are visited
in each epoch. Replace `model` and `train_set` by what you load with `from_pretrained` and
`load_dataset`. Each row has one class label, so the method is label-aware; with
`selector="data-agent"` it is the policy.
"""

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from data_agent.integrations.transformers import SelectiveTrainer


class Sentences(Dataset):
    def __init__(self, size):
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(3, 100, (size, 12), generator=generator)
        self.tokens[:, 5] = 1 + torch.arange(size) % 2

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, i):
        return {"input_ids": self.tokens[i], "labels": i % 2}


def main():
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=100,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
        )
    )
    args = TrainingArguments(
        output_dir="trainer-output",
        save_strategy="no",
        num_train_epochs=6,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        report_to=[],
        disable_tqdm=True,
    )
    train_set = Sentences(256)
    trainer = SelectiveTrainer(
        model=model, args=args, train_dataset=train_set, eval_dataset=train_set, keep_ratio=0.5
    )
    trainer.train()
    print(trainer.selector.summary())
    print(trainer.evaluate())


if __name__ == "__main__":
    main()
