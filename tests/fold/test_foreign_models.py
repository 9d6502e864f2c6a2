"""Models that are not from onebit, written in several ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.export import export_net
from onebit.fold import pack
from onebit.layers import BinaryLinear, InputCoding, binarize_
from onebit.packed import Threshold, costs, dumps
from onebit.quantizers import SteSign
from onebit.runtime import run
from onebit.train.check import check
from onebit.train.printing import packing_lines
from support.fold_nets import (
    SHAPE,
    assert_agrees,
    images_of,
    kinds,
    make_mlp,
    make_nasty,
    torch_logits,
)


class Foreign(nn.Module):
    """A student's net: functional, with a default argument, and code that depends on shapes."""

    def __init__(self, flatten: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.flatten = flatten
        self.fc1, self.bn1, self.fc2 = nn.Linear(12, 20), nn.BatchNorm1d(20), nn.Linear(20, 20, bias=False)
        self.out = nn.Linear(20, 3)
        with torch.no_grad():
            for tensor in (self.bn1.weight, self.bn1.bias, self.bn1.running_mean, self.bn1.running_var):
                assert tensor is not None
                tensor.uniform_(0.5, 900)

    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        assert x.dim() == 4
        if x.shape[1] != 1 or len(x) < 1:
            raise ValueError("one channel")
        x = self.flatten(x)
        x = F.relu(self.bn1(self.fc1(x)))
        x = F.dropout(x, 0.5, self.training)
        x = F.relu(self.fc2(x))
        x = torch.relu(self.fc2(x))
        return x if features else self.out(x)


@pytest.mark.parametrize(
    "flatten",
    [
        lambda x: x.view(-1, 12),
        lambda x: x.view(x.shape[0], x.size()[1] * x.size(2) * x.size(-1)),
        lambda x: torch.reshape(x, (len(x), 12)).contiguous().float(),
    ],
)
def test_foreign_models_with_every_way_to_flatten(flatten: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(InputCoding(), binarize_(Foreign(flatten)).model).eval()
    packed = pack(model, input_shape=SHAPE)
    assert kinds(packed).count("Flatten") == 1
    assert kinds(packed).count("Dense") == 4  # fc2 is called twice
    assert packed.nodes[1].output == "1.fc1"
    assert_agrees(model, packed)


class Keywords(nn.Module):
    """Its parts have names that Python code cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"in": nn.Linear(12, 20, bias=False), "class": nn.BatchNorm1d(20), "a b": nn.ReLU()})
        self.add_module("lambda", nn.Linear(20, 3))
        self.register_parameter("is", nn.Parameter(torch.randn(3)))

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts.values():
            x = part(x)
        return self.get_submodule("lambda")(x) + self.get_parameter("is")


def test_modules_named_like_python_keywords(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = binarize_(Keywords()).model.eval(), torch.randn(8, 12)
    assert check(model, inputs).whole
    assert "packs whole" in packing_lines(model, inputs)[0]
    net = pack(model, inputs)
    torch.testing.assert_close(torch.from_numpy(run(net, inputs)), model(inputs).detach(), rtol=1e-4, atol=1e-4)
    assert export_net(net, "torch", tmp_path / "net.safetensors").comparison is not None


def test_foreign_sign_nets_get_thresholds() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(12, 50, bias=False),
        nn.BatchNorm1d(50),
        nn.Linear(50, 40, bias=False),
        nn.BatchNorm1d(40),
    )
    binarize_(net, input_quantizer="ste_sign")
    model = make_nasty(nn.Sequential(InputCoding(), net, SteSign(), nn.Linear(40, 3)))
    packed = pack(model, input_shape=SHAPE)
    expected = ["Flatten", "Dense", "Threshold", "Dense", "Threshold", "RealDense", "Affine"]
    assert kinds(packed) == expected
    assert packed.nodes[4].output == "2"
    assert_agrees(model, packed)


def test_a_shared_layer_is_folded_at_each_call() -> None:
    torch.manual_seed(0)
    shared = BinaryLinear(16, 16, input_quantizer="ste_sign")
    model = nn.Sequential(
        InputCoding(), nn.Flatten(), BinaryLinear(12, 16), shared, shared, nn.BatchNorm1d(16), shared
    ).eval()
    packed = pack(model, input_shape=SHAPE)
    assert [node.output for node in packed.nodes if isinstance(node, Threshold)] == [
        f"3.sign{suffix}" for suffix in ("", "_2", "_3")
    ]
    np.testing.assert_array_equal(run(packed, images_of()), torch_logits(model, images_of()))
    assert sum(row.binary_weights for row in costs(packed)) == 12 * 16 + 16 * 16
    assert packed.repeats == {"3.sign_2": "3.sign", "3.sign_3": "3.sign", "3_2": "3", "3_3": "3"}


def test_subclasses_without_a_forward_of_their_own_fold() -> None:
    class Plain(nn.Linear):
        pass

    first = [InputCoding(), nn.Flatten(), BinaryLinear(12, 6)]
    parametrized = torch.nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
    model = nn.Sequential(*first, Plain(6, 6), parametrized).eval()
    assert_agrees(model, pack(model, input_shape=SHAPE))


def test_a_compiled_model_is_packed() -> None:
    class Compiled(nn.Module):  # torch.compile's wrapper, which takes seconds to import
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self._orig_mod = inner

        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

    model = make_mlp()
    assert dumps(pack(Compiled(model))) == dumps(pack(model))


@pytest.fixture
def lone_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("lone_process")
def test_a_model_in_a_parallel_wrapper_is_packed() -> None:
    model = make_mlp()
    expected = dumps(pack(model))
    for wrapped in (nn.DataParallel(model), nn.parallel.DistributedDataParallel(model)):
        assert dumps(pack(wrapped)) == expected
