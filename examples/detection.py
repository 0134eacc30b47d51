"""An object detector under `SelectiveTrainer`: half of the images are visited in each epoch.

    python examples/detection.py

A small YOLOS made here learns to find rectangles, whose colours are the classes; each fourth image
is empty. Replace `shapes` and `model` by your own: docs/detection.md.
"""

import torch
from transformers import TrainingArguments, YolosConfig, YolosForObjectDetection

from data_agent.integrations.transformers import SelectiveTrainer

SIZE = 64
MODEL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
MODEL |= {"intermediate_size": 64, "num_detection_tokens": 10, "image_size": [SIZE, SIZE]}


def shapes(count, seed):
    draws = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(count):
        classes = torch.randint(3, (i % 4,), generator=draws)
        sizes, middles = 0.2 + 0.3 * torch.rand(2, i % 4, 2, generator=draws)
        boxes = torch.cat([middles + 0.15, sizes], dim=1)  # in shares of the image
        pixels = 0.1 * torch.randn(3, SIZE, SIZE, generator=draws)
        for colour, (x, y, width, height) in zip(classes, (boxes * SIZE).int(), strict=True):
            left, top = x - width // 2, y - height // 2
            pixels[colour, top : top + height, left : left + width] += 1
        rows.append({"pixel_values": pixels, "labels": {"class_labels": classes, "boxes": boxes}})
    return rows


def collate(rows):
    pixels = torch.stack([row["pixel_values"] for row in rows])
    return {"pixel_values": pixels, "labels": [row["labels"] for row in rows]}


def main():
    torch.manual_seed(0)
    model = YolosForObjectDetection(YolosConfig(**MODEL, num_labels=3))
    args = TrainingArguments(
        output_dir="detection-output",
        save_strategy="no",
        num_train_epochs=10,
        per_device_train_batch_size=8,
        learning_rate=2e-3,
        remove_unused_columns=False,  # keeps the boxes
        prediction_loss_only=True,
    )
    options = {"train_dataset": shapes(160, seed=0), "eval_dataset": shapes(32, seed=1)}
    trainer = SelectiveTrainer(model, args, data_collator=collate, keep_ratio=0.5, **options)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    print(trainer.selector.summary())
    return before, trainer.evaluate()["eval_loss"]


if __name__ == "__main__":
    print("loss of unseen images {:.3f} before, {:.3f} after".format(*main()))
