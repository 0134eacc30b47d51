"""Every remedy that a message about a batch names is carried out here, and works."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate

from data_agent import DataAgent, DataAgentConfig, Feedback, make_selector, selection_loader
from data_agent.agent.reward import difficulty, uncertainty
from data_agent.errors import DataAgentWarning, InputError, StateError
from data_agent.labels import LabelRules
from data_agent.labels.ruled import RuledSelector

SIZE = 40
X = torch.randn(SIZE, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (SIZE,), generator=torch.Generator().manual_seed(1))


def ready(name="data-agent", **options):
    """A selector in its first epoch, its first samples, and a head that it watches."""
    selector = make_selector(name, num_samples=SIZE, epochs=3, keep_ratio=0.5, **options)
    head = nn.Linear(4, 3)
    selector.watch(head)
    selector.begin_epoch(0)
    return selector, head, selector.select(0).index[:8]


def losses_of(head, index, **options):
    return F.cross_entropy(head(X[index]), Y[index], reduction="none", **options)


def test_losses_of_tokens():
    agent, _, index = ready()
    tokens, table = torch.randint(0, 9, (8, 12)), nn.Embedding(9, 9)
    losses = F.cross_entropy(
        table(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    with pytest.raises(InputError, match=r"mean over those.*losses\.view\(8, -1\)\.mean\(1\)"):
        agent.learn(losses, index)
    agent.learn(
        losses.view(8, -1).mean(1), index, features=torch.ones(8, 4), uncertainty=torch.rand(8)
    )


def test_one_loss_for_all_and_losses_of_several_dimensions():
    agent, head, index = ready()
    with pytest.raises(InputError, match='Compute the loss with reduction="none"'):
        agent.learn(losses_of(head, index).mean(), index)
    with pytest.raises(InputError, match="Average over the other dimensions first"):
        agent.learn(losses_of(head, index)[:, None].repeat(1, 3), index)
    agent.learn(losses_of(head, index)[:, None].repeat(1, 3).mean(1), index)


class Holes(Dataset):
    def __len__(self):
        return SIZE

    def __getitem__(self, i):
        return None if i % 7 == 3 else (X[i], Y[i])


def test_rows_that_were_left_out():
    agent, head, index = ready()
    keep = torch.arange(8) != 3
    losses = losses_of(head, index[keep])
    with pytest.raises(InputError, match=r"Were rows left out.*index\[keep\].*Subset\(dataset"):
        agent.learn(losses, index)
    agent.learn(losses_of(head, index[keep]), index[keep])
    usable = [i for i in range(SIZE) if Holes()[i] is not None]
    data = Subset(Holes(), usable)
    agent = DataAgent(len(data), 3)
    agent.watch(head)
    for _ in agent.epochs():
        for x, y, own in selection_loader(
            data, agent, batch_size=8, collate_fn=lambda rows: default_collate(rows)
        ):
            agent.learn(F.cross_entropy(head(x), y, reduction="none"), own)


def test_an_index_of_another_shape_or_type():
    agent, head, index = ready()
    with pytest.raises(InputError, match=r"index\.flatten\(\)"):
        agent.learn(losses_of(head, index), index[:, None])
    agent.learn(losses_of(head, index), index[:, None].flatten())
    agent, head, _ = ready()
    with pytest.raises(InputError, match="loader made by selection_loader"):
        agent.learn(losses_of(head, index), index.tolist())
    loader: DataLoader = selection_loader(TensorDataset(X, Y), agent, batch_size=8)
    *_, own = next(iter(loader))
    agent.learn(losses_of(head, own), own)


def test_labels_of_several_classes_and_of_a_regression():
    for name in ("data-agent", "label-aware"):
        agent, head, index = ready(name)
        rows = F.one_hot(Y[index], 3)
        with pytest.raises(InputError, match=r"labels\.argmax\(1\).*the class before mixing"):
            agent.learn(losses_of(head, index), index, labels=0.7 * rows + 0.3 * rows.flip(0))
        agent.learn(losses_of(head, index), index, labels=Y[index])
        agent, head, index = ready(name)
        agent.learn(losses_of(head, index), index, labels=rows.argmax(1))
        agent, head, index = ready(name)
        with pytest.raises(InputError, match=r"shape \[8, 1\].*Pass labels\.flatten\(\)"):
            agent.learn(losses_of(head, index), index, labels=Y[index][:, None])
        agent.learn(losses_of(head, index), index, labels=Y[index][:, None].flatten())
        agent, head, index = ready(name)
        with pytest.raises(InputError, match=r"labels\.long\(\); for a regression leave"):
            agent.learn(losses_of(head, index), index, labels=Y[index].float())
        agent.learn(losses_of(head, index), index, labels=Y[index].float().long())
    names = ("cat", "dog", "cat", "owl", "dog", "cat", "owl", "cat")  # as a loader collates words
    agent, head, index = ready("label-aware")
    with pytest.raises(InputError, match=r"got tuple\. Pass torch\.as_tensor\(labels\)\. Number"):
        agent.learn(losses_of(head, index), index, labels=names)
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    labels = torch.as_tensor([numbers[name] for name in names])
    agent.learn(losses_of(head, index), index, labels=labels)
    for name in ("data-agent", "random"):  # "a method without label rules, such as"
        agent, head, index = ready(name)
        agent.learn(losses_of(head, index), index)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("label-aware", {}, r"take a method without label rules, such as data-agent or random"),
        ("top-loss", {"label_rules": LabelRules()}, r"build it with label_rules=None\."),
        ("data-agent", {"config": DataAgentConfig(label_rules=LabelRules())}, "label_rules=None"),
    ],
)
def test_rules_without_labels(name, options, message):
    agent, head, index = ready(name, **options)
    with pytest.raises(InputError, match=message):
        agent.learn(losses_of(head, index), index)
    agent.learn(losses_of(head, index), index, labels=Y[index])
    agent, head, index = ready(name, **options)
    agent.learn(losses_of(head, index), index, labels=torch.full_like(index, -100))
    if name != "label-aware":
        without: dict = {"label_rules": None}
        if name == "data-agent":
            without = {"config": DataAgentConfig(label_rules=None)}
        agent, head, index = ready(name, **without)
        agent.learn(losses_of(head, index), index)


def test_no_suspects_without_rules():
    agent, _, _ = ready()
    assert isinstance(agent, RuledSelector)
    with pytest.raises(InputError, match=r"label_rules=LabelRules\(\).*DataAgentConfig.*label-aw"):
        agent.suspects()
    for name, options in (
        ("data-agent", {"config": DataAgentConfig(label_rules=LabelRules())}),
        ("top-loss", {"label_rules": LabelRules()}),
        ("label-aware", {}),
    ):
        selector = ready(name, **options)[0]
        assert isinstance(selector, RuledSelector)
        assert not selector.suspects().any()


@pytest.mark.parametrize("learns", [True, False])
def test_a_closure_that_is_called_several_times(learns):
    """The remedy is carried out with a head that is watched and with steps that follow."""
    agent = DataAgent(SIZE, 3, keep_ratio=0.5)
    head = nn.Linear(4, 3)
    agent.watch(head)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=3)

    def train():
        for _ in agent.epochs():
            for x, y, index in selection_loader(TensorDataset(X, Y), agent, batch_size=10):
                num_calls = 0

                def closure(x=x, y=y, index=index):
                    nonlocal num_calls
                    num_calls += 1
                    optimizer.zero_grad()
                    losses = F.cross_entropy(head(x), y, reduction="none")
                    mean = agent.learn if learns else agent.weighted_mean
                    loss = mean(losses, index)
                    loss.backward()
                    return loss

                optimizer.step(closure)
                assert num_calls > 1
                with torch.no_grad():
                    logits = head(x)
                    losses = F.cross_entropy(logits, y, reduction="none")
                agent.observe(Feedback(index, losses, logits=logits, features=x))

    if learns:
        with pytest.raises(StateError, match=r"LBFGS.*let the closure.*weighted_mean.*Feedb"):
            train()
    else:
        train()
        assert agent.visits == agent.schedule.total_visits


def test_logits_and_features_that_are_not_one_row_a_sample():
    agent, head, index = ready()
    tokens = torch.randn(8, 5, 3)
    for name in ("logits", "features"):
        with pytest.raises(InputError, match="pool images over space, sequences over the tokens"):
            agent.learn(losses_of(head, index), index, **{name: tokens})
    mask = torch.rand(8, 5) < 0.9
    pooled = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    agent.learn(losses_of(head, index), index, features=pooled, logits=pooled)


def test_losses_without_a_graph():
    agent, head, index = ready()
    with torch.no_grad():
        losses = losses_of(head, index)
    with pytest.raises(StateError, match=r"agent\.observe\(Feedback\(index, losses"):
        agent.learn(losses, index)
    agent.observe(Feedback(index, losses, logits=torch.randn(8, 3), features=X[index]))


def test_a_policy_without_features():
    agent, head, index = ready()
    agent.unwatch()
    with pytest.raises(InputError, match=r"Call agent\.watch\(head\).*or pass features="):
        agent.learn(losses_of(head, index), index, uncertainty=torch.rand(8))
    agent.learn(losses_of(head, index), index, uncertainty=torch.rand(8), features=X[index])
    agent, head, index = ready()
    agent.unwatch()
    losses = losses_of(head, index).detach()
    agent.observe(Feedback(index, losses, features=X[index], uncertainty=torch.rand(8)))
    agent, head, index = ready()
    agent.learn(losses_of(head, index), index)


def test_a_task_without_logits():
    agent, head, index = ready()
    agent.unwatch()
    with pytest.raises(InputError, match=r"features=\[B, D\] or a watched head are needed there"):
        agent.learn(losses_of(head, index), index, features=X[index])
    for given in ({"logits": torch.randn(8, 3)}, {"logits": torch.randn(8)}):
        agent, head, index = ready()
        agent.learn(losses_of(head, index), index, features=X[index], **given)
    agent, head, index = ready(config=DataAgentConfig(signals=(difficulty,)))
    agent.unwatch()
    agent.learn(losses_of(head, index), index, features=X[index])


def test_signals_of_ones_own():
    def too_wide(feedback):
        return feedback.logits

    def too_large(feedback):
        return feedback.losses * 100

    def scaled(feedback):
        v = too_large(feedback)
        return (v - v.min()) / (v.max() - v.min()).clamp_min(1e-8)

    for signal, message in (
        (too_wide, r"for example by \.mean\(1\)"),
        (too_large, r"\(v - v\.min\(\)\) / \(v\.max\(\) - v\.min\(\)\)\.clamp_min\(1e-8\)"),
    ):
        agent, head, index = ready(config=DataAgentConfig(signals=(signal, uncertainty)))
        with pytest.raises(InputError, match=message):
            agent.learn(losses_of(head, index), index)
    reduced = (scaled, lambda feedback: too_wide(feedback).softmax(1).mean(1))
    agent, head, index = ready(config=DataAgentConfig(signals=reduced))
    agent.learn(losses_of(head, index), index)


def test_classes_that_are_masked_by_minus_infinity():
    agent, head, index = ready()
    losses = losses_of(head, index)
    masked = torch.randn(8, 3)
    masked[:, 2] = -torch.inf
    with pytest.raises(InputError, match="without classes that are masked by -inf"):
        agent.learn(losses, index, logits=masked, features=X[index])
    agent.learn(losses, index, logits=masked[:, :2], features=X[index])
    agent, head, index = ready(on_nonfinite="skip")
    agent.learn(losses_of(head, index), index, logits=masked, features=X[index])
    with pytest.warns(DataAgentWarning, match="were not trained on"):
        agent.begin_epoch(1)
    assert agent.metrics()["skipped_nonfinite"] == 8


# Labels over the epochs.


def epochs_of(labels_in, *, head=None, fails=""):
    agent = make_selector("label-aware", num_samples=SIZE, epochs=3, keep_ratio=1.0)
    head = nn.Linear(4, 3) if head is None else head
    agent.watch(head)
    for epoch in agent.epochs():
        for x, y, index in selection_loader(TensorDataset(X, Y), agent, batch_size=8):
            losses = F.cross_entropy(head(x), y, reduction="none")
            agent.learn(losses, index, labels=labels_in(epoch, y))
    return agent


def test_labels_that_change_are_told_with_numbers():
    with pytest.warns(DataAgentWarning, match="40 of 40 samples came with another label"):
        epochs_of(lambda epoch, y: (y + epoch) % 3)
    with pytest.warns(DataAgentWarning, match="40 of 40 samples came with another label"):
        epochs_of(lambda epoch, y: (y + (epoch == 2)) % 3)
    epochs_of(lambda epoch, y: y)  # "pass each sample's own label"


def test_labels_that_stop_in_mid_run_are_told_with_numbers():
    with pytest.warns(DataAgentWarning, match="40 samples of the last epoch had a label"):
        epochs_of(lambda epoch, y: torch.full_like(y, -100) if epoch else y)
    with pytest.warns(DataAgentWarning, match="40 samples of the last epoch had a label"):
        epochs_of(lambda epoch, y: torch.full_like(y, -100) if epoch == 2 else y)  # no other comes
    with pytest.raises(InputError, match="no labels came"):
        epochs_of(lambda epoch, y: None if epoch else y)


def test_labels_beyond_the_outputs_are_told_with_numbers():
    with pytest.warns(DataAgentWarning, match=r"40 samples .*labels of 3 or more.*from 0 to 2"):
        epochs_of(lambda epoch, y: y + 100)
    epochs_of(lambda epoch, y: torch.where(y == 2, 255, y))  # a class to be ignored


def test_a_few_labels_that_change_are_not_worth_a_word():
    def corrected(epoch, y):
        return torch.where(torch.arange(len(y)) == 0, (y + epoch) % 3, y) if epoch == 1 else y

    agent = make_selector("label-aware", num_samples=SIZE, epochs=3, keep_ratio=1.0)
    head = nn.Linear(4, 3)
    agent.watch(head)
    for epoch in agent.epochs():
        for number, (x, y, index) in enumerate(
            selection_loader(TensorDataset(X, Y), agent, batch_size=8)
        ):
            labels = corrected(epoch, y) if number == 0 else y
            losses = F.cross_entropy(head(x), y, reduction="none")
            agent.learn(losses, index, labels=labels)
