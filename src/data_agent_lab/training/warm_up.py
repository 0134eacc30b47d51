"""What a model of prompt tasks is taught before it is rewarded: to answer, not to answer well."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data_agent_lab.data.makers import load_problems
from data_agent_lab.data.problems import PAD, Problem
from data_agent_lab.recipes import PromptRecipe
from data_agent_lab.training.decoder import Completions, Decoder, left_filled, log_probs

RATE, BATCH, RISE = 2e-3, 128, 20  # peak of the learning rate, problems a step, steps up to it


@cache
def warmed_up(recipe: PromptRecipe, device: torch.device) -> dict[str, Tensor]:
    """Weights of the recipe's model once it was taught its warm-up problems.

    The same for every method and seed; made once in a process, by a generator of its own.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(recipe.world)
        problems, model = load_problems(recipe).warm_up, new_model(recipe, device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
        for step in range(recipe.warm_up_steps):
            places = torch.randint(len(problems), (min(BATCH, len(problems)),)).tolist()
            right = right_answers([problems[place] for place in places], device)
            loss = -log_probs(model, right).sum() / right.counts.sum()
            rate = min(1.0, (step + 1) / RISE) * (1 - step / recipe.warm_up_steps)
            for group in optimizer.param_groups:
                group["lr"] = RATE * rate
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def new_model(recipe: PromptRecipe, device: torch.device) -> Decoder:
    """The recipe's model, freshly drawn from torch's global generator."""
    width, layers = map(int, recipe.model.removeprefix("decoder-").split("x"))
    return Decoder(width, layers).to(device)


def right_answers(problems: Sequence[Problem], device: torch.device) -> Completions:
    """What would have been right, as if it had been generated."""
    asked = left_filled([problem.prompt for problem in problems], device)
    answers = [torch.tensor(problem.completion) for problem in problems]
    told = pad_sequence(answers, batch_first=True, padding_value=PAD).to(device)
    return Completions(torch.cat([asked, told], 1), told != PAD)
