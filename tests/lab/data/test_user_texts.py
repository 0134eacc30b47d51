"""Files and models as users have them: tables, pairs, folders, models without a tokenizer."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import torch.nn.functional as F
from small_rows import recipe, turns, write
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
    RobertaForSequenceClassification,
)

from data_agent import DataAgentError
from data_agent_lab.cli import main
from data_agent_lab.data.texts import LanguageData, load_language
from data_agent_lab.data.tokenizers import train_tokenizer
from data_agent_lab.data.tokens import completion_tokens
from data_agent_lab.results.findings import Task
from data_agent_lab.results.tables import describe
from data_agent_lab.training.text_evaluation import evaluate
from data_agent_lab.training.text_models import build_model

TEXTS = ["the cat sat on the mat", "a dog ran up the hill", "the sun and the moon"] * 20
ROWS: list[dict[str, Any]] = [{"text": text, "label": i % 2} for i, text in enumerate(TEXTS)]
CLASSIFY = "text-classification"


def data_of(tokenizer: Any, *class_names: str) -> LanguageData:
    empty = datasets.Dataset.from_dict({"input_ids": []})
    return LanguageData(
        tokenizer=tokenizer,
        train=empty,
        evaluation=empty,
        class_names=class_names,
        evaluation_source="",
        dropped={},
    )


def table(rows: list[dict[str, Any]], separator: str) -> str:
    return "\n".join(
        [separator.join(rows[0]), *(separator.join(map(str, r.values())) for r in rows)]
    )


@pytest.mark.parametrize(("name", "separator"), [("rows.csv", ","), ("rows.tsv", "\t")])
def test_tables_are_read_as_their_lines_in_json(tmp_path: Path, name: str, separator: str) -> None:
    (tmp_path / name).write_text(table(ROWS, separator))
    of_table = load_language(recipe(tmp_path / name, CLASSIFY))
    of_lines = load_language(recipe(write(tmp_path / "rows.jsonl", ROWS), CLASSIFY))
    assert of_table.train.to_dict() == of_lines.train.to_dict()


def test_a_folder_of_save_to_disk_is_read(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": rows, "test": rows.select(range(6))}).save_to_disk(
        str(tmp_path / "two")
    )
    assert load_language(recipe(tmp_path / "one", CLASSIFY)).num_train == 54
    found = load_language(recipe(tmp_path / "two", CLASSIFY))
    assert (found.num_train, found.num_eval) == (60, 6)


def test_each_split_has_columns_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "validation.jsonl", [{**row, "source": "x"} for row in ROWS[:6]])
    write(tmp_path / "test.jsonl", [{"text": text} for text in TEXTS])  # without labels
    found = load_language(recipe(tmp_path, CLASSIFY))
    assert found.evaluation_source == "split 'validation'"
    assert found.num_eval == 6


def test_pairs_of_texts_are_one_row_with_a_mark_between_them(tmp_path: Path) -> None:
    rows = [
        {"question": f"q {text}", "sentence": text, "label": i % 2} for i, text in enumerate(TEXTS)
    ]
    found = load_language(recipe(write(tmp_path / "rows.jsonl", rows), CLASSIFY))
    ids, types = found.train["input_ids"][0], found.train["token_type_ids"][0]
    text = found.tokenizer.decode(ids)
    first, second = text.removeprefix("[CLS]").removesuffix("[SEP]").split("[SEP]")
    assert first == f"q {second}"
    assert types == sorted(types)
    assert 0 < sum(types) < len(types)
    renamed = [{"a": r["sentence"], "b": r["question"], "label": r["label"]} for r in rows]
    named = recipe(write(tmp_path / "ab.jsonl", renamed), CLASSIFY, text_column="b,a")
    assert load_language(named).train.to_dict() == found.train.to_dict()


def test_pairs_train_and_are_evaluated_end_to_end(tmp_path: Path) -> None:
    rows = [
        {"sentence1": text, "sentence2": text if i % 2 else TEXTS[i - 1], "label": i % 2}
        for i, text in enumerate(TEXTS)
    ]
    data = write(tmp_path / "rows.jsonl", rows)
    flags = f"train --task {CLASSIFY} --data {data} --model bert-32x1 --vocab-size 300 --epochs 3"
    assert main([*flags.split(), "--max-length", "32", "--output", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["num_train_samples"], result["cost"]) == (54, 0.5)


def test_pairs_are_evaluated_as_they_are_trained(tmp_path: Path) -> None:
    rows = [{"premise": t, "hypothesis": t[:5], "label": i % 2} for i, t in enumerate(TEXTS)]
    chosen = recipe(write(tmp_path / "rows.jsonl", rows), CLASSIFY)
    data = load_language(chosen)
    torch.manual_seed(0)
    model = build_model(chosen, data).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight)  # as it is built, everything comes out as nearly nothing
    found = evaluate(model, data, autocast=torch.autocast("cpu", enabled=False))
    losses: list[float] = []
    evaluation: Any = data.evaluation
    for row in evaluation:
        names = ("input_ids", "token_type_ids")
        logits = model(**{name: torch.tensor([row[name]]) for name in names}).logits
        losses.append(F.cross_entropy(logits, torch.tensor([row["labels"]])).item())
    assert found["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_the_report_says_what_was_left_out() -> None:
    config = {"kind": "sft", "model": "llama-32x1", "epochs": 3}
    facts = {"num_train_samples": 9, "num_eval_samples": 2, "evaluation": "split 'test'"}
    task = Task(name="sft", config=config, facts={**facts, "dropped": {"empty": 1234}}, cells=[])
    assert describe(task).endswith("(split 'test'). Of the rows asked for: 1,234 empty.")
    assert describe(replace(task, facts=facts)).endswith("(split 'test').")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1.0, 2.25] * 20, "holds 0.5; expected a class.* Regression"),
        ([[0, 2], [1], [2]] * 20, r"holds \[0, 2\]; expected a class"),
        ([0, 1, -1] * 20, "rows have no label .an empty cell, or -1, which means none"),
        (["one"] * 60, "has the class"),
    ],
)
def test_labels_that_are_no_classes_are_refused(
    tmp_path: Path, labels: list[Any], message: str
) -> None:
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=True)]
    with pytest.raises(DataAgentError, match=message):
        load_language(recipe(write(tmp_path / "rows.jsonl", rows), CLASSIFY))


def test_evaluation_rows_may_all_be_of_one_class(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "yes" if i % 2 else "no"} for i, text in enumerate(TEXTS)]
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "test.jsonl", rows[1::2][:5])
    assert load_language(recipe(tmp_path, CLASSIFY)).evaluation["labels"][:] == [1] * 5


def test_a_template_that_refuses_a_turn_is_named() -> None:
    tokenizer: Any = train_tokenizer(TEXTS, vocab_size=300)
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    talk = [{"role": "system", "content": "s"}, *turns("p", "c")]
    with pytest.raises(
        DataAgentError, match=r"of the turns system, user .*: System role not supported"
    ):
        completion_tokens({0: talk}, tokenizer, max_length=9, counts=Counter())


def save(model: Any, folder: Path, tokenizer: Any = None) -> str:
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return str(folder)


def small_gpt2(**changes: Any) -> GPT2LMHeadModel:
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 400, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**{**sizes, **changes}))


def small_bert_sizes(**changes: Any) -> dict[str, Any]:
    return {
        **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"intermediate_size": 16, "vocab_size": 400, **changes},
    }


@pytest.mark.parametrize("kind", ["sft", "lm", CLASSIFY])
def test_a_model_that_comes_without_a_tokenizer_is_refused(tmp_path: Path, kind: str) -> None:
    """Transformers makes up one without tokens, to which every text is nothing."""
    model: Any = small_gpt2()
    if kind == CLASSIFY:
        model = BertForSequenceClassification(BertConfig(**small_bert_sizes()))
    rows = [{"prompt": "p", "completion": "c", "text": "t", "label": i % 2} for i in range(20)]
    data = write(tmp_path / "rows.jsonl", rows)
    chosen = recipe(data, kind, model=save(model, tmp_path / "model"))
    with pytest.raises(DataAgentError, match="comes without the files of a tokenizer"):
        load_language(chosen)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    chosen = recipe(model=save(small_gpt2(vocab_size=100), tmp_path))
    with pytest.raises(DataAgentError, match=rf"has {len(tokenizer)} tokens, but .* embeds 100"):
        build_model(chosen, data_of(tokenizer))


def test_a_model_that_sees_what_it_predicts_is_refused(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    encoder = RobertaForCausalLM(RobertaConfig(**small_bert_sizes()))
    with pytest.raises(DataAgentError, match="sees the tokens that it is to predict"):
        build_model(recipe(model=save(encoder, tmp_path / "encoder")), data_of(tokenizer))
    decoder = RobertaForCausalLM(RobertaConfig(**small_bert_sizes(is_decoder=True)))
    build_model(recipe(model=save(decoder, tmp_path / "decoder")), data_of(tokenizer))


def test_packing_is_for_models_that_keep_texts_apart(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    bloom = BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=1, n_head=2, vocab_size=400))
    path = save(bloom, tmp_path / "bloom")
    build_model(recipe(model=path), data_of(tokenizer))
    with pytest.raises(DataAgentError, match=r"for one text\. Train it without --packing"):
        build_model(recipe(model=path, packing=True), data_of(tokenizer))
    fits = recipe(model=save(small_gpt2(), tmp_path / "gpt2"), packing=True)
    build_model(fits, data_of(tokenizer))


def test_roberta_reads_two_tokens_less_than_it_has_positions(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, frames=True)
    sizes = small_bert_sizes(max_position_embeddings=34)
    path = save(RobertaForSequenceClassification(RobertaConfig(**sizes)), tmp_path)
    data = data_of(tokenizer, "a", "b")
    with pytest.raises(DataAgentError, match=r"reads 32 tokens at most\. Use --max-length 32"):
        build_model(recipe(None, CLASSIFY, model=path, max_length=33), data)
    model = build_model(recipe(None, CLASSIFY, model=path, max_length=32), data)
    assert model(input_ids=torch.full((1, 32), 5)).logits.shape == (1, 2)


@pytest.mark.slow
def test_the_recipe_of_instruction_tuning_runs_to_its_mmlu(tmp_path: Path, folder: Path) -> None:
    """Adapters, bf16, checkpointing, accumulation, a comparison, MMLU; on a small model."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=320, intermediate_size=32, **sizes))
    rows = [{"instruction": "Say it.", "input": text, "output": text} for text in TEXTS]
    flags = [
        *["compare", "--task", "sft", "--model", save(model, tmp_path / "model", tokenizer)],
        *["--data", str(write(tmp_path / "rows.jsonl", rows)), "--eval-subset", "4"],
        *["--lora-rank", "2", "--precision", "bf16", "--gradient-checkpointing"],
        *["--max-length", "512", "--epochs", "3", "--batch-size", "4", "--accumulation", "2"],
        *["--learning-rate", "2e-4", "--methods", "random,data-agent", "--keep-ratios", "0.5"],
        *["--seeds", "1", "--mmlu", str(folder), "--harness-limit", "2"],
    ]
    assert main([*flags, "--output", str(tmp_path / "runs")]) == 0
    for method in ("random", "data-agent"):
        (path,) = (tmp_path / "runs").glob(f"**/{method}-keep0.5-seed0/result.json")
        result = json.loads(path.read_text())
        assert result["num_trained_parameters"] < 0.3 * result["num_parameters"]
        assert 0 <= result["further_metrics"]["mmlu"]["value"] <= 100
        assert result["further_metrics"]["perplexity"]["value"] > 1
    report = (tmp_path / "runs" / "comparison.md").read_text()
    assert "mmlu" in report.lower()
