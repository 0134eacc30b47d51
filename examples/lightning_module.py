"""Lightning with a selection: the loader, one line in training_step, one callback.

pip install '.[lightning]'  # in a checkout
python examples/lightning_module.py
"""

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from data_agent import DataAgent, selection_loader
from data_agent.integrations.lightning import SelectionCallback

EPOCHS = 10


class Classifier(L.LightningModule):
    def __init__(self, agent, train_set):
        super().__init__()
        self.agent, self.train_set = agent, train_set
        self.body, self.head = nn.Linear(8, 32), nn.Linear(32, 2)
        agent.watch(self.head)  # its input is the feature, its output the logits

    def train_dataloader(self):  # here, not before fit(): here the processes know each other
        return selection_loader(self.train_set, self.agent, batch_size=32)

    def training_step(self, batch):
        x, y, index = batch
        losses = F.cross_entropy(self.head(self.body(x).relu()), y, reduction="none")
        return self.agent.learn(losses, index, labels=y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def main(folder=None):
    x = torch.randn(512, 8)
    train_set = TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())
    agent = DataAgent(num_samples=len(train_set), epochs=EPOCHS, keep_ratio=0.5)
    trainer = L.Trainer(
        max_epochs=EPOCHS,
        callbacks=[SelectionCallback(agent)],
        default_root_dir=folder,
        accelerator="auto",
        log_every_n_steps=4,
    )
    trainer.fit(Classifier(agent, train_set))  # to go on: ckpt_path="..."
    print(agent.summary())
    return agent


if __name__ == "__main__":
    main()
