"""Load a trained CIFAR ResNet in plain torch, without onebit: python examples/load_binarized_resnet.py plain.pth

For exports of `cifar10-resnet20-binaryconnect` and other ResNets of He et al. 2016, section 4.2, with ReLU.
"""

import re
import sys

import torch
import torch.nn.functional as F

state = torch.load(sys.argv[1], weights_only=True)
names = list(dict.fromkeys(key.rpartition(".")[0] for key in state))  # names of the layers
blocks = list(dict.fromkeys(name.rpartition(".")[0] for name in names if name.startswith("layer")))
known = r"coding|conv1|bn1|layer\d\.\d+\.(conv|bn)[12]|fc|last_norm"
if wrong := [name for name in names if not re.fullmatch(known, name)] + sys.argv[2:] + ["no blocks"][: not blocks]:
    sys.exit(f"got {wrong[0]!r}, expected a CIFAR ResNet; load_binarized.py takes MLPs")


def norm(name: str, x: torch.Tensor) -> torch.Tensor:
    mean, var, weight, bias = (state.get(f"{name}.{k}") for k in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias)


def net(images: torch.Tensor) -> torch.Tensor:
    """Logits of images (N, 3, 32, 32), 0 to 255."""
    x = (images - state["coding.mean"]) / state["coding.std"] if "coding" in names else 2.0 * images - 255
    x = F.relu(norm("bn1", F.conv2d(x, state["conv1.weight"], padding=1)))
    for block in blocks:
        first, second = (state[f"{block}.{name}.weight"] for name in ("conv1", "conv2"))
        stride, new = (2, len(first) - x.shape[1]) if len(first) > x.shape[1] else (1, 0)
        y = F.relu(norm(f"{block}.bn1", F.conv2d(x, first, stride=stride, padding=1)))
        shortcut = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, new // 2, new - new // 2))
        x = F.relu(norm(f"{block}.bn2", F.conv2d(y, second, padding=1)) + shortcut)
    x = F.linear(x.mean((2, 3)), state["fc.weight"], state.get("fc.bias"))
    return norm("last_norm", x) if "last_norm" in names else x


print(*(f"{key}: {len(value.unique())} values" for key, value in state.items() if value.dim() > 1), sep="\n")
