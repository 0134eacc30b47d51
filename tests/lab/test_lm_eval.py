"""MMLU by lm-eval: its numbers, and that it leaves everything else alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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

pytest.importorskip("lm_eval")
import lm_eval
import lm_eval.tasks
from lm_eval.tasks import TaskManager
from transformers import BloomConfig, BloomForCausalLM

from data_agent import DataAgentError
from data_agent_lab import lm_eval as harness
from data_agent_lab.lm_eval import evaluate_mmlu
from data_agent_lab.mmlu import (
    Mmlu,
    Question,
    context_length,
    plain_mmlu,
    prompt_of,
)

MMLU_TASKS = Path(lm_eval.tasks.__file__).parent / "mmlu" / "default"


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
    found = evaluate_mmlu(model, tokenizer, folder, num_shots=num_shots, batch_size=3)
    torch.testing.assert_close(found.log_likelihoods, plain.log_likelihoods, rtol=1e-5, atol=1e-5)
    assert found.predictions.tolist() == plain.predictions.tolist()
    assert len(found.log_likelihoods.unique(dim=0)) >= 9
    assert (found.accuracy, found.by_subject) == (plain.accuracy, plain.by_subject)
    assert (found.num_items, found.cut) == (plain.num_items, plain.cut)


def test_the_contexts_above_cut_nothing_prompts_and_questions(folder):
    tokenizer = byte_tokenizer()
    models = {context: random_model(tokenizer, context=context) for context in (8000, 900, 200)}
    cuts = [evaluate_mmlu(model, tokenizer, folder).cut for model in models.values()]
    assert cuts[0] == (0, 0)
    assert cuts[1].num_truncated == 12
    assert cuts[1].num_cut_questions == 0
    assert cuts[2].num_truncated == 12
    assert 0 < cuts[2].num_cut_questions < 12


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
def test_adapters_count(folder):
    peft = pytest.importorskip("peft")
    tokenizer = word_tokenizer()
    base = random_model(tokenizer, context=900)
    without = evaluate_mmlu(base, tokenizer, folder, limit=1)
    config = peft.LoraConfig(target_modules="all-linear", init_lora_weights=False)
    model = peft.get_peft_model(base, config)
    found = evaluate_mmlu(model, tokenizer, folder, limit=1)
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
    every = evaluate_mmlu(model, tokenizer, folder)
    some = evaluate_mmlu(model, tokenizer, folder, limit=2)
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
    ours = evaluate_mmlu(model, tokenizer, folder)
    monkeypatch.setattr(datasets, "load_dataset", FromFolder())
    tasks = load_tasks_of_lm_eval([f"mmlu_{subject}" for subject in SUBJECTS])
    theirs: Any = lm_eval.evaluate(hf_model(model, word_tokenizer()), tasks)
    for subject in SUBJECTS:
        value = theirs["results"][f"mmlu_{subject}"]["acc,none"]
        assert ours.by_subject[subject] == pytest.approx(100 * value)
        samples = theirs["samples"][f"mmlu_{subject}"]
        assert samples[0]["arguments"][1][1] == " B"
    assert 0 < ours.accuracy < 100


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
    with pytest.raises(DataAgentError, match=r"cooking is no subject of MMLU; .* anatomy, "):
        evaluate_mmlu(model, tokenizer, tmp_path)


def test_a_tokenizer_without_special_tokens_is_refused(folder):
    tokenizer = byte_tokenizer()
    model = constant_model(tokenizer, {}, context=8000)
    tokenizer.eos_token = None
    with pytest.raises(DataAgentError, match=r"Set tokenizer\.eos_token"):
        evaluate_mmlu(model, tokenizer, folder)


def test_what_the_plain_evaluation_refuses_is_refused(folder):
    tokenizer = byte_tokenizer()
    model = constant_model(tokenizer, {}, context=20)
    with pytest.raises(DataAgentError, match="reads 20 tokens, and none of the 12 questions"):
        evaluate_mmlu(model, tokenizer, folder)
    with pytest.raises(DataAgentError, match="batch_size is 0"):
        evaluate_mmlu(model, tokenizer, folder, batch_size=0)


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
    evaluate_mmlu(model, tokenizer, folder, limit=1)
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
        evaluate_mmlu(model, tokenizer, folder, limit=1)
        plain_mmlu(model, tokenizer, folder, limit=1)


def test_an_error_leaves_no_trace(folder, undisturbed):
    tokenizer = byte_tokenizer()
    model = constant_model(tokenizer, {}, context=20).train()
    with undisturbed(), pytest.raises(DataAgentError):
        evaluate_mmlu(model, tokenizer, folder)
    assert all(module.training for module in model.modules())


def test_importing_it_sets_no_variables():
    code = (
        "import os; before = dict(os.environ); import data_agent_lab.lm_eval;"
        "assert dict(os.environ) == before, set(os.environ) - set(before)"
    )
    fresh = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=fresh)
