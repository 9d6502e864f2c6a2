"""BinaryConnect in your own loop, with your own model: python examples/minimal_binaryconnect.py"""

import torch
from torch import nn

import onebit

torch.manual_seed(0)
data = onebit.load_dataset("mnist-sample")  # 10,000 digits that ship with onebit; "mnist" for all 70,000

model = nn.Sequential(
    nn.Flatten(),
    nn.Linear(784, 256, bias=False),
    nn.BatchNorm1d(256),
    nn.ReLU(),
    nn.Linear(256, 10, bias=False),
    nn.BatchNorm1d(10),
)
onebit.binarize_(model, weight_quantizer="sign")  # forward and backward use ±1; the parameters stay real
optimizer = onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(model, lr=0.01)))  # clips latents to [-1, 1]

images = torch.from_numpy(data.train.images).float() / 255
labels = torch.from_numpy(data.train.labels)
for _ in range(3):
    for batch in torch.randperm(len(images)).split(100):
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

model.eval()
test_images = torch.from_numpy(data.test.images).float() / 255
correct = int((model(test_images).argmax(dim=1) == torch.from_numpy(data.test.labels)).sum())
print(f"{correct} of {len(data.test)} test digits correct with binary weights")
