"""GRPO on word problems whose answer is a number, such as GSM8K, with prompts that are chosen.

    python examples/grpo_math.py --data openai/gsm8k:main --model Qwen/Qwen2.5-1.5B-Instruct \
        --max-steps 500 --output-dir runs/gsm8k

Every argument of TRL's `GRPOConfig` is a flag, and `torchrun` starts it on several GPUs. The whole
recipe: docs/recipes/grpo.md.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import transformers
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig

from data_agent.integrations.trl_prompts import SelectiveGRPOTrainer

ASKED = "\n\nThink step by step. End with the answer alone, a number, behind ####."
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass
class Recipe:
    data: str = field(metadata={"help": "NAME:CONFIGURATION on the hub, or a folder of parquet"})
    model: str = field(metadata={"help": "name on the hub, or folder of a saved model"})
    selector: str = field(default="prompt-agent", metadata={"help": "or uniform, ..., none"})
    eval_split: str = "test"


PARSER = transformers.HfArgumentParser((Recipe, GRPOConfig))


def number_in(text):
    """The last number of a text, without commas; None without any."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def reward(completions, solution, **_):
    """1 for completions whose last number is the solution's, else 0."""
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    pairs = zip(texts, solution, strict=True)
    return [float(number_in(text) == right) for text, right in pairs]


def problems(rows, tokenizer):
    """The columns prompt and solution; prompts are messages where the model has a template."""

    def problem(row):
        asked = row["question"] + ASKED
        is_chat = tokenizer.chat_template is not None
        prompt = [{"role": "user", "content": asked}] if is_chat else f"{asked}\n\n"
        return {"prompt": prompt, "solution": number_in(row["answer"])}

    return rows.map(problem, remove_columns=rows.column_names)


def main(argv=None):
    recipe, args = PARSER.parse_args_into_dataclasses(argv)
    name, _, configuration = recipe.data.partition(":")
    splits = datasets.load_dataset(name, configuration or None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(recipe.model)
    trainer = SelectiveGRPOTrainer(
        model=recipe.model,
        reward_funcs=reward,
        args=args,
        train_dataset=problems(splits["train"], tokenizer),
        eval_dataset=problems(splits[recipe.eval_split], tokenizer),
        processing_class=tokenizer,
        selector=None if recipe.selector == "none" else recipe.selector,
    )
    checkpoint = args.resume_from_checkpoint
    if checkpoint == "last":  # if there is none yet, begin
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)  # any rank may look first
        checkpoint = get_last_checkpoint(args.output_dir)
    trainer.train(resume_from_checkpoint=checkpoint)
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    trainer.save_state()
    if trainer.is_world_process_zero():
        print(f"solved: {100 * metrics['eval_reward']:.1f} %")
        if trainer.prompt_selector is not None:
            print(trainer.prompt_selector.summary())
    return trainer


if __name__ == "__main__":
    main()
