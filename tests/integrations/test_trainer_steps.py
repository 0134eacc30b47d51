"""Training steps and epochs of the user's own in a Trainer: none turns the selection off unseen."""

import pytest
import torch.nn.functional as F

transformers = pytest.importorskip("transformers", reason="needs the extra [transformers]")

from trainers import BATCH, SIZE, Ours, Texts, arguments, bert, train  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from data_agent.errors import DataAgentWarning, StateError  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*'pin_memory' argument is set as true.*:UserWarning"),
]


class AsInTutorials(Ours):
    """A training step that does all by itself."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        model.train()
        loss = self.compute_loss(model, self._prepare_inputs(inputs))
        self.accelerator.backward(loss)
        return loss.detach()


class AroundCompute(AsInTutorials):
    """Not even the loss is asked for."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        logits = model(input_ids=inputs["input_ids"]).logits
        return F.cross_entropy(logits, inputs["labels"])


@pytest.mark.parametrize("selector", ["data-agent-in-batch", "random"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (AsInTutorials, r"AsInTutorials.training_step did not call super\(\).training_step\(\)"),
        (AroundCompute, r"took \d+ steps, but .* observed not one sample.*super\(\).training_step"),
    ],
)
def test_a_training_step_without_ours_is_refused(kind, message, selector, tmp_path):
    args = arguments(tmp_path, num_train_epochs=1)
    with pytest.raises(StateError, match=message):
        train(bert(), Texts(), args, selector=selector, kind=kind)


def test_losses_that_are_asked_for_outside_of_training_are_the_trainers(tmp_path):
    trainer = Ours(model=bert(), args=arguments(tmp_path), train_dataset=Texts())
    batch = {k: v[None] for k, v in Texts()[0].items() if k in ("input_ids", "attention_mask")}
    batch["labels"] = batch["input_ids"][:, 1] % 3
    assert trainer.compute_loss(trainer.model, batch).requires_grad


class LeaveFirstEpoch(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_epoch_stop = state.global_step == 3


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}], ids=["1", "2"])
@pytest.mark.parametrize("selector", ["data-agent", "data-agent-in-batch"])
def test_an_epoch_that_is_left_early_is_called_so(selector, options, tmp_path):
    args = arguments(tmp_path, num_train_epochs=3, dataloader_num_workers=2, **options)
    leaving = {"selector": selector, "callbacks": [LeaveFirstEpoch()]}
    with pytest.warns(DataAgentWarning) as warned:
        ours = train(bert(), Texts(), args, keep_ratio=0.9, **leaving)
    size = len(ours.selector.select(2))
    left = size - 3 * BATCH * args.gradient_accumulation_steps
    assert [str(w.message).split(":")[0] for w in warned] == [
        f"{left} of the {size} samples of epoch 0 were not trained on"
    ]
    assert max(len(order) for order in ours.order) <= SIZE
