"""Rows, tokens, tokenizers and models of language tasks, from files that the tests write."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from small_rows import recipe, turns, write
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from data_agent import DataAgentError
from data_agent_lab.data.texts import load_language
from data_agent_lab.data.tokenizers import train_tokenizer
from data_agent_lab.data.tokens import blocks, completion_tokens, read_conversations, text_tokens
from data_agent_lab.training.text_models import build_model, lora_config

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
MARKED = (
    "{% for m in messages %}<{{ m['role'] }}>{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] }}{{ eos_token }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TEXTS = ["the cat sat on the mat", "a dog ran up the hill", "the sun and the moon"] * 20


def by_row(*found: Any) -> dict[int, Any]:
    return dict(enumerate(found))


def conversations(rows: list[dict[str, Any]], **changes: Any) -> tuple[list[Any], Counter[str]]:
    dropped: Counter[str] = Counter()
    options = {"has_template": changes.pop("has_template", False), "dropped": dropped}
    found = read_conversations(datasets.Dataset.from_list(rows), recipe(**changes), **options)
    return list(found.values()), dropped


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "completion": "c", "id": 1},
        {"question": "p", "answer": "c"},
        {"messages": turns("p", "c")},
        {"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "c"}]},
        {"prompt": turns("p")[:1], "completion": [{"role": "assistant", "content": "c"}]},
        {"prompt": turns("p")[:1], "completion": "c"},
        {"prompt": "p", "response": "c"},
        {
            "messages": [
                {**turn, "content": [{"type": "text", "text": turn["content"]}]}
                for turn in turns("p", "c")
            ]
        },
        {"messages": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "c"}]},
        {"conversations": turns("p", "c")},
    ],
)
def test_layouts_are_told_by_their_columns(row: dict[str, Any]) -> None:
    assert conversations([row]) == ([turns("p", "c")], Counter())


def test_a_conversation_that_begins_with_the_answer_has_an_empty_question() -> None:
    system = {"role": "system", "content": "s"}
    for first in ([], [system]):
        found, _ = conversations([{"messages": [*first, turns("", "c")[1]]}])
        assert found == [[*first, *turns("", "c")]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "completion": 3}, r"'completion' holds '3' \(int\); expected a text"),
        ({"prompt": {"a": "p"}, "completion": "c"}, r"'prompt' holds .* \(dict\); expected a text"),
        ({"instruction": 5, "output": "c"}, r"'instruction' holds '5' \(int\)"),
        ({"messages": [{"who": "user", "what": "p"}]}, "expected its role and content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "u"}]}]},
            "a part of the type 'image'; only texts",
        ),
    ],
)
def test_cells_that_hold_no_text_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataAgentError, match=message):
        conversations([row])


def test_an_instruction_gets_alpacas_prompt_where_there_is_no_template() -> None:
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Say hi.", "input": "", "output": "hi"},
    ]
    dolly = [
        {"instruction": row["instruction"], "context": row["input"], "response": row["output"]}
        for row in rows
    ]
    assert conversations(dolly) == conversations(rows)
    plain, _ = conversations(rows)
    assert plain[0][0]["content"].endswith(
        "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
    )
    assert plain[1][0]["content"].endswith("### Instruction:\nSay hi.\n\n### Response:\n")
    asked, _ = conversations(rows, has_template=True)
    assert [row[0]["content"] for row in asked] == ["Add.\n\n1 2", "Say hi."]


def test_rows_are_put_into_that_prompt_where_the_tokenizer_is_trained_here(tmp_path: Path) -> None:
    rows = [{"instruction": "Say hi.", "output": f"hi {i}"} for i in range(10)]
    data = load_language(recipe(write(tmp_path / "rows.jsonl", rows), max_length=400))
    assert "### Instruction:\nSay hi.\n\n### Response:\nhi" in data.tokenizer.decode(
        data.train["input_ids"][0]
    )


def test_other_columns_are_named_and_go_together() -> None:
    rows = [{"q": "p", "a": "c"}]
    assert conversations(rows, prompt_column="q", completion_column="a")[0] == [turns("p", "c")]
    with pytest.raises(DataAgentError, match="go together"):
        conversations(rows, prompt_column="q")
    with pytest.raises(DataAgentError, match=r"no column 'b'; the data has q, a"):
        conversations(rows, prompt_column="q", completion_column="b")


def test_columns_of_no_layout_or_of_several_are_refused() -> None:
    with pytest.raises(DataAgentError, match=r"\(q, a\) fit none of the layouts we know: messages"):
        conversations([{"q": "p", "a": "c"}])
    mixed = {"prompt": "p", "completion": "c", "messages": turns("p", "c")}
    with pytest.raises(DataAgentError, match="fit several layouts we know: messages; prompt, comp"):
        conversations([mixed])


def test_rows_without_an_answer_are_left_out_and_counted() -> None:
    rows = [{"prompt": "p", "completion": c} for c in ("c", "", "   ", None)]
    assert conversations(rows) == ([turns("p", "c")], Counter({"without a completion": 3}))
    rows = [{"messages": turns("p")[:1]}, {"messages": turns("p", "c")}, {"messages": []}]
    assert conversations(rows) == ([turns("p", "c")], Counter({"without a completion": 2}))
    rows = [{"messages": [*turns("p", "c"), *turns("q")]}]
    assert conversations(rows) == ([turns("p", "c")], Counter({"turns behind the last answer": 1}))
    with pytest.raises(DataAgentError, match="role 'tool'"):
        conversations([{"messages": [{"role": "tool", "content": "x"}]}])


@pytest.fixture
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, vocab_size=300)


def trl_rows(tokenizer: Any, rows: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What TRL's own preparation makes of them."""
    model = build_model(recipe(), _data(tokenizer))
    args = SFTConfig(output_dir=str(folder), max_length=None, report_to="none", use_cpu=True)
    trainer = SFTTrainer(
        model, args, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer
    )
    prepared: Any = trainer.train_dataset
    return [dict(row) for row in prepared]


def _data(tokenizer: Any) -> Any:
    empty = datasets.Dataset.from_dict({"input_ids": []})
    from data_agent_lab.data.texts import LanguageData

    return LanguageData(
        tokenizer=tokenizer, train=empty, evaluation=empty, evaluation_source="", dropped={}
    )


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_tokens_and_masks_are_those_of_trl(
    tokenizer: Any, template: str | None, tmp_path: Path
) -> None:
    tokenizer.chat_template = template
    pairs = [("the cat ", "sat on the mat"), ("a dog", " ran"), ("", "up")]
    ours = completion_tokens(
        by_row(*(turns(*pair) for pair in pairs)), tokenizer, max_length=999, counts=Counter()
    )
    if template is None:
        rows: list[dict[str, Any]] = [{"prompt": p, "completion": c} for p, c in pairs]
    else:
        rows = [{"prompt": turns(p), "completion": turns(p, c)[1:]} for p, c in pairs]
    theirs = trl_rows(tokenizer, rows, tmp_path)
    assert ours["input_ids"] == [row["input_ids"] for row in theirs]
    labels = [
        [token if counts else -100 for token, counts in zip(ids, mask, strict=True)]
        for ids, mask in zip(ours["input_ids"], ours["completion_mask"], strict=True)
    ]
    assert labels == [row["labels"] for row in theirs]


def test_where_the_template_marks_answers_all_of_them_count(tokenizer: Any) -> None:
    tokenizer.chat_template = MARKED
    talk = [*turns("a", "bb"), *turns("c", "dd")]
    found = completion_tokens(by_row(talk), tokenizer, max_length=99, counts=Counter())
    ids, mask = found["input_ids"][0], found["completion_mask"][0]
    counted = tokenizer.decode([i for i, counts in zip(ids, mask, strict=True) if counts])
    assert counted == "bb<eos>dd<eos>"
    tokenizer.chat_template = TEMPLATE  # which does not: the last one counts
    counts: Counter[str] = Counter()
    found = completion_tokens(by_row(talk), tokenizer, max_length=99, counts=counts)
    ids, mask = found["input_ids"][0], found["completion_mask"][0]
    assert tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m]) == "dd<eos>"
    assert counts["earlier answers, which are context only"] == 1


def test_several_turns_without_a_template_are_headed(tokenizer: Any) -> None:
    talk = [*turns("a", "b"), *turns("c", "d")]
    found = completion_tokens(by_row(talk), tokenizer, max_length=999, counts=Counter())
    assert tokenizer.decode(found["input_ids"][0]) == (
        "### User:\na\n\n### Assistant:\nb\n\n### User:\nc\n\n### Assistant:\nd<eos>"
    )
    assert sum(found["completion_mask"][0]) == 2


def test_long_rows_are_cut_and_those_without_an_answer_left_dropped(tokenizer: Any) -> None:
    counts: Counter[str] = Counter()
    rows = by_row(turns("x" * 5, "y" * 20), turns("x" * 30, "y"), turns("x", "y"))
    found = completion_tokens(rows, tokenizer, max_length=10, counts=counts)
    assert [len(ids) for ids in found["input_ids"]] == [10, 3]
    assert found["row"] == [0, 2]
    assert found["completion_mask"] == [[0] * 5 + [1] * 5, [0, 1, 1]]
    assert counts["cut at --max-length, kept"] == 1
    assert counts["without a token of the completion within --max-length"] == 1


def test_texts_are_joined_and_cut_into_blocks(tokenizer: Any) -> None:
    counts: Counter[str] = Counter()
    texts = ["qqqqq", "", "zz"]  # 5 + end, 2 + end: nine tokens
    end, (q,), (z,) = tokenizer.eos_token_id, tokenizer("q").input_ids, tokenizer("z").input_ids
    whole = [[q] * 4, [q, end, z, z]]
    assert blocks(texts, tokenizer, length=4, counts=counts, keep_rest=False) == whole
    assert counts == {"empty texts": 1, "tokens behind the last whole block": 1}
    kept = blocks(texts, tokenizer, length=7, counts=Counter(), keep_rest=True)
    assert [len(row) for row in kept] == [7, 2]
    with pytest.raises(DataAgentError, match="9 tokens, less than one block of --max-length 20"):
        blocks(texts, tokenizer, length=20, counts=Counter(), keep_rest=False)


def test_a_text_that_is_cut_keeps_the_token_at_its_end() -> None:
    framed, counts = train_tokenizer(TEXTS, vocab_size=320, frames=True), Counter[str]()
    texts = [("cat",), ("q" * 50,)]
    rows = text_tokens(texts, framed, max_length=10, counts=counts)["input_ids"]
    assert [len(row) for row in rows] == [len(framed("cat")["input_ids"]), 10]
    assert all(framed.convert_ids_to_tokens(row)[-1] == "[SEP]" for row in rows)
    assert counts == {"cut at --max-length, kept": 1}


def test_a_tokenizer_is_the_same_for_the_same_texts_and_knows_every_byte() -> None:
    one, other = (train_tokenizer(TEXTS, vocab_size=320) for _ in range(2))
    assert one.get_vocab() == other.get_vocab()
    text = "Ünïcode ✓ 雪\n\ttabs"
    assert one.decode(one(text)["input_ids"]) == text
    framed = train_tokenizer(TEXTS, vocab_size=320, frames=True)
    assert framed.convert_ids_to_tokens(framed("cat")["input_ids"])[0] == "[CLS]"


def test_splits_subsets_and_held_out_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i} ", "completion": f"c{i}"} for i in range(40)]
    single = write(tmp_path / "rows.jsonl", rows)
    held = load_language(recipe(single))
    assert (held.num_train, held.num_eval) == (36, 4)
    assert held.evaluation_source == "rows held out of 'train' (10 %)"
    seen = {tuple(ids) for part in (held.train, held.evaluation) for ids in part["input_ids"]}
    assert len(seen) == 40  # none lost, none in both
    write(tmp_path / "split" / "train.jsonl", rows)
    write(tmp_path / "split" / "test.jsonl", rows[:7])
    few = recipe(tmp_path / "split", subset=10, eval_subset=3)
    first, again = load_language(few), load_language(few)
    assert (first.num_train, first.num_eval) == (10, 3)
    assert first.train["input_ids"] == again.train["input_ids"]
    with pytest.raises(DataAgentError, match=r"50 rows were asked for \(--subset\), of 40"):
        load_language(recipe(tmp_path / "split", subset=50))


def test_classes_come_as_words_numbers_or_class_labels(tmp_path: Path) -> None:
    rows = [{"text": t, "label": "good" if "cat" in t else "bad"} for t in TEXTS]
    words = load_language(recipe(write(tmp_path / "w.jsonl", rows), "text-classification"))
    assert words.class_names == ("bad", "good")
    assert set(words.train["labels"]) == {0, 1}
    numbers = [{"sentence": t, "label": 7 if "cat" in t else 3} for t in [*TEXTS, ""]]
    found = load_language(recipe(write(tmp_path / "n.jsonl", numbers), "text-classification"))
    assert found.class_names == ("3", "7")
    assert sum(found.train["labels"]) / found.num_train == pytest.approx(1 / 3, abs=0.05)
    assert found.dropped == {"empty texts": 1}


def test_splits_without_labels_are_no_evaluation(tmp_path: Path) -> None:
    rows = [{"text": t, "label": i % 2} for i, t in enumerate(TEXTS)]
    write(tmp_path / "d" / "train.jsonl", rows)
    write(tmp_path / "d" / "test.jsonl", [{**row, "label": -1} for row in rows[:5]])
    write(tmp_path / "d" / "validation.jsonl", rows[:6])
    found = load_language(recipe(tmp_path / "d", "text-classification"))
    assert found.evaluation_source == "split 'validation'"
    with pytest.raises(DataAgentError, match=r"There is|there is no column 'x'"):
        load_language(recipe(tmp_path / "d", "text-classification", text_column="x"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "needs data: name them with --data"),
        ({"data": "./nowhere"}, "does not exist. Expected a .parquet, .jsonl"),
        ({"tokenizer": "./nowhere"}, r"no tokenizer './nowhere' was found"),
        ({"max_length": 2}, "none of the training rows can be used"),
    ],
)
def test_data_that_cannot_be_used_are_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    rows = [{"prompt": "a long prompt", "completion": "c"}] * 5
    data = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataAgentError, match=message):
        load_language(recipe(**{"data": data, **changes}))


def test_files_that_cannot_be_read_are_told_what_texts_look_like(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{no json")
    with pytest.raises(DataAgentError, match=r"could not be loaded: .*a \.parquet, \.jsonl"):
        load_language(recipe(tmp_path / "rows.jsonl"))


def test_models_are_built_to_size_and_follow_the_generator(tokenizer: Any) -> None:
    weights: list[torch.Tensor] = []
    for _ in range(2):
        torch.manual_seed(0)
        model: Any = build_model(recipe(model="llama-64x2"), _data(tokenizer))
        weights.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*weights)
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (64, 2)
    assert model.config.vocab_size == len(tokenizer)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "llama-50x2"}, "must be a multiple of 32"),
        ({"model": "bert-32x1"}, "does not suit sft. Use llama-32x1"),
        ({"model": "./nowhere"}, "cannot be loaded for sft"),
    ],
)
def test_models_that_cannot_be_had_are_named(
    tokenizer: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataAgentError, match=message):
        build_model(recipe(**changes), _data(tokenizer))


def test_a_saved_model_is_loaded_and_its_context_respected(tokenizer: Any, tmp_path: Path) -> None:
    build_model(recipe(), _data(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = build_model(recipe(model=str(tmp_path)), _data(tokenizer))
    assert loaded.dtype == torch.float32
    with pytest.raises(DataAgentError, match=r"reads 2048 tokens at most\. Use --max-length 2048"):
        build_model(recipe(model=str(tmp_path), max_length=4000), _data(tokenizer))


def test_adapters_sit_on_all_linear_layers() -> None:
    assert lora_config(recipe()) is None
    config = lora_config(recipe(lora_rank=4))
    assert config is not None
    assert (config.r, config.lora_alpha, config.target_modules) == (4, 8, "all-linear")
