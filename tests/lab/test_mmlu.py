"""The plain MMLU of the tests: prompts and scores; and which files the lab refuses."""

from __future__ import annotations

import math

import pyarrow.parquet as pq
import pytest
import torch
from mmlu_files import (
    END,
    NUM_ITEMS,
    SUBJECTS,
    byte_tokenizer,
    constant_model,
    item,
    random_model,
    rows_of,
    word_tokenizer,
    write,
)
from plain_mmlu import plain_mmlu, prompt_of, read_mmlu
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

pytest.importorskip("lm_eval")
from data_agent import DataAgentError
from data_agent_lab.lm_eval import evaluate_tasks, load_mmlu


def test_the_prompt_is_the_benchmarks(folder):
    mmlu = read_mmlu(folder, num_shots=2)
    question = mmlu.questions[-4]
    assert prompt_of(mmlu, question) == (
        "The following are multiple choice questions (with answers) about high school us history."
        "\n\n"
        "In high_school_us_history, what is number 0 of dev?\n"
        "A. the wth of 0\nB. the xth of 0\nC. the yth of 0\nD. the zth of 0\nAnswer: A\n\n"
        "In high_school_us_history, what is number 1 of dev? The story is long, and told with "
        "care.\n"
        "A. the wth of 1\nB. the xth of 1\nC. the yth of 1\nD. the zth of 1\nAnswer: B\n\n"
        "In high_school_us_history, what is number 0 of test?\n"
        "A. the wth of 0\nB. the xth of 0\nC. the yth of 0\nD. the zth of 0\nAnswer:"
    )


def test_questions_are_ordered_by_subject_then_row(folder):
    questions = read_mmlu(folder).questions
    assert [(q.subject, q.answer) for q in questions] == [
        (subject, i % 4) for subject in SUBJECTS for i in range(NUM_ITEMS[subject])
    ]


def test_a_limit_takes_the_first_of_each_subject(folder):
    every, some = read_mmlu(folder).questions, read_mmlu(folder, limit=2).questions
    assert [q.text for q in some] == [every[i].text for i in (0, 1, 5, 6, 8, 9)]


def test_answers_are_as_likely_as_all_their_tokens(folder):
    """Of 257 tokens " " has odds of 5 and "C" of 3, so the odds of all are 263."""
    tokenizer = byte_tokenizer()
    model = constant_model(tokenizer, {"Ġ": 5, "C": 3}, context=8000)
    result = plain_mmlu(model, tokenizer, folder)
    one = [math.log(5 / 263 * odds / 263) for odds in (1, 1, 3, 1)]
    expected = torch.tensor([one] * 12, dtype=torch.float64)
    torch.testing.assert_close(result.log_likelihoods, expected, rtol=1e-6, atol=0)
    assert result.predictions.tolist() == [2] * 12
    # each subject's answers are A, B, C, ...: C is right in its third row only
    expected = {"astronomy": 100 / 5, "anatomy": 100 / 3, "high_school_us_history": 100 / 4}
    assert result.by_subject == pytest.approx(expected)
    assert list(result.by_subject) == list(SUBJECTS)
    assert result.accuracy == pytest.approx(100 * 3 / 12)


def test_the_first_of_equally_likely_answers_is_the_prediction(folder):
    tokenizer = byte_tokenizer()
    result = plain_mmlu(constant_model(tokenizer, {"D": 0.5}, context=8000), tokenizer, folder)
    assert result.predictions.tolist() == [0] * 12


def test_likelihoods_are_those_of_one_text_at_a_time(folder):
    tokenizer = word_tokenizer()
    model = random_model(tokenizer, context=8000)
    mmlu = read_mmlu(folder)
    result = plain_mmlu(model, tokenizer, folder, batch_size=5)
    model.eval()
    for question, found in zip(mmlu.questions, result.log_likelihoods, strict=True):
        tokens = tokenizer.encode(prompt_of(mmlu, question))
        letters = [tokenizer.convert_tokens_to_ids(f"Ġ{letter}") for letter in "ABCD"]
        with torch.no_grad():
            log_p = model(torch.tensor([tokens])).logits[0, -1].log_softmax(0)
        torch.testing.assert_close(found.float(), log_p[letters])
    assert len(set(result.predictions.tolist())) > 1
    assert result.num_truncated == 0


def test_long_prompts_lose_their_beginning(folder):
    tokenizer = byte_tokenizer()
    model = random_model(tokenizer, context=150)
    mmlu = read_mmlu(folder, num_shots=0, limit=1)
    result = plain_mmlu(model, tokenizer, folder, num_shots=0, limit=1)
    model.eval()
    for question, found in zip(mmlu.questions, result.log_likelihoods, strict=True):
        tokens = tokenizer.encode(prompt_of(mmlu, question) + " B")
        assert len(tokens) > 151
        with torch.no_grad():
            log_p = model(torch.tensor([tokens[-151:-1]])).logits[0].log_softmax(-1)
        expected = log_p[-2, tokens[-2]] + log_p[-1, tokens[-1]]
        assert found[1].item() == pytest.approx(expected.item(), rel=1e-5)


def test_prompts_that_do_not_fit_are_counted(folder):
    """Bytes of a prompt and of the space before its answer; the letter is not read."""
    tokenizer, mmlu = byte_tokenizer(), read_mmlu(folder)
    lengths = sorted(len(prompt_of(mmlu, question)) + 1 for question in mmlu.questions)
    for context in (lengths[-1], lengths[-1] - 1, lengths[0], lengths[0] - 1):
        model = constant_model(tokenizer, {}, context=context)
        expected = sum(length > context for length in lengths)
        assert plain_mmlu(model, tokenizer, folder).num_truncated == expected


def test_the_batch_size_changes_nothing(folder):
    tokenizer = byte_tokenizer()
    model = random_model(tokenizer, context=2500)
    one, many = (plain_mmlu(model, tokenizer, folder, batch_size=size) for size in (1, 100))
    torch.testing.assert_close(one.log_likelihoods, many.log_likelihoods, rtol=1e-5, atol=1e-5)
    assert one.predictions.tolist() == many.predictions.tolist()


def test_the_model_stays_in_its_modes(folder):
    tokenizer = byte_tokenizer()
    model = constant_model(tokenizer, {}, context=8000)
    model.train()
    model.transformer.ln_f.eval()
    plain_mmlu(model, tokenizer, folder, limit=1)
    modes = {name for name, module in model.named_modules() if not module.training}
    assert modes == {"transformer.ln_f"}


def joins_the_colon(letters: str) -> PreTrainedTokenizerFast:
    """Makes one token of ":" and these letters as answers after it."""
    joined = [f"{before}{letter}" for before in ("Ġ", ":Ġ") for letter in letters]
    tokens = [*byte_tokenizer().get_vocab(), *joined]
    merges = [pair for letter in letters for pair in (("Ġ", letter), (":", f"Ġ{letter}"))]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def ends_texts() -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, 0)]
    )
    return tokenizer


def knows_words(*known: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate([END, "<?>", *known])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<?>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END, unk_token="<?>")


@pytest.mark.parametrize(
    "make",
    [
        lambda: joins_the_colon("ABCD"),
        lambda: joins_the_colon("C"),
        ends_texts,
        lambda: knows_words("Answer:", "A", "B"),
    ],
)
def test_answers_that_cannot_be_told_apart_are_refused(folder, make):
    tokenizer = make()
    model = constant_model(tokenizer, {}, context=8000)
    with pytest.raises(DataAgentError, match=r"\[' A', .*cannot be told apart.*language models"):
        evaluate_tasks(model, tokenizer, load_mmlu(folder))


def test_only_the_answers_must_be_known(folder):
    tokenizer = knows_words("A", "B", "C", "D")
    model = constant_model(tokenizer, {"B": 4}, context=8000)
    result = plain_mmlu(model, tokenizer, folder)
    assert result.predictions.tolist() == [1] * 12
    assert result.log_likelihoods[0, 1].item() == pytest.approx(math.log(4 / 9), rel=1e-6)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataAgentError, match=r"dev.parquet could not be read.*Expected a folder"):
        load_mmlu(tmp_path)
    write(tmp_path, dev=rows_of("dev"))
    with pytest.raises(DataAgentError, match=r"test.parquet could not be read.*Expected a folder"):
        load_mmlu(tmp_path)


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    write(tmp_path, dev=rows_of("dev"))
    (tmp_path / "test.parquet").write_text("question,subject,choices,answer")
    with pytest.raises(DataAgentError, match=r"test\.parquet could not be read: "):
        load_mmlu(tmp_path)


@pytest.mark.parametrize("column", ["question", "subject", "choices", "answer"])
def test_a_missing_column_is_named(tmp_path, column):
    rows = [
        {name: value for name, value in row.items() if name != column} for row in rows_of("dev")
    ]
    write(tmp_path, dev=rows_of("dev"), test=rows)
    with pytest.raises(DataAgentError, match=f"test.parquet could not be read: .*{column}"):
        load_mmlu(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"choices": ["1", "2", "3"]},
        {"choices": ["1", "2", "3", None]},
        {"choices": "1234"},
        {"choices": None},
        {"answer": 4},
        {"answer": -1},
        {"answer": "A"},
        {"answer": None},
        {"question": None},
        {"subject": 3},
    ],
)
def test_a_row_that_is_no_item_is_named(tmp_path, wrong):
    rows = [{**row, **wrong} for row in rows_of("dev")]
    write(tmp_path, dev=rows_of("dev"), test=rows)
    with pytest.raises(DataAgentError, match=r"row 0 of .*test.parquet is .*answer from 0 to 3"):
        load_mmlu(tmp_path)


def test_a_subject_without_enough_examples_is_named(tmp_path):
    rows = [row for row in rows_of("dev") if row["subject"] != "anatomy"]
    write(tmp_path, dev=[*rows, item("anatomy", 0, split="dev")], test=rows_of("test"))
    with pytest.raises(DataAgentError, match=r"about 'anatomy', of which dev\.parquet has 1 "):
        load_mmlu(tmp_path)
    assert len(load_mmlu(tmp_path, num_shots=1)["tasks"]["mmlu_anatomy"].fewshot_docs()) == 1
    write(tmp_path, dev=rows)
    with pytest.raises(DataAgentError, match=r"about 'anatomy', of which dev\.parquet has 0 "):
        load_mmlu(tmp_path, num_shots=1)
    assert "mmlu_anatomy" in load_mmlu(tmp_path, num_shots=0)["tasks"]


def test_a_file_without_questions_is_refused(tmp_path):
    write(tmp_path, dev=rows_of("dev"), test=rows_of("test"))
    rows = pq.read_table(tmp_path / "test.parquet")
    pq.write_table(rows.slice(0, 0), tmp_path / "test.parquet")
    with pytest.raises(DataAgentError, match="holds no question"):
        load_mmlu(tmp_path)
