"""Terms of a batch's loss, sample by sample, against hand-computed numbers and torch's own."""

import math

import pytest
import torch
import torch.nn.functional as F

from data_agent import losses
from data_agent.errors import InputError
from data_agent.integrations._batches import RECHECK, LossScale, find_head, pool, tells
from data_agent.losses import (
    SampleLosses,
    check_decomposition,
    class_losses,
    multi_label_losses,
    pixel_losses,
    regression_losses,
    sample_losses,
    token_losses,
)
from data_agent.selecting.taps import HeadTap

TELLS = SampleLosses(torch.tensor([1.0, 2.0, 3.0]), torch.ones(3), labels=torch.arange(3))


def of(logits, labels, *, problem=None, predicts_next=False, **inputs):
    return sample_losses(
        {"labels": labels, **inputs},
        {"logits": logits},
        problem=problem,
        predicts_next=predicts_next,
    )


def test_classes():
    samples = of(torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]), torch.tensor([1, 1]))
    torch.testing.assert_close(samples.sums, torch.tensor([math.log(2), math.log(4)]))
    assert samples.counts.tolist() == [1, 1]
    assert samples.logits.shape == (2, 2)


def test_a_label_that_does_not_count_is_no_term():
    samples = of(torch.randn(2, 3), torch.tensor([1, -100]))
    assert samples.counts.tolist() == [1, 0]
    assert samples.losses[1] == 0


def test_several_labels():
    samples = of(
        torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), problem="multi_label_classification"
    )
    torch.testing.assert_close(samples.sums, torch.tensor([2 * math.log(2)]))
    assert samples.counts.tolist() == [2]
    assert samples.uncertainty.tolist() == [1.0]  # two fair coins


def test_regression_of_one_and_of_two_outputs():
    one = of(torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 2.0]), problem="regression")
    assert one.sums.tolist() == [4.0, 0.0]
    two = of(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]]), problem="regression")
    assert two.losses.tolist() == [2.5]
    assert two.uncertainty.tolist() == [0.0]


@pytest.mark.parametrize("chunk", [2**24, 7, 1])
def test_tokens_in_chunks_of_any_size(chunk, monkeypatch):
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", chunk)
    logits, labels = torch.randn(3, 5, 4, requires_grad=True), torch.randint(0, 4, (3, 5))
    labels[0, 2:] = -100
    labels[2] = -100
    samples = of(logits, labels)
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(3, 5)
    torch.testing.assert_close(samples.sums, each.sum(1))
    assert samples.counts.tolist() == [2, 5, 0]
    assert samples.losses[2] == samples.uncertainty[2] == 0
    p = logits[1].softmax(-1)
    entropy = -(p * p.log()).sum(-1).mean() / math.log(4)
    torch.testing.assert_close(samples.uncertainty[1], entropy)
    assert samples.sums.requires_grad
    assert not samples.uncertainty.requires_grad


PIXELS, CLASSES = torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(0)), 4
TARGETS = torch.randint(0, CLASSES, (3, 6, 5), generator=torch.Generator().manual_seed(1))
TARGETS[0, :2], TARGETS[2] = 255, 255


def test_pixels_by_hand():
    logits = torch.tensor([[0.0, 0.0, math.log(3)], [0.0, 0.0, 0.0]])  # two classes, three pixels
    samples = pixel_losses(logits.view(1, 2, 1, 3), torch.tensor([[[0, 9, 1]]]), ignore_index=9)
    torch.testing.assert_close(samples.sums, torch.tensor([math.log(2) + math.log(4)]))
    assert samples.counts.tolist() == [2]
    of_three_to_one = (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(2)
    torch.testing.assert_close(samples.uncertainty, torch.tensor([(1 + of_three_to_one) / 2]))


@pytest.mark.parametrize("chunk", [2**24, 130, 1])
def test_pixels_in_chunks_of_any_size_come_to_torchs_own_mean(chunk, monkeypatch):
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", chunk)
    logits = PIXELS.clone().requires_grad_()
    samples = pixel_losses(logits, TARGETS, ignore_index=255)
    assert samples.counts.tolist() == [20, 30, 0]
    assert samples.losses[2] == samples.uncertainty[2] == 0
    whole = F.cross_entropy(logits, TARGETS, ignore_index=255)
    check_decomposition(samples.losses, whole, samples.counts)
    alone = F.cross_entropy(logits[:1], TARGETS[:1], ignore_index=255)
    torch.testing.assert_close(samples.losses[0], alone)
    (ours,) = torch.autograd.grad(samples.sums.sum() / samples.counts.sum(), logits)
    (theirs,) = torch.autograd.grad(whole, logits)
    torch.testing.assert_close(ours, theirs)


def test_one_channel_is_the_logit_of_two_classes():
    logits, targets = PIXELS[:, :1], (TARGETS == 1).long()
    samples = pixel_losses(logits, targets)
    binary = F.binary_cross_entropy_with_logits(logits[:, 0], targets.float(), reduction="none")
    torch.testing.assert_close(samples.losses, binary.mean((1, 2)))


def test_pixels_of_a_smaller_map_are_those_of_the_map_made_larger():
    larger = F.interpolate(PIXELS, size=(12, 10), mode="bilinear", align_corners=False)
    targets = torch.randint(0, CLASSES, (3, 12, 10))
    small, large = pixel_losses(PIXELS, targets), pixel_losses(larger, targets)
    torch.testing.assert_close(small.sums, large.sums)
    torch.testing.assert_close(small.uncertainty, large.uncertainty)


@pytest.mark.parametrize("targets", [TARGETS[:, None], F.one_hot(TARGETS % 4).movedim(3, 1)])
def test_targets_that_are_no_classes_of_pixels_are_told_what_to_take(targets):
    with pytest.raises(InputError, match=r"expected \[B, C, h, w\] and \[B, H, W\].*squeeze.*argm"):
        pixel_losses(PIXELS, targets)
    mended = targets.squeeze(1) if targets.shape[1] == 1 else targets.argmax(1)
    assert pixel_losses(PIXELS, mended, ignore_index=255).counts.sum() in (50, 90)


def test_each_kinds_losses_come_to_torchs_own_mean():
    logits, classes = torch.randn(6, 3), torch.tensor([0, 2, -100, 1, 1, -100])
    several, numbers = torch.randint(0, 2, (6, 3)).float(), torch.randn(6, 3)
    tokens = torch.randint(0, 3, (2, 5))
    tokens[0, 3:] = -100
    scores = torch.randn(2, 5, 3)
    for samples, whole in (
        (class_losses(logits, classes), F.cross_entropy(logits, classes)),
        (
            multi_label_losses(logits, several),
            F.binary_cross_entropy_with_logits(logits, several),
        ),
        (regression_losses(logits, numbers), F.mse_loss(logits, numbers)),
        (token_losses(scores, tokens), F.cross_entropy(scores.mT, tokens)),
    ):
        check_decomposition(samples.losses, whole, samples.counts)


def test_losses_that_do_not_come_to_the_batchs_are_told_by_how_much():
    each = torch.tensor([1.0, 2.0, 6.0])
    check_decomposition(each, torch.tensor(3.0))
    check_decomposition(each, torch.tensor(4.75), torch.tensor([1, 0, 3]))
    check_decomposition(each.bfloat16(), torch.tensor(3.01))
    for loss, weight, says in (
        (6.0, None, r"come to 3, .* batch is 6, 2 times as much.*weight=.*backpropagate"),
        (3.0, torch.tensor([1.0, 0.0, 0.0]), "which is their plain mean: leave weight out"),
        (math.nan, None, "is nan"),
    ):
        with pytest.raises(InputError, match=says):
            check_decomposition(each, torch.tensor(loss), weight)
    with pytest.raises(InputError, match=r"shapes \[3\], \[3\], None; expected \[B\], \[\] and"):
        check_decomposition(each, each)


def test_a_causal_model_predicts_the_next_token():
    logits = torch.randn(2, 4, 6)
    labels = torch.tensor([[1, 2, 3, 4], [5, 4, 3, -100]])
    samples = of(logits, labels, predicts_next=True)
    expected = [
        F.cross_entropy(logits[0, :3], labels[0, 1:]),
        F.cross_entropy(logits[1, :2], labels[1, 1:3]),
    ]
    torch.testing.assert_close(samples.losses, torch.stack(expected))
    assert samples.mask.tolist() == [[True, True, True, False], [True, True, False, False]]
    shifted = F.pad(labels, (0, 1), value=-100)[:, 1:]
    given = of(logits, labels, predicts_next=True, shift_labels=shifted)
    assert torch.equal(given.sums, samples.sums)


def test_logits_of_minus_infinity_have_no_entropy():
    logits = torch.tensor([[[0.0, 0.0, -math.inf]]])
    samples = of(logits, torch.tensor([[0]]))
    torch.testing.assert_close(samples.uncertainty, torch.tensor([math.log(2) / math.log(3)]))


def test_half_precision_is_read_in_float32():
    logits = torch.randn(4, 3, dtype=torch.bfloat16)
    assert of(logits, torch.tensor([0, 1, 2, 0])).sums.dtype == torch.float32


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({}, {"logits": torch.randn(2, 3)}, "the batch has no tensor 'labels'"),
        ({"labels": torch.ones(2)}, (torch.randn(2, 3),), "model's output has no tensor 'logits'"),
        ({"labels": torch.rand(2, 3)}, {"logits": torch.randn(2, 3)}, "config.problem_type"),
        (
            {"labels": torch.ones(2, 3, dtype=torch.int64)},
            {"logits": torch.randn(2, 5, 4)},
            r"\[2, 5\] \(rows, positions\), the labels about \[2, 3\]",
        ),
    ],
)
def test_what_cannot_be_told_is_refused(inputs, outputs, message):
    with pytest.raises(InputError, match=message):
        sample_losses(inputs, outputs, problem=None, predicts_next=False)


def test_rows_must_be_samples():
    with pytest.raises(InputError, match=r"sums came with shape \[2, 3\]"):
        SampleLosses(torch.ones(2, 3), torch.ones(2, 3))


def test_pooling_counts_only_what_the_mask_names():
    features = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [7.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert pool(features, mask).tolist() == [[2.0], [0.0]]
    assert pool(features, None)[1].tolist() == [7.0]
    with pytest.raises(InputError, match=r"input is about \[2, 3\]"):
        pool(features, mask[:, :2])


def test_the_scale_is_known_once_the_candidates_differ():
    scale = LossScale(accumulation=2)
    both, apart = [torch.tensor(3.0)] * 2, [torch.tensor(3.0), torch.tensor(1.5)]
    assert found(scale, 3.0, both) == 0  # either: not decided
    assert found(scale, 1.5, apart) == 1
    assert found(scale, 1.5, apart) == 1
    assert found(scale, 99.0, apart) == 1  # decided, by a batch that tells: no look at the 3rd
    assert found(scale, 99.0, apart, always=True) is None
    assert found(LossScale(accumulation=1), 9.0, apart) is None
    assert found(LossScale(accumulation=1), math.nan, apart) == 0


def found(scale, loss, expected, samples=TELLS, *, always=False):
    return scale.find(torch.tensor(loss), expected, samples, always=always)


@pytest.mark.parametrize(
    ("losses", "labels"),
    [
        ([1.1, 1.1, 1.1, 1.1], [0, 1, 2, 0]),  # a head that is zero
        ([1.0, 2.0, 3.0, 4.0], [1, 1, 1, 1]),  # the weight of one class cancels
        ([1.0, 2.0, 0.0, 0.0], [1, 1, -100, -100]),  # and so it does here
        ([3.0], [1]),
    ],
)
def test_a_batch_that_cannot_tell_settles_nothing(losses, labels):
    labels = torch.tensor(labels)
    dull = SampleLosses(torch.tensor(losses), (labels >= 0).long(), labels=labels)
    scale, expected = LossScale(accumulation=1), [torch.tensor(2.0)]
    assert not tells(dull)
    for _ in range(20):
        assert found(scale, 2.0, expected, dull) == 0
    assert found(scale, 9.0, expected) is None


def test_batches_that_never_tell_are_not_compared_for_ever():
    dull = SampleLosses(torch.ones(2), torch.ones(2))
    scale, expected, looks = LossScale(accumulation=1), [torch.tensor(2.0)], []
    for number in range(2 * RECHECK + 1):
        if found(scale, 9.0, expected, dull) is None:
            looks.append(number)
    assert looks == [*range(RECHECK + 1), 128, 2 * RECHECK]


def test_what_a_batch_has_told_is_compared_again_later():
    scale, expected = LossScale(accumulation=1), [torch.tensor(2.0)]
    assert found(scale, 2.0, expected) == 0
    looks = [n for n in range(1, 3 * RECHECK) if found(scale, 9.0, expected) is None]
    assert looks == [1, 2, 4, 8, 16, 32, 64, RECHECK, 128, 2 * RECHECK, 256]


def of_classes(*labels):
    labels, losses = torch.tensor(labels), torch.arange(1.0, 1 + len(labels))
    return SampleLosses(losses, torch.ones(len(labels)), torch.zeros(len(labels), 4), labels)


def test_classes_that_were_never_in_one_batch_are_compared_when_they_come_together():
    scale, expected = LossScale(accumulation=1), [torch.tensor(2.0)]
    for number in range(40):
        batch = of_classes(0, 1) if number % 2 else of_classes(2, 3)
        assert found(scale, 2.0, expected, batch) == 0
    assert found(scale, 9.0, expected, of_classes(0, 0, 1)) == 0  # known: no look
    assert found(scale, 9.0, expected, of_classes(1, 2)) is None  # as if of other weights
    assert found(scale, 2.0, expected, of_classes(1, 2)) == 0
    assert found(scale, 9.0, expected, of_classes(0, 3)) == 0  # all are compared now


def test_a_single_sample_is_always_compared():
    scale, expected = LossScale(accumulation=1), [torch.tensor(2.0)]
    assert all(found(scale, 2.0, expected, of_classes(0)) == 0 for _ in range(RECHECK + 20))
    assert found(scale, 9.0, expected, of_classes(0)) is None


def test_the_head_is_the_layer_that_makes_the_logits():
    class Model(torch.nn.Module):
        def __init__(self, num_labels):
            super().__init__()
            self.config = type("Config", (), {"num_labels": num_labels})
            self.body, self.classifier = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)

    model = Model(3)
    assert find_head(model) is model.classifier
    assert find_head(Model(5)) is None


def test_only_training_forwards_are_kept_and_no_hook_stays():
    head = torch.nn.Linear(4, 2)
    tap, x = HeadTap(head), torch.randn(3, 4)
    head.eval()(x)
    with torch.no_grad():
        head.train()(x)
    assert tap.take_features() is None
    head(x)
    assert torch.equal(tap.take_features(), x)
    assert tap.take_features() is None
    tap.remove()
    assert not head._forward_hooks
