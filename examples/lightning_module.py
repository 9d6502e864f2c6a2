"""A LightningModule with binary weights, trained by Lightning and packed: python examples/lightning_module.py"""

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import onebit


class Digits(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        hidden = nn.Linear(784, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU()
        last = nn.Linear(256, 10, bias=False), nn.BatchNorm1d(10)
        self.net = nn.Sequential(onebit.InputCoding(), nn.Flatten(), *hidden, *last)
        onebit.binarize_(self.net, weight_quantizer="sign")

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch  # irnet, adabin and recu need onebit.set_progress(self, share of steps done) here
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(self, lr=0.01)))  # clips latents to [-1, 1]


data = onebit.load_dataset("mnist-sample")  # 10,000 digits that ship with onebit
train = TensorDataset(torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels))
lightning.seed_everything(0, verbose=False)
module = Digits()
trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False)
trainer.fit(module, DataLoader(train, batch_size=100, shuffle=True))

packed = onebit.pack(module.net.eval(), data.test.images[:2], data=data.test)
print(packed.statement)
