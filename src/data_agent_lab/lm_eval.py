"""Evaluation of a model in memory by EleutherAI's evaluation harness, the package lm-eval.

The harness is what the field reports numbers of, so the lab uses it: for MMLU from local files, and
for any of its tasks by name. It is made to leave the process as it was: it would print, seed the
global generators, add a padding token to the tokenizer and set the model to evaluation mode.

Sources: Gao et al., The Language Model Evaluation Harness (https://zenodo.org/records/12608602);
Hendrycks et al., Measuring Massive Multitask Language Understanding (https://arxiv.org/abs/2009.03300).
"""

from __future__ import annotations

import copy
import difflib
import functools
import io
import logging
import os
import random
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets.exceptions import DatasetsError

from data_agent.errors import InputError


@contextmanager
def _undisturbed(model: Any = None) -> Generator[None]:
    """Output of the block is dropped, and what it changes is changed back."""
    modes = [] if model is None else [(module, module.training) for module in model.modules()]
    on_cuda = [] if model is None or model.device.type != "cuda" else [model.device]
    python, numpy, variables = random.getstate(), np.random.get_state(), dict(os.environ)  # noqa: NPY002
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    output = io.StringIO()
    try:
        with torch.random.fork_rng(on_cuda), redirect_stdout(output), redirect_stderr(output):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for name in set(os.environ) - set(variables):
            del os.environ[name]
        os.environ.update(variables)
        for module, is_training in modes:
            module.training = is_training


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
                    "cannot be told apart. The tokenizer ends every text, joins the answers with "
                    "what stands before, or does not know them: use one that was made for language "
                    "models."
                )
        return super()._loglikelihood_tokens(requests, *args, **options)


def evaluate_tasks(
    model: Any, tokenizer: Any, loaded: Any, *, limit: int | None = None, batch_size: int = 8
) -> dict[str, dict[str, Any]]:
    """Evaluate a model on tasks of the harness; everything else stays as it was.

    Args:
        model: a causal model of transformers, on one device, in the format it is to compute in.
        tokenizer: the model's, of transformers.
        loaded: from `load_mmlu` or `load_tasks`.
        limit: evaluate the first so many items of each task or subject; None takes all.
        batch_size: texts in a forward pass, 1 or more.

    Returns:
        By TASK/METRIC, with /FILTER where a task has filters: "value" (shares such as accuracies in
        percent, "unit" is then "%"), "direction" (higher or lower is better), "standard_error"
        (None where there is none), "num_items", and "num_truncated": items whose prompt lost its
        beginning, because it is longer than the model's context. Of a group that has a mean of its
        own only this mean, not its tasks.

    Raises:
        InputError: a limit or batch size below 1, a tokenizer without special tokens, or one with
            which answers cannot be told apart.
    """
    found, num_truncated = run_tasks(model, tokenizer, loaded, limit=limit, batch_size=batch_size)
    groups = {name: found["group_subtasks"][name] for name in found.get("groups", ())}
    metrics: dict[str, dict[str, Any]] = {}
    members = {member for names in groups.values() for member in names}
    for task in (name for name in found["results"] if name not in members):
        metrics |= _metrics_of(
            task,
            found["results"][task],
            found["higher_is_better"].get(task, {}),
            sum(num_truncated.get(name, 0) for name in groups.get(task, [task])),
        )
    return metrics


def run_tasks(
    model: Any, tokenizer: Any, loaded: Any, *, limit: int | None = None, batch_size: int = 8
) -> tuple[dict[str, Any], dict[str, int]]:
    """What the harness itself returns, and by task how many prompts were cut; see above."""
    if batch_size < 1 or (limit is not None and limit < 1):
        raise InputError(
            f"batch_size is {batch_size} and limit is {limit}; expected 1 row or more in a forward "
            "pass, and 1 item of each task or more (None takes all)."
        )
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise InputError(
            "The tokenizer has neither a token for the beginning nor for the end of a text; the "
            "evaluation harness needs one. Set tokenizer.eos_token."
        )
    with _undisturbed(model):
        os.environ["DISABLE_MULTIPROC"] = "1"  # else standard errors start a pool of processes
        own = copy.deepcopy(tokenizer)  # it may get a padding token
        reader = _Model(pretrained=model, tokenizer=own, batch_size=batch_size)
        found: Any = evaluate(reader, loaded, limit=limit, bootstrap_iters=_NUM_RESAMPLES)
    return found, {
        task: sum(item["arguments"][0][0] in reader.truncated for item in items)
        for task, items in found["samples"].items()
    }


def _metrics_of(
    task: str, values: Mapping[str, Any], higher_is_better: Mapping[str, bool], num_truncated: int
) -> Generator[tuple[str, dict[str, Any]]]:
    """The metrics of a task or group; the harness calls them METRIC,FILTER."""
    for key, value in values.items():
        metric, _, filter_name = key.partition(",")
        if not filter_name or metric.endswith("_stderr"):
            continue
        error = values.get(f"{metric}_stderr,{filter_name}")
        scale = 100 if metric in _SHARES else 1
        yield (
            "/".join([task, metric, *([] if filter_name == "none" else [filter_name])]),
            {
                "value": scale * float(value),
                "unit": "%" if metric in _SHARES else "",
                "direction": "higher" if higher_is_better.get(metric, True) else "lower",
                "standard_error": scale * float(error) if isinstance(error, int | float) else None,
                "num_items": int(values["sample_len"]),
                "num_truncated": num_truncated,
            },
        )


def load_tasks(tasks: Sequence[str]) -> Any:
    """Find tasks, and load their data from the hub or from its local cache.

    Args:
        tasks: names of the harness's tasks, groups or tags, or paths of task files (.yaml).

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


@functools.cache
def _all_tasks() -> TaskManager:
    """The harness's index, of some 14,000 files."""
    return TaskManager()


def load_mmlu(folder: Path, *, num_shots: int = 5) -> Any:
    """MMLU as a group of the harness's own tasks, with rows of files in place of the hub's.

    Args:
        folder: has `dev.parquet` and `test.parquet`, each with the columns question, subject,
            choices (four texts) and answer (0 to 3), as the hub's `cais/mmlu`.
        num_shots: examples before each question, the first of its subject in `dev.parquet`.

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
            solved = examples.get(subject, [])
            if f"mmlu_{subject}" not in manager.all_subtasks or len(solved) < num_shots:
                raise InputError(
                    f"{folder}: test.parquet asks about {subject!r}, of which dev.parquet has "
                    f"{len(solved)} solved examples; {num_shots} are to stand before each question."
                    " Complete dev.parquet. Subjects are "
                    f"{', '.join(task.removeprefix('mmlu_') for task in manager.all_subtasks)}."
                )
            splits = {"dev": solved or rows, "test": rows}
            made = {name: datasets.Dataset.from_list(part) for name, part in splits.items()}
            members.append(
                {
                    "task": f"mmlu_{subject}",
                    "num_fewshot": num_shots,
                    "custom_dataset": functools.partial(_given, made),
                }
            )
        mean: Any = [{"metric": "acc", "weight_by_size": True}]
        group = Group.from_config(GroupConfig(group="mmlu", aggregate_metric_list=mean))
        for task in manager.load([{"group": "of files", "task": members}])["tasks"].values():
            group.add(task)
        return manager.load(group)


def _given(rows: Mapping[str, datasets.Dataset], **_: Any) -> Mapping[str, datasets.Dataset]:
    """What the harness calls in place of `load_dataset`."""
    return rows


def _by_subject(file: Path) -> dict[str, list[dict[str, Any]]]:
    rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    try:
        table = pq.read_table(file).select(["question", "subject", "choices", "answer"])
    except (OSError, KeyError, pa.ArrowException) as error:
        raise InputError(
            f"{file} could not be read: {error}. Expected a folder with dev.parquet and "
            f"test.parquet, whose rows have {_MMLU_ROW}, as the hub's cais/mmlu."
        ) from error
    for i, row in enumerate(table.to_pylist()):
        choices = row["choices"] if isinstance(row["choices"], list) else []
        texts = [row["question"], row["subject"], *choices]
        is_text = len(texts) == 6 and all(isinstance(text, str) for text in texts)
        if not is_text or row["answer"] not in range(4):
            raise InputError(f"row {i} of {file} is {row}; expected {_MMLU_ROW}.")
        rows[row["subject"]].append(row)
    if not rows:
        raise InputError(f"{file} holds no question.")
    return rows
