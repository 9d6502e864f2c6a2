"""A net with two outputs, in your own loop: which digit, and how much ink: python examples/own_models/two_outputs.py"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import onebit

images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
images = images.float() / 16
ink = images.mean(1, keepdim=True) * 10 - 3


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU())
        self.digit = nn.Sequential(nn.Linear(256, 10, bias=False), nn.BatchNorm1d(10))
        self.ink = nn.Sequential(nn.Linear(256, 1, bias=False), nn.BatchNorm1d(1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.body(x)
        return {"digit": self.digit(x), "ink": self.ink(x)}


torch.manual_seed(0)
print(onebit.binarize_(model := TwoHeads()))
optimizer = onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(model, lr=0.005)))
for _ in range(20):
    for batch in torch.randperm(1300).split(50):
        made = model(images[batch])
        loss = F.cross_entropy(made["digit"], labels[batch]) + F.mse_loss(made["ink"], ink[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
targets = {"digit": labels[1300:], "ink": ink[1300:]}
packed = onebit.pack(model.eval(), images[:2], data=images[1300:], labels=targets)
print(onebit.verify(model, packed, images[1300:], labels=targets))
print({name: found.shape for name, found in onebit.run(packed, images).items()})
