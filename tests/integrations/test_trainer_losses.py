"""A Trainer's own loss: compared until a batch tells; and every remedy that a message names."""

import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("transformers", reason="needs pip install '.[transformers]'")
pytest.importorskip("accelerate", reason="needs pip install '.[transformers]'")

from trainers import BATCH, SIZE, Ours, Texts, arguments, bert, llama, train
from transformers import BertForQuestionAnswering

from data_agent.errors import InputError, StateError
from data_agent.integrations.transformers import SampleLosses, SelectiveTrainer
from data_agent.losses import (
    binary_losses,
    class_losses,
    regression_losses,
    sample_losses,
    token_losses,
)

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*'pin_memory' argument is set as true.*:UserWarning"),
]
WEIGHT = torch.tensor([1.0, 2.0, 10.0])


def weighted(outputs, labels, num_items_in_batch=None):
    return F.cross_entropy(outputs["logits"], labels, WEIGHT)


def new_head():
    """A model whose first outputs are all alike, so that its first loss tells nothing."""
    model = bert()
    nn.init.zeros_(model.classifier.weight)
    nn.init.zeros_(model.classifier.bias)
    return model


# A batch that cannot tell settles nothing.


def test_a_wrong_loss_is_found_behind_a_batch_that_cannot_tell(tmp_path):
    trainer = Ours(
        model=new_head(),
        args=arguments(tmp_path),
        train_dataset=Texts(),
        compute_loss_func=weighted,
    )
    with pytest.raises(InputError, match="trains on another objective"):
        trainer.train()
    assert BATCH <= trainer.selector.visits < SIZE


class ByClass(Texts):
    """One class in each of the first batches: the weights of cross entropy cancel."""

    def label(self, i, tokens):
        return int(i >= SIZE - 1)


def test_a_class_weight_that_cancels_is_found_when_it_no_longer_does(tmp_path):
    trainer = Ours(
        model=bert(),
        args=arguments(tmp_path),
        train_dataset=ByClass(),
        compute_loss_func=weighted,
        selector="random",
        keep_ratio=1.0,
    )
    with pytest.raises(InputError, match="trains on another objective"):
        trainer.train()
    assert trainer.selector.visits >= BATCH


class RareClass(Texts):
    """The class with another weight is one sample in 24."""

    def label(self, i, tokens):
        return 2 if i % 24 == 23 else i % 2


def test_another_weight_of_a_rare_class_is_found_in_the_first_batch_that_holds_it(tmp_path):
    held = []

    class Watching(Ours):
        def training_step(self, model, inputs, *args, **kwargs):
            held.append(bool((inputs["labels"] == 2).any()))
            return super().training_step(model, inputs, *args, **kwargs)

    def rare(outputs, labels, num_items_in_batch=None):
        return F.cross_entropy(outputs["logits"], labels, torch.tensor([1.0, 1.0, 10.0]))

    args = arguments(tmp_path)
    with pytest.raises(InputError, match="trains on another objective"):
        train(bert(), RareClass(), args, kind=Watching, compute_loss_func=rare)
    assert held.index(True) == len(held) - 1


@pytest.mark.parametrize("kind", ["function", "subclass"])
def test_a_wrong_loss_under_label_smoothing_is_found(kind, tmp_path):
    class Own(Ours):
        def _loss_and_outputs(self, model, inputs, num_items):
            loss, outputs = super()._loss_and_outputs(model, inputs, num_items)
            return (3 * loss if kind == "subclass" else loss), outputs

    def threefold(outputs, labels, num_items_in_batch=None):
        return 3 * F.cross_entropy(outputs["logits"], labels)

    args = arguments(tmp_path, label_smoothing_factor=0.1)
    function = threefold if kind == "function" else None
    with pytest.raises(InputError, match="trains on another objective"):
        train(bert(), Texts(), args, kind=Own, compute_loss_func=function)


def test_a_loss_that_changes_later_is_found_at_the_next_look(tmp_path):
    calls = []

    def changes(outputs, labels, num_items_in_batch=None):
        calls.append(1)
        return F.cross_entropy(outputs["logits"], labels) * (1 if len(calls) <= 4 else 2)

    with pytest.raises(InputError, match="trains on another objective"):
        train(bert(), Texts(), arguments(tmp_path), compute_loss_func=changes)
    assert len(calls) == 5


class WeightedClasses(Ours):
    """What the message says to override."""

    def compute_sample_losses(self, inputs, outputs):
        samples = class_losses(outputs["logits"], inputs["labels"])
        weight = WEIGHT[inputs["labels"]]
        return SampleLosses(
            samples.sums * weight, weight, logits=samples.logits, labels=samples.labels
        )


def test_the_terms_of_a_weighted_loss_can_be_returned(tmp_path):
    ours = train(
        new_head(), Texts(), arguments(tmp_path), kind=WeightedClasses, compute_loss_func=weighted
    )
    assert ours.selector.visits == ours.selector.schedule.total_visits


# One logit.


class OneLogit(nn.Module):
    def __init__(self, loss):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.loss = nn.Embedding(64, 8), nn.Linear(8, 1), loss

    def forward(self, input_ids, labels=None, attention_mask=None):
        logits = self.head(self.body(input_ids).mean(1))
        return {"loss": self.loss(logits.squeeze(1), labels.float()), "logits": logits}


class Binary(Texts):
    def label(self, i, tokens):
        return float(int(tokens[1]) % 2)


class BinaryClasses(Texts):
    def label(self, i, tokens):
        return int(tokens[1]) % 2


@pytest.mark.parametrize(
    ("data", "method"),
    [
        (Binary(), "data-agent"),
        (BinaryClasses(), "data-agent"),
        (BinaryClasses(), "label-aware"),
    ],
)
def test_one_logit_under_a_trainer(data, method, tmp_path):
    model = OneLogit(F.binary_cross_entropy_with_logits)
    ours = train(model, data, arguments(tmp_path), selector=method, head=model.head)
    assert ours.selector.visits == ours.selector.schedule.total_visits


def test_a_regression_that_says_nothing_of_itself_is_told_and_the_remedy_works(tmp_path):
    class Squared(Ours):
        def compute_sample_losses(self, inputs, outputs):
            return regression_losses(outputs["logits"], inputs["labels"])

    model = OneLogit(F.mse_loss)
    data = Texts("number")
    with pytest.raises(InputError, match="trains on another objective"):
        train(model, data, arguments(tmp_path), head=model.head)
    ours = train(model, data, arguments(tmp_path), kind=Squared, head=model.head)
    assert ours.selector.visits == ours.selector.schedule.total_visits


def test_terms_of_one_logit_by_hand():
    logits, labels = torch.tensor([[0.0], [2.0]]), torch.tensor([1, 0])
    samples = sample_losses(
        {"labels": labels}, {"logits": logits}, problem=None, predicts_next=False
    )
    expected = torch.tensor([2.0, 1 + torch.e**2]).log()
    assert torch.allclose(samples.losses, expected, atol=1e-6)
    assert torch.equal(samples.labels, labels)
    assert binary_losses(logits, labels.float()).labels is None


# Remedies.


class OwnLoss(SelectiveTrainer):
    is_mended = False
    calls = 1

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not self.is_mended:
            return model(**inputs).loss
        for _ in range(self.calls):
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return result


class MendedLoss(OwnLoss):
    is_mended = True


class TwiceLoss(MendedLoss):
    calls = 2


def test_a_loss_of_ones_own_calls_super_once(tmp_path):
    with pytest.raises(StateError, match=r"did not call super\(\)\.compute_loss"):
        train(bert(), Texts(), arguments(tmp_path), kind=OwnLoss)
    assert train(bert(), Texts(), arguments(tmp_path), kind=MendedLoss).selector.visits
    in_batch = {"selector": "data-agent-in-batch"}
    with pytest.raises(StateError, match="Call it once, or take a method that selects epochs"):
        train(bert(), Texts(), arguments(tmp_path), kind=TwiceLoss, **in_batch)
    train(bert(), Texts(), arguments(tmp_path), kind=MendedLoss, **in_batch)
    train(bert(), Texts(), arguments(tmp_path), kind=TwiceLoss, selector="random")


def test_a_loader_of_ones_own_comes_from_super(tmp_path):
    class OwnLoader(SelectiveTrainer):
        is_mended = False

        def get_train_dataloader(self) -> Any:
            if self.is_mended:
                return super().get_train_dataloader()
            rows = [{k: v for k, v in Texts()[i].items() if k != "unused"} for i in range(SIZE)]
            return torch.utils.data.DataLoader(rows)  # type: ignore[arg-type]

    class MendedLoader(OwnLoader):
        is_mended = True

    with pytest.raises(StateError, match=r"loader from super\(\)\.get_train_dataloader"):
        train(bert(), Texts(), arguments(tmp_path), kind=OwnLoader)
    assert train(bert(), Texts(), arguments(tmp_path), kind=MendedLoader).selector.visits


def test_a_sampler_of_ones_own_comes_from_super(tmp_path):
    class OwnSampler(SelectiveTrainer):
        is_mended = False

        def _get_train_sampler(self, train_dataset=None) -> Any:
            sampler = super()._get_train_sampler(train_dataset)
            return sampler if self.is_mended else torch.utils.data.SequentialSampler(Texts())

    class MendedSampler(OwnSampler):
        is_mended = True

    with pytest.raises(StateError, match=r"Return super\(\)\._get_train_sampler\(train_dataset"):
        train(bert(), Texts(), arguments(tmp_path), kind=OwnSampler)
    assert train(bert(), Texts(), arguments(tmp_path), kind=MendedSampler).selector.visits


def test_a_head_that_is_not_found_is_named_or_its_features_returned(tmp_path):
    class Returned(Ours):
        def compute_sample_losses(self, inputs, outputs):
            net: Any = self._inner_model()
            features = net.body(inputs["input_ids"]).mean(1)
            samples = binary_losses(outputs["logits"], inputs["labels"])
            return SampleLosses(
                samples.sums, samples.counts, logits=samples.logits, features=features
            )

    model = OneLogit(F.binary_cross_entropy_with_logits)
    args = arguments(tmp_path)
    with pytest.raises(InputError, match=r"not found\. Pass head=.*or return features="):
        train(model, Binary(), args, selector="data-agent")
    assert train(model, Binary(), args, selector="data-agent", head=model.head).selector.visits
    assert train(model, Binary(), args, selector="data-agent", kind=Returned).selector.visits


def test_terms_that_cannot_be_told_are_returned(tmp_path):
    class Pairs(nn.Module):
        """Logits of two tasks at once."""

        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Embedding(64, 8), nn.Linear(8, 6)

        def forward(self, input_ids, labels=None, attention_mask=None):
            logits = self.head(self.body(input_ids).mean(1)).view(-1, 3, 1, 2)
            return {"loss": F.cross_entropy(logits[:, :, 0, 0], labels), "logits": logits}

    class Told(Ours):
        def compute_sample_losses(self, inputs, outputs):
            return class_losses(outputs["logits"][:, :, 0, 0], inputs["labels"])

    model = Pairs()
    with pytest.raises(InputError, match=r"cannot be told\. Override compute_sample_losses"):
        train(model, Texts(), arguments(tmp_path), head=model.head)
    assert train(model, Texts(), arguments(tmp_path), head=model.head, kind=Told).selector.visits


def test_positions_that_a_model_adds_are_left_out(tmp_path):
    class Longer(nn.Module):
        """Virtual tokens in front, as by prompt tuning."""

        def __init__(self):
            super().__init__()
            self.inner = llama()

        def forward(self, input_ids, labels=None, attention_mask=None):
            virtual = torch.zeros_like(input_ids[:, :2])
            logits = self.inner(torch.cat([virtual, input_ids], 1)).logits
            return {"loss": F.cross_entropy(logits[:, 2:].mT, labels), "logits": logits}

    class Cut(Ours):
        def compute_sample_losses(self, inputs, outputs):
            return token_losses(outputs["logits"][:, 2:], inputs["labels"])

    model = Longer()
    options = {"selector": "random", "keep_ratio": 0.5}
    with pytest.raises(InputError, match="return token_losses of the logits that the labels"):
        train(model, Texts("tokens"), arguments(tmp_path), **options)
    assert train(model, Texts("tokens"), arguments(tmp_path), kind=Cut, **options).selector.visits


def test_features_of_other_positions_than_the_mask_name_another_head_or_features(tmp_path):
    class Pooled(Ours):
        def compute_sample_losses(self, inputs, outputs):
            samples = class_losses(outputs["logits"], inputs["labels"])
            return SampleLosses(
                samples.sums, samples.counts, logits=samples.logits, features=torch.rand(BATCH, 4)
            )

    class Shorter(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Embedding(64, 8), nn.Linear(8, 3)
            self.last = nn.Linear(3, 3)

        def forward(self, input_ids, labels=None, attention_mask=None):
            logits = self.last(self.head(self.body(input_ids)[:, ::2]).mean(1))
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    model = Shorter()
    args = arguments(tmp_path)
    with pytest.raises(InputError, match=r"Pass another head=, or override"):
        train(model, Texts(), args, head=model.head)
    assert train(model, Texts(), args, head=model.last).selector.visits
    assert train(model, Texts(), args, head=model.head, kind=Pooled).selector.visits


# Models whose weights are in half precision.

BFLOAT16 = torch.bfloat16
SEVERAL = {"problem_type": "multi_label_classification"}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(
    ("labels", "config", "options"),
    [
        ("several", SEVERAL, {}),
        ("class", {}, {"label_smoothing_factor": 0.1}),
        ("number", {"num_labels": 1, "problem_type": "regression"}, {}),
    ],
)
def test_a_model_in_bfloat16_trains_on_its_objective(
    labels, config, options, accumulation, tmp_path
):
    args = arguments(
        *(tmp_path,),
        **{"num_train_epochs": 2, "gradient_accumulation_steps": accumulation, **options},
    )
    model, data = bert(**config).to(BFLOAT16), InBfloat16(labels)
    assert train(model, data, args, keep_ratio=1.0).selector.visits == 2 * SIZE


class InBfloat16(Texts):
    """Numbers are of the model's dtype, as its squared error demands."""

    def label(self, i, tokens):
        label = super().label(i, tokens)
        return torch.tensor(label, dtype=BFLOAT16) if self.labels == "number" else label


def test_a_model_in_bfloat16_is_refused_another_objective(tmp_path):
    def half_of_it(outputs, labels, num_items_in_batch=None):
        return F.binary_cross_entropy_with_logits(outputs["logits"], labels) / 2

    model, args = bert(**SEVERAL).to(BFLOAT16), arguments(tmp_path)
    with pytest.raises(InputError, match="trains on another objective"):
        train(model, Texts("several"), args, compute_loss_func=half_of_it)


def test_terms_are_named_at_the_scale_of_the_loss(tmp_path):
    def a_third_more(outputs, labels, num_items_in_batch=None):
        logits, targets = outputs["logits"][:, :-1], labels[:, 1:]
        total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return 4 / 3 * total / num_items_in_batch

    args = arguments(tmp_path, gradient_accumulation_steps=4)
    with pytest.raises(InputError, match="trains on another objective") as refused:
        train(llama(), Texts("tokens"), args, compute_loss_func=a_third_more)
    loss, terms = (float(word) for word in re.findall(r"(?:is|come to) ([\d.]+)[,:]", str(refused)))
    assert loss == pytest.approx(4 / 3 * terms, rel=1e-4)


# Question answering: two positions a sample, each with a distribution of its own.


class Spans(Texts):
    def __getitem__(self, i):
        sample = super().__getitem__(i)
        del sample["labels"], sample["unused"]
        return {**sample, "start_positions": i % 7, "end_positions": i % 7 + 2}


class OfSpans(Ours):
    told = "losses"

    def compute_sample_losses(self, inputs, outputs):
        ends = [
            (outputs.start_logits.float(), inputs["start_positions"]),
            (outputs.end_logits.float(), inputs["end_positions"]),
        ]
        terms = torch.stack([F.cross_entropy(*end, reduction="none") for end in ends]).mean(0)
        entropies = [torch.distributions.Categorical(logits=logits).entropy() for logits, _ in ends]
        about = {
            "losses": {},
            "uncertainty": {"uncertainty": torch.stack(entropies).mean(0) / math.log(10)},
            "logits": {"logits": outputs.start_logits},
        }
        return SampleLosses(terms, torch.ones(len(terms)), **about[self.told])


@pytest.mark.parametrize(
    ("selector", "remedies"),
    [
        ("data-agent", ("logits", "uncertainty")),
        ("data-agent-in-batch", ("logits", "uncertainty")),
        ("entropy", ("logits", "uncertainty")),
        ("small-margin", ("logits",)),
    ],
)
def test_what_losses_of_spans_must_bring_is_named(selector, remedies, tmp_path):
    def run():
        model, args = bert(BertForQuestionAnswering, num_labels=2), arguments(tmp_path)
        options = {"kind": OfSpans, "selector": selector, "head": model.qa_outputs}
        return train(model, Spans(), args, **options)

    with pytest.raises(InputError, match=r"losses alone: return SampleLosses\(.*logits=") as told:
        run()
    assert ("uncertainty=[B]" in str(told.value)) == ("uncertainty" in remedies)
    for OfSpans.told in remedies:
        assert run().selector.visits == 2 * SIZE
    OfSpans.told = "losses"
