"""One process, one seed, one batch size: every loop selects and learns the same."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from data_agent import DataAgent, DataAgentConfig, selection_loader
from data_agent.trusted import TrustedConfig, append_trusted

SIZE: int = 53
EPOCHS: int = 8
BATCH_SIZE: int = 4
NUM_TRUSTED: int = 0
SHARED_REST = {"SIZE": 54, "BATCH_SIZE": 13}  # 27 samples: 13 + 7 + 7, and no batch of one


class Rows(Dataset):
    """Vectors with a class each; as dictionaries, which every framework takes."""

    def __init__(self, size=None, seed=0):
        size = SIZE - NUM_TRUSTED if size is None else size
        self.x = torch.randn(size, 6, generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "labels": index % 3}


class Net(nn.Module):
    """Called as frameworks call models."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x, labels=None):
        logits = self.head(torch.relu(self.body(x)))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


class Noting(DataAgent):
    """Notes the batches that it observes."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.batches = []

    def observe(self, feedback):
        super().observe(feedback)
        self.batches.append((self.epoch, feedback.index.tolist()))


def make(**options):
    config = DataAgentConfig(update_every=2, rollout_rows=16)
    if "trusted" in options:
        config = TrustedConfig(update_every=2)
    return Noting(keep_ratio=0.5, seed=3, config=config, **options)


def trusted_rows():
    return Rows(NUM_TRUSTED, seed=1) if NUM_TRUSTED else None


def prepared():
    """Data, and an agent that knows which of them are trusted."""
    data, options = Rows(), {}
    if (trusted := trusted_rows()) is not None:
        data, options["trusted"] = append_trusted(data, trusted)
    return data, make(num_samples=len(data), epochs=EPOCHS, **options)


def by_hand(folder, accelerator=None, fabric=None):
    net, (data, agent) = Net(), prepared()
    model: nn.Module = net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    agent.watch(net.head)
    backward = torch.Tensor.backward
    if accelerator is None:
        loader = selection_loader(data, agent, batch_size=BATCH_SIZE)
    if fabric is not None:
        backward = fabric.backward
        model, optimizer = fabric.setup(net, optimizer)
        loader = fabric.setup_dataloaders(loader)
    if accelerator is not None:
        backward = accelerator.backward
        from data_agent.integrations.accelerate import selection_loader as for_accelerate

        loader = for_accelerate(data, agent, accelerator, batch_size=BATCH_SIZE)
        model, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    for _ in agent.epochs():
        for batch in loader:
            logits = model(batch["x"])["logits"]
            losses = F.cross_entropy(logits, batch["labels"], reduction="none")
            backward(agent.learn(losses, batch["sample_index"], labels=batch["labels"]))
            optimizer.step()
            optimizer.zero_grad()
    return net, agent


def by_accelerate(folder):
    accelerate = pytest.importorskip("accelerate", reason="needs the extra [accelerate]")
    return by_hand(folder, accelerate.Accelerator(cpu=True))


def by_trainer(folder):
    transformers = pytest.importorskip("transformers", reason="needs the extra [transformers]")
    from data_agent.integrations.transformers import SelectiveTrainer

    net = Net()
    args = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH_SIZE,
        use_cpu=True,
        max_grad_norm=0,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    trainer = SelectiveTrainer(
        model=net,
        args=args,
        train_dataset=Rows(),
        trusted_dataset=trusted_rows(),
        optimizers=(optimizer, constant),
        selector=make,
        head=net.head,
    )
    trainer.train()
    return net, trainer.selector


def by_fabric(folder):
    fabric = pytest.importorskip("lightning.fabric", reason="needs the extra [lightning]")
    return by_hand(folder, fabric=fabric.Fabric(accelerator="cpu", devices=1))


def by_lightning(folder):
    lightning = pytest.importorskip("lightning.pytorch", reason="needs the extra [lightning]")
    from data_agent.integrations.lightning import SelectionCallback

    net, (data, agent) = Net(), prepared()
    agent.watch(net.head)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def training_step(self, batch, _):
            logits = self.net(batch["x"])["logits"]
            losses = F.cross_entropy(logits, batch["labels"], reduction="none")
            return agent.learn(losses, batch["sample_index"], labels=batch["labels"])

        def train_dataloader(self):
            return selection_loader(data, agent, batch_size=BATCH_SIZE)

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=0.1)

    lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SelectionCallback(agent)],
    ).fit(Module())
    return net, agent


@pytest.fixture(
    params=[{}, SHARED_REST, {"NUM_TRUSTED": 9}],
    ids=["rest of three", "shared rest", "trusted rows"],
)
def _sizes(request, monkeypatch):
    for name, value in request.param.items():
        monkeypatch.setitem(globals(), name, value)


@pytest.mark.usefixtures("_sizes")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.filterwarnings("ignore:Starting from v1.9.0, `tensorboardX`")
@pytest.mark.parametrize("loop", [by_accelerate, by_trainer, by_fabric, by_lightning])
def test_every_loop_selects_and_learns_the_same(loop, tmp_path):
    net, agent = by_hand(tmp_path)
    other_net, other = loop(tmp_path)
    assert other.batches == agent.batches
    last = [13, 7, 7] if BATCH_SIZE == 13 else [4, 4, 4, 4, 4, 4, 3]
    assert [len(index) for _, index in agent.batches] == EPOCHS * last
    for mine, yours in zip(net.parameters(), other_net.parameters(), strict=True):
        assert torch.equal(mine, yours)
    if NUM_TRUSTED:
        assert torch.equal(agent.expected_actions(), other.expected_actions())
        assert "avoids" in agent.describe()
        assert agent.describe() == other.describe()
        return
    assert agent.policy.num_updates == EPOCHS * len(last) // (4 if len(last) == 7 else 2)
    ours, theirs = (one.policy.learner.networks.weights for one in (agent, other))
    assert torch.equal(ours, theirs)
