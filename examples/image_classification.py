"""An image classifier from scratch under the Trainer, from small images to ImageNet-1k.

    python examples/image_classification.py --data ILSVRC/imagenet-1k --model resnet-50 \
        --keep-ratio 0.5 --num-train-epochs 90 --bf16 --output-dir runs/imagenet

Every argument of `TrainingArguments` is a flag, and `torchrun` starts it on several GPUs. Images
are decoded and augmented in the loader's workers. Whole recipes: docs/recipes/imagenet.md.
"""

from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from PIL import Image
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import check_min_version

from data_agent.integrations.transformers import SelectiveTrainer

check_min_version("5.24.0")  # 5.2 silently ignores the momentum in --optim-args of sgd

MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])  # ImageNet's
RESNET, VIT = transformers.ResNetConfig, transformers.ViTConfig
MODELS = {
    "resnet-50": (RESNET, {}),
    "vit-base": (VIT, {}),  # patches of 16 pixels, as in the next
    "vit-small": (VIT, {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}),
    "resnet-micro": (RESNET, {"layer_type": "basic", "hidden_sizes": [16, 32], "depths": [1, 1]}),
    "vit-micro": (VIT, {"hidden_size": 48, "num_hidden_layers": 2, "patch_size": 8}),
}


@dataclass
class Recipe:
    data: str = field(metadata={"help": "hub name, or folder with parquet files or images"})
    model: str = field(default="resnet-50", metadata={"choices": list(MODELS)})
    method: str = field(default="data-agent", metadata={"help": "data-agent, label-aware, ..."})
    keep_ratio: float = field(default=0.5, metadata={"help": "share visited in an epoch, (0, 1]"})
    image_size: int = field(default=224, metadata={"help": "side in pixels"})
    image_column: str = "image"
    label_column: str = "label"
    eval_split: str = "validation"


PARSER = transformers.HfArgumentParser((Recipe, transformers.TrainingArguments))


class Photos(torch.utils.data.Dataset):
    """Rows of a data set as `pixel_values` and `labels`; with a seed, randomly cropped and flipped.

    What is drawn for an image depends on (seed, epoch, row) alone: not on the number of worker
    processes and ranks, and not on where a run was interrupted.
    """

    def __init__(self, rows, recipe, seed=None):
        self.rows, self.recipe, self.seed = rows, recipe, seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers see it change

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        row = self.rows[i]
        image = row[self.recipe.image_column].convert("RGB")
        box, is_flipped = middle(*image.size), False
        if self.seed is not None:
            rng = np.random.default_rng([self.seed, int(self.epoch), i])
            box, is_flipped = random_box(*image.size, rng), rng.random() < 0.5
        image = image.resize([self.recipe.image_size] * 2, Image.Resampling.BILINEAR, box=box)
        pixels = (np.asarray(image, dtype=np.float32) / 255 - MEAN) / DEVIATION
        pixels = pixels[:, ::-1] if is_flipped else pixels
        pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        return {"pixel_values": pixels, "labels": row[self.recipe.label_column]}


def random_box(width, height, rng):
    """As RandomResizedCrop: 8 to 100 % of the area at 3:4 to 4:3, else the middle square."""
    for _ in range(10):
        area, ratio = width * height * rng.uniform(0.08, 1), (4 / 3) ** rng.uniform(-1, 1)
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return left, top, left + w, top + h
    return middle(width, height, share=1)


def middle(width, height, share=224 / 256):
    """As Resize(256) and CenterCrop(224): the middle square, 7/8 of the shorter side."""
    side = share * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


class TellEpoch(transformers.TrainerCallback):
    def __init__(self, photos):
        self.photos = photos

    def on_epoch_begin(self, _args, state, _control, **_more):
        self.photos.epoch.fill_(int(state.epoch or 0))


def main(argv=None):
    recipe, args = PARSER.parse_args_into_dataclasses(argv)
    splits = datasets.load_dataset(recipe.data)
    num_classes = splits["train"].features[recipe.label_column].num_classes
    kind, sizes = MODELS[recipe.model]
    transformers.set_seed(args.seed)
    config = kind(num_labels=num_classes, image_size=recipe.image_size, **sizes)
    train_set = Photos(splits["train"], recipe, seed=args.seed)
    trainer = SelectiveTrainer(
        model=transformers.AutoModelForImageClassification.from_config(config),
        args=args,
        train_dataset=train_set,
        eval_dataset=Photos(splits[recipe.eval_split], recipe),
        selector=recipe.method,
        keep_ratio=recipe.keep_ratio,
        compute_metrics=lambda p: {"accuracy": 100 * float((p.predictions == p.label_ids).mean())},
        preprocess_logits_for_metrics=lambda logits, _: logits.argmax(-1),
        callbacks=[TellEpoch(train_set)],
    )
    checkpoint = args.resume_from_checkpoint
    if checkpoint == "last":  # if there is none yet, begin
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)  # any rank may look first
        checkpoint = get_last_checkpoint(args.output_dir)
    trainer.train(resume_from_checkpoint=checkpoint)
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    if trainer.is_world_process_zero():
        print(metrics, trainer.selector.summary(), sep="\n")
    return trainer


if __name__ == "__main__":
    main()
