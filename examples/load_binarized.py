"""Load a trained MLP in plain torch, without onebit: python examples/load_binarized.py plain.pth [sign]

`onebit export RUN --to torch -o plain.pth` writes a state_dict whose binary weights have two values per row. The file
does not contain the activation between layers: here ReLU, or the sign with the argument `sign`, as in `mnist-bnn`.
"""

import re
import sys

import torch
import torch.nn.functional as F

state, words = torch.load(sys.argv[1], weights_only=True), sys.argv[2:]
names = list(dict.fromkeys(key.rpartition(".")[0] for key in state))  # names of the layers
if wrong := [name for name in names if not re.fullmatch(r"coding|(linear|norm)\d+", name)] + words[words == ["sign"] :]:
    sys.exit(f"got {wrong[0]!r}, expected an MLP (and optionally sign); load_binarized_resnet.py takes CIFAR ResNets")
weights = [state[name + ".weight"] for name in names if name.startswith("linear")]


def norm(name: str, x: torch.Tensor) -> torch.Tensor:
    if f"{name}.running_mean" not in state:  # the last layer may have no BatchNorm
        return x
    mean, var, weight, bias = (state.get(f"{name}.{k}") for k in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias)


def net(images: torch.Tensor) -> torch.Tensor:
    """Logits of images (N, C, H, W), 0 to 255."""
    x = (images - state["coding.mean"]) / state["coding.std"] if "coding" in names else 2.0 * images - 255
    x = x.flatten(1)
    for i, weight in enumerate(weights, start=1):
        if i > 1:  # a layer with real weights takes real inputs
            x = torch.where(x >= 0, 1.0, -1.0) if words and len(weight[0].unique()) <= 2 else F.relu(x)
        x = norm(f"norm{i}", F.linear(x, weight, state.get(f"linear{i}.bias")))
    return x


print(*(f"{tuple(weight.shape)}: {len(weight.unique())} values" for weight in weights), sep="\n")
