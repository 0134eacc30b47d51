"""MMLU by lm-eval: its numbers, and that it leaves everything else alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pytest
import torch
from mmlu_files import (
    SUBJECTS,
    byte_tokenizer,
    constant_model,
    item,
    random_model,
    rows_of,
    word_tokenizer,
    write,
)
from plain_mmlu import Mmlu, Question, context_length, plain_mmlu, prompt_of
from small_rows import recipe

pytest.importorskip("lm_eval")
import lm_eval
import lm_eval.tasks
from lm_eval.tasks import TaskManager
from transformers import BloomConfig, BloomForCausalLM

from data_agent import DataAgentError
from data_agent_lab import lm_eval as harness
from data_agent_lab.data.tokenizers import find_tokenizer
from data_agent_lab.lm_eval import evaluate_tasks, load_mmlu, run_tasks

MMLU_TASKS = Path(lm_eval.tasks.__file__).parent / "mmlu" / "default"


class Found(NamedTuple):
    """What the harness says of MMLU: the metric, and item by item."""

    metric: dict[str, Any]
    by_subject: dict[str, float]
    log_likelihoods: torch.Tensor
    predictions: torch.Tensor


def evaluated(model: Any, tokenizer: Any, folder: Path, *, num_shots: int = 5, **options) -> Found:
    tasks = load_mmlu(folder, num_shots=num_shots)
    raw, _ = run_tasks(model, tokenizer, tasks, **options)
    samples = [sorted(rows, key=lambda row: row["doc_id"]) for rows in raw["samples"].values()]
    items = [item for rows in samples for item in rows]
    likelihoods = [[answer[0] for answer in item["filtered_resps"]] for item in items]
    predictions = [max(range(4), key=row.__getitem__) for row in likelihoods]
    is_right = [prediction == i["target"] for prediction, i in zip(predictions, items, strict=True)]
    assert is_right == [item["acc"] == 1 for item in items]
    names = [name.removeprefix("mmlu_") for name in raw["samples"]]
    return Found(
        evaluate_tasks(model, tokenizer, tasks, **options)["mmlu/acc"],
        {name: 100 * raw["results"][f"mmlu_{name}"]["acc,none"] for name in names},
        torch.tensor(likelihoods, dtype=torch.float64),
        torch.tensor(predictions),
    )


# context 8000 holds every prompt, 900 the shorter ones, 200 not even every question
@pytest.mark.parametrize("context", [8000, 900, 200])
@pytest.mark.parametrize("make_tokenizer", [word_tokenizer, byte_tokenizer])
@pytest.mark.parametrize("num_shots", [5, 0])
def test_it_agrees_with_the_plain_evaluation_to_the_last_item(
    folder, make_tokenizer, context, num_shots
):
    tokenizer = make_tokenizer()
    model = random_model(tokenizer, context=context)
    plain = plain_mmlu(model, tokenizer, folder, num_shots=num_shots, batch_size=4)
    found = evaluated(model, tokenizer, folder, num_shots=num_shots, batch_size=3)
    torch.testing.assert_close(found.log_likelihoods, plain.log_likelihoods, rtol=1e-5, atol=1e-5)
    assert found.predictions.tolist() == plain.predictions.tolist()
    assert len(found.log_likelihoods.unique(dim=0)) >= 9
    assert found.by_subject == pytest.approx(plain.by_subject)
    assert list(found.by_subject) == list(plain.by_subject)
    assert found.metric["value"] == pytest.approx(plain.accuracy)
    assert (found.metric["unit"], found.metric["direction"]) == ("%", "higher")
    assert (found.metric["num_items"], found.metric["num_truncated"]) == (12, plain.num_truncated)
    assert 0 < found.metric["standard_error"] < 50


def test_the_contexts_above_cut_nothing_and_prompts(folder):
    tokenizer = byte_tokenizer()
    models = {context: random_model(tokenizer, context=context) for context in (8000, 900)}
    found = [evaluated(model, tokenizer, folder) for model in models.values()]
    assert [each.metric["num_truncated"] for each in found] == [0, 12]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
def test_adapters_count(folder):
    peft = pytest.importorskip("peft")
    tokenizer = word_tokenizer()
    base = random_model(tokenizer, context=900)
    without = evaluated(base, tokenizer, folder, limit=1)
    config = peft.LoraConfig(target_modules="all-linear", init_lora_weights=False)
    model = peft.get_peft_model(base, config)
    found = evaluated(model, tokenizer, folder, limit=1)
    plain = plain_mmlu(model, tokenizer, folder, limit=1)
    torch.testing.assert_close(found.log_likelihoods, plain.log_likelihoods, rtol=1e-5, atol=1e-5)
    assert (found.log_likelihoods - without.log_likelihoods).abs().min() > 1e-3


@pytest.mark.parametrize(("limit", "expected"), [(None, 2048), (700, 700)])
def test_models_without_a_limit_of_their_own_have_the_tokenizers_or_2048(limit, expected):
    tokenizer = byte_tokenizer()
    if limit is not None:
        tokenizer.model_max_length = limit
    model = BloomForCausalLM(BloomConfig(vocab_size=257, hidden_size=8, n_layer=1, n_head=1))
    assert context_length(model, tokenizer) == hf_model(model, tokenizer).max_length == expected


def test_a_limit_takes_the_first_of_each_subject(folder):
    tokenizer = word_tokenizer()
    model = random_model(tokenizer, context=8000)
    every = evaluated(model, tokenizer, folder)
    some = evaluated(model, tokenizer, folder, limit=2)
    expected = every.log_likelihoods[[0, 1, 5, 6, 8, 9]]
    torch.testing.assert_close(some.log_likelihoods, expected, rtol=1e-5, atol=1e-5)


class FromFolder:
    """The hub's data set, of which each configuration is a subject."""

    def __init__(self) -> None:
        self.rows = {split: rows_of(split) for split in ("dev", "test")}

    def __call__(self, path: str, name: str, **_: Any) -> dict[str, datasets.Dataset]:
        assert path == "cais/mmlu"
        return {
            split: datasets.Dataset.from_list([row for row in rows if row["subject"] == name])
            for split, rows in self.rows.items()
        }


def test_the_numbers_are_those_of_the_standard_task(folder, monkeypatch):
    tokenizer = word_tokenizer()
    model = random_model(tokenizer, context=900)
    ours = evaluated(model, tokenizer, folder)
    monkeypatch.setattr(datasets, "load_dataset", FromFolder())
    tasks = load_tasks_of_lm_eval([f"mmlu_{subject}" for subject in SUBJECTS])
    theirs: Any = lm_eval.evaluate(hf_model(model, word_tokenizer()), tasks)
    for subject in SUBJECTS:
        value = theirs["results"][f"mmlu_{subject}"]["acc,none"]
        assert ours.by_subject[subject] == pytest.approx(100 * value)
        samples = theirs["samples"][f"mmlu_{subject}"]
        assert samples[0]["arguments"][1][1] == " B"
    assert 0 < ours.metric["value"] < 100


def hf_model(model: Any, tokenizer: Any) -> Any:
    make: Any = harness.HFLM
    return make(pretrained=model, tokenizer=tokenizer, batch_size=2)


def load_tasks_of_lm_eval(names: list[str]) -> Any:
    tasks = TaskManager(include_path=MMLU_TASKS, include_defaults=False).load(names)
    for task in tasks["tasks"].values():
        task.set_config("num_fewshot", 5)
    return tasks


def test_the_plain_prompts_are_those_of_all_57_subjects():
    manager = TaskManager(include_path=MMLU_TASKS, include_defaults=False)
    assert len(manager.all_subtasks) == 57
    for name in manager.all_subtasks:
        subject = name.removeprefix("mmlu_")
        question = Question(subject, "?", ("1", "2", "3", "4"), 0)
        prompt = prompt_of(Mmlu({subject: []}, [question]), question)
        assert prompt.startswith(manager.task_index[name].cfg["description"])


def test_subjects_that_mmlu_does_not_have_are_refused(tmp_path):
    dev = [item("cooking", i, split="dev") for i in range(5)]
    write(tmp_path, dev=dev, test=[item("cooking", 0, split="test")])
    tokenizer = byte_tokenizer()
    model = constant_model(tokenizer, {}, context=8000)
    with pytest.raises(DataAgentError, match=r"asks about 'cooking'.* Subjects are .*anatomy, "):
        evaluated(model, tokenizer, tmp_path)


def test_a_tokenizer_without_special_tokens_is_refused_before_training(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(DataAgentError, match="has no token that ends a text"):
        find_tokenizer(recipe(tokenizer=str(tmp_path)))


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"harness_limit": 0}, {"harness_limit": -3}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(DataAgentError, match=r"--(batch-size|harness-limit) is .*; expected"):
        recipe(**wrong)


@pytest.mark.parametrize("tied", [True, False])
def test_model_and_tokenizer_are_left_as_they_were(folder, tied):
    tokenizer = word_tokenizer()
    model = random_model(tokenizer, context=900).to(torch.bfloat16)
    if tied:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    model.train()
    model.model.layers[0].eval()
    weights = {id(weight): weight.detach().clone() for weight in model.parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    evaluated(model, tokenizer, folder, limit=1)
    after = {id(weight): weight for weight in model.parameters()}
    assert weights.keys() == after.keys()
    assert all(torch.equal(weights[key], after[key]) for key in weights)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert (tokenizer.pad_token, len(tokenizer)) == (None, len(word_tokenizer()))


def test_mmlu_is_evaluated_without_a_trace(folder, undisturbed):
    tokenizer = word_tokenizer()
    tokenizer.model_max_length = 200  # transformers would warn of longer prompts
    model = random_model(tokenizer, context=900)
    with undisturbed():
        evaluated(model, tokenizer, folder, limit=1)
        plain_mmlu(model, tokenizer, folder, limit=1)


def test_an_error_leaves_no_trace(folder, undisturbed):
    tokenizer = byte_tokenizer()
    model = constant_model(tokenizer, {}, context=8000).train()
    tasks = load_mmlu(folder)
    setattr(model, "forward", None)  # noqa: B010 - which the harness stumbles over
    with undisturbed(), pytest.raises(TypeError):
        run_tasks(model, tokenizer, tasks)
    assert all(module.training for module in model.modules())


def test_importing_it_sets_no_variables():
    code = (
        "import os; before = dict(os.environ); import data_agent_lab.lm_eval;"
        "assert dict(os.environ) == before, set(os.environ) - set(before)"
    )
    fresh = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=fresh)
