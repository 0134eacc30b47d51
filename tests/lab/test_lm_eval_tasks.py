"""Tasks of lm-eval by name: their numbers, and what is refused."""

from __future__ import annotations

import json
import math
import multiprocessing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
from mmlu_files import byte_tokenizer, constant_model, random_model, word_tokenizer

pytest.importorskip("lm_eval")
import lm_eval
import lm_eval.tasks
from lm_eval.tasks import TaskManager

from data_agent import DataAgentError
from data_agent_lab import lm_eval as harness
from data_agent_lab.lm_eval import load_tasks

MMLU_TASKS = Path(lm_eval.tasks.__file__).parent / "mmlu" / "default"


def evaluate_tasks(model: Any, tokenizer: Any, names: list[str], **options: Any) -> dict[str, Any]:
    found = harness.evaluate_tasks(model, tokenizer, load_tasks(names), **options)
    return {name: SimpleNamespace(**metric) for name, metric in found.items()}


CAPITALS = """
task: capitals
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/capitals.json, train: {folder}/shots.json}}}}
test_split: test
fewshot_split: train
num_fewshot: 2
output_type: multiple_choice
doc_to_text: "The capital of {{{{land}}}} is"
doc_to_choice: cities
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: median, higher_is_better: true}}
"""
BOOK = """
task: book
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/book.json}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list:
  - {{metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}
"""
GROUP = """
group: school
task: [capitals, book]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
"""


@pytest.fixture
def own_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tasks with files of their own beside MMLU's, in place of the harness's 14,000."""
    cities = [["Rome", "C"], ["Paris", "C"], ["Oslo", "C"], ["Bern", "C"]]
    capitals = [
        {"land": f"land {i}", "cities": names, "answer": int(i == 3)}
        for i, names in enumerate(cities)
    ]
    shots = [{"land": f"shot {i}", "cities": ["x", "y"], "answer": 0} for i in range(9)]
    book = [{"text": "a short book"}, {"text": "another book"}]
    for name, rows in (("capitals", capitals), ("shots", shots), ("book", book)):
        (tmp_path / f"{name}.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "capitals.yaml").write_text(CAPITALS.format(folder=tmp_path))
    (tmp_path / "book.yaml").write_text(BOOK.format(folder=tmp_path))
    (tmp_path / "school.yaml").write_text(GROUP)
    manager = TaskManager(include_path=[MMLU_TASKS, tmp_path], include_defaults=False)
    monkeypatch.setattr(harness, "_all_tasks", lambda: manager)
    return tmp_path


def test_accuracies_are_in_percent_with_their_standard_errors(own_tasks):
    """The model likes "C", the second answer, which is right in the last of four rows."""
    tokenizer = byte_tokenizer()
    model = constant_model(tokenizer, {"C": 1000, "Ġ": 1000}, context=8000)
    found = evaluate_tasks(model, tokenizer, ["capitals"])
    assert set(found) == {"capitals/acc", "capitals/acc_norm"}
    metric = found["capitals/acc"]
    assert (metric.value, metric.unit, metric.direction, metric.num_items) == (25, "%", "higher", 4)
    assert metric.standard_error == pytest.approx(100 * math.sqrt(0.25 * 0.75 / 3))
    resampled = found["capitals/acc_norm"].standard_error
    assert resampled is not None
    assert 0 < resampled < 100


def test_perplexities_are_no_percentages(own_tasks):
    """All 257 tokens are equally likely, and a token is a byte."""
    tokenizer = byte_tokenizer()
    found = evaluate_tasks(constant_model(tokenizer, {}, context=8000), tokenizer, ["book"])
    metric = found["book/byte_perplexity"]
    assert metric.value == pytest.approx(257, rel=1e-5)
    assert (metric.unit, metric.direction, metric.num_items) == ("", "lower", 2)
    assert metric.standard_error is None


def test_few_shot_examples_are_those_that_the_harness_draws(own_tasks):
    tokenizer = word_tokenizer()
    model = random_model(tokenizer, context=900)
    found = [evaluate_tasks(model, tokenizer, ["capitals"]) for _ in range(2)]
    assert found[0] == found[1]
    simple_evaluate: Any = lm_eval.simple_evaluate
    hf_model: Any = harness.HFLM
    theirs = simple_evaluate(
        hf_model(pretrained=model, tokenizer=word_tokenizer()),
        tasks=["capitals"],
        task_manager=harness._all_tasks(),
        bootstrap_iters=0,
    )
    ours = load_tasks(["capitals"])["tasks"]["capitals"]
    ours.build_all_requests()
    prompts = [request.args[0] for request in ours.instances[::2]]
    samples = theirs["samples"]["capitals"]
    assert prompts == [sample["arguments"][0][0] for sample in samples]
    assert prompts[0].count("shot") == 2


def test_a_limit_holds_for_each_task(own_tasks):
    tokenizer = byte_tokenizer()
    model = constant_model(tokenizer, {}, context=8000)
    found = evaluate_tasks(model, tokenizer, ["capitals", "book"], limit=1)
    assert {metric.num_items for metric in found.values()} == {1}


def test_of_a_group_with_a_mean_only_the_mean_is_given(own_tasks):
    tokenizer = byte_tokenizer()
    model = constant_model(tokenizer, {"C": 1000, "Ġ": 1000}, context=8000)
    found = evaluate_tasks(model, tokenizer, ["school"])
    assert set(found) == {"school/acc"}
    assert found["school/acc"].value == 25


def test_a_task_file_is_found_by_its_path(own_tasks, tmp_path_factory):
    path = tmp_path_factory.mktemp("elsewhere") / "mine.yaml"
    path.write_text(BOOK.format(folder=own_tasks).replace("task: book", "task: mine"))
    tokenizer = byte_tokenizer()
    model = constant_model(tokenizer, {}, context=8000)
    assert set(evaluate_tasks(model, tokenizer, [str(path)])) == {"mine/byte_perplexity"}


RESTLESS = """
import os, random, sys, numpy, torch
def asked(doc):
    random.random(), numpy.random.rand(), torch.rand(1)
    os.environ["RESTLESS"], os.environ["HOME"] = "1", "nowhere"
    print("a line")
    print("another line", file=sys.stderr)
    return "The capital is"
"""


def test_tasks_are_evaluated_without_a_trace(own_tasks, undisturbed, monkeypatch):
    (own_tasks / "restless.py").write_text(RESTLESS)
    task = (own_tasks / "capitals.yaml").read_text().splitlines()
    task = ["doc_to_text: !function restless.asked" if "doc_to_text" in x else x for x in task]
    (own_tasks / "capitals.yaml").write_text("\n".join(task))
    tokenizer = byte_tokenizer()
    model = constant_model(tokenizer, {}, context=8000).train()
    monkeypatch.setattr(multiprocessing, "Pool", None)  # it would copy the model's process
    with undisturbed():
        evaluate_tasks(model, tokenizer, ["capitals", "book"])
    assert all(module.training for module in model.modules())


def test_unknown_tasks_are_refused_with_the_nearest_names(own_tasks):
    with pytest.raises(DataAgentError, match=r"'mmlu_anatmy' is no task .* mean mmlu_anatomy"):
        load_tasks(["capitals", "mmlu_anatmy"])
    with pytest.raises(DataAgentError, match="'' is no task"):
        load_tasks([""])  # what --harness-tasks without a name comes to


def test_data_that_cannot_be_loaded_are_named(own_tasks, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataAgentError, match=r"mmlu_anatomy .*cais/mmlu.* connect once"):
        load_tasks(["mmlu_anatomy"])
    (own_tasks / "book.json").unlink()
    with pytest.raises(DataAgentError, match=r"data of book could not .*book\.json"):
        load_tasks(["book"])


@pytest.mark.slow
def test_the_harness_knows_its_own_tasks():
    assert {"mmlu", "arc_easy", "hellaswag"} <= set(harness._all_tasks().task_index)
