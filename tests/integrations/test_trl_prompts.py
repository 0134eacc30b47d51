"""The real GRPO and RLOO trainers: they train as without us, on the prompts that were chosen."""

import runpy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="needs pip install '.[trl]'")

import datasets
import peft
import prompt_worlds
from ranks import run_ranks
from replay import flat_weights
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from data_agent.errors import CheckpointError, InputError
from data_agent.integrations.trl_prompts import (
    SelectiveGRPOTrainer,
    SelectivePromptsMixin,
    SelectiveRLOOTrainer,
    prompt_features,
)
from data_agent.prompts import PromptAgent, PromptConfig, make_prompt_selector
from data_agent.prompts.baselines import UniformPrompts
from data_agent.testing.runs import equal_states

datasets.disable_progress_bars()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:.*'pin_memory' argument is set as true.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing.*` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in  - will assume"),
]

SIZE, GENERATIONS, WIDTH, VOCAB, WORDS = 12, 2, 8, 18, 16
QUICK = PromptConfig(hidden=8, rollout_rows=8, update_every=1)
agent = partial(PromptAgent, config=QUICK)


@pytest.fixture(autouse=True)
def _nothing_is_sent(monkeypatch):
    monkeypatch.setenv("CI", "1")  # TRL reports each trainer's name otherwise


def tokenizer():
    """Word "w7" is token 7."""
    vocabulary = {f"w{i}": i for i in range(WORDS)} | {"<pad>": WORDS, "<eos>": WORDS + 1}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", chat_template=template
    )


def llama(**config):
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            **config,
        )
    )


def prompts(*, is_chat=False):
    """Prompt i begins with word i; prompts differ in length."""
    texts = [" ".join(f"w{(i + 3 * j) % WORDS}" for j in range(1 + i % 3)) for i in range(SIZE)]
    rows = [[{"role": "user", "content": text}] if is_chat else text for text in texts]
    return datasets.Dataset.from_dict({"prompt": rows, "place": list(range(SIZE))})


def even(completion_ids, **kwargs):
    """The share of tokens with an even number."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def short(completion_ids, place, **kwargs):
    """Whether it ends early; applies to every other prompt."""
    ends = [float(len(ids) < 4) for ids in completion_ids]
    return [end if i % 2 else None for end, i in zip(ends, place, strict=True)]


def arguments(folder, kind=GRPOConfig, **changes):
    options = {
        **{"output_dir": str(folder), "use_cpu": True, "report_to": [], "disable_tqdm": True},
        **{"per_device_train_batch_size": 4, "num_generations": GENERATIONS, "max_steps": 4},
        **{"max_completion_length": 4, "save_strategy": "no", "learning_rate": 1e-2},
        **{"bf16": False, "logging_steps": 2, "gradient_checkpointing": False, "beta": 0.0},
    }
    return kind(**{**options, **changes})


class Chosen(SelectivePromptsMixin):
    """Notes what was chosen."""

    def _chosen_rows(self, selector):
        rows = super()._chosen_rows(selector)
        self.chosen = [*getattr(self, "chosen", []), selector.choice.index.tolist()]
        return rows


class OurGRPO(Chosen, GRPOTrainer):
    pass


class OurRLOO(Chosen, RLOOTrainer):  # type: ignore[misc]
    pass


class Order:
    """A sampler over generation batches, as often as TRL asks for each, in epochs as long as its.

    Where epochs begin matters: a loader that begins draws from torch's global generator.
    """

    def __init__(self, batches, repeats):
        self.batches, self.repeats, self.epoch = batches, repeats, 0
        self.per_epoch = SIZE // len(batches[0])

    def __iter__(self):
        start = self.epoch * self.per_epoch
        self.epoch += 1
        filled = [*self.batches, *self.batches[-1:] * self.per_epoch]
        for batch in filled[start : start + self.per_epoch]:
            for _ in range(self.repeats):
                yield from (place for place in batch for _ in range(GENERATIONS))

    def __len__(self):
        return self.per_epoch * self.repeats * len(self.batches[0]) * GENERATIONS


class Replayed:
    """TRL's trainer without us, over the prompts that were chosen."""

    order: Any

    def _get_train_sampler(self, dataset=None):
        args: Any = self.args  # type: ignore[attr-defined]
        return Order(self.order, args.steps_per_generation * args.num_iterations)


class TheirGRPO(Replayed, GRPOTrainer):  # type: ignore[misc]
    pass


class TheirRLOO(Replayed, RLOOTrainer):  # type: ignore[misc]
    pass


def build(kind, args, *, data=None, rewards=even, model=llama, **options) -> Any:
    data = prompts() if data is None else data
    return kind(
        model=model(),
        reward_funcs=rewards,
        args=args,
        train_dataset=data,
        processing_class=tokenizer(),
        **options,
    )


def train(kind, args, *, resume=None, **options) -> Any:
    trainer = build(kind, args, **options)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(trainer):
    return flat_weights(trainer.model)


LORA = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "iterations": ({"num_iterations": 2}, {}),
    "accumulation": ({"gradient_accumulation_steps": 2}, {}),
    "steps a generation": ({"steps_per_generation": 2, "num_iterations": 2}, {}),
    "dropout": ({}, {"model": partial(llama, attention_dropout=0.3)}),
    "adapters, reference": ({"beta": 0.1}, {"peft_config": LORA}),
    "two rewards": ({"reward_weights": [1.0, 0.5]}, {"rewards": [even, short]}),
    "chat, columns removed": (
        {"remove_unused_columns": True},
        {"data": prompts(is_chat=True)},
    ),
}


@pytest.mark.parametrize(("changes", "options"), WAYS.values(), ids=WAYS)
def test_weights_are_those_of_grpo_over_the_same_prompts(tmp_path, changes, options):
    ours = train(OurGRPO, arguments(tmp_path, **changes), selector=agent, **options)
    theirs = build(TheirGRPO, arguments(tmp_path, **changes), **options)
    theirs.order = ours.chosen
    theirs.train()
    assert torch.equal(weights(ours), weights(theirs))


@pytest.mark.parametrize("changes", [{}, {"num_iterations": 2}], ids=["plain", "iterations"])
def test_weights_are_those_of_rloo_over_the_same_prompts(tmp_path, changes):
    args = partial(arguments, tmp_path, RLOOConfig, **changes)
    ours = train(OurRLOO, args(), selector=agent)
    theirs = build(TheirRLOO, args())
    theirs.order = ours.chosen
    theirs.train()
    assert torch.equal(weights(ours), weights(theirs))


@pytest.mark.parametrize(
    ("ours", "theirs", "config"),
    [
        (SelectiveGRPOTrainer, GRPOTrainer, GRPOConfig),
        (SelectiveRLOOTrainer, RLOOTrainer, RLOOConfig),
    ],
)
def test_without_a_selector_nothing_changes(tmp_path, ours, theirs, config):
    args = partial(arguments, tmp_path, config)
    first, second = train(ours, args(), selector=None), train(theirs, args())
    assert torch.equal(weights(first), weights(second))
    told = [log for log in first.state.log_history if "prompts/informative" in log]
    assert not told


def test_a_choice_is_made_for_each_generation_and_tells_loggers(tmp_path):
    args = arguments(
        tmp_path, num_iterations=2, steps_per_generation=2, max_steps=8, logging_steps=4
    )
    trainer = train(OurGRPO, args, selector=agent, rewards=[even, short])
    assert [len(set(batch)) for batch in trainer.chosen] == [4, 4]
    assert trainer.prompt_selector.step == 2
    logs = [log for log in trainer.state.log_history if "prompts/informative" in log]
    assert len(logs) == 2
    for log in logs:
        assert 0 <= log["prompts/informative"] <= 1
        assert log["prompts/informative"] == pytest.approx(1 - log["frac_reward_zero_std"])
        assert 0 < log["prompts/choosing_seconds"] < 10
        assert log["prompts/policy_decides"] == 0
    rows = 2 * 4 * GENERATIONS
    mean = sum(log["completions/mean_length"] for log in logs) / 2
    assert logs[-1]["prompts/generated_tokens"] == pytest.approx(rows * mean)


def test_evaluation_is_left_alone(tmp_path):
    changes = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4}
    trainer = train(OurGRPO, arguments(tmp_path, **changes), selector=agent, eval_dataset=prompts())
    assert trainer.prompt_selector.step == len(trainer.chosen) == 4
    assert "eval_reward" in {key for log in trainer.state.log_history for key in log}


@pytest.mark.parametrize(
    ("kind", "config", "stops"),
    [(OurGRPO, GRPOConfig, (1, 8, 10)), (OurRLOO, RLOOConfig, (3,))],
    ids=["grpo", "rloo"],
)
def test_a_run_resumed_at_any_step_ends_the_same(tmp_path, kind, config, stops):
    """Within a generation too, at the beginning of an epoch (8), and in another than the first."""
    changes = {"steps_per_generation": 2, "num_iterations": 2, "max_steps": 11}
    saving = {"save_strategy": "steps", "save_steps": 1}
    args = partial(arguments, tmp_path, config, **changes, **saving)
    data = prompts().select(range(8))
    whole = train(kind, args(), selector=agent, data=data)
    for step in stops:
        checkpoint = str(tmp_path / f"checkpoint-{step}")
        resumed = train(kind, args(), selector=agent, data=data, resume=checkpoint)
        assert torch.equal(weights(whole), weights(resumed)), f"resumed at {step}"
        made_before = -(-step // 4)
        assert getattr(resumed, "chosen", []) == whole.chosen[made_before:], f"resumed at {step}"
        ends = [trainer.prompt_selector.table()["visits"] for trainer in (whole, resumed)]
        assert (ends[0] == ends[1]).all()


def test_features_of_prompts_do_not_depend_on_their_batch():
    model = llama()
    ids = [[1, 2, 3], [4], [5, 6]]
    together = prompt_features(model, ids, batch_size=3)
    alone = torch.cat([prompt_features(model, [one], batch_size=1) for one in ids])
    assert together.shape == (3, 2 * WIDTH)
    torch.testing.assert_close(together, alone)
    last = model.model(torch.tensor([ids[0]])).last_hidden_state[0]
    torch.testing.assert_close(together[0], torch.cat([last[-1], last.mean(0)]))


def test_frozen_features_and_none(tmp_path):
    frozen = prompt_features(
        llama(), tokenizer()(list(prompts()["prompt"]))["input_ids"], batch_size=4
    )
    for features in (frozen, frozen.numpy(), None):
        trainer = train(OurGRPO, arguments(tmp_path), selector=agent, features=features)
        assert trainer.prompt_selector.step == 4


def test_methods_that_read_no_features_cost_no_forward_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(OurGRPO, "_features_of", None)
    trainer = train(OurGRPO, arguments(tmp_path), selector="posterior")
    assert trainer.prompt_selector.step == 4


def choose_in_a_world():
    chooser = agent(200, 4, batch=8)
    _, visits = prompt_worlds.train(chooser, prompt_worlds.World(200), 40)
    method = chooser.state_dict()["method"]
    learner = method.pop("learner")
    return visits, {**method, **{name: learner[name] for name in ("weights", "adam", "tau")}}


def work(rank, folder):
    torch.use_deterministic_algorithms(True)
    trainer = train(OurGRPO, arguments(folder, per_device_train_batch_size=2), selector=agent)
    return trainer.chosen, weights(trainer), choose_in_a_world()


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_choose_the_same(tmp_path):
    (first, weights_first, world), (second, weights_second, other_world) = run_ranks(
        work, tmp_path, str(tmp_path / "out")
    )
    assert first == second
    assert torch.equal(weights_first, weights_second)
    alone = train(OurGRPO, arguments(tmp_path), selector=agent)
    assert alone.chosen[0] == first[0]
    visits, state = choose_in_a_world()  # bitwise as in one process, the policy too
    for other_visits, other in (world, other_world):
        assert torch.equal(visits, other_visits)
        assert equal_states(state, other)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"selector": "other"}, "method 'other' is unknown"),
        (
            {},
            {"selector": "categories"},
            r"needs categories=\[...\].* functools.partial\(make_prom",
        ),
        ({}, {"selector": 3}, "selector is 3; expected a name"),
        ({}, {"selector": UniformPrompts(5, 2, batch=2)}, "built for num_prompts=5"),
        ({}, {"features": "some"}, "features is 'some'"),
        ({}, {"features": torch.zeros(3, 2)}, r"features are \[3, 2\]; expected \[12, F\]"),
        ({}, {"data": prompts().to_iterable_dataset()}, "train_dataset is a stream"),
    ],
)
def test_what_cannot_be_chosen_is_refused(tmp_path, changes, options, message):
    with pytest.raises(InputError, match=message):
        build(SelectiveGRPOTrainer, arguments(tmp_path, **changes), **options)


def test_the_remedy_for_categories_works(tmp_path):
    selector = partial(make_prompt_selector, "categories", categories=[i % 3 for i in range(SIZE)])
    trainer = build(SelectiveGRPOTrainer, arguments(tmp_path), selector=selector)
    assert trainer.prompt_selector.name == "categories"


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = Path(__file__).parents[2] / "examples" / "trl_grpo.py"
    runpy.run_path(str(path))["main"]()
    assert "prompt-agent: 30 batches" in capsys.readouterr().out


def test_a_stream_trains_without_a_selector(tmp_path):
    data = prompts().to_iterable_dataset()
    train(SelectiveGRPOTrainer, arguments(tmp_path, max_steps=1), data=data, selector=None)


def test_a_mixin_that_is_hidden_is_refused():
    with pytest.raises(InputError, match="SelectivePromptsMixin first"):
        type("Hidden", (GRPOTrainer, SelectivePromptsMixin), {})  # type: ignore[misc]


def test_a_checkpoint_without_a_choice_is_refused(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    args = partial(arguments, tmp_path, **saving)
    train(GRPOTrainer, args())
    with pytest.raises(CheckpointError, match="holds no data_agent_prompts"):
        train(SelectiveGRPOTrainer, args(), resume=str(tmp_path / "checkpoint-1"))
