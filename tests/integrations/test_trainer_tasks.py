"""Segmentation, several labels, regression and token classes in families of transformers."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

pytest.importorskip("transformers", reason="needs pip install '.[transformers]'")
pytest.importorskip("accelerate", reason="needs pip install '.[transformers]'")

import transformers
from trainers import (
    BATCH,
    LLAMA,
    NO_DROPOUT,
    SIZE,
    VOCAB,
    WIDTH,
    Ours,
    Texts,
    Watching,
    arguments,
    bert,
    replay,
    train,
    weights,
)

from data_agent.errors import InputError
from data_agent.losses import pixel_losses

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*'pin_memory' argument is set as true.*:UserWarning"),
    pytest.mark.filterwarnings(
        "ignore:nothing will be selected:data_agent.errors.DataAgentWarning"
    ),
]

# Segmentation.

PIXELS, CLASSES, IGNORED = 32, 3, 255


class Scenes(Dataset):
    """Bright pixels are of higher classes; of images a different number of rows is ignored."""

    def __init__(self, classes=CLASSES, size=SIZE):
        draws = torch.Generator().manual_seed(0)
        self.images = torch.rand(size, 3, PIXELS, PIXELS, generator=draws)
        self.classes = (self.images.mean(1) * max(2, classes)).long()
        for i in range(size):
            self.classes[i, : i % 7 * 4] = IGNORED

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return {"pixel_values": self.images[i], "labels": self.classes[i]}


def segformer(num_labels=CLASSES, **options):
    torch.manual_seed(0)
    small: Any = {
        **{"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "strides": [2, 2]},
        **{"hidden_sizes": [8, WIDTH], "patch_sizes": [3, 3], "num_attention_heads": [1, 2]},
        **{"mlp_ratios": [2, 2], "decoder_hidden_size": WIDTH, "num_labels": num_labels},
        **{"classifier_dropout_prob": 0.0, "drop_path_rate": 0.0, **options},
    }
    return transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**small))


def beit(**options):
    torch.manual_seed(0)
    small: Any = {
        **{"hidden_size": WIDTH, "num_hidden_layers": 4, "num_attention_heads": 2},
        **{"intermediate_size": 32, "image_size": PIXELS, "patch_size": 8},
        **{"num_labels": CLASSES, "out_indices": [1, 2, 3, 4], **options},
    }
    return transformers.BeitForSemanticSegmentation(transformers.BeitConfig(**small))


def mobilenet():
    torch.manual_seed(0)
    small: Any = {"num_labels": CLASSES, "depth_multiplier": 0.25}
    return transformers.MobileNetV2ForSemanticSegmentation(transformers.MobileNetV2Config(**small))


@pytest.mark.parametrize(
    ("build", "classes", "method"),
    [
        *((segformer, CLASSES, method) for method in ("auto", "infobatch", "data-agent-in-batch")),
        (partial(segformer, 1), 1, "infobatch"),
        (mobilenet, CLASSES, "auto"),
    ],
)
def test_pixels_of_models_are_found(build, classes, method, tmp_path):
    options = {} if method == "auto" else {"selector": method, "keep_ratio": 0.5}
    ours = train(build(), Scenes(classes), arguments(tmp_path), **options)
    assert ours.selector.name == ("data-agent" if method == "auto" else method)
    assert ours.selector.visits > 0


def plain_segformer(num_labels=CLASSES):
    """Without batch statistics, so that an image alone is the image it was in its batch."""
    model = segformer(num_labels)
    head: Any = model.decode_head
    head.batch_norm = nn.Identity()
    return model


@pytest.mark.parametrize("classes", [CLASSES, 1])
def test_an_images_loss_is_what_its_model_says_of_it_alone(classes, tmp_path):
    args = arguments(tmp_path, max_steps=1)
    trainer = train(plain_segformer(classes), Scenes(classes), args, kind=Watching)
    feedback, alone = trainer.feedback, plain_segformer(classes)
    for row, loss in enumerate(feedback.losses):
        output = alone(**{name: value[row : row + 1] for name, value in trainer.inputs.items()})
        torch.testing.assert_close(loss, output.loss.detach())
    assert feedback.features.shape == (BATCH, WIDTH)
    assert ((feedback.uncertainty > 0) & (feedback.uncertainty <= 1)).all()


def test_at_keep_ratio_one_weights_are_those_of_the_trainer_alone(tmp_path):
    args = partial(arguments, tmp_path, num_train_epochs=1)
    ours = train(segformer(), Scenes(), args(), keep_ratio=1.0)
    theirs = replay(ours, segformer(), Scenes(), args())
    assert torch.equal(weights(ours), weights(theirs))


def test_an_auxiliary_head_is_told_and_both_remedies_work(tmp_path):
    class MainHead(Ours):
        def compute_sample_losses(self, inputs, outputs):
            return pixel_losses(outputs["logits"], inputs["labels"], ignore_index=IGNORED)

    args = arguments(tmp_path, max_steps=3)
    with pytest.raises(InputError, match="or switch off the model's auxiliary head"):
        train(beit(), Scenes(), args)
    for ours in (
        train(beit(), Scenes(), args, kind=MainHead),
        train(beit(use_auxiliary_head=False), Scenes(), args),
    ):
        assert ours.selector.visits == 3 * BATCH


def test_trusted_images(tmp_path):
    ours = train(
        *(segformer(), Scenes(), arguments(tmp_path)),
        trusted_dataset=[Scenes()[i] for i in range(8)],
    )
    assert "trusted examples (8 rows)" in ours.selector.summary()


# Texts.

TINY = {**LLAMA, "pad_token_id": 0}
DISTIL = {"dim": WIDTH, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "vocab_size": VOCAB}
GPT2 = {"n_embd": WIDTH, "n_layer": 1, "n_head": 2, "vocab_size": VOCAB, "pad_token_id": 0}
SEQUENCES = {
    "distilbert": ("DistilBertForSequenceClassification", "DistilBertConfig", DISTIL),
    "deberta": ("DebertaV2ForSequenceClassification", "DebertaV2Config", {**TINY, **NO_DROPOUT}),
    "modernbert": ("ModernBertForSequenceClassification", "ModernBertConfig", TINY),
    "llama": ("LlamaForSequenceClassification", "LlamaConfig", TINY),
    "gpt2": ("GPT2ForSequenceClassification", "GPT2Config", GPT2),
}
TOKENS = {
    "deberta": ("DebertaV2ForTokenClassification", "DebertaV2Config", {**TINY, **NO_DROPOUT}),
    "modernbert": ("ModernBertForTokenClassification", "ModernBertConfig", TINY),
    "llama": ("LlamaForTokenClassification", "LlamaConfig", TINY),
}
KINDS = {
    "several": {"problem_type": "multi_label_classification", "num_labels": 3},
    "number": {"num_labels": 1},
    "token class": {"num_labels": 3},
}


def built(table, family, labels):
    torch.manual_seed(0)
    model, config, options = table[family]
    options = {name: value for name, value in options.items() if name != "num_key_value_heads"}
    return getattr(transformers, model)(getattr(transformers, config)(**options, **KINDS[labels]))


@pytest.mark.parametrize(
    ("table", "family", "labels"),
    [
        *((SEQUENCES, family, labels) for family in SEQUENCES for labels in ("several", "number")),
        *((TOKENS, family, "token class") for family in TOKENS),
    ],
)
def test_losses_of_families_are_found(table, family, labels, tmp_path):
    model = built(table, family, labels)
    ours = train(model, Texts(labels), arguments(tmp_path, num_train_epochs=2), kind=Watching)
    assert ours.selector.name == "data-agent"
    assert ours.selector.visits == SIZE
    assert ours.feedback.features.shape == (BATCH, WIDTH)
    assert len(ours.feedback.losses.unique()) == BATCH


def test_soft_labels_of_several_classes_are_refused_with_what_to_return(tmp_path):
    """DeBERTa alone takes rows of floats for shares of classes where no problem_type is named."""
    model = built(SEQUENCES, "deberta", "several")
    model.config.problem_type = None
    with pytest.raises(InputError, match=r"config\.problem_type names\. .*Override compute_sample"):
        train(model, Texts("several"), arguments(tmp_path))


def test_a_regressions_own_uncertainty_is_returned(tmp_path):
    class Own(Watching):
        def compute_sample_losses(self, inputs, outputs):
            samples = super().compute_sample_losses(inputs, outputs)
            return replace(samples, uncertainty=torch.linspace(0, 1, BATCH))

    ours = train(bert(num_labels=1), Texts("number"), arguments(tmp_path), kind=Own)
    assert ours.feedback.uncertainty.tolist() == torch.linspace(0, 1, BATCH).tolist()
    assert 0 < ours.selector.metrics()["reward_weight/uncertainty"] < 1
    plain = train(bert(num_labels=1), Texts("number"), arguments(tmp_path))
    assert plain.selector.metrics()["reward_weight/difficulty"] == pytest.approx(1, abs=1e-4)
