"""Tools that take `.weight` for the weight that a layer uses: adapters of PEFT, and BatchNorm fused into a layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import onebit
from support.language_models import make_model
from support.tensors import normal


class Adapted(nn.Module):
    """A layer with an adapter, in the layout of `peft.tuners.lora.Linear`."""

    adapter_layer_names = ("lora_A", "lora_B")

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))

    @torch.no_grad()
    def merged(self) -> nn.Module:
        self.base_layer.weight += self.lora_B["default"].weight @ self.lora_A["default"].weight
        return self.base_layer


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Adapted(nn.Linear(8, 6)), nn.ReLU(), Adapted(nn.Linear(6, 4))).eval()


def test_adapters_stay_real(net: nn.Module) -> None:
    report = onebit.binarize_(net, weight_quantizer="xnor", input_quantizer="ste_sign")
    assert [row.name for row in report.binary] == ["0.base_layer", "2.base_layer"]
    assert [row.name for row in report.real if "lora" in row.name and row.reason == "left real"] == [
        f"{layer}.lora_{part}.default" for layer in "02" for part in "AB"
    ]


def test_adapters_are_merged_into_what_dense_makes(net: nn.Module) -> None:
    onebit.binarize_(net, weight_quantizer="xnor")
    x = normal(5, 8)
    expected = net(x)
    assert not torch.allclose(nn.Sequential(*map(merged, copy.deepcopy(net)))(x), expected, atol=0.1)
    torch.testing.assert_close(nn.Sequential(*map(merged, onebit.dense_(copy.deepcopy(net))))(x), expected)
    onebit.packed_layers_(net)
    torch.testing.assert_close(net(x), expected)
    with pytest.raises(AttributeError, match="dense_"):
        net[0].merged()
    assert not hasattr(net[0].base_layer, "weight")


def merged(module: nn.Module) -> nn.Module:
    return module.merged() if isinstance(module, Adapted) else module


@pytest.mark.parametrize("dims", [1, 2])
def test_batch_norm_is_fused_into_what_dense_makes(dims: int) -> None:
    torch.manual_seed(0)
    layer, norm = (nn.Linear(5, 7), nn.BatchNorm1d(7)) if dims == 1 else (nn.Conv2d(5, 7, 3), nn.BatchNorm2d(7))
    x = normal(20, 5, *[4] * (2 * dims - 2))
    net = onebit.binarize_(nn.Sequential(layer, norm), weight_quantizer="xnor").model
    net(x)
    expected = net.eval()(x)
    fuse = fuse_linear_bn_eval if dims == 1 else fuse_conv_bn_eval
    torch.testing.assert_close(fuse(onebit.dense_(copy.deepcopy(net[0])), norm)(x), expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------- PEFT itself
@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_of_peft_stay_real_and_are_merged_into_what_dense_makes() -> None:
    peft = pytest.importorskip("peft", reason="make build/language")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = peft.get_peft_model(make_model(), config).eval()
    report = onebit.binarize_(model, weight_quantizer="xnor")
    assert [row.name for row in report.binary if "lora" in row.name] == []
    assert len(report.binary) == 14
    tokens = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        expected = model(tokens).logits
        merged = onebit.dense_(copy.deepcopy(model)).merge_and_unload()
        found = merged(tokens).logits
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    onebit.packed_layers_(model)
    with pytest.raises(AttributeError, match="dense_"):
        model.merge_and_unload()
