"""The loss of each image of a detector against the model: alone, in a batch, by gradient."""

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers", reason="needs the extra [transformers]")

from detectors import FAMILIES, detector, inputs_of  # noqa: E402

from data_agent.detector_terms import Term  # noqa: E402
from data_agent.detectors import class_uncertainty  # noqa: E402
from data_agent.errors import InputError, StateError  # noqa: E402
from data_agent.losses import DetectorLosses, SampleLosses  # noqa: E402

DENOISING = ("RTDetr", "RTDetrV2", "DFine", "Deimv2")
COUNTS = (2, 0, 5, 1)


@pytest.fixture(params=FAMILIES)
def family(request):
    if not hasattr(transformers, f"{request.param}ForObjectDetection"):
        pytest.skip(f"this version of transformers has no {request.param}")
    return request.param


def read(model, batch) -> SampleLosses:
    """The images of one training forward."""
    reader = DetectorLosses(model)
    images = reader.take(model(**batch))
    reader.remove()
    return images


def close(value, expected, tolerance=1e-5):
    return float(value) == pytest.approx(float(expected), rel=tolerance)


def test_parts_add_up_to_the_loss_of_the_batch(family):
    """Image by image, and at once as soon as that agreed; with empty images, and only these."""
    model = detector(family)
    reader = DetectorLosses(model)
    for counts in [COUNTS, COUNTS, (0, 0), (3,), (0,)]:
        outputs = model(**inputs_of(family, counts=counts))
        images = reader.take(outputs)
        loss = outputs.loss.detach()
        assert close(images.sums.sum(), loss), counts
        assert close((images.losses * images.counts).sum(), loss), counts
        assert images.uncertainty is not None
        assert images.features is not None
        assert ((images.uncertainty >= 0) & (images.uncertainty <= 1)).all()
        assert images.features.shape[0] == len(counts)


def test_what_the_model_returns_is_bitwise_what_it_was(family):
    model, batch = detector(family), inputs_of(family)
    gradients, reader = [], None
    for forward in range(4):
        if forward == 1:
            reader = DetectorLosses(model)
        elif forward == 3:
            reader.remove()
        torch.manual_seed(0)
        outputs = model(**batch)
        outputs.loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        gradients[-1] += [outputs.loss.detach(), *outputs.loss_dict.values()]
        model.zero_grad()
    for other in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], other, strict=True))


def test_an_image_has_the_loss_that_the_model_gives_it_alone(family):
    """A plain loop over images; in evaluation, where no queries for denoising tie them together."""
    model, batch = detector(family).eval(), inputs_of(family)
    reader = DetectorLosses(model)
    with torch.no_grad(), reader.scoring():
        ways = [reader.take(model(**batch)).losses for _ in range(2)]
    reader.remove()
    for i in range(len(COUNTS)):
        alone = {name: values[i : i + 1] for name, values in batch.items()}
        with torch.no_grad():
            loss = model(**alone).loss
        assert all(close(losses[i], loss, 1e-4) for losses in ways), f"image {i}"


def test_the_gradient_of_a_part_is_the_loss_gradient_at_its_image(family):
    """In training, with auxiliary layers and denoising, whose noise is drawn for all at once."""
    model, batch = detector(family), inputs_of(family)
    for module in model.modules():  # which would tie the images together
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    pixels = batch["pixel_values"].requires_grad_()
    reader = DetectorLosses(model)
    reader.with_graph = True
    for _ in range(2):  # at once where that agreed, else image by image
        outputs = model(**batch)
        images = reader.take(outputs)
    (of_loss,) = torch.autograd.grad(outputs.loss, pixels, retain_graph=True)
    for i, part in enumerate(images.sums):
        (of_part,) = torch.autograd.grad(part, pixels, retain_graph=True)
        scale = of_loss.abs().max()
        assert (of_part[i] - of_loss[i]).abs().max() <= 1e-4 * scale
        others = [j for j in range(len(pixels)) if j != i]
        assert of_part[others].abs().max() <= 1e-5 * scale
    reader.remove()


@pytest.mark.parametrize("family", DENOISING)
def test_the_losses_above_have_terms_of_auxiliary_layers_and_of_denoising(family):
    terms = detector(family)(**inputs_of(family)).loss_dict
    assert any("_aux_" in name for name in terms)
    assert any("_dn_" in name for name in terms)


@pytest.mark.parametrize(
    ("family", "plainly"),
    [("Detr", ""), ("RTDetr", ""), ("LwDetr", ""), ("DFine", "local"), ("GroundingDino", "labels")],
)
def test_terms_that_agreed_once_cost_no_more_calls(family, plainly, monkeypatch):
    """What is said here of D-FINE and Grounding DINO is what docs/detection.md says."""
    called = []
    computed = Term._computed

    def counting(term):
        called.append((term.name, term.size))
        return computed(term)

    monkeypatch.setattr(Term, "_computed", counting)
    model, batch = detector(family), inputs_of(family)
    reader = DetectorLosses(model)
    for _ in range(2):
        called.clear()
        reader.take(model(**batch))
    assert {name for name, size in called if size == 1} == ({plainly} if plainly else set())


def test_terms_that_do_not_agree_are_read_image_by_image(monkeypatch):
    """A criterion that sums something else on its way."""
    from transformers.loss.loss_for_object_detection import ImageLoss

    def odd(self, outputs, targets, indices, num_boxes):
        terms = boxes(self, outputs, targets, indices, num_boxes)
        return {name: 2 * term - term for name, term in terms.items()} | {
            "loss_giou": (outputs["pred_boxes"] ** 2).flatten(1).sum(1)[:1].sum() * 0 + 1.0
        }

    boxes = ImageLoss.loss_boxes
    monkeypatch.setattr(ImageLoss, "loss_boxes", odd)
    model, batch = detector("Yolos"), inputs_of("Yolos")
    reader = DetectorLosses(model)
    with pytest.raises(InputError, match="no sum over images"):
        reader.take(model(**batch))
    assert "boxes" not in {name for name, agreed in reader._agrees.items() if agreed}


def test_shares_are_those_of_the_boxes_or_of_the_weights_of_queries():
    images = read(detector("ConditionalDetr"), inputs_of("ConditionalDetr"))
    assert torch.allclose(images.counts, torch.tensor([2, 1, 5, 1]) / 8)
    images = read(detector("Detr"), inputs_of("Detr"))
    boxes = torch.tensor([2, 0, 5, 1])
    weights = boxes + 0.1 * (12 - boxes)
    low, high = sorted([boxes / 8, weights / weights.sum()], key=lambda shares: shares[0])
    between = (images.counts >= torch.minimum(low, high) - 1e-6) & (
        images.counts <= torch.maximum(low, high) + 1e-6
    )
    assert between.all()


@pytest.mark.parametrize("family", ["DFine", "Deimv2"])
def test_a_part_of_the_distillation_is_what_is_left_without_the_other_images(family):
    """The one term that is no sum over boxes: where all others are their own teachers."""
    from data_agent.detector_terms import _distilled_parts, _distilled_where_matched

    model = detector(family)
    module = __import__("transformers.loss.loss_d_fine", fromlist=["DFineLoss"])
    criterion = module.DFineLoss(model.config)
    draws = torch.Generator().manual_seed(3)
    queries, width = 12, 4 * (model.config.max_num_bins + 1)
    outputs = {
        "pred_boxes": torch.rand(4, queries, 4, generator=draws) * 0.5 + 0.1,
        "pred_corners": torch.randn(4, queries, width, generator=draws),
        "ref_points": torch.rand(4, queries, 4, generator=draws) * 0.5 + 0.1,
        "teacher_corners": torch.randn(4, queries, width, generator=draws),
        "teacher_logits": torch.randn(4, queries, 3, generator=draws),
    }
    targets = inputs_of(family)["labels"]
    indices = [(torch.randperm(queries, generator=draws)[:n], torch.arange(n)) for n in COUNTS]

    def term(outputs, rows=slice(None)):
        sliced = {name: value[rows] for name, value in outputs.items()}
        return criterion.get_loss("local", sliced, targets[rows], indices[rows], 8.0)["loss_ddf"]

    def each(outputs):
        return torch.stack([term(outputs, slice(i, i + 1)) for i in range(4)])

    matches = torch.tensor(COUNTS)
    matched = each(_distilled_where_matched(outputs, indices))
    parts = _distilled_parts(each(outputs), matched, matches, queries)
    for i, part in enumerate(parts):
        teachers = outputs["pred_corners"].clone()
        teachers[i] = outputs["teacher_corners"][i]
        assert close(part, term({**outputs, "teacher_corners": teachers}))
    assert close(parts.sum(), term(outputs))


# Uncertainty.


def test_uncertainty_by_hand():
    matches = [(torch.tensor([1]), torch.tensor([0])), (torch.tensor([]).long(),) * 2]
    logits = torch.full((2, 3, 2), -20.0)
    logits[0, 1, 0] = 0.0  # the matched query: a fair coin
    logits[1, 2, 1] = 20.0  # the surest query of an image without boxes
    expected = torch.tensor([1.0, 0.0])
    assert torch.allclose(class_uncertainty(logits, matches, exclusive=False), expected, atol=1e-5)
    logits = torch.zeros(2, 3, 4)
    logits[0, 1] = torch.tensor([0.0, 0.0, -50.0, -50.0])  # two of four: log 2 / log 4
    logits[1, 0, 3] = logits[1, 1, 3] = 50.0  # sure of nothing; the third query knows nothing
    expected = torch.tensor([0.5, 1.0])
    assert torch.allclose(class_uncertainty(logits, matches, exclusive=True), expected, atol=1e-5)


def test_masked_tokens_of_a_prompt_do_not_spoil_the_uncertainty():
    logits = torch.full((1, 2, 4), -torch.inf)
    logits[0, 0, 0] = 0.0
    (value,) = class_uncertainty(logits, [(torch.tensor([0]), torch.tensor([0]))], exclusive=False)
    assert value == 1


# What is refused.


def test_evaluation_is_left_alone_and_take_says_what_is_missing():
    model, batch = detector("Yolos").eval(), inputs_of("Yolos")
    reader = DetectorLosses(model)
    with torch.no_grad():
        outputs = model(**batch)
    with pytest.raises(StateError, match=r"computed no loss in training mode since .* labels="):
        reader.take(outputs)


def test_outputs_of_another_forward_are_told_by_their_loss():
    model, batch = detector("Yolos"), inputs_of("Yolos")
    reader = DetectorLosses(model)
    first = model(**batch)
    model(**inputs_of("Yolos", counts=(1, 1)))
    with pytest.raises(InputError, match=r"the losses of the 2 images come to .* but the model's"):
        reader.take(first)


def test_a_model_without_a_loss_function_or_with_another_one_is_refused():
    with pytest.raises(InputError, match="got a Linear without a loss_function"):
        DetectorLosses(nn.Linear(2, 2))
    model = detector("Yolos")
    model.loss_function = lambda logits, *_, **__: (logits.mean(), {}, None)
    reader = DetectorLosses(model)
    with pytest.raises(InputError, match="not computed by a criterion with get_loss and matcher"):
        model(**inputs_of("Yolos"))
    reader.remove()
    assert float(model(**inputs_of("Yolos")).loss.detach()) != 0, "its own function is back"


def test_a_term_that_is_no_sum_over_images_is_found(monkeypatch):
    from transformers.loss.loss_for_object_detection import ImageLoss

    def squared(self, outputs, targets, indices, num_boxes):
        terms = boxes(self, outputs, targets, indices, num_boxes)
        return {name: term**2 for name, term in terms.items()}

    boxes = ImageLoss.loss_boxes
    monkeypatch.setattr(ImageLoss, "loss_boxes", squared)
    with pytest.raises(InputError, match="a term of this model is no sum over images"):
        read(detector("Yolos"), inputs_of("Yolos"))
