"""The last epochs, at the lowest learning rates, must not train on what was rejected before."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from makers import maker_of

from data_agent import DataAgent, DataAgentConfig, Feedback, make_selector
from data_agent.labels import LabelRules
from data_agent.methods import METHODS, method_class
from data_agent.selecting.batch_selector import BatchSelector
from data_agent.trusted import TrustedConfig

SIZE, NUM_CLASSES, EPOCHS, FINAL = 1200, 10, 24, 3
DRAWS = torch.Generator().manual_seed(0)
TRUTH = torch.randint(0, NUM_CLASSES, (SIZE,), generator=DRAWS)
IS_WRONG = torch.rand(SIZE, generator=DRAWS) < 0.3
SHIFT = torch.randint(1, NUM_CLASSES, (SIZE,), generator=DRAWS)
LABELS = torch.where(IS_WRONG, (TRUTH + SHIFT) % NUM_CLASSES, TRUTH)
NOISE = torch.randn(SIZE, NUM_CLASSES, generator=DRAWS)
FEATURES = torch.stack([IS_WRONG * 2.0 - 1, *NOISE.T[:3]], dim=1)
TRUSTED = (~IS_WRONG).nonzero().squeeze(1)[:40]
AGENT = {"update_every": 2, "rollout_rows": 64}


def outputs(epoch, visits, *, mood):
    """Logits [N, C]: wrong labels look wrong; or are memorised; or the model is lost in the end."""
    if mood == "lost" and epoch >= EPOCHS - FINAL:
        return NOISE
    believed = torch.where(visits >= 3, LABELS, TRUTH) if mood == "memorising" else TRUTH
    return NOISE + 5.0 * F.one_hot(believed, NUM_CLASSES)


def selections(selector, mood):
    """The samples of each epoch of a run."""
    visits = torch.zeros(SIZE, dtype=torch.int64)
    for epoch in selector.epochs():
        index = selector.select(epoch).index
        yield index
        logits = outputs(epoch, visits, mood=mood)
        losses = F.cross_entropy(logits, LABELS, reduction="none")
        visits[index] += 1
        for rows in index[torch.randperm(len(index), generator=DRAWS)].split(300):
            selector.observe(
                Feedback(rows, losses[rows], logits[rows], FEATURES[rows], LABELS[rows])
            )


INPUTS = {"labels": LABELS, "groups": LABELS, "scores": torch.rand(SIZE, generator=DRAWS)}
MAKERS = {
    name: maker_of(name, INPUTS)
    for name in METHODS
    if not issubclass(method_class(name), BatchSelector)
    and method_class(name).default_schedule != "static"
}
MAKERS["policy with rules"] = partial(
    DataAgent, config=DataAgentConfig(**AGENT, label_rules=LabelRules(), schedule="to-the-end")
)
MAKERS["policy with rules, exact"] = partial(
    DataAgent, config=DataAgentConfig(**AGENT, label_rules=LabelRules())
)
MAKERS["trusted"] = partial(DataAgent, trusted=TRUSTED, config=TrustedConfig(update_every=3))
MAKERS["doubts without shares"] = partial(
    make_selector, "label-aware", label_rules=LabelRules(class_shares=False)
)
MAKERS["ranking with rules"] = partial(make_selector, "top-loss", label_rules=LabelRules())


CASES = [
    (name, mood)
    for name in MAKERS
    for mood in (("memorising", "lost") if name not in METHODS or name == "label-aware" else ("",))
]


@pytest.mark.parametrize(("name", "mood"), CASES)
def test_no_epoch_of_the_final_phase_holds_more_of_what_was_rejected_than_the_data(name, mood):
    keep_ratio = 1.0 if name.startswith("infobatch") else 0.5
    selector = MAKERS[name](num_samples=SIZE, epochs=EPOCHS, keep_ratio=keep_ratio)
    final = list(selections(selector, mood))[-FINAL:]
    share, visits = float(IS_WRONG.float().mean()), torch.zeros(SIZE, dtype=torch.int64)
    for index in final:
        slack = 3 * math.sqrt(share * (1 - share) / len(index) * (1 - len(index) / SIZE))
        wrong = float(IS_WRONG[index].float().mean())
        assert wrong <= share + slack
        visits[index] += 1
        if selector.schedule.kind != "to-the-end":  # then of no kind
            assert wrong >= share - slack
    if selector.schedule.kind != "to-the-end":
        assert visits.max() - visits.min() <= 1
