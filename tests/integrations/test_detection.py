"""Object detectors of transformers under a Trainer: losses, uncertainties, features are found."""

import re
import runpy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks

transformers = pytest.importorskip("transformers", reason="needs the extra [transformers]")

from detectors import Shapes, collate, detector  # noqa: E402
from trainers import Ours, arguments, replay, train, weights  # noqa: E402

from data_agent import DataAgent, DataAgentConfig  # noqa: E402
from data_agent.errors import InputError, StateError  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*'pin_memory' argument is set as true.*:UserWarning"),
]
SIZE, EPOCHS = 24, 4
AGENT = partial(DataAgent, keep_ratio=0.5, config=DataAgentConfig(update_every=2, rollout_rows=16))


class Watching(Ours):
    """Keeps what the selector is told of each batch."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.told = []

    def compute_sample_losses(self, inputs, outputs):
        samples = super().compute_sample_losses(inputs, outputs)
        self.told.append((float(outputs["loss"].detach()), samples))
        return samples

    def _has_own_losses(self):
        return False  # the parts are still compared with the Trainer's loss


def detecting(folder, **changes):
    return arguments(
        folder, **{"remove_unused_columns": False, "num_train_epochs": EPOCHS, **changes}
    )


def run(model, folder, *, kind=Ours, args=None, **options):
    args = detecting(folder) if args is None else args
    return train(model, Shapes(SIZE), args, kind=kind, data_collator=collate, **options)


@pytest.mark.parametrize("family", ["Yolos", "Detr", "RTDetr"])
def test_all_signals_are_found_without_being_told(family, tmp_path):
    ours = run(detector(family), tmp_path, kind=Watching, selector=AGENT)
    assert ours.selector.visits == ours.selector.schedule.total_visits
    for loss, samples in ours.told:
        assert float(samples.sums.sum()) == pytest.approx(loss, rel=1e-5)
        assert float((samples.losses * samples.counts).sum()) == pytest.approx(loss, rel=1e-5)
        assert ((samples.uncertainty >= 0) & (samples.uncertainty <= 1)).all()
        assert samples.features.std(0).mean() > 0
    table = ours.selector.table()
    seen = table["visits"] > 0
    assert len(set(table["loss"][seen])) == seen.sum()
    assert "_loss_function" not in vars(ours.model), "the model has its loss back"


def test_the_method_is_picked_and_keep_ratio_one_is_the_trainer_alone(tmp_path):
    ours = run(detector("Detr"), tmp_path, keep_ratio=1.0)
    assert ours.selector.name == "data-agent"
    args = detecting(tmp_path)
    theirs = replay(ours, detector("Detr"), Shapes(SIZE), args, data_collator=collate)
    assert torch.equal(weights(ours), weights(theirs))
    half = run(detector("Detr"), tmp_path, keep_ratio=0.5)
    assert not torch.equal(weights(half), weights(theirs))


@pytest.mark.parametrize("family", ["Detr", "DFine"])
def test_weights_of_samples_weigh_the_parts_of_the_loss(family, tmp_path):
    class Weighing(Watching):
        def compute_loss(self, *args, **kwargs):
            index = (self._batch or [])[0]
            loss = super().compute_loss(*args, **kwargs)
            plain, samples = self.told[-1]
            weights = self.selector.weights_of(index)  # none in the first epoch
            weights = torch.ones(len(index)) if weights is None else weights
            expected.append(float((weights * samples.sums.detach()).sum()))
            unweighed.append(plain)
            came.append(float(loss.detach()))
            return loss

    expected, unweighed, came = [], [], []
    run(detector(family), tmp_path, kind=Weighing, selector="infobatch", keep_ratio=0.5)
    assert came == pytest.approx(expected, rel=1e-5)
    assert came != pytest.approx(unweighed, rel=1e-2)


def test_images_are_chosen_inside_of_a_batch_with_their_boxes(tmp_path):
    ours = run(detector("Yolos"), tmp_path, selector="data-agent-in-batch", keep_ratio=0.5)
    assert ours.selector.visits == EPOCHS * SIZE // 2


def test_signals_can_be_exchanged_one_by_one(tmp_path):
    class Mine(Ours):
        def compute_sample_losses(self, inputs, outputs):
            samples = super().compute_sample_losses(inputs, outputs)
            return replace(samples, uncertainty=torch.full_like(samples.sums, 0.5))

    ours = run(detector("Yolos"), tmp_path, kind=Mine)
    table = ours.selector.table()
    assert (table["uncertainty"][table["visits"] > 0] == 0.5).all()


def test_evaluation_is_the_trainers_own(tmp_path):
    args = detecting(tmp_path, eval_strategy="epoch", prediction_loss_only=True)
    ours = run(detector("Yolos"), tmp_path, args=args, eval_dataset=Shapes(6))
    losses = [entry["eval_loss"] for entry in ours.state.log_history if "eval_loss" in entry]
    assert len(losses) == EPOCHS


def test_another_objective_is_refused_with_both_numbers(tmp_path):
    class Double(Ours):
        def _loss_and_outputs(self, model, inputs, num_items):
            loss, outputs = super()._loss_and_outputs(model, inputs, num_items)
            return 2 * loss, outputs

    with pytest.raises(InputError, match=r"loss is .* read from the model come to .*objective"):
        run(detector("Yolos"), tmp_path, kind=Double)


def test_a_loss_without_the_model_is_refused(tmp_path):
    def own(outputs, labels, num_items_in_batch=None):
        return outputs["logits"].mean()

    with pytest.raises(StateError, match="computed no loss in training mode"):
        run(detector("Yolos"), tmp_path, compute_loss_func=own)


# The page and the example.

ROOT = Path(__file__).parents[2]
LOOP, TRAINER, TORCHVISION, ULTRALYTICS = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "detection.md").read_text(), flags=re.DOTALL
)


def test_the_loop_of_the_page():
    model = detector("Yolos")
    names: dict[str, Any] = {
        **{"train_set": Shapes(SIZE), "collate": collate, "model": model},
        "optimizer": torch.optim.SGD(model.parameters(), lr=1e-3),
    }
    exec(LOOP, names)
    agent = names["agent"]
    assert agent.visits == agent.schedule.total_visits
    assert "uncertainty" in agent.table()


def test_the_trainer_of_the_page(tmp_path):
    names: dict[str, Any] = {
        **{"SelectiveTrainer": Ours, "replace": replace},
        "my_uncertainty": lambda outputs: torch.full((len(outputs["logits"]),), 0.5),
    }
    exec(TRAINER, names)
    ours = run(detector("Yolos"), tmp_path, kind=names["MyTrainer"])
    table = ours.selector.table()
    assert (table["uncertainty"][table["visits"] > 0] == 0.5).all()


class Head:
    """Computes losses in the form of torchvision's RetinaNet: a mean over images."""

    def compute_loss(self, targets, outputs, anchors, matches):
        rows = zip(targets, outputs["cls_logits"], anchors, matches, strict=True)
        losses = [(t - o[m] + a).abs().mean() for t, o, a, m in rows]
        return {"classification": sum(losses) / len(losses), "bbox_regression": losses[0] * 0}


def test_the_head_of_the_page():
    names: dict[str, Any] = {"torch": torch}
    exec(TORCHVISION, names)
    head = Head()
    seen = names["read_images"](head)
    targets, anchors = torch.rand(2, 3, 5).unbind()
    outputs, matches = {"cls_logits": torch.rand(3, 5)}, [torch.randperm(5) for _ in range(3)]
    loss = head.compute_loss(list(targets), outputs, list(anchors), matches)["classification"]
    assert torch.stack(seen).mean() == pytest.approx(float(loss))
    assert len(set(seen)) == 3


def test_the_hook_for_ultralytics_slices_one_image_after_the_other():
    """Of a criterion that counts what it is given: nothing here may depend on ultralytics."""
    names: dict[str, Any] = {"torch": torch}
    exec(ULTRALYTICS, names)

    class Criterion:
        def parse_output(self, preds):
            return preds

        def loss(self, preds, batch):
            assert len(preds["boxes"]) == len(preds["scores"]) == len(preds["feats"][0]) == 1
            assert not batch["batch_idx"].any()
            loss = preds["scores"].sum() + batch["bboxes"].sum() + len(batch["cls"])
            return torch.stack([loss, loss * 0]), None

    scores, boxes = torch.rand(3, 4, 6), torch.rand(5, 4)
    batch = {
        **{"img": torch.zeros(3, 1), "bboxes": boxes, "cls": torch.zeros(5, 1)},
        "batch_idx": torch.tensor([0.0, 0, 2, 2, 2]),
    }
    preds = {"boxes": scores, "scores": scores, "feats": [scores]}
    losses = names["losses_of_images"](Criterion(), preds, batch)
    expected = scores.sum((1, 2)) + torch.stack([boxes[:2].sum(), torch.zeros(()), boxes[2:].sum()])
    assert torch.allclose(losses, expected + torch.tensor([2.0, 0, 3]))


def test_the_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before, after = runpy.run_path(str(ROOT / "examples" / "detection.py"))["main"]()
    assert after < 0.85 * before
    assert "epoch 10/10" in capsys.readouterr().out


def on_a_rank(rank, folder):
    ours = run(detector("Detr"), folder, kind=Watching, selector=AGENT)
    gaps = [abs(float(s.sums.sum()) / loss - 1) for loss, s in ours.told]
    return {"gap": max(gaps), "weights": weights(ours), "visits": ours.selector.visits}


@pytest.mark.distributed
def test_on_two_processes_the_parts_are_those_of_each_processs_loss(tmp_path):
    first, second = run_ranks(on_a_rank, tmp_path, tmp_path)
    assert max(first["gap"], second["gap"]) < 1e-5
    assert torch.equal(first["weights"], second["weights"])
    assert first["visits"] == second["visits"]
