"""One of each thing that a user may add, as CONTRIBUTING describes it: a file like this, and a line in a table each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onebit.common.fields import Positive, checked
from onebit.data import DATASETS, DatasetEntry
from onebit.data.splits import LoadedFiles
from onebit.data.toy import make_toy
from onebit.export import EXPORTS, Target
from onebit.fold import FOLDS
from onebit.fold.chain import Pending
from onebit.models import MODELS, ModelEntry
from onebit.models.settings import Model
from onebit.models.stack import ConvNet, Stack
from onebit.optim import OPTIMIZERS, OptimizerEntry
from onebit.optim.settings import Optimizer, StepPlan
from onebit.packed import OPS, Node, Value
from onebit.quantizers import WEIGHT_QUANTIZERS, BinaryWeight, Quantizer, sign


class OwnSign(Quantizer):
    """gain·sign(w) with the gradient passed on unchanged."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, latent: Tensor) -> Tensor:
        return latent + (self.gain * sign(latent) - latent).detach()

    def decompose(self, latent: Tensor) -> BinaryWeight:
        return BinaryWeight(sign(latent.detach()), latent.new_full((len(latent),), self.gain))


class OwnOptimizer(torch.optim.SGD):
    """SGD."""


@checked(frozen=True)
class OwnSettings(Optimizer):
    """SGD.

    Args:
        own_option: factor on the learning rate
    """

    own_option: Positive = 1.0

    def make(self, kind: Any, groups: list[dict[str, Any]], plan: StepPlan) -> torch.optim.Optimizer:
        return OwnOptimizer([group | {"lr": group["lr"] * self.own_option} for group in groups])


class Negate(nn.Module):
    """−x."""

    def forward(self, x: Tensor) -> Tensor:
        return -x


def own_net(*, input_shape: Sequence[int] = (1, 8, 8), classes: int = 4, own_units: int = 4, **options: Any) -> ConvNet:
    """Two dense layers and −x."""
    net = Stack(input_shape, classes, **options).head(own_units)
    net.add_module("negate", Negate())
    return net


@checked(frozen=True)
class OwnUnits(Model):
    """Two dense layers.

    Args:
        own_units: hidden units
    """

    own_units: int | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class NegateNode(Node):
    """−x of real values."""

    def infer(self, *inputs: Value) -> Value:
        return Value(inputs[0].shape, "real")

    def compute(self, dtype: Any, *arrays: Any) -> np.ndarray:
        return -arrays[0].astype(dtype)


def fold_negate(folder: Any, call: Any, x: Any) -> Any:
    return Pending(folder.emit(NegateNode, call.name, folder.write(x)))


def read_own(**where: Any) -> LoadedFiles:
    return LoadedFiles(*make_toy(128, 64, seed=1), "", ())


OWN_DATA = DatasetEntry(
    name="own_data",
    title="made-up patterns",
    read=read_own,
    classes=("a", "b", "c", "d"),
    input_shape=(1, 8, 8),
    counts=(128, 64),
    validation=32,
    licence="none",
    stored=False,
)
RECIPE = """
name: own-recipe
summary: one of each
dataset: own_data
model: {name: own_net, weight_quantizer: own_sign, weight_options: {gain: 0.5}, own_units: 16, init: default}
optimizer: {name: own_optimizer, lr: 0.05, own_option: 2.0}
epochs: 1
batch_size: 32
device: cpu
"""
ROWS: list[tuple[Any, Any, Any]] = [
    (WEIGHT_QUANTIZERS, "own_sign", OwnSign),
    (OPTIMIZERS, "own_optimizer", OptimizerEntry(OwnOptimizer, settings=OwnSettings)),
    (MODELS, "own_net", ModelEntry(own_net, settings=OwnUnits)),
    (DATASETS, "own_data", OWN_DATA),
    (EXPORTS, "own_target", Target(text="arrays of NumPy", module="support.own_target", suffixes=(".npz",))),
    (OPS, "negate", NegateNode),
    (FOLDS, Negate, fold_negate),
]
"""Table, name and entry."""
