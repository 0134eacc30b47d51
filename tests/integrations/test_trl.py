"""The real SFTTrainer: it trains as without us, on the rows that were chosen."""

import gc
import math
import runpy
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytest.importorskip("trl", reason="needs pip install '.[trl]'")

import datasets
import peft
import transformers
from packaging.version import Version
from ranks import run_ranks
from replay import Recording, Replay, flat_weights, order_of_ranks
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import DPOTrainer, GRPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from data_agent import DataAgent, Selector, make_selector
from data_agent.agent.in_batch import InBatchAgent
from data_agent.errors import DataAgentWarning, InputError
from data_agent.integrations.transformers import SelectiveTrainerMixin
from data_agent.integrations.trl import SelectiveSFTTrainer
from data_agent.trusted import TrustedConfig

datasets.disable_progress_bars()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:.*'pin_memory' argument is set as true.*:UserWarning"),
    pytest.mark.filterwarnings(
        "ignore:nothing will be selected:data_agent.errors.DataAgentWarning"
    ),
    # SFTConfig and peft call checkpointing by a name that is going away.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    # peft 0.18, of a model that was never on a hub.
    pytest.mark.filterwarnings("ignore:Could not find a config file in  - will assume"),
]

SIZE, EPOCHS, BATCH, WIDTH, VOCAB = 24, 3, 4, 16, 50
SMALL = {
    **{"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"num_key_value_heads": 2, "intermediate_size": 32, "vocab_size": VOCAB},
}


@pytest.fixture(autouse=True, scope="module")
def _collecting_garbage_is_quick():
    """Each run begins with a collection, which need not go through what was imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _nothing_is_sent(monkeypatch):
    monkeypatch.setenv("CI", "1")  # TRL reports each trainer's name otherwise


def tokenizer():
    """Word "w7" is token 7."""
    vocabulary = {f"w{i}": i for i in range(VOCAB - 2)} | {"<pad>": VOCAB - 2, "<eos>": VOCAB - 1}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def words(size=SIZE):
    """Row i is a prompt and a completion and begins with token i; neighbours differ in length."""
    draw = torch.Generator().manual_seed(0)
    for i in range(size):
        more = torch.randint(0, VOCAB - 2, (3 + i % 5 + i % 3,), generator=draw).tolist()
        yield [i, *more[:1]], more[1:]


def texts():
    """To be tokenised."""
    data = []
    for prompt, completion in words():
        first, second = (" ".join(f"w{word}" for word in part) for part in (prompt, completion))
        data.append({"prompt": first, "completion": " " + second})
    return datasets.Dataset.from_list(data)


def rows(size=SIZE):
    """The same, tokenised."""
    data = []
    for prompt, completion in words(size):
        completion = [*completion, VOCAB - 1]
        labels = [-100] * len(prompt) + completion
        data.append({"input_ids": prompt + completion, "labels": labels})
    return datasets.Dataset.from_list(data)


def llama(**config):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SMALL, **config}))


def mixtral():
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=2))


LORA = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
PROMPT_TUNING = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)


def arguments(folder, **changes):
    """SFTTrainer's arguments, as small and quiet as they get."""
    options = {
        **{"output_dir": str(folder), "use_cpu": True, "report_to": [], "disable_tqdm": True},
        **{"per_device_train_batch_size": BATCH, "num_train_epochs": EPOCHS, "logging_steps": 6},
        **{"save_strategy": "no", "learning_rate": 1e-2, "bf16": False, "max_length": None},
    }
    return SFTConfig(**{**options, **changes})


class Ours(Recording, SelectiveSFTTrainer):
    pass


class Theirs(SFTTrainer):
    """Without us, over a given order."""

    order: Any
    args: SFTConfig

    def _get_train_sampler(self, train_dataset=None):
        return Replay(self.order)


def build(kind, model, args, data=None, **options) -> Any:
    data = rows() if data is None else data
    return kind(model=model, args=args, train_dataset=data, processing_class=tokenizer(), **options)


def train(model, args, data=None, *, kind: Any = Ours, **options) -> Any:
    trainer = build(kind, model, args, data, **options)
    trainer.train()
    return trainer


def replay(ours, model, args, data=None, *, kind: Any = Theirs, **options) -> Any:
    trainer = build(kind, model, args, data, **options)
    trainer.order = ours.order
    trainer.train()
    return trainer


def weights(trainer):
    return flat_weights(trainer.model)


FLAT = {"padding_free": True}
PACKED = {"packing": True, "max_length": 16}
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tokenised": ({}, {}),
    "completion only": ({"max_length": 8}, {"data": texts()}),
    "whole text": ({"completion_only_loss": False}, {"data": texts()}),
    "accumulation": ({"gradient_accumulation_steps": 2}, {}),
    "no checkpointing, dropout": (
        {"gradient_checkpointing": False},
        {"model": partial(llama, attention_dropout=0.2)},
    ),
    "dft": ({"loss_type": "dft"}, {}),
    "bf16": ({"bf16": True}, {}),
    "padding free": (FLAT, {}),
    "packing": ({**PACKED, "per_device_train_batch_size": 2}, {}),
    "wrapped packing": ({**PACKED, "packing_strategy": "wrapped"}, {}),
    "adapters": ({}, {"peft_config": LORA}),
    "prompt tuning": ({}, {"peft_config": PROMPT_TUNING}),
    "mixture of experts": ({"gradient_accumulation_steps": 2}, {"model": mixtral}),
    "compiled": (  # at batches of one shape
        {
            **{**PACKED, "packing_strategy": "wrapped", "num_train_epochs": 1, "logging_steps": 3},
            **{"torch_compile": True, "torch_compile_backend": "eager"},
        },
        {},
    ),
    "label smoothing": ({"label_smoothing_factor": 0.1}, {}),
}


@pytest.mark.parametrize("way", WAYS)
# Deprecations of TRL, transformers and torch; torch compiles what TRL wrote.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_with_us_equals_without_us(way, tmp_path):
    changes, options = WAYS[way]
    options = dict(options)
    model = options.pop("model", llama)
    args = partial(arguments, tmp_path, **changes)
    ours = train(model(), args(), keep_ratio=1.0, **options)
    random_state = torch.get_rng_state()
    num_rows, epochs = len(ours.train_dataset), ours.selector.schedule.epochs
    assert [sorted(epoch) for epoch in ours.order] == [list(range(num_rows))] * epochs
    theirs = replay(ours, model(), args(), **options)
    assert torch.equal(weights(ours), weights(theirs))
    assert torch.equal(random_state, torch.get_rng_state())
    mine, plain = ours.state.log_history[0], theirs.state.log_history[0]
    assert {"loss", "entropy", "mean_token_accuracy", "num_tokens"} <= set(plain)
    assert {k: mine[k] for k in plain} == plain
    assert ours.selector.visits == epochs * num_rows


def test_half_the_budget_is_half_the_rows_and_trains_differently(tmp_path):
    args = partial(arguments, tmp_path)
    full = train(llama(), args(), keep_ratio=1.0)
    half = train(llama(), args())
    assert [len(set(epoch)) for epoch in half.order] == [SIZE // 2] * EPOCHS
    assert half.state.global_step == full.state.global_step / 2
    assert not torch.equal(weights(half), weights(full))
    assert torch.equal(weights(half), weights(replay(half, llama(), args())))
    assert set(half.lr_scheduler.get_last_lr()) == {0.0}  # the schedule ends where training ends


# Which row a loss belongs to.


class Watching(Ours):
    """Keeps the feedback of the first batch, its inputs, and what the model said of it."""

    def training_step(self, model, inputs, *args, **kwargs):
        if not hasattr(self, "inputs"):
            self.inputs = dict(inputs)
            self.feedback: Any = None
            observe = self.selector.observe

            def keep(feedback):
                self.feedback = feedback
                self.selector.observe = observe
                observe(feedback)

            self.selector.observe = keep
        return super().training_step(model, inputs, *args, **kwargs)

    def compute_sample_losses(self, inputs, outputs):
        samples = super().compute_sample_losses(inputs, outputs)
        self.samples = getattr(self, "samples", samples)
        return samples


def alone(trainer, row, **options):
    """The loss, entropy and feature of one row of the prepared data, from its logits."""
    row, model = trainer.train_dataset[row], llama()
    kept = {}
    model.lm_head.register_forward_pre_hook(lambda _, x: kept.update(feature=x[0][0]))
    tokens, positions = torch.tensor([row["input_ids"]]), None
    if "seq_lengths" in row:
        positions = torch.cat([torch.arange(length) for length in row["seq_lengths"]])[None]
    logits = model(tokens, position_ids=positions, use_cache=False).logits[0]
    labels = torch.tensor(row["labels"])
    if positions is not None:
        labels[positions[0] == 0] = -100
    targets, log_p = F.pad(labels, (0, 1), value=-100)[1:], logits.log_softmax(1)
    counts = targets != -100
    losses = F.nll_loss(log_p, targets.clamp(min=0), reduction="none")[counts]
    if trainer.args.loss_type == "dft":
        losses = losses * (-losses).exp()
    entropy = -(log_p.exp() * log_p).sum(1)[counts].mean() / math.log(VOCAB)
    return losses.mean(), entropy, kept["feature"][counts].mean(0)


@pytest.mark.parametrize(
    "way",
    ["completion only", "whole text", "padding free", "packing", "wrapped packing", "dft"],
)
def test_a_rows_loss_entropy_and_feature_are_those_of_the_row_alone(way, tmp_path):
    changes, options = WAYS[way]
    args = arguments(tmp_path, max_steps=1, **changes)
    trainer = train(llama(), args, kind=Watching, **options)
    feedback = trainer.feedback
    assert len(feedback) == len(trainer.inputs["sample_index"]) > 1
    for row, index in enumerate(feedback.index.tolist()):
        loss, entropy, feature = alone(trainer, index)
        torch.testing.assert_close(feedback.losses[row], loss.detach())
        torch.testing.assert_close(feedback.uncertainty[row], entropy.detach())
        torch.testing.assert_close(feedback.features[row], feature.detach())


class Telling(Watching):
    """Its loss of a token is the token itself."""

    def compute_sample_losses(self, inputs, outputs):
        labels = inputs["labels"][:, 1:]
        told = torch.where(outputs.label_mask, labels, 0).to(outputs.log_probs.dtype)
        outputs.log_probs, outputs.entropy = -told, told / 1000
        return super().compute_sample_losses(inputs, outputs)


@pytest.mark.parametrize("multiple", [None, 8])
@pytest.mark.parametrize("way", ["tokenised", "padding free", "packing"])
def test_every_token_is_counted_for_its_own_row(way, multiple, tmp_path):
    changes = {**WAYS[way][0], "pad_to_multiple_of": multiple, "packing_strategy": "bfd_split"}
    trainer = train(llama(), arguments(tmp_path, max_steps=1, **changes), kind=Telling)
    for row, index in enumerate(trainer.inputs["sample_index"].tolist()):
        data = trainer.train_dataset[index]
        starts, position = {0}, 0
        for length in data.get("seq_lengths", []):
            starts.add(position)
            position += length
        tokens = [t for at, t in enumerate(data["labels"]) if t != -100 and at not in starts]
        assert trainer.samples.sums[row] == sum(tokens)
        assert trainer.samples.counts[row] == len(tokens)


@pytest.mark.parametrize(
    "options",
    [
        {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
        {"gradient_accumulation_steps": 3},
        {"dataloader_drop_last": True, "per_device_train_batch_size": 5},
        {**FLAT, "dataloader_num_workers": 2, "gradient_accumulation_steps": 2},
    ],
)
def test_every_index_belongs_to_its_row(options, tmp_path):
    ours = train(llama(), arguments(tmp_path, **options))
    assert all(index == first for _, index, first in ours.batches)
    kept = 10 if options.get("dataloader_drop_last") else 12
    assert [len(set(epoch)) for epoch in ours.order] == [kept] * EPOCHS
    assert ours.selector.visits == EPOCHS * kept


def test_the_same_rows_are_selected_as_in_other_loops(tmp_path):
    from data_agent.integrations.transformers import SelectiveTrainer

    class Plain(Recording, SelectiveTrainer):
        pass

    args = arguments(tmp_path, num_train_epochs=6, seed=5)
    ours = train(llama(), args)
    theirs: Any = Plain(
        model=llama(),
        args=args,
        train_dataset=ours.train_dataset,
        data_collator=DataCollatorForLanguageModeling(VOCAB - 2),
    )
    theirs.train()
    assert ours.order == theirs.order


# Weights.


class Weighing(Selector):
    """Every second sample counts three times as much as the others."""

    name = "weighing"
    default_schedule = "static"

    def choose(self, epoch, count, excluded):
        return (~excluded).nonzero().squeeze(1)[:count]

    def weigh(self, epoch, index, excluded):
        return 1.5 - (index % 2).float()


class WeighingByHand(Theirs):
    """What `Weighing` should come to, of logits."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        weight = 1.5 - (inputs["input_ids"][:, :1] % 2).float()
        outputs = model(inputs["input_ids"], inputs["attention_mask"], output_router_logits=None)
        targets = inputs["labels"][:, 1:]
        losses = F.cross_entropy(outputs.logits[:, :-1].mT, targets, reduction="none")
        if self.args.loss_type == "dft":
            losses = losses * (-losses).exp().detach()
        items = num_items_in_batch / self.accelerator.num_processes  # DDP takes their mean
        loss = (weight * losses).sum() / items
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / 2
        return loss


@pytest.mark.parametrize(
    "way",
    ["tokenised", "accumulation", "padding free", "dft", "mixture of experts", "adapters"],
)
def test_weights_are_those_of_the_rows(way, tmp_path):
    changes, options = WAYS[way]
    options = dict(options)
    model = options.pop("model", llama)
    args = partial(arguments, tmp_path, num_train_epochs=2, optim="sgd", learning_rate=0.3)
    weighing = partial(Weighing, keep_ratio=0.5)
    ours = train(model(), args(**changes), selector=weighing, **options)
    changes = {k: v for k, v in changes.items() if k not in FLAT}
    theirs = replay(ours, model(), args(**changes), kind=WeighingByHand, **options)
    plain = replay(ours, model(), args(**changes), **options)
    difference = (weights(ours) - weights(theirs)).abs().max()
    assert difference < 1e-5 < 0.01 * (weights(ours) - weights(plain)).abs().max()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("way", ["label smoothing", "function"])
def test_an_objective_made_of_logits_cannot_be_weighed(way, tmp_path):
    changes, options = {}, {}
    if way == "function":  # the same objective, but its terms have no graph

        def cross_entropy(outputs, labels, num_items_in_batch):
            logits, targets = outputs.logits[:, :-1].mT, labels[:, 1:]
            return F.cross_entropy(logits, targets, reduction="sum") / num_items_in_batch

        options["compute_loss_func"] = cross_entropy
    else:
        changes["label_smoothing_factor"] = 0.1
    args = arguments(tmp_path, **changes)
    assert train(llama(), args, **options).selector.visits
    with pytest.raises(InputError, match=r"cannot be weighed .*take a method without weights"):
        train(llama(), args, selector=partial(Weighing, keep_ratio=0.5), **options)


# Memory.


class LargestTensors(TorchDispatchMode):
    """Counts the sizes of the tensors that were made."""

    def __init__(self, least):
        super().__init__()
        self.least, self.sizes = least, Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.numel() >= self.least:
                self.sizes[value.numel()] += 1
        return result


@pytest.mark.parametrize("selector", ["data-agent", partial(Weighing, keep_ratio=0.5)])
@pytest.mark.parametrize("flat", [{}, FLAT])
def test_no_tensor_of_the_vocabularys_size_is_ours(flat, selector, tmp_path):
    vocabulary = 80_000  # more than the policy has weights
    args = partial(arguments, tmp_path, max_steps=1, gradient_checkpointing=False, **flat)

    def made(kind: Any, **options):
        class Measured(kind):
            def compute_loss(self, *args, **kwargs):
                with LargestTensors(least=vocabulary) as record:
                    loss = super().compute_loss(*args, **kwargs)
                self.made = record.sizes
                return loss

        trainer = build(Measured, llama(vocab_size=vocabulary), args(), **options)
        trainer.order = [list(range(SIZE))]
        trainer.train()
        return trainer

    ours = made(SelectiveSFTTrainer, selector=selector)
    theirs = made(Theirs)
    num_tokens = ours.state.log_history[0]["num_tokens"]
    assert max(ours.made) < num_tokens * vocabulary
    assert ours.made.total() == theirs.made.total() > 0


# Trusted rows.


def trusted(count=6):
    """To be tokenised; they begin with tokens that no row to train on begins with."""
    data = [
        {"prompt": f"w{SIZE + i} w{i}", "completion": " " + " ".join(["w7"] * (2 + i % 3))}
        for i in range(count)
    ]
    return datasets.Dataset.from_list(data)


@pytest.mark.parametrize("way", ["completion only", "padding free", "adapters"])
def test_trusted_rows_are_prepared_as_the_others_and_learned_from(way, tmp_path, caplog):
    changes, options = WAYS[way]
    args = arguments(tmp_path, num_train_epochs=4, **changes)
    selector = partial(DataAgent, keep_ratio=0.5, config=TrustedConfig(update_every=3))
    data = options.get("data", texts())
    options = {**options, "data": data, "trusted_dataset": trusted(), "selector": selector}
    ours = train(llama(), args, **options)
    assert ours.trusted_rows == range(SIZE, SIZE + 6)
    assert all(index == first for _, index, first in ours.batches)
    assert all(set(epoch) >= set(ours.trusted_rows) for epoch in ours.order[2:])
    assert ours.selector.metrics()["trusted_separation"] > 0.6  # their completions are alike
    assert "trusted examples (6 rows)" in ours.selector.summary()


def test_with_trusted_rows_weights_are_sfttrainers_and_resumed_it_ends_the_same(tmp_path):
    args = partial(arguments, tmp_path, save_strategy="steps", save_steps=3)
    options = {"data": texts(), "trusted_dataset": trusted()}
    whole = train(llama(), args(), **options)
    theirs = replay(whole, llama(), args(save_strategy="no"), whole.train_dataset)
    assert torch.equal(weights(whole), weights(theirs))
    resumed = build(Ours, llama(), args(), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))
    assert resumed.batches == whole.batches[9:]
    assert torch.equal(weights(resumed), weights(whole))


def test_trusted_rows_may_be_a_list_and_what_are_no_rows_is_refused(tmp_path):
    args = partial(arguments, tmp_path)
    listed = build(Ours, llama(), args(), texts(), trusted_dataset=trusted().to_list())
    table = build(Ours, llama(), args(), texts(), trusted_dataset=trusted())
    assert listed.train_dataset[:] == table.train_dataset[:]
    for data, says in (
        (datasets.DatasetDict({"train": trusted()}), "trusted data are a DatasetDict of 'train'"),
        (trusted().to_iterable_dataset(), r"trusted data are a stream .*list first: list\(data\)"),
    ):
        with pytest.raises(InputError, match=says):
            build(Ours, llama(), args(), texts(), trusted_dataset=data)


def test_under_packing_trusted_rows_are_packs_of_their_own(tmp_path, caplog):
    args = arguments(tmp_path, **{**PACKED, "per_device_train_batch_size": 2})
    with caplog.at_level("INFO", logger="data_agent"):
        ours = train(llama(), args, texts(), trusted_dataset=trusted(), keep_ratio=0.9)
    first = {ours.train_dataset[i]["input_ids"][0] for i in ours.trusted_rows}
    assert first <= set(range(SIZE, SIZE + 6))
    assert 0 < len(ours.trusted_rows) < 6
    picked = f"data-agent: its reward is learned from {len(ours.trusted_rows)} trusted rows"
    assert picked in caplog.text


# Stopping and resuming.


@pytest.mark.parametrize("way", ["accumulation", "padding free", "adapters"])
def test_resumed_anywhere_it_ends_the_same(way, tmp_path):
    changes, options = WAYS[way]
    args = partial(arguments, tmp_path, save_strategy="steps", save_steps=1, **changes)
    whole = train(llama(), args(), keep_ratio=0.7, **options)  # 17 rows: five batches an epoch
    accumulation = args().gradient_accumulation_steps
    steps = whole.state.global_step
    for stopped_at in (1, steps // 2 + 1):
        resumed = build(Ours, llama(), args(), keep_ratio=0.7, **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stopped_at}"))
        per_epoch = math.ceil(5 / accumulation)
        epoch, step = divmod(stopped_at, per_epoch)
        done = epoch * 5 + step * accumulation
        assert resumed.batches == whole.batches[done:]
        assert torch.equal(weights(resumed), weights(whole))
        assert resumed.selector.visits == whole.selector.visits == EPOCHS * 17


# Several processes.


def two_ranks(rank, folder):
    """A run, the rest of it from step 2 on, and what weights come to."""
    datasets.disable_progress_bars()
    runs = [run_of_rank(folder, None), run_of_rank(folder, 2), weighed_on_rank(folder)]
    return [*runs, replayed_on_rank(folder)]


def run_of_rank(folder, stopped_at):
    args = arguments(folder, save_strategy="steps", save_steps=1, ddp_backend="gloo", **FLAT)
    ours = build(Ours, llama(), args, keep_ratio=0.75)  # 18 rows: two full rounds, and two rows
    ours.train(resume_from_checkpoint=stopped_at and str(Path(folder) / f"checkpoint-{stopped_at}"))
    return {"batches": ours.batches, "weights": weights(ours), "visits": ours.selector.visits}


def replayed_on_rank(folder):
    """Whether at keep ratio 1 the weights are SFTTrainer's over the same order, to the bit."""
    args = partial(arguments, folder, ddp_backend="gloo", **FLAT)
    ours = train(llama(), args(), keep_ratio=1.0)
    theirs = build(Theirs, llama(), args())
    theirs.order = order_of_ranks(ours)
    theirs.train()
    return torch.equal(weights(ours), weights(theirs))


def weighed_on_rank(folder):
    args = partial(arguments, folder, num_train_epochs=1, optim="sgd", ddp_backend="gloo")
    args = partial(args, gradient_accumulation_steps=2)
    ours = train(llama(), args(), selector=partial(Weighing, keep_ratio=0.67))
    theirs = build(WeighingByHand, llama(), args())
    theirs.order = order_of_ranks(ours)
    theirs.train()
    return float((weights(ours) - weights(theirs)).abs().max()), ours.state.global_step


@pytest.mark.distributed
@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.19"),
    reason="transformers before 5.19 cannot resume on several CPU processes",
)
def test_two_processes(tmp_path):
    (first, first_resumed, weighed, is_equal), (second, second_resumed, *_) = run_ranks(
        two_ranks, tmp_path, str(tmp_path / "run")
    )
    assert is_equal
    assert weighed[0] < 1e-6
    assert weighed[1] == 1
    assert torch.equal(first["weights"], second["weights"])
    for epoch in range(EPOCHS):
        mine, yours = (
            [index for at, index, _ in rank["batches"] if at == epoch] for rank in (first, second)
        )
        assert len(mine) == len(yours) == 3
        assert len({i for batch in (*mine, *yours) for i in batch}) == 18
    for resumed, whole in ((first_resumed, first), (second_resumed, second)):
        assert all(index == tokens for _, index, tokens in whole["batches"])
        assert resumed["batches"] == whole["batches"][2:]
        assert torch.equal(resumed["weights"], whole["weights"])
        assert resumed["visits"] == whole["visits"]


# Choosing inside batches.


class Noting(InBatchAgent):
    """Notes which rows were offered."""

    offered: Any = None

    def select_batch(self, feedback):
        self.offered = [*(self.offered or []), *feedback.index.tolist()]
        return super().select_batch(feedback)


@pytest.mark.parametrize("way", ["tokenised", "accumulation", "mixture of experts"])
def test_inside_batches_keep_ratio_one_equals_without_us(way, tmp_path):
    changes, options = WAYS[way]
    model = options.get("model", llama)
    args = partial(arguments, tmp_path, num_train_epochs=1, logging_steps=100, **changes)
    ours = train(model(), args(), selector=partial(Noting, keep_ratio=1.0))
    theirs = build(Theirs, model(), args())
    theirs.order = [ours.selector.offered]
    theirs.train()
    assert torch.equal(weights(ours), weights(theirs))
    mine, plain = ours.state.log_history[-1], theirs.state.log_history[-1]
    for name in ("train_loss", "entropy", "mean_token_accuracy", "num_tokens"):
        assert mine[name] == plain[name]


def test_half_of_each_batch_is_trained_on_and_scoring_is_no_evaluation(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 6, "num_train_epochs": 1}
    ours = train(
        llama(),
        arguments(tmp_path, **options),
        eval_dataset=rows(8),
        selector="data-agent-in-batch",
    )
    assert ours.selector.visits == SIZE / 2
    logged = next(entry for entry in ours.state.log_history if "eval_entropy" in entry)
    assert logged["eval_entropy"] == ours.evaluate()["eval_entropy"]
    with pytest.raises(InputError, match="its rows are not samples"):
        train(llama(), arguments(tmp_path, **FLAT), selector="data-agent-in-batch")


@pytest.mark.parametrize("kind", ["tokenised", "texts", "texts of a file"])
def test_a_stream_is_chosen_from_until_max_steps(kind, tmp_path):
    stream = (rows() if kind == "tokenised" else texts()).to_iterable_dataset()
    if kind == "texts of a file":
        texts().to_json(tmp_path / "rows.jsonl")
        path = str(tmp_path / "rows.jsonl")
        stream = datasets.load_dataset("json", data_files=path, split="train", streaming=True)
    args = arguments(tmp_path, max_steps=5)
    ours = train(llama(), args, stream, selector=partial(Noting, keep_ratio=0.5))
    assert ours.selector.offered == list(range(5 * BATCH))
    assert all(index == first for _, index, first in ours.batches)
    assert ours.selector.visits == 5 * BATCH / 2


# What is right without being told.


def test_metrics_of_both_are_logged(tmp_path):
    logged = []

    class Keep(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            logged.append(logs)

    train(llama(), arguments(tmp_path), callbacks=[Keep()])
    assert {"data_agent/planned_cost", "entropy", "mean_token_accuracy"} <= set(logged[0])


@pytest.mark.parametrize("flat", [{}, FLAT])
def test_evaluation_is_sfttrainers_and_leaves_no_trace(flat, tmp_path):
    args = partial(arguments, tmp_path, **flat)
    options = {"eval_strategy": "steps", "eval_steps": 2}
    ours = train(llama(), args(**options), eval_dataset=rows(8))
    plain = train(llama(), args())
    assert ours.order == plain.order
    assert torch.equal(weights(ours), weights(plain))
    reference = build(SFTTrainer, ours.model, args(), eval_dataset=rows(8)).evaluate()
    evaluated = ours.evaluate()
    assert evaluated["eval_loss"] == reference["eval_loss"]
    assert evaluated["eval_mean_token_accuracy"] == reference["eval_mean_token_accuracy"]


def test_no_hook_is_left(tmp_path):
    model = llama()
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    train(model, arguments(tmp_path, gradient_checkpointing=False))
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert before == after


def test_a_subclass_of_sfttrainer_keeps_what_it_does(tmp_path):
    class Regularised(SFTTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return loss + 0.1 * model.lm_head.weight.square().sum()

    class Selective(Recording, SelectiveSFTTrainer, Regularised):
        pass

    class Replayed(Theirs, Regularised):
        pass

    ours = train(llama(), arguments(tmp_path), kind=Selective)
    theirs = replay(ours, llama(), arguments(tmp_path), kind=Replayed)
    assert torch.equal(weights(ours), weights(theirs))
    with pytest.raises(InputError, match="a compute_loss of your own"):
        train(
            llama(),
            arguments(tmp_path),
            kind=Selective,
            selector=partial(Weighing, keep_ratio=0.5),
        )


# What is refused.


@pytest.mark.parametrize("trainer", [DPOTrainer, GRPOTrainer])
def test_other_trainers_of_trl_are_refused(trainer):
    with pytest.raises(InputError, match=f"{trainer.__name__} among its bases.*is for SFTTrainer"):
        type("Mine", (SelectiveSFTTrainer, trainer), {})


def test_a_loss_without_the_fused_head_is_refused(tmp_path):
    class OfLogits(SFTTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return model(**inputs).loss

    class Selective(SelectiveSFTTrainer, OfLogits):
        pass

    with pytest.raises(InputError, match=r"without SFTTrainer's fused head.*fused_lm_head=True"):
        train(llama(), arguments(tmp_path), kind=Selective)


def test_the_number_of_rows_is_known_after_packing(tmp_path):
    args = arguments(tmp_path, **PACKED)
    selector = make_selector("random", num_samples=SIZE, epochs=EPOCHS, keep_ratio=0.5)
    trainer = build(Ours, llama(), args, selector=selector)
    num_rows = len(trainer.train_dataset)
    assert num_rows < SIZE
    with pytest.raises(InputError, match=f"num_samples={SIZE}, but SFTTrainer made {num_rows} row"):
        trainer.train()
    trainer = train(llama(), args, selector=partial(DataAgent, keep_ratio=0.5))
    assert trainer.selector.schedule.num_samples == num_rows
    selector = make_selector("random", num_samples=num_rows, epochs=EPOCHS, keep_ratio=0.5)
    assert train(llama(), args, selector=selector).selector is selector


@pytest.mark.parametrize("flat", [{}, FLAT])
def test_a_row_that_teaches_nothing_has_loss_zero_and_is_told_of(flat, tmp_path):
    data = [{"input_ids": [i, 5, 7], "labels": [-100, 5, 7]} for i in range(7)]
    data.append({"input_ids": [7, 5, 7], "labels": [7, -100, -100]})
    args = arguments(tmp_path, max_steps=1, per_device_train_batch_size=8, **flat)
    trainer = build(Watching, llama(), args, datasets.Dataset.from_list(data), keep_ratio=1.0)
    with pytest.warns(DataAgentWarning, match="a row of train_dataset has no token that counts"):
        trainer.train()
    losses = dict(zip(trainer.feedback.index.tolist(), trainer.feedback.losses, strict=True))
    assert [i for i, loss in losses.items() if loss == 0] == [7]
    assert trainer.feedback.features.isfinite().all()


def test_a_collator_that_cuts_rows_is_refused(tmp_path):
    class Cutting(DataCollatorForLanguageModeling):
        def torch_call(self, examples):
            cut = [{k: v[:3] for k, v in example.items()} for example in examples]
            return super().torch_call(cut)

    collator = Cutting(VOCAB - 2, padding_free=True)
    with pytest.raises(InputError, match=r"Cutting put 4 rows of \[.*Truncate rows before"):
        train(llama(), arguments(tmp_path), data_collator=collator)


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")  # peft says
def test_prompt_tuning_without_padding_is_refused(tmp_path):
    args = arguments(tmp_path, **FLAT)
    with pytest.raises(InputError, match="virtual tokens of prompt tuning"):
        train(llama(), args, peft_config=PROMPT_TUNING)


def test_the_lm_head_is_never_called(tmp_path):
    model = llama()
    with pytest.raises(InputError, match="lm_head, which SFTTrainer's fused loss never calls"):
        train(model, arguments(tmp_path), head=model.lm_head)
    ours = train(model, arguments(tmp_path), head=model.model.norm, kind=Watching)
    assert ours.feedback.features.shape == (BATCH, WIDTH)


def test_a_missing_framework_says_what_to_install():
    code = "import sys; sys.modules['trl'] = None; import data_agent.integrations.trl"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install '.[trl]'" in result.stderr.splitlines()[-1]


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = Path(__file__).parents[2] / "examples" / "trl_sft.py"
    assert len(path.read_text().splitlines()) <= 60
    runpy.run_path(str(path), run_name="__main__")
    assert "data-agent: epoch" in capsys.readouterr().out


def test_the_example_with_trusted_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = Path(__file__).parents[2] / "examples" / "trusted_sft.py"
    share = runpy.run_path(str(path))["main"]()
    assert "trusted examples (24 rows): ranks a trusted row" in capsys.readouterr().out
    assert share > 0.65  # of a half


def test_the_plain_mixin_is_not_for_trl():
    for base in (SFTTrainer, GRPOTrainer):
        with pytest.raises(InputError, match=r"has TRL's .* among its bases.*SelectiveSFTTrainer"):
            type("Mine", (SelectiveTrainerMixin, base), {})
