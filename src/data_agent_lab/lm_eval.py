"""Evaluation of a model in memory by EleutherAI's evaluation harness, the package lm-eval.

It is what the field reports numbers of. Left alone it prints, seeds the global generators, adds a
padding token to the tokenizer and sets the model to evaluation mode; here all stays as it was.

Sources: Gao et al., The Language Model Evaluation Harness (https://zenodo.org/records/12608602);
Hendrycks et al., Measuring Massive Multitask Language Understanding (arXiv 2009.03300).
"""

from __future__ import annotations

import copy
import functools
import io
import logging
import os
import random
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets.exceptions import DatasetsError

from data_agent.errors import InputError
from data_agent_lab.data.labels import did_you_mean


@contextmanager
def _undisturbed(model: Any = None) -> Generator[None]:
    """Output of the block is dropped, and what it changes is changed back."""
    with ExitStack() as stack:
        for module in () if model is None else model.modules():
            stack.callback(setattr, module, "training", module.training)
        for logger in map(logging.getLogger, ("lm_eval", "transformers")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        on_cuda = [] if model is None or model.device.type != "cuda" else [model.device]
        stack.enter_context(torch.random.fork_rng(on_cuda))
        stack.callback(os.environ.update, dict(os.environ))
        stack.callback(os.environ.clear)  # before it: callbacks run in reverse
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        yield


with _undisturbed():  # importing lm_eval sets variables for hub downloads
    import lm_eval.tasks
    from lm_eval.api.group import Group, GroupConfig
    from lm_eval.defaults import DEFAULT_OTHER_SEED
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

_HarnessModel: Any = HFLM  # its decorator hides its type
_NUM_RESAMPLES = 1000  # for standard errors of metrics that are no means
_SHARES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "f1")
_MMLU_ROW = "texts as question and subject, four texts as choices, and an answer from 0 to 3"


class _Model(_HarnessModel):
    """The harness's model, which also notes the prompts that do not fit."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.truncated: set[str] = set()

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **options: Any) -> Any:
        answers: defaultdict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
        ends = set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}
        for texts, prompt, answer in requests:
            if not texts or not texts[0]:  # a part of a longer text, or no prompt
                continue
            answers[texts[0]][texts[1]] = () if prompt[-1] in ends else tuple(answer)
            if len(prompt) + len(answer) - 1 > self.max_length:
                self.truncated.add(texts[0])
        for tokens in answers.values():
            if not all(tokens.values()) or len(set(tokens.values())) < len(tokens):
                raise InputError(
                    f"The tokens of the answers {list(tokens)} are {list(tokens.values())}, which "
                    "cannot be told apart: the tokenizer ends every text, joins answers with what "
                    "stands before, or does not know them. Use one made for language models."
                )
        return super()._loglikelihood_tokens(requests, *args, **options)


def evaluate_tasks(model: Any, tokenizer: Any, loaded: Any, **options: Any) -> dict[str, Any]:
    """Evaluate a model on tasks of the harness (see `run_tasks`).

    Returns:
        By TASK/METRIC, with /FILTER where a task has filters: "value" (shares such as accuracies in
        percent, "unit" is then "%"), "direction" (higher or lower is better), "standard_error"
        (None where there is none), "num_items", and "num_truncated": items whose prompt lost its
        beginning, because it is longer than the model's context. Of a group that has a mean of its
        own only this mean, not its tasks.
    """
    found, num_truncated = run_tasks(model, tokenizer, loaded, **options)
    groups = {name: found["group_subtasks"][name] for name in found.get("groups", ())}
    members = {member for names in groups.values() for member in names}
    metrics: dict[str, Any] = {}
    for task, values in found["results"].items():
        for key in values if task not in members else ():
            metric, _, kind = key.partition(",")  # the harness calls it METRIC,FILTER
            if not kind or metric.endswith("_stderr"):
                continue
            error, scale = values.get(f"{metric}_stderr,{kind}"), 100 if metric in _SHARES else 1
            is_higher_better = found["higher_is_better"].get(task, {}).get(metric, True)
            metrics["/".join([task, metric, *([] if kind == "none" else [kind])])] = {
                "value": scale * float(values[key]),
                "unit": "%" if metric in _SHARES else "",
                "direction": "higher" if is_higher_better else "lower",
                "standard_error": scale * float(error) if isinstance(error, int | float) else None,
                "num_items": int(values["sample_len"]),
                "num_truncated": sum(num_truncated[name] for name in groups.get(task, [task])),
            }
    return metrics


def run_tasks(
    model: Any, tokenizer: Any, loaded: Any, *, limit: int | None = None, batch_size: int = 8
) -> tuple[dict[str, Any], dict[str, int]]:
    """What the harness itself returns, and by task how many prompts were cut.

    Args:
        model: a causal model of transformers, on one device, in the format it is to compute in.
        tokenizer: the model's, with a token that begins or ends a text.
        loaded: from `load_mmlu` or `load_tasks`.
        limit: evaluate the first so many items of each task or subject; None takes all.
        batch_size: texts in a forward pass.

    Raises:
        InputError: the tokenizer cannot tell answers apart.
    """
    with _undisturbed(model):
        os.environ["DISABLE_MULTIPROC"] = "1"  # else standard errors start a pool of processes
        own = copy.deepcopy(tokenizer)  # it may get a padding token
        reader = _Model(pretrained=model, tokenizer=own, batch_size=batch_size)
        found: Any = evaluate(reader, loaded, limit=limit, bootstrap_iters=_NUM_RESAMPLES)
    return found, {
        task: sum(item["arguments"][0][0] in reader.truncated for item in items)
        for task, items in found["samples"].items()
    }


def load_tasks(tasks: Sequence[str]) -> Any:
    """Tasks, groups or tags by name, or task files (.yaml), with data of the hub or its cache.

    Raises:
        InputError: no such task, or its data cannot be loaded.
    """
    with _undisturbed():
        manager = _all_tasks()
    for name in tasks:
        if name not in manager.task_index and not Path(name).is_file():
            hint = did_you_mean(name, manager.all_tasks)
            raise InputError(
                f"{name!r} is no task of the evaluation harness (lm-eval {lm_eval.__version__}), "
                f"and no task file. {hint}`lm-eval ls tasks` lists all there are."
            )
    try:
        with _undisturbed():
            loaded = manager.load(list(tasks))
    except (OSError, DatasetsError) as error:
        raise InputError(
            f"The data of {', '.join(tasks)} could not be loaded: {error}. It comes from the "
            "Hugging Face hub: connect once, and the local cache serves later runs."
        ) from error
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    return loaded


@functools.cache
def _all_tasks() -> TaskManager:
    """The harness's index, of some 14,000 files."""
    return TaskManager()


def load_mmlu(folder: Path, *, num_shots: int = 5) -> Any:
    """MMLU as a group of the harness's own tasks, with rows of files in place of the hub's.

    The folder has `dev.parquet` and `test.parquet`, each with the columns question, subject,
    choices (four texts) and answer (0 to 3), as the hub's `cais/mmlu`. Before each question stand
    the first `num_shots` examples of its subject in `dev.parquet`.

    Raises:
        InputError: a missing file or column, a row that is no item, a subject that is none of
            MMLU's 57, or one without enough examples.
    """
    examples, questions = (_by_subject(folder / f"{name}.parquet") for name in ("dev", "test"))
    members: list[dict[str, Any]] = []
    with _undisturbed():
        own_tasks = Path(lm_eval.tasks.__file__).parent / "mmlu" / "default"
        manager = TaskManager(include_path=own_tasks, include_defaults=False)
        for subject, rows in questions.items():
            task, solved = f"mmlu_{subject}", examples.get(subject, [])
            if task not in manager.all_subtasks or len(solved) < num_shots:
                known = ", ".join(name.removeprefix("mmlu_") for name in manager.all_subtasks)
                raise InputError(
                    f"{folder}: test.parquet asks about {subject!r}, of which dev.parquet has "
                    f"{len(solved)} solved examples; {num_shots} are to stand before each question."
                    f" Complete dev.parquet. Subjects are {known}."
                )
            splits = {"dev": solved or rows, "test": rows}
            made = {name: datasets.Dataset.from_list(part) for name, part in splits.items()}
            given = functools.partial(_given, made)  # which the harness calls for `load_dataset`
            members.append({"task": task, "num_fewshot": num_shots, "custom_dataset": given})
        mean: Any = [{"metric": "acc", "weight_by_size": True}]
        group = Group.from_config(GroupConfig(group="mmlu", aggregate_metric_list=mean))
        for task in manager.load([{"group": "of files", "task": members}])["tasks"].values():
            group.add(task)
        return manager.load(group)


def _given(rows: Mapping[str, datasets.Dataset], **_: Any) -> Mapping[str, datasets.Dataset]:
    return rows


def _by_subject(file: Path) -> Mapping[str, list[dict[str, Any]]]:
    try:
        table = pq.read_table(file).select(["question", "subject", "choices", "answer"])
    except (OSError, KeyError, pa.ArrowException) as error:
        raise InputError(
            f"{file} could not be read: {error}. Expected a folder with dev.parquet and "
            f"test.parquet, whose rows have {_MMLU_ROW}, as the hub's cais/mmlu."
        ) from error
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for i, row in enumerate(table.to_pylist()):
        match tuple(row.values()):
            case (str(), str(subject), [str(), str(), str(), str()], 0 | 1 | 2 | 3):
                found[subject].append(row)
            case _:
                raise InputError(f"row {i} of {file} is {row}; expected {_MMLU_ROW}.")
    if not found:
        raise InputError(f"{file} holds no question.")
    return found
