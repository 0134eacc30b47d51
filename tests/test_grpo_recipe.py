"""The full-size recipe for GRPO: its script's code path, on sums of one digit."""

import importlib
import json
import re
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="needs pip install '.[trl]'")

from example_scripts import share_a_run
from ranks import run_ranks
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "grpo_math.py"
PAGE = ROOT / "docs" / "recipes" / "grpo.md"
STEPS, BATCH, GENERATIONS, TRAIN, EVAL = 8, 8, 4, 20, 8

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:.*'pin_memory' argument is set as true.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing.*` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]


@pytest.fixture(autouse=True)
def _nothing_is_sent_or_kept(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CI", "1")  # TRL reports each trainer's name otherwise
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = importlib.import_module("datasets.config")
    monkeypatch.setattr(datasets, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def example(monkeypatch) -> Any:
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    return importlib.import_module(EXAMPLE.stem)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model of random weights that says digits, and sums in the columns of GSM8K."""
    root = tmp_path_factory.mktemp("grpo")
    pieces = [*map(str, range(10)), "+", "####", " ", "<pad>", "<eos>", "x"]
    characters = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="x"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("####|."), "isolated")  # type: ignore
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="<pad>", eos_token="<eos>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=pieces.index("<eos>"),
        pad_token_id=pieces.index("<pad>"),
    )
    model = LlamaForCausalLM(config)
    for name in ("base", "chat"):
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (root / "data").mkdir()
    for split, count in (("train", TRAIN), ("test", EVAL)):
        rows = [
            {"question": f"{i % 4} + {3 - i % 4}", "answer": "first this, then that\n#### 3"}
            for i in range(count)
        ]
        (root / "data" / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return root


def flags(folder, output, model="base", **changes) -> list[str]:
    given = {
        **{"data": folder / "data", "model": folder / model, "output_dir": output},
        **{"max_steps": STEPS, "num_generations": GENERATIONS, "max_completion_length": 1},
        **{"per_device_train_batch_size": BATCH, "per_device_eval_batch_size": BATCH, "seed": 3},
        **{"learning_rate": 0.03, "lr_scheduler_type": "constant", "bf16": False, "use_cpu": True},
        **{"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 4},
        **changes,
    }
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in given.items())
    return [word for pair in pairs for word in pair]


def test_the_last_number_of_an_answer_counts(example):
    assert example.number_in("First 12, then 3.\n#### 1,234") == 1234
    assert example.number_in("It is -0.5.") == -0.5
    assert example.number_in("none") is None
    told = ["#### 7", [{"role": "assistant", "content": "6 or 7"}], "7 or 6", "seven", "7.0"]
    assert example.reward(told, [7.0] * 5) == [1, 1, 0, 0, 1]


@pytest.mark.parametrize("model", ["base", "chat"])
def test_the_script_teaches_what_is_rewarded(model, example, folder, tmp_path, capsys):
    """A prompt of a model with a template is a message, of one without a text."""
    output = tmp_path / "run"
    trainer = example.main(flags(folder, output, model, max_steps=40))
    assert isinstance(trainer.train_dataset[0]["prompt"], str) == (model == "base")
    found = json.loads((output / "eval_results.json").read_text())
    assert found["eval_reward"] > 0.8  # by chance a sixteenth
    said = capsys.readouterr().out
    assert f"solved: {100 * found['eval_reward']:.1f} %" in said
    assert "prompt-agent: 40 batches" in said
    visits = trainer.prompt_selector.table()["visits"]
    assert int(visits.sum()) == 40 * BATCH // GENERATIONS


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(example, folder, tmp_path):
    run = tmp_path / "run"
    saving = {"save_strategy": "steps", "save_steps": 3, "resume_from_checkpoint": "last"}
    argv = flags(folder, run, **saving)
    whole = example.main(argv)  # there is no checkpoint yet, nor the folder
    for step in (6, STEPS):
        shutil.rmtree(run / f"checkpoint-{step}", ignore_errors=True)
    resumed = example.main(argv)
    assert resumed.state.global_step == STEPS
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_without_a_selector_it_is_trls_own_trainer(example, folder, tmp_path):
    trainer = example.main(flags(folder, tmp_path, selector="none", max_steps=2))
    assert trainer.prompt_selector is None


@pytest.mark.distributed
def test_two_processes_share_a_run(folder, tmp_path):
    argv = flags(folder, "run", per_device_train_batch_size=BATCH // 2)
    printed = "".join(run_ranks(share_a_run, tmp_path, EXAMPLE, tmp_path, argv))
    assert printed.count(f"prompt-agent: {STEPS} batches") == 1
    assert (tmp_path / "run" / "eval_results.json").is_file()


def test_what_a_method_paid_is_read_as_the_page_says(example, folder, tmp_path, monkeypatch):
    evaluating = {"eval_strategy": "steps", "eval_steps": 2}
    for selector in ("uniform", "prompt-agent"):
        run = tmp_path / "runs" / "gsm8k" / f"{selector}-seed0"
        example.main(flags(folder, run, selector=selector, **evaluating))
        for seed in range(1, 5):
            shutil.copytree(run, run.with_name(f"{selector}-seed{seed}"))
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with redirect_stdout(StringIO()) as printed:
        exec(block, {})
    lines = printed.getvalue().splitlines()
    assert len(lines) == 10
    shares = [float(line.split()[2]) for line in lines]
    assert all(share in (0.25, 0.5, 0.75, 1.0) for share in shares)
    ends = json.loads((run / "eval_results.json").read_text())["eval_reward"]
    assert lines[1].startswith("0 prompt-agent ")
    assert float(lines[1].split()[-1]) == pytest.approx(ends, abs=6e-4)
