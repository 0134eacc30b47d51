"""The agent in worlds whose chances are known: where it wins, and what it does where none can."""

from functools import partial

import pytest
import torch
from prompt_worlds import World, train

from data_agent.errors import InputError
from data_agent.prompts import PromptAgent, PromptConfig
from data_agent.prompts.baselines import (
    BucketPrompts,
    CategoryPrompts,
    FilteredPrompts,
    PosteriorPrompts,
    RegressedPrompts,
    UniformPrompts,
)

SIZE, GENERATIONS, BATCH = 1000, 8, 16
QUICK = PromptConfig(hidden=32)


def agent(size=SIZE, **options):
    return PromptAgent(size, GENERATIONS, batch=BATCH, **{"config": QUICK, **options})


def test_more_groups_are_informative_than_with_uniform_prompts():
    ours, _ = train(agent(), World(SIZE), 90)
    uniform, _ = train(UniformPrompts(SIZE, GENERATIONS, batch=BATCH), World(SIZE), 90)
    # About 0.31 of the prompts are; the agent reaches twice as many.
    assert uniform.mean() < 0.36
    assert ours[45:].mean() > 1.5 * uniform[45:].mean()


def test_a_model_that_learns_gets_further_on_as_many_completions():
    ours, uniform = World(SIZE, learns=0.002), World(SIZE, learns=0.002)
    train(agent(), ours, 90)
    train(UniformPrompts(SIZE, GENERATIONS, batch=BATCH), uniform, 90)
    assert ours.skill > 1.15 * uniform.skill


def test_history_alone_helps_where_prompts_come_again():
    world = World(100)
    world.features = torch.zeros(100, 1)  # says nothing
    informative, _ = train(agent(100), world, 60)
    assert informative[30:].mean() > 1.3 * informative[:6].mean()


@pytest.mark.parametrize("difficulty", [(5.0, 9.0), (-9.0, -5.0)], ids=["nothing", "everything"])
def test_where_nothing_or_everything_is_solved_prompts_come_by_turns(difficulty):
    """No prompt is favoured: visits are as even as chance makes them."""
    size = 256
    chooser = agent(size)
    _, visits = train(chooser, World(size, difficulty=difficulty), 64)
    assert chooser.metrics()["uniform_so_far"] == 1
    assert visits.float().var() < 1.5 * visits.float().mean()  # a Poisson draw's is its mean


def test_where_features_say_nothing_prompts_are_drawn_uniformly():
    world = World(4000)  # too many for a prompt to come again
    world.features = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1))
    chooser = agent(4000)
    train(chooser, world, 40)
    assert chooser.metrics()["uniform_so_far"] > 0.7


def test_few_prompts_seen_often_are_bounded_on_both_sides():
    """Each comes in its turn, and none more often than candidates and exploration allow."""
    size, batches = 80, 60
    chooser = agent(size)
    _, visits = train(chooser, World(size), batches)
    turns = batches * chooser.num_explored // size
    looks = batches * chooser.num_candidates / size
    assert visits.min() >= turns
    assert visits.max() <= looks + turns + 2
    assert visits.sum() == batches * BATCH


def test_wide_features_and_another_width():
    chooser = agent(40, config=PromptConfig(hidden=8, max_features=4))
    index = chooser.candidates()
    chosen = chooser.choose(index, torch.randn(len(index), 300))
    chooser.learn(chosen, torch.rand(BATCH, GENERATIONS))
    index = chooser.candidates()
    with pytest.raises(InputError, match="301 wide; so far they were 300 wide"):
        chooser.choose(index, torch.randn(len(index), 301))
    with pytest.raises(InputError, match="came 0 wide"):
        chooser.choose(index)


def test_several_reward_functions_and_graded_rewards():
    chooser = agent(40)
    chosen = chooser.choose(chooser.candidates())
    right = torch.zeros(BATCH, GENERATIONS)
    right[:, 0] = 1.0
    style = torch.full((BATCH, GENERATIONS), torch.nan)
    style[0] = torch.linspace(0, 2, GENERATIONS)
    groups = chooser.learn(chosen, {"right": right, "style": style}, weights=torch.tensor([1, 0.5]))
    assert groups.is_informative.all()
    assert chooser.history.reward_range == (0.0, 1.0)  # 1 + 0.5 * 0; 0 + 0.5 * 2
    assert groups.success[0] == pytest.approx((1 + 0.5 * 8) / 8)


def test_rewards_are_learned_in_the_order_they_came():
    chooser = agent(40)
    chosen = chooser.choose(chooser.candidates())
    rewards = (chosen.unsqueeze(1) < 20).float().expand(-1, GENERATIONS).clone()
    rewards[:, 0] = 1 - rewards[:, 0]
    turned = chosen.flip(0)
    groups = chooser.learn(turned, rewards.flip(0))
    assert torch.equal(groups.success > 0.5, turned < 20)
    success = torch.from_numpy(chooser.table()["success"])
    assert torch.equal(success[chosen] > 0.5, chosen < 20)


def test_predictions_are_compared_with_what_came():
    chooser = agent()
    train(chooser, World(SIZE), 60)
    metrics = chooser.metrics()
    assert metrics["policy_decides"] == 1
    assert metrics["prediction_correlation"] > 0.2
    assert metrics["predicted_utility"] == pytest.approx(metrics["observed_utility"], abs=0.2)
    assert "the policy decides" in chooser.summary()


def test_categories_prefer_the_one_that_brings_something():
    world = World(300, difficulty=(5.0, 9.0))
    world.difficulty[200:] = 0.0  # won half of the time
    categories = torch.arange(300) // 100
    chooser = CategoryPrompts(300, GENERATIONS, batch=BATCH, categories=categories)
    _, visits = train(chooser, world, 40)
    assert visits[200:].sum() > 1.5 * visits[:200].sum()


def test_buckets_climb_while_prompts_succeed():
    world = World(500)
    chooser = BucketPrompts(500, GENERATIONS, batch=BATCH, difficulty=world.difficulty)
    train(chooser, world, 60)
    # Half is won at difficulty 0, the border of the third of ten buckets over [-1, 3].
    assert 1.5 < chooser.metrics()["bucket"] < 3.5


@pytest.mark.parametrize("kind", [PosteriorPrompts, RegressedPrompts])
def test_rivals_find_informative_prompts_too(kind):
    informative, _ = train(kind(200, GENERATIONS, batch=BATCH), World(200), 60)
    assert informative[30:].mean() > 0.4


def test_filtering_keeps_groups_that_differ():
    chooser = FilteredPrompts(40, 3, batch=4)
    rewards = torch.tensor([[0.0, 0, 0], [1, 0, 1], [1, 1, 1], [torch.nan, 1, 0]])
    assert chooser.keeps(rewards).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(UniformPrompts, 5, 4, batch=6), "batch is 6, but there are 5 prompts"),
        (partial(UniformPrompts, 5, 1, batch=2), "generations is 1; expected a whole number >= 2"),
        (partial(PromptAgent, 5, 4, batch=2, pool=0), "pool is 0"),
        (partial(PromptAgent, 5, 4, batch=2, config=3), "config is a int"),
        (partial(PromptConfig, explore=1.5), r"explore is 1.5; expected a number in \[0, 1\]"),
        (partial(PromptConfig, reward_range=(1, 1)), "expected low < high"),
        (partial(PromptConfig, hidden=0), "hidden is 0"),
        (partial(CategoryPrompts, 5, 4, batch=2, categories=[0]), "one for each prompt"),
        (partial(BucketPrompts, 5, 4, batch=2, difficulty=[0.0]), "one for each prompt"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
