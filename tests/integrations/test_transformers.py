"""The real Hugging Face Trainer: it trains as without us, on the samples that were chosen."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from packaging.version import Version
from torch import nn

pytest.importorskip("transformers", reason="needs pip install '.[transformers]'")
pytest.importorskip("accelerate", reason="needs pip install '.[transformers]'")

import transformers
from ranks import run_ranks
from replay import Recording, Replay, order_of_ranks
from trainers import (
    BATCH,
    EPOCHS,
    LLAMA,
    NO_DROPOUT,
    SIZE,
    SMALL,
    VOCAB,
    WIDTH,
    Ours,
    Texts,
    Theirs,
    Watching,
    arguments,
    bert,
    llama,
    replay,
    train,
    weights,
)
from transformers import (
    BertForMaskedLM,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.optimization import get_constant_schedule

from data_agent import DataAgent, SelectionSampler, Selector, make_selector, selection_loader
from data_agent.errors import CheckpointError, DataAgentWarning, InputError, StateError
from data_agent.integrations.transformers import (
    SampleLosses,
    SelectiveTrainer,
    SelectiveTrainerMixin,
)
from data_agent.trusted import TrustedConfig

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*'pin_memory' argument is set as true.*:UserWarning"),
    pytest.mark.filterwarnings(
        "ignore:nothing will be selected:data_agent.errors.DataAgentWarning"
    ),
]

TASKS = {"classification": (bert, "class"), "causal": (llama, "tokens")}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("task", TASKS)
def test_with_us_equals_without_us(task, accumulation, tmp_path):
    build, labels = TASKS[task]
    args = partial(arguments, tmp_path, gradient_accumulation_steps=accumulation)
    ours = train(build(), Texts(labels), args(), keep_ratio=1.0)
    random_state = torch.get_rng_state()
    assert [sorted(epoch) for epoch in ours.order] == [list(range(SIZE))] * EPOCHS
    theirs = replay(ours, build(), Texts(labels), args())
    assert torch.equal(weights(ours), weights(theirs))
    assert torch.equal(random_state, torch.get_rng_state())
    mine, plain = ours.state.log_history[0], theirs.state.log_history[0]
    assert {k: mine[k] for k in plain} == plain  # the loss, gradient norm and learning rate logged


def test_half_the_budget_is_half_the_samples_and_trains_differently(tmp_path):
    args = partial(arguments, tmp_path)
    full = train(bert(), Texts(), args(), keep_ratio=1.0)
    half = train(bert(), Texts(), args())
    assert [len(set(epoch)) for epoch in half.order] == [SIZE // 2] * EPOCHS
    assert half.state.global_step == full.state.global_step / 2
    assert not torch.equal(weights(half), weights(full))
    assert torch.equal(weights(half), weights(replay(half, bert(), Texts(), args())))
    assert set(half.lr_scheduler.get_last_lr()) == {0.0}  # the schedule ends where training ends


class Weighing(Selector):
    """Every second sample counts three times as much as the others."""

    name = "weighing"
    default_schedule = "static"

    def choose(self, epoch, count, excluded):
        return (~excluded).nonzero().squeeze(1)[:count]

    def weigh(self, epoch, index, excluded):
        return 1.5 - (index % 2).float()


class WeighingByHand(Theirs):
    """What `Weighing` should come to, written into the Trainer's own loss."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        index, labels = inputs["input_ids"][:, 0], inputs.pop("labels")
        logits = model(**inputs).logits
        if logits.ndim == 2:  # of BERT, a mean over each batch
            losses, items = F.cross_entropy(logits, labels, reduction="none"), len(labels)
        else:
            targets = F.pad(labels, (0, 1), value=-100)[:, 1:]
            losses = F.cross_entropy(logits.mT, targets, reduction="none").sum(1)
            items = num_items_in_batch / self.accelerator.num_processes  # DDP takes their mean
        return ((1.5 - (index % 2).float()) * losses).sum() / items


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("task", TASKS)
def test_weights_are_those_of_the_samples(task, accumulation, tmp_path):
    build, labels = TASKS[task]
    args = partial(arguments, tmp_path, gradient_accumulation_steps=accumulation, optim="sgd")
    args = partial(args, num_train_epochs=2)
    ours = train(build(), Texts(labels), args(), selector=partial(Weighing, keep_ratio=0.5))
    theirs = WeighingByHand(model=build(), args=args(), train_dataset=Texts(labels))
    theirs.order = ours.order
    theirs.train()
    plain = replay(ours, build(), Texts(labels), args())
    difference = (weights(ours) - weights(theirs)).abs().max()
    assert difference < 1e-6 < 0.01 * (weights(ours) - weights(plain)).abs().max()


def t5():
    torch.manual_seed(0)
    small: Any = {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    small |= {"vocab_size": VOCAB, "dropout_rate": 0.0, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(**small))


def gpt2():
    torch.manual_seed(0)
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=WIDTH, n_layer=1, n_head=2, **none))


def mixtral():
    torch.manual_seed(0)
    return MixtralForCausalLM(
        MixtralConfig(**LLAMA, num_local_experts=2, output_router_logits=True)
    )


OBJECTIVES = {
    "one label": (partial(bert, **NO_DROPOUT), "class"),
    "several labels": (
        partial(bert, problem_type="multi_label_classification", **NO_DROPOUT),
        "several",
    ),
    "regression": (partial(bert, num_labels=1, **NO_DROPOUT), "number"),
    "tokens": (partial(bert, BertForTokenClassification, **NO_DROPOUT), "token class"),
    "masked": (partial(bert, BertForMaskedLM, **NO_DROPOUT), "masked"),
    "sequence to sequence": (t5, "masked"),
    "causal": (llama, "masked"),
    "causal, of no known loss type": (gpt2, "masked"),
    "mixture of experts": (mixtral, "masked"),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_samples_loss_is_what_its_model_says_of_it_alone(objective, tmp_path):
    build, labels = OBJECTIVES[objective]
    args = arguments(tmp_path, max_steps=1, gradient_accumulation_steps=2)
    trainer = train(build(), Texts(labels), args, kind=Watching)
    feedback, alone = trainer.feedback, build()
    router_loss = getattr(alone, "router_aux_loss_coef", 0)
    for row, loss in enumerate(feedback.losses):
        output = alone(**{name: value[row : row + 1] for name, value in trainer.inputs.items()})
        expected = output.loss - (router_loss * output.aux_loss if router_loss else 0)
        torch.testing.assert_close(loss, expected.detach())
    assert feedback.features.shape == (BATCH, WIDTH)
    if feedback.uncertainty is None:
        assert feedback.logits.shape == (BATCH, 3)
    else:
        assert ((feedback.uncertainty >= 0) & (feedback.uncertainty <= 1)).all()


def test_images(tmp_path):
    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return SIZE

        def __getitem__(self, i):
            return {"pixel_values": torch.full((3, 8, 8), i / SIZE), "labels": i % 3}

    options: Any = {**SMALL, "intermediate_size": 32, "num_labels": 3}
    config = ViTConfig(**options, image_size=8, patch_size=4)
    ours = train(ViTForImageClassification(config), Images(), arguments(tmp_path))
    assert ours.selector.visits == EPOCHS * SIZE / 2


def test_a_feature_is_the_mean_over_the_tokens_that_count(tmp_path):
    kept = {}
    model = llama()
    model.lm_head.register_forward_pre_hook(lambda _, x: kept.setdefault("input", x[0].detach()))
    trainer = train(model, Texts("masked"), arguments(tmp_path, max_steps=1), kind=Watching)
    counts = F.pad(trainer.inputs["labels"], (0, 1), value=-100)[:, 1:] != -100
    for row in range(BATCH):
        expected = kept["input"][row][counts[row]].mean(0)
        torch.testing.assert_close(trainer.feedback.features[row], expected)


@pytest.mark.parametrize(
    "options",
    [
        {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
        {"gradient_accumulation_steps": 3},
        {"dataloader_drop_last": True, "per_device_train_batch_size": 6},
    ],
)
def test_every_index_belongs_to_its_row(options, tmp_path):
    ours = train(bert(), Texts(), arguments(tmp_path, num_train_epochs=3, **options))
    assert all(index == first for _, index, first in ours.batches)
    kept = 18 if options.get("dataloader_drop_last") else 20
    assert [len(set(epoch)) for epoch in ours.order] == [kept] * 3
    assert ours.selector.visits == 3 * kept


@pytest.mark.parametrize("kind", ["datasets", "torch"])
def test_the_index_survives_column_removal_and_any_collator(kind, tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the datasets package")
    texts = Texts()
    rows = [{**texts[i], "input_ids": texts[i]["input_ids"].tolist(), "n": i} for i in range(SIZE)]
    columns = {k: [row[k] for row in rows] for k in ("input_ids", "labels", "unused", "n")}
    data = datasets.Dataset.from_dict(columns) if kind == "datasets" else rows
    for row in rows:
        del row["attention_mask"]
    seen = []

    def collate(samples):
        seen.extend(samples)
        batch = {k: torch.tensor([s[k] for s in samples]) for k in samples[0]}
        return transformers.BatchEncoding(batch)

    args = arguments(tmp_path, num_train_epochs=2)
    ours = train(bert(), data, args, data_collator=collate)
    assert ours.data_collator is collate
    assert set(seen[0]) == {
        "input_ids",
        "labels",
    }  # no index, and no column the model does not take
    assert all(index == first for _, index, first in ours.batches)


@pytest.mark.parametrize("name", ["data-agent", "label-aware", "noise-aware"])
def test_all_loops_select_the_same_samples(name, tmp_path):
    """The plain loop of the README and the Trainer, with one optimizer."""
    model = bert(**NO_DROPOUT)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    ours = Ours(
        model=model,
        args=arguments(tmp_path, max_grad_norm=0, seed=3),
        train_dataset=Texts(),
        optimizers=(sgd, get_constant_schedule(sgd)),
        selector=name,
    )
    ours.train()

    model = bert(**NO_DROPOUT).train()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    agent = make_selector(name, num_samples=SIZE, epochs=EPOCHS, keep_ratio=0.5, seed=3)
    agent.watch(model.classifier)
    data, order = [Texts()[i] for i in range(SIZE)], []
    for row in data:
        del row["unused"]
    for _ in agent.epochs():
        order.append([])
        for batch in selection_loader(data, agent, batch_size=BATCH):
            index, labels = batch.pop("sample_index"), batch.pop("labels")
            losses = F.cross_entropy(model(**batch).logits, labels, reduction="none")
            agent.learn(losses, index, labels=labels).backward()
            sgd.step()
            sgd.zero_grad()
            order[-1] += index.tolist()
    assert order == ours.order
    assert torch.equal(weights(ours), torch.cat([p.detach().flatten() for p in model.parameters()]))


# Stopping and resuming.


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_anywhere_it_ends_the_same(accumulation, tmp_path):
    args = partial(
        arguments,
        tmp_path,
        **{"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 3},
        **{"gradient_accumulation_steps": accumulation, "save_total_limit": None},
    )
    whole = train(bert(), Texts(), args(), keep_ratio=0.6)  # 24 samples: 6 batches an epoch
    steps = 6 // accumulation
    for stopped_at in (1, 2 * steps) if accumulation == 1 else (steps + 1,):
        resumed = Ours(model=bert(), args=args(), train_dataset=Texts(), keep_ratio=0.6)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stopped_at}"))
        assert resumed.batches == whole.batches[stopped_at * accumulation :]
        assert torch.equal(weights(resumed), weights(whole))
        assert resumed.selector.visits == whole.selector.visits == 3 * 24


def test_a_checkpoint_without_a_selector_is_refused(tmp_path):
    args = partial(arguments, tmp_path, save_strategy="steps", save_steps=5, max_steps=5)
    Trainer(model=bert(), args=args(), train_dataset=Texts()).train()
    ours = Ours(model=bert(), args=args(max_steps=10), train_dataset=Texts())
    with pytest.raises(CheckpointError, match=r"holds no data_agent\.safetensors.*save_only_model"):
        ours.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ignore_data_skip": True}, "samples would count twice"),
        ({"gradient_accumulation_steps": 2}, "checkpoint is of step 7, but .* stands at step 4"),
    ],
)
# The Trainer says itself that the batch size is another one; training would start all the same.
@pytest.mark.filterwarnings("ignore")
def test_a_resume_that_would_repeat_samples_is_refused(changes, message, tmp_path):
    args = partial(arguments, tmp_path, save_strategy="steps", save_steps=7, num_train_epochs=4)
    train(bert(), Texts(), args())
    ours = Ours(model=bert(), args=args(**changes), train_dataset=Texts())
    with pytest.raises(InputError, match=message):
        ours.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))


@pytest.mark.parametrize("changes", [{"num_train_epochs": 6}, {"seed": 1}, {"max_steps": 30}])
@pytest.mark.filterwarnings("ignore")
def test_a_resume_of_another_run_is_told_in_the_trainers_terms(changes, tmp_path):
    args = partial(arguments, tmp_path, save_strategy="steps", save_steps=7)
    train(bert(), Texts(), args(num_train_epochs=4))
    ours = Ours(
        model=bert(), args=args(**{"num_train_epochs": 4, **changes}), train_dataset=Texts()
    )
    message = "(epochs|seed) was .*, here it is .*num_train_epochs or max_steps.*data_seed or seed"
    with pytest.raises(CheckpointError, match=message):
        ours.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))


def test_rotation_and_the_best_model_leave_resumable_checkpoints(tmp_path):
    args = arguments(
        tmp_path,
        **{"save_strategy": "steps", "save_steps": 4, "save_total_limit": 1, "max_steps": 12},
        **{"eval_strategy": "steps", "eval_steps": 4, "load_best_model_at_end": True},
    )
    ours = train(bert(), Texts(), args, eval_dataset=Texts(size=8))
    assert {path.name for path in tmp_path.glob("checkpoint-*")} <= {
        "checkpoint-4",
        "checkpoint-8",
        "checkpoint-12",
    }
    assert len(list(tmp_path.glob("checkpoint-*/data_agent.safetensors"))) >= 1
    assert ours.selector.visits == 12 * BATCH


# Several processes.


def two_ranks(rank, folder):
    """A run, and the rest of it from step 4 on; 18 samples: two full rounds, and a batch of two."""
    runs = [run_of_rank(folder, stopped_at) for stopped_at in (None, 4)]
    runs += [weighed_on_rank(folder), replayed_on_rank(folder)]
    return [*runs, [trusted_on_rank(f"{folder}-trusted", stopped_at) for stopped_at in (None, 7)]]


def run_of_rank(folder, stopped_at):
    args = arguments(
        folder, save_strategy="steps", save_steps=1, num_train_epochs=3, ddp_backend="gloo"
    )
    ours = Ours(model=bert(), args=args, train_dataset=Texts(size=36))
    ours.train(resume_from_checkpoint=stopped_at and str(Path(folder) / f"checkpoint-{stopped_at}"))
    return {"batches": ours.batches, "weights": weights(ours), "visits": ours.selector.visits}


def trusted_on_rank(folder, stopped_at):
    """A run with eight trusted rows among 36, on both ranks, and what it learned."""
    args = arguments(
        folder, save_strategy="steps", save_steps=1, num_train_epochs=4, ddp_backend="gloo"
    )
    ours = Ours(
        model=bert(),
        args=args,
        train_dataset=Texts(size=28),
        trusted_dataset=Texts(size=8),
        selector=partial(DataAgent, keep_ratio=0.5, config=TrustedConfig(update_every=2)),
    )
    ours.train(resume_from_checkpoint=stopped_at and str(Path(folder) / f"checkpoint-{stopped_at}"))
    chosen = [set(ours.selector.select(ours.selector.epoch).index.tolist())]
    learned = [ours.selector.describe(), ours.selector.expected_actions().tolist()]
    return {"batches": ours.batches, "weights": weights(ours), "same": [chosen, learned]}


def replayed_on_rank(folder):
    """Whether at keep ratio 1 the weights are the Trainer's over the same order, to the bit."""
    args = partial(arguments, folder, num_train_epochs=2, ddp_backend="gloo")
    ours = train(bert(), Texts(), args(), keep_ratio=1.0)
    theirs = Theirs(model=bert(), args=args(), train_dataset=Texts())
    theirs.order = order_of_ranks(ours)
    theirs.train()
    return torch.equal(weights(ours), weights(theirs))


def weighed_on_rank(folder):
    """Weights of a causal model, by us and by hand, at batches with unequal numbers of tokens."""
    args = partial(arguments, folder, num_train_epochs=1, optim="sgd", ddp_backend="gloo")
    args = partial(args, gradient_accumulation_steps=2)
    ours = train(llama(), Texts("masked"), args(), selector=partial(Weighing, keep_ratio=0.8))
    theirs = WeighingByHand(model=llama(), args=args(), train_dataset=Texts("masked"))
    theirs.order = order_of_ranks(ours)
    theirs.train()
    return float((weights(ours) - weights(theirs)).abs().max()), ours.state.global_step


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.19"),
    reason="transformers before 5.19 cannot resume on several CPU processes",
)
@pytest.mark.distributed
def test_two_processes(tmp_path):
    (first, first_resumed, weighed, is_equal, trusted), (second, second_resumed, *_, others) = (
        run_ranks(two_ranks, tmp_path, str(tmp_path / "run"))
    )
    assert is_equal
    assert weighed[0] < 1e-6
    assert weighed[1] == 2
    assert torch.equal(first["weights"], second["weights"])
    steps = 3  # of an epoch: two full rounds, and a last batch of two that Accelerate fills up
    for epoch in range(3):
        mine, yours = (
            [index for at, index, _ in rank["batches"] if at == epoch] for rank in (first, second)
        )
        assert len(mine) == len(yours) == steps
        visited = [i for batch in (*mine, *yours) for i in batch]
        assert len(set(visited)) == 18
        full = [i for batches in (mine, yours) for batch in batches[:2] for i in batch]
        assert len(set(full)) == 16  # no sample on both ranks
    for rank in (first, second):
        assert all(index == tokens for _, index, tokens in rank["batches"])
    for resumed, whole in ((first_resumed, first), (second_resumed, second)):
        assert resumed["batches"] == whole["batches"][4:]
        assert torch.equal(resumed["weights"], whole["weights"])
        assert resumed["visits"] == whole["visits"]
    (chosen,), (said, _) = trusted[0]["same"]
    assert chosen >= set(range(28, 36))
    assert said.startswith("trusted examples (8 rows): all classes alike, avoids")
    for run in (*trusted, *others):  # on both ranks, and after a stop
        assert run["same"] == trusted[0]["same"]
        assert torch.equal(run["weights"], trusted[0]["weights"])
    assert trusted[1]["batches"] == trusted[0]["batches"][7:]


# What is right without being told.


@pytest.mark.parametrize(
    ("options", "epochs", "steps"),
    [
        ({"num_train_epochs": 2.5}, 3, 13),
        ({"max_steps": 12}, 3, 12),  # 20 samples in batches of 4: five steps an epoch
        ({"max_steps": 12, "gradient_accumulation_steps": 2}, 4, 12),
        ({"num_train_epochs": 2, "per_device_train_batch_size": 64}, 2, 2),
    ],
)
def test_epochs_and_steps_are_the_trainers(options, epochs, steps, tmp_path):
    ours = train(bert(), Texts(), arguments(tmp_path, **options))
    assert ours.selector.schedule.epochs == epochs
    assert ours.state.global_step == steps
    assert set(ours.lr_scheduler.get_last_lr()) == {0.0}


def test_metrics_are_logged_and_speed_counts_what_was_trained_on(tmp_path):
    logged = []

    class Keep(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            logged.append(logs)

    ours = train(bert(), Texts(), arguments(tmp_path), callbacks=[Keep()])
    assert logged[0]["data_agent/epoch"] == 1
    assert ours.state.log_history[0]["data_agent/planned_cost"] == 0.5
    json.dumps(ours.state.log_history, allow_nan=False)  # trainer_state.json stays JSON
    summary = ours.state.log_history[-1]
    seen = summary["train_samples_per_second"] * summary["train_runtime"]
    assert seen == pytest.approx(EPOCHS * SIZE / 2, rel=0.05)


def test_evaluation_is_the_trainers_and_leaves_no_trace(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 3, "num_train_epochs": 4}
    model = partial(bert, **NO_DROPOUT)  # an evaluation moves torch's generator, with us or without
    ours = train(model(), Texts(), arguments(tmp_path, **options), eval_dataset=Texts(size=10))
    plain = train(model(), Texts(), arguments(tmp_path, num_train_epochs=4))
    assert ours.order == plain.order
    assert torch.equal(weights(ours), weights(plain))
    reference = Trainer(
        model=ours.model, args=arguments(tmp_path), eval_dataset=Texts(size=10)
    ).evaluate()
    assert ours.evaluate()["eval_loss"] == reference["eval_loss"]
    only_evaluates = SelectiveTrainer(
        model=ours.model, args=arguments(tmp_path), eval_dataset=Texts(size=10)
    )
    assert only_evaluates.evaluate()["eval_loss"] == reference["eval_loss"]


@pytest.mark.parametrize("fails", [False, True])
def test_no_hook_is_left(fails, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if fails:
                raise KeyboardInterrupt

    model = bert()
    trainer = Ours(
        model=model,
        args=arguments(tmp_path, max_steps=2),
        train_dataset=Texts(),
        callbacks=[Stop()],
    )
    try:
        trainer.train()
    except KeyboardInterrupt:
        assert fails
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_every_run_has_a_selector_of_its_own(tmp_path):
    trainer = Ours(
        model_init=lambda: bert(),
        args=arguments(tmp_path, num_train_epochs=3),
        train_dataset=Texts(),
    )
    trainer.train()
    first, batches = trainer.selector, trainer.batches
    trainer.batches = []
    trainer.train()
    assert trainer.selector is not first
    assert trainer.batches == batches


def test_labels_that_change_in_the_last_epoch_are_told(tmp_path):
    class Moved(Texts):
        by = 0

        def label(self, i, tokens):
            return (super().label(i, tokens) + self.by) % 3

    class MoveLast(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            texts.by = int(state.epoch == EPOCHS - 1)

    texts, options = Moved(), {"selector": "label-aware", "callbacks": [MoveLast()]}
    with pytest.warns(DataAgentWarning, match="samples came with another label"):
        train(bert(), texts, arguments(tmp_path), keep_ratio=1.0, **options)


@pytest.mark.parametrize("steps", [7, 20], ids=["inside an epoch", "at the end of one"])
def test_rows_of_the_last_step_that_an_accelerator_found_not_finite_are_told(tmp_path, steps):
    class RefuseLast(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == steps:
                trainer.selector._recorder.staging.refuse(torch.tensor([5]))

    args = arguments(tmp_path, max_steps=steps)
    trainer = Ours(
        model=bert(), args=args, train_dataset=Texts(), selector="random", callbacks=[RefuseLast()]
    )
    with pytest.raises(InputError, match=r"non-finite .* for 1 sample\(s\): 5"):
        trainer.train()


def test_a_batch_size_that_is_found_begins_anew(tmp_path):
    class OutOfMemory(Ours):
        def training_step(self, model, inputs, *args, **kwargs):
            if len(inputs["labels"]) > 3 and self.state.global_step == 1:
                self.batches = []
                raise RuntimeError("CUDA out of memory.")
            return super().training_step(model, inputs, *args, **kwargs)

    args = arguments(tmp_path, auto_find_batch_size=True, num_train_epochs=2)
    ours = train(bert(), Texts(), args, kind=OutOfMemory)
    assert ours.selector.schedule.batch_size == 3
    assert [len(set(epoch)) for epoch in ours.order] == [20, 20]


@pytest.mark.parametrize(
    "options",
    [
        {"bf16": True},
        {"gradient_checkpointing": True},
        {"label_smoothing_factor": 0.1},
        {"torch_compile": True, "torch_compile_backend": "eager"},
    ],
    ids=lambda options: next(iter(options)),
)
# Transformers' and torch's own deprecations.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_ways_of_training(options, tmp_path):
    args = partial(arguments, tmp_path, num_train_epochs=2, **options)
    ours = train(bert(), Texts(), args())
    assert torch.equal(weights(ours), weights(replay(ours, bert(), Texts(), args())))
    assert ours.selector.visits == SIZE


# peft asks transformers by a name that is going away.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_adapters(tmp_path):
    peft = pytest.importorskip("peft", reason="needs the peft package")
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=2, target_modules=["query"], modules_to_save=["classifier"]
    )
    ours = train(
        peft.get_peft_model(bert(), config), Texts(), arguments(tmp_path, num_train_epochs=2)
    )
    assert [len(set(epoch)) for epoch in ours.order] == [20, 20]


# Other objectives.


class Focal(Trainer):
    """Somebody's Trainer, with an objective of its own."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        loss = self.terms(outputs["logits"], inputs["labels"]).mean()
        return (loss, outputs) if return_outputs else loss

    def terms(self, logits, labels):
        losses = F.cross_entropy(logits, labels, reduction="none")
        return (1 - (-losses).exp()) ** 2 * losses


class SelectiveFocal(Recording, SelectiveTrainerMixin, Focal):
    def compute_sample_losses(self, inputs, outputs):
        terms = self.terms(outputs["logits"], inputs["labels"])
        return SampleLosses(terms, torch.ones(len(terms)), logits=outputs["logits"])


def test_an_objective_of_ones_own_is_refused_until_it_says_its_terms(tmp_path):
    class Silent(SelectiveTrainerMixin, Focal):
        pass

    args = partial(arguments, tmp_path, num_train_epochs=2)
    with pytest.raises(InputError, match=r"trains on another objective\. Override"):
        train(bert(), Texts(), args(), kind=Silent)
    ours = train(bert(), Texts(), args(), kind=SelectiveFocal)
    theirs = Focal(model=bert(), args=args(), train_dataset=Texts())
    theirs._get_train_sampler = lambda train_dataset=None: Replay(ours.order)
    theirs.train()
    assert torch.equal(weights(ours), weights(theirs))
    weighed = partial(Weighing, keep_ratio=0.5)
    assert train(bert(), Texts(), args(), kind=SelectiveFocal, selector=weighed).selector.visits


def test_compute_loss_func_is_taken_as_any_objective(tmp_path):
    def mean(outputs, labels, num_items_in_batch=None):
        return F.cross_entropy(outputs["logits"], labels)

    args = arguments(tmp_path, num_train_epochs=2)
    assert train(bert(), Texts(), args, compute_loss_func=mean).selector.visits == SIZE
    with pytest.raises(InputError, match="trains on another objective"):
        train(bert(), Texts(), args, compute_loss_func=lambda o, y, **_: 3 * mean(o, y))


def test_label_smoothing_cannot_be_weighed(tmp_path):
    args = arguments(tmp_path, label_smoothing_factor=0.2)
    with pytest.raises(InputError, match="or take a method without weights"):
        train(bert(), Texts(), args, selector=partial(Weighing, keep_ratio=0.5))


# What is refused.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_sampling_strategy": "group_by_length"}, "is 'group_by_length'.*Leave it at"),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches=True.*Leave it at"),
        (
            {"dataloader_in_order": False, "dataloader_num_workers": 2},
            "dataloader_in_order=False.*Set it to True",
        ),
        ({"enable_jit_checkpoint": True}, "enable_jit_checkpoint=True.*Use save_steps"),
    ],
)
def test_arguments_that_would_be_wrong(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        SelectiveTrainer(model=bert(), args=arguments(tmp_path, **options), train_dataset=Texts())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_n_gpu": 2}, "n_gpu is 2.*torchrun"),
        ({"use_liger_kernel": True}, "fused_linear_cross_entropy"),
    ],
)
def test_settings_that_this_machine_cannot_have(change, message, tmp_path):
    args = arguments(tmp_path)
    for name, value in change.items():
        setattr(args, name, value)
    if "use_liger_kernel" in change and Version(transformers.__version__) < Version("5.19"):
        pytest.skip("transformers before 5.19 asks for Liger itself before anything else")
    with pytest.raises(InputError, match=message):
        SelectiveTrainer(model=bert(), args=args, train_dataset=Texts())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"selector": "fastest"}, InputError, "method 'fastest' is unknown"),
        ({"selector": 7}, InputError, "selector is 7; expected a name"),
        ({"selector": "infobatch-published"}, InputError, "'floating' schedule differ in length"),
        ({"selector": "el2n"}, InputError, r"needs scores=\[N\]"),
        ({"selector": lambda **_: None}, InputError, "selector= made None"),
        (
            {"selector": partial(DataAgent, keep_ratio=0.5), "keep_ratio": 0.5},
            InputError,
            "Give it there",
        ),
        ({"keep_ratio": 50}, InputError, "keep_ratio is 50"),
        (
            {"selector": make_selector("full", num_samples=39, epochs=8, keep_ratio=1)},
            InputError,
            "num_samples=39 and epochs=8, but the Trainer has 40 samples and trains 4 epochs",
        ),
        (
            {"selector": "data-agent", "head": nn.Linear(2, 2)},
            InputError,
            "the head was never called",
        ),
    ],
)
def test_selectors_that_do_not_fit(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        train(bert(), Texts(), arguments(tmp_path), **options)


def test_a_ready_made_selector_serves_one_run(tmp_path):
    selector = make_selector("random", num_samples=SIZE, epochs=2, keep_ratio=0.5)
    args = arguments(tmp_path, num_train_epochs=2)
    ours = train(bert(), Texts(), args, selector=selector)
    assert ours.selector is selector
    with pytest.raises(StateError, match="a run begins, but the selector is in epoch 1"):
        ours.train()


def test_methods_that_go_around_the_selector_are_found(tmp_path):
    class OwnLoss(SelectiveTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return model(**inputs).loss

    class OwnLoader(SelectiveTrainer):
        def get_train_dataloader(self):
            return torch.utils.data.DataLoader(
                [{k: v for k, v in Texts()[i].items() if k != "unused"} for i in range(SIZE)]
            )

    class OwnSampler(SelectiveTrainer):
        def _get_train_sampler(self, train_dataset=None) -> Any:
            super()._get_train_sampler(train_dataset)
            return torch.utils.data.SequentialSampler(train_dataset)

    for kind, message in (
        (OwnLoss, "OwnLoss.compute_loss did not call super"),
        (OwnLoader, "carries no index"),
        (OwnSampler, r"Return super\(\)\._get_train_sampler"),
    ):
        with pytest.raises(StateError, match=message):
            train(bert(), Texts(), arguments(tmp_path), kind=kind)
    bases: Any = (Trainer, SelectiveTrainerMixin)
    with pytest.raises(InputError, match="Write it first"):
        type("Behind", bases, {})


def test_rows_that_hold_several_samples_are_refused(tmp_path):
    def pack(samples):
        packed = {k: torch.cat([s[k] for s in samples])[None] for k in ("input_ids", "labels")}
        return {**packed, "position_ids": torch.arange(10).repeat(len(samples))[None]}

    with pytest.raises(InputError, match="holds 4 samples, but 1 losses came"):
        train(llama(), Texts("masked"), arguments(tmp_path), data_collator=pack)


def test_nothing_is_imported_unasked_and_a_missing_framework_is_named():
    code = """
import sys
from data_agent import *
assert not {"transformers", "accelerate"} & set(sys.modules)
sys.modules["transformers"] = None
try:
    import data_agent.integrations.transformers
except ImportError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "pip install '.[transformers]'" in result.stdout


def test_the_example(tmp_path, monkeypatch, capsys):
    path = Path(__file__).parents[2] / "examples" / "huggingface_trainer.py"
    source = path.read_text()
    assert len(source.splitlines()) <= 60
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(source, str(path), "exec"), names)
    names["main"]()
    assert "epoch 6/6" in capsys.readouterr().out


def test_the_sampler_is_one_that_accelerate_deals_out(tmp_path):
    trainer = SelectiveTrainer(model=bert(), args=arguments(tmp_path), train_dataset=Texts())
    loader: Any = trainer.get_train_dataloader()
    sampler = loader.batch_sampler.sampler
    assert isinstance(sampler, SelectionSampler)
    assert len(sampler) == SIZE // 2
