"""A residual net in functional style on scikit-learn's digits: python examples/own_models/residual.py"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import onebit

digits = load_digits()
images, labels = torch.from_numpy(digits.images).float()[:, None] / 16, torch.from_numpy(digits.target)
train, test = (images[:1300], labels[:1300]), (images[1300:], labels[1300:])


class Residual(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(5))
        self.gain = nn.Parameter(torch.ones(width, 1, 1))
        self.head = nn.Linear(width, 10, bias=False)
        self.last = nn.BatchNorm1d(10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.stem(x * 2 - 1)))
        for conv, norm in zip(self.convs, self.norms[1:], strict=True):
            x = F.relu(norm(conv(x)) + x)
        x = (x * self.gain).mean((2, 3))
        return self.last(self.head(torch.flatten(x, 1)))


torch.manual_seed(0)
print(onebit.binarize_(model := Residual(), weight_quantizer="xnor"))
optimizer = onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(model, lr=0.003)))
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8 * 26)
onebit.fit(model, train, optimizer, epochs=8, batch_size=50, schedule=schedule, verbose=False)
score = onebit.evaluate(model, test, weights="binary", verbose=False)
print(f"binary weights: {score.correct} of {score.count} test digits correct")
print((packed := onebit.pack(model, images[:2], data=test)).statement)
