"""Evaluation of a model in memory by EleutherAI's evaluation harness, the package lm-eval.

The harness is what the field reports numbers of, so the lab uses it: for MMLU from local files, and
for any of its tasks by name. It is made to leave the process as it was: it would print, seed the
global generators, add a padding token to the tokenizer and set the model to evaluation mode.

Source: Gao et al., The Language Model Evaluation Harness (https://zenodo.org/records/12608602).
"""

from __future__ import annotations

import copy
import difflib
import io
import logging
import os
import random
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import torch
from datasets.exceptions import DatasetsError

from data_agent.errors import InputError
from data_agent_lab.mmlu import (
    LETTERS,
    Cut,
    Encoded,
    Mmlu,
    MmluResult,
    Question,
    check_batch_size,
    measure,
    read_mmlu,
    summarise,
)


@contextmanager
def _environment_kept() -> Generator[None]:
    """Take back what the block does to the environment."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


try:
    with _environment_kept():  # importing lm_eval sets variables for hub downloads
        import lm_eval.tasks
        from lm_eval.defaults import DEFAULT_OTHER_SEED
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
except ImportError as error:
    raise ImportError(
        "data_agent_lab.lm_eval needs the evaluation harness and Transformers: "
        "pip install 'data-agent[eval]'"
    ) from error

_HarnessModel: Any = HFLM  # its decorator hides its type
_NUM_RESAMPLES = 1000  # for standard errors of metrics that are no means
_SHARES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "f1")


@dataclass(frozen=True, slots=True)
class Metric:
    """What a task measured: metrics that are shares (accuracies, F1) in percent.

    Args:
        value: over all items of the task.
        unit: "%", or "" for what is not a share.
        direction: which values are better.
        standard_error: of the value, in its unit; None where the harness gives none.
        num_items: items that were evaluated.
    """

    value: float
    unit: Literal["%", ""]
    direction: Literal["higher", "lower"]
    standard_error: float | None
    num_items: int


def evaluate_mmlu(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    num_shots: int = 5,
    limit: int | None = None,
    batch_size: int = 8,
) -> MmluResult:
    """Evaluate a model on MMLU from local files; the numbers are those of the task `mmlu`.

    Each subject is the harness's own task, with the rows of the folder in place of the hub's.
    Prompts that are longer than the model's context lose their beginning, and are counted. The
    model, the tokenizer, the global random generators and the environment are left as they were.

    Args:
        model: a causal model of transformers, on one device, in the format it is to compute in.
        tokenizer: the model's, of transformers.
        folder: see `read_mmlu`; its subjects are among MMLU's 57.
        num_shots: see `read_mmlu`.
        limit: see `read_mmlu`.
        batch_size: prompts in a forward pass, 1 or more.

    Raises:
        InputError: see `read_mmlu` and `measure`; a subject that is none of MMLU's, no batch size,
            or a tokenizer without special tokens.
    """
    mmlu = read_mmlu(folder, num_shots=num_shots, limit=limit)
    with _undisturbed(model):
        tasks = _subject_tasks(mmlu, num_shots)
        harness_model = _MmluModel(mmlu, **_settings(model, tokenizer, batch_size))
        found: Any = evaluate(harness_model, tasks, bootstrap_iters=0)
    items = [item for subject in mmlu.examples for item in _items(found, subject)]
    likelihoods = [[answer[0] for answer in item["filtered_resps"]] for item in items]
    is_correct = [item["acc"] == 1 for item in items]
    return summarise(
        mmlu, torch.tensor(likelihoods, dtype=torch.float64), is_correct, harness_model.cut
    )


def evaluate_tasks(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int = 8,
) -> dict[str, Metric]:
    """Evaluate a model on tasks of the harness, with their own settings and few-shot examples.

    The model, the tokenizer, the global random generators and the environment are left as they
    were.

    Args:
        model: a causal model of transformers, on one device, in the format it is to compute in.
        tokenizer: the model's, of transformers.
        tasks: see `load_tasks`.
        limit: evaluate the first so many items of each task; None takes all.
        batch_size: texts in a forward pass, 1 or more.

    Returns:
        By TASK/METRIC, with /FILTER where a task has filters. Of a group that has a mean of its own
        only this mean, not its tasks.

    Raises:
        InputError: see `load_tasks`; a limit below 1, no batch size, or a tokenizer without special
            tokens.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; expected 1 item of each task or more, or None.")
    loaded = load_tasks(tasks)
    with _undisturbed(model):
        os.environ["DISABLE_MULTIPROC"] = "1"  # else standard errors start a pool of processes
        found: Any = evaluate(
            _HarnessModel(**_settings(model, tokenizer, batch_size)),
            loaded,
            limit=limit,
            bootstrap_iters=_NUM_RESAMPLES,
            log_samples=False,
        )
    within = {
        member for group in found.get("groups", ()) for member in found["group_subtasks"][group]
    }
    return {
        name: metric
        for task, values in found["results"].items()
        if task not in within
        for name, metric in _metrics(task, values, found["higher_is_better"].get(task, {}))
    }


def load_tasks(tasks: Sequence[str]) -> Any:
    """Find tasks and load their data, from the hub or from its local cache.

    Args:
        tasks: names of the harness's tasks, groups or tags, or paths of task files (.yaml).

    Returns:
        What `lm_eval.evaluate` takes.

    Raises:
        InputError: no such task, or its data cannot be loaded.
    """
    with _undisturbed():
        manager = _all_tasks()
    for name in tasks:
        if name not in manager.task_index and not Path(name).is_file():
            close = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = f"Did you mean {', '.join(close)}? " if close else ""
            raise InputError(
                f"{name!r} is no task of the evaluation harness (lm-eval {lm_eval.__version__}), "
                f"and no task file. {hint}`lm-eval ls tasks` lists the {len(manager.all_tasks)} "
                "there are."
            )
    if not tasks:
        raise InputError("No task is named; expected one or more, such as arc_easy.")
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


@cache
def _all_tasks() -> TaskManager:
    """The harness's index, of some 14,000 files."""
    return TaskManager()


class _MmluModel(_HarnessModel):
    """The harness's model, which also counts the prompts that do not fit."""

    def __init__(self, mmlu: Mmlu, **settings: Any) -> None:
        super().__init__(**settings)
        self.mmlu = mmlu
        self.cut = Cut(0, 0)

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **options: Any) -> Any:
        size = len(LETTERS)
        items = [requests[i : i + size] for i in range(0, len(requests), size)]
        encoded = [Encoded(item[0][1], [answer for _, _, answer in item]) for item in items]
        self.cut = measure(self.tokenizer, self.mmlu, encoded, max_length=self.max_length)
        return super()._loglikelihood_tokens(requests, *args, **options)


def _settings(model: Any, tokenizer: Any, batch_size: int) -> dict[str, Any]:
    """The arguments of the harness's model."""
    check_batch_size(batch_size)
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise InputError(
            "The tokenizer has neither a token for the beginning nor for the end of a text; the "
            "evaluation harness needs one. Set tokenizer.eos_token."
        )
    own = copy.deepcopy(tokenizer)  # it may get a padding token
    return {"pretrained": model, "tokenizer": own, "batch_size": batch_size}


def _subject_tasks(mmlu: Mmlu, num_shots: int) -> Any:
    """The harness's tasks of the subjects, with the questions and examples that were read."""
    folder = Path(lm_eval.tasks.__file__).parent / "mmlu" / "default"
    manager = TaskManager(include_path=folder, include_defaults=False)
    known = [name.removeprefix("mmlu_") for name in manager.all_subtasks]
    if unknown := [subject for subject in mmlu.examples if subject not in known]:
        raise InputError(
            f"{', '.join(unknown)} is no subject of MMLU; expected some of {', '.join(known)}."
        )
    members = [
        {
            "task": f"mmlu_{subject}",
            "num_fewshot": num_shots,
            "custom_dataset": _rows_of(mmlu, subject),
        }
        for subject in mmlu.examples
    ]
    return manager.load([{"group": "mmlu_of_files", "task": members}])


def _rows_of(mmlu: Mmlu, subject: str) -> Any:
    """What the harness calls in place of `load_dataset`."""

    def load(**_: Any) -> dict[str, datasets.Dataset]:
        asked = [question for question in mmlu.questions if question.subject == subject]
        return {"dev": _dataset(mmlu.examples[subject]), "test": _dataset(asked)}

    return load


def _dataset(questions: Sequence[Question]) -> datasets.Dataset:
    columns = {
        "question": [question.text for question in questions],
        "subject": [question.subject for question in questions],
        "choices": [list(question.choices) for question in questions],
        "answer": [question.answer for question in questions],
    }
    return datasets.Dataset.from_dict(columns)


def _items(found: Any, subject: str) -> list[Any]:
    """What the harness says of each question of a subject, in order."""
    return sorted(found["samples"][f"mmlu_{subject}"], key=lambda item: item["doc_id"])


def _metrics(
    task: str, values: Mapping[str, Any], higher_is_better: Mapping[str, bool]
) -> Generator[tuple[str, Metric]]:
    """A task's metrics; the harness calls them METRIC,FILTER and METRIC_stderr,FILTER."""
    for key, value in values.items():
        metric, _, filter_name = key.partition(",")
        if not filter_name or metric.endswith("_stderr"):
            continue
        error = values.get(f"{metric}_stderr,{filter_name}")
        is_share = metric in _SHARES
        scale = 100 if is_share else 1
        parts = [task, metric, *([] if filter_name == "none" else [filter_name])]
        yield (
            "/".join(parts),
            Metric(
                value=scale * float(value),
                unit="%" if is_share else "",
                direction="higher" if higher_is_better.get(metric, True) else "lower",
                standard_error=scale * float(error) if isinstance(error, int | float) else None,
                num_items=int(values["sample_len"]),
            ),
        )


@contextmanager
def _undisturbed(model: Any = None) -> Generator[None]:
    """Let the harness work unseen: output is dropped, and what it changes is changed back."""
    modes = [] if model is None else [(module, module.training) for module in model.modules()]
    on_cuda = [] if model is None or model.device.type != "cuda" else [model.device]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    output = io.StringIO()
    try:
        with (
            _environment_kept(),
            torch.random.fork_rng(on_cuda),
            redirect_stdout(output),
            redirect_stderr(output),
        ):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for module, is_training in modes:
            module.training = is_training
