"""Rolling prompts out in the lab: the decoder, the step, and runs that stop and go on."""

from dataclasses import replace

import pytest
import torch

from data_agent.errors import InputError
from data_agent.prompts import PROMPT_METHODS as OF_THE_LIBRARY
from data_agent_lab.data.problems import ASK, END, PAD, Problem
from data_agent_lab.data.strings import BASICS, load_strings
from data_agent_lab.methods import PROMPT_METHODS, RANDOM
from data_agent_lab.recipes import RunConfig
from data_agent_lab.runs.folder import open_run
from data_agent_lab.tasks import recipe_for
from data_agent_lab.training.decoder import Completions, Decoder, complete, features_of, log_probs
from data_agent_lab.training.grpo import Rollout, group_advantages, joined, policy_loss, rewards_of
from data_agent_lab.training.run import train_run

CPU = torch.device("cpu")
RECIPE = replace(
    recipe_for("string-world"),
    **{"num_prompts": 60, "num_eval_prompts": 12, "num_warm_up_problems": 40},
    **{"warm_up_steps": 3, "model": "decoder-16x1", "device": "cpu"},
    **{"epochs": 3, "batches": 2, "batch_size": 3, "generations": 4, "num_evaluations": 3},
)
PROMPTS = [(11, 1, ASK), (12, 1, 2, 3, ASK), (13, 4, 5, ASK)]


def decoder():
    torch.manual_seed(0)
    return Decoder(16, 2)


def test_the_lab_knows_the_methods_of_the_library():
    renamed = {RANDOM if name == "uniform" else name for name in OF_THE_LIBRARY}
    assert set(PROMPT_METHODS) == renamed


def test_what_is_remembered_changes_no_answer():
    """Greedy answers, with keys and values kept, against the whole text read anew."""
    model = decoder()
    tokens, counts = complete(model, PROMPTS, device=CPU, greedy=True)
    size = counts.shape[1]
    logits = model.head(model(tokens))[:, -size - 1 : -1]
    logits[..., PAD] = -torch.inf
    assert torch.equal(logits.argmax(-1)[counts], tokens[:, -size:][counts])


def test_prompts_do_not_see_each_other_or_padding():
    model = decoder()
    together = features_of(model, PROMPTS, device=CPU)
    alone = torch.cat([features_of(model, [prompt], device=CPU) for prompt in PROMPTS])
    torch.testing.assert_close(together, alone)


def test_log_probabilities_are_those_of_the_tokens():
    model = decoder()
    tokens = torch.tensor([[PAD, 11, 1, ASK, 5, END], [12, 1, 2, ASK, END, PAD]])
    counts = tokens[:, 4:] != PAD
    found = log_probs(model, Completions(tokens, counts)).detach()
    plain = model.head(model(tokens[:1, 1:])).log_softmax(-1)[0].detach()
    assert found[0].tolist() == pytest.approx([float(plain[2, 5]), float(plain[3, END])], abs=1e-5)
    assert found[1, 1] == 0


def test_rewards_are_for_what_is_right_to_the_end():
    problem = Problem((11, 1, 2, ASK), (2, 1), category=1, length=2)
    tokens = torch.tensor([[ASK, 2, 1, END], [ASK, 2, 1, 1], [ASK, 2, END, PAD]])
    counts = torch.tensor([[True] * 3, [True] * 3, [True, True, False]])
    assert rewards_of([problem] * 3, Completions(tokens, counts)).tolist() == [1, 0, 0]


def test_advantages_and_loss_by_hand():
    advantages = group_advantages(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    # Deviations of 0.5 over a standard deviation of sqrt(0.5); none where all are equal.
    assert advantages.tolist() == [
        pytest.approx([0.5**0.5, -(0.5**0.5)], abs=1e-3),
        [0.0, 0.0],
    ]
    counts = torch.tensor([[True, True], [True, False]])
    log_probabilities = torch.tensor([[-1.0, -2.0], [-3.0, -9.0]])
    # -(2 (-1 - 2) + (-1)(-3)) / 3
    loss = policy_loss(log_probabilities, torch.tensor([2.0, -1.0]), counts)
    assert float(loss) == pytest.approx(1.0)


def test_rollouts_of_other_widths_are_joined():
    model = decoder()
    parts = []
    for prompt in PROMPTS[:2]:
        told = complete(model, [prompt] * 2, device=CPU)
        parts.append(Rollout(told, torch.ones(1, 2)))
    both = joined(parts, 2).completions
    expected = torch.cat([log_probs(model, part.completions).sum(1) for part in parts])
    torch.testing.assert_close(log_probs(model, both).sum(1), expected)
    assert len(joined(parts, 1).rewards) == 1


def run(path, method, *, stop_after=None):
    config = RunConfig(recipe=RECIPE, method=method)
    asked = iter(range(100))
    with open_run(path, config.flat(), resume=True) as folder:
        result = train_run(
            config,
            load_strings(RECIPE),
            folder,
            should_stop=lambda: stop_after is not None and next(asked) + 1 >= stop_after,
        )
        return result, folder.metrics(), folder.load_checkpoint()


@pytest.mark.parametrize("method", PROMPT_METHODS)
def test_methods_roll_out_as_many_completions(tmp_path, method):
    result, lines, _ = run(tmp_path / method, method)
    assert result["metric"] == "accuracy"
    assert result["num_steps"] == 6
    assert lines[-1]["num_forward"] == 6 * 3 * 4
    assert lines[-1]["completions"] == 6 * 3 * 4
    assert lines[-1]["generated_tokens"] >= 6 * 3 * 4
    assert result["further_metrics"]["greedy"]["unit"] == "%"
    assert set(result["class_accuracy"]) < set(BASICS) | set(load_strings(RECIPE).class_names)
    if method != "filtering":
        assert result["cost"] == 1


@pytest.mark.parametrize("method", ["prompt-agent", "filtering"])
def test_a_run_that_stops_and_goes_on_ends_the_same(tmp_path, method):
    whole, _, end = run(tmp_path / "whole", method)
    stopped, _, _ = run(tmp_path / "parts", method, stop_after=3)
    assert stopped is None
    result, _, other = run(tmp_path / "parts", method)
    assert result["value"] == whole["value"]
    assert result["eval_loss"] == whole["eval_loss"]
    for name, weight in end["model"].items():
        assert torch.equal(weight, other["model"][name]), name


@pytest.mark.parametrize(
    ("method", "message"),
    [("data-agent", "prompts have their own"), ("full", "prompts have their own")],
)
def test_methods_of_samples_are_refused(method, message):
    with pytest.raises(InputError, match=message):
        RunConfig(recipe=RECIPE, method=method)
