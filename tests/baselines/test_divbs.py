"""DivBS: the greedy order by hand, and against its definition with the gradients written out."""

import pytest
import torch

from data_agent import Feedback
from data_agent.baselines.divbs import DivBS, last_layer_gram, representative_order
from data_agent.baselines.el2n import prediction_error
from data_agent.errors import InputError


def batch(size=12, *, num_classes=4, num_features=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, num_classes, generator=generator) * 2
    features = torch.randn(size, num_features, generator=generator)
    labels = torch.randint(num_classes, (size,), generator=generator)
    return logits, labels, features


def gradients(logits, labels, features):
    error = prediction_error(logits, labels)
    return (error.unsqueeze(2) * features.unsqueeze(1)).flatten(1)


def greedy(vectors, count):
    """The definition: take the highest correlation with what is left, remove its direction."""
    left = vectors.mean(0)
    basis, order = [], []
    for _ in range(count):
        correlation = (vectors @ left).abs()
        correlation[order] = -1
        order.append(int(correlation.argmax()))
        direction = vectors[order[-1]].clone()
        for unit in basis:
            direction = direction - (unit @ direction) * unit
        basis.append(direction / direction.norm())
        left = left - (basis[-1] @ left) * basis[-1]
    return order


def test_the_order_by_hand():
    vectors = torch.tensor([[3.0, 0.0], [4.0, 0.0], [0.0, 1.0]])
    # The mean is (7, 1)/3. The longest correlates most; then only (0, 1)/3 is left.
    assert representative_order(vectors @ vectors.T, 3).tolist() == [1, 2, 0]
    assert representative_order(vectors @ vectors.T, 1).tolist() == [1]


def test_what_is_explained_leaves_the_rest_in_the_pools_order():
    vectors = torch.tensor([[1.0], [1.0], [2.0], [1.0]])
    assert representative_order(vectors @ vectors.T, 4).tolist() == [2, 0, 1, 3]
    assert representative_order(torch.zeros(3, 3), 3).tolist() == [0, 1, 2]


def test_the_gram_matrix_is_that_of_the_gradients():
    vectors = gradients(*batch())
    assert torch.allclose(last_layer_gram(*batch()), vectors @ vectors.T, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_follows_its_definition(seed):
    vectors = gradients(*batch(seed=seed)).double()
    assert representative_order(vectors @ vectors.T, 8).tolist() == greedy(vectors, 8)


def build(num_samples=24):
    return DivBS(num_samples=num_samples, epochs=2, keep_ratio=0.5)


def pool(index):
    logits, labels, features = batch(len(index))
    return Feedback(index, torch.ones(len(index)), logits, features, labels)


def test_a_pool_gives_the_beginning_of_the_order():
    selector = build()
    selector.begin_epoch(0)
    feedback = pool(torch.arange(12))
    keep = selector.select_batch(feedback)
    expected = greedy(gradients(*batch()), 6)
    assert sorted(expected) == keep.nonzero().squeeze(1).tolist()
    assert torch.equal(keep, selector.select_batch(feedback))


def test_a_duplicate_adds_nothing():
    logits, labels, features = batch(6)
    logits, labels, features = logits.repeat(2, 1), labels.repeat(2), features.repeat(2, 1)
    selector = build(num_samples=12)
    selector.begin_epoch(0)
    feedback = Feedback(torch.arange(12), torch.ones(12), logits, features, labels)
    kept = selector.select_batch(feedback).nonzero().squeeze(1)
    assert sorted((kept % 6).tolist()) == list(range(6))


@pytest.mark.parametrize("missing", ["logits", "features", "labels"])
def test_what_is_missing_is_named(missing):
    full = pool(torch.arange(12))
    parts = {name: getattr(full, name) for name in ("logits", "features", "labels")}
    feedback = Feedback(full.index, full.losses, **{**parts, missing: None})
    selector = build()
    selector.begin_epoch(0)
    with pytest.raises(InputError, match=rf"no {missing} came: .*last layer's input"):
        selector.select_batch(feedback)


def test_a_sample_without_a_label_has_no_gradient():
    """-100 stands for none, as in the loss, which leaves such a sample out."""
    logits, labels = torch.randn(3, 4), torch.tensor([1, -100, 2])
    error = prediction_error(logits, labels)
    assert error[1].tolist() == [0.0] * 4
    assert torch.equal(error[[0, 2]], prediction_error(logits[[0, 2]], labels[[0, 2]]))
