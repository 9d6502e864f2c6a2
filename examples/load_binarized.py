"""A ±1 checkpoint in plain torch, without onebit: python examples/load_binarized.py plain.pth

`onebit export runs/mnist-fast --to torch -o plain.pth` writes such a checkpoint: a state_dict whose weight matrices
hold nothing but -1 and +1. Layers of torch.nn load it as it is.
"""

import sys

import torch
from torch import nn

state = torch.load(sys.argv[1], weights_only=True)

layers: list[nn.Module] = [nn.Flatten()]
weights = [value for value in state.values() if value.dim() == 2]
for weight in weights:
    outputs, inputs = weight.shape
    layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
model = nn.Sequential(*layers[:-1])  # no ReLU after the last layer

# the same tensors in the same order, whatever the layers were called
model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
model.eval()

for weight in weights:
    print(f"{tuple(weight.shape)}: values {sorted(weight.unique().tolist())}")
image = torch.zeros(1, 28, 28)
image[0, 4:24, 13:15] = 1  # a vertical stroke
with torch.no_grad():
    # nets of onebit are trained on pixels coded as 2x - 255
    print("a vertical stroke is a", int(model(510 * image - 255).argmax()))
