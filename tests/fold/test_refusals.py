"""Models that cannot be packed are refused in one line that names the reason and a way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fold_nets import (
    SHAPE,
    assert_agrees,
    images_of,
    kinds,
    make_mlp,
    torch_logits,
)
from torch import Tensor, nn

from onebit.errors import FoldError, NotBinaryError, UsageError
from onebit.fold import pack
from onebit.layers import BinaryLinear, InputCoding, binarize_
from onebit.packed import Affine, Dense, Hardtanh, RealDense, Relu, Sign
from onebit.quantizers import BinaryWeight, Quantizer
from onebit.runtime import run


class Net(nn.Module):
    """InputCoding, Flatten, a binary layer, then `body`."""

    def __init__(self, body: Callable[[Tensor], Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.coding, self.fc, self.body = InputCoding(), BinaryLinear(12, 6), body
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.body(self.fc(self.coding(x).flatten(1)))


class FloatFirst(nn.Module):
    """Converts the image to float itself."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = BinaryLinear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.float().flatten(1))


def unused(x: Tensor) -> Tensor:
    F.relu(x, inplace=True)
    return x


def read_twice(x: Tensor) -> Tensor:
    y = F.relu(x, inplace=True)
    return y + x


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            lambda x: F.log_softmax(x, dim=1),
            r"cannot pack log_softmax \('log_softmax'\): known layers are InputCoding, .*",
        ),
        (lambda x: x.sigmoid(), r"cannot pack sigmoid"),
        (lambda x: x * 2, r"cannot pack mul"),
        (lambda x: torch.sign(x), r"cannot pack sign"),
        (lambda x: x + torch.randn_like(x), r"cannot pack randn_like"),
        (nn.Softmax(dim=1), r"cannot pack Softmax \('body'\): .*move it out of the model"),
        (
            nn.BatchNorm1d(6, track_running_stats=False),
            r"cannot pack BatchNorm1d \('body'\): with track_running_stats=False",
        ),
        (nn.Hardtanh(-2, 2), r"cannot pack Hardtanh \('body'\): got the bounds -2 and 2, expected -1 and 1"),
        (nn.ReLU6(), r"cannot pack ReLU6 \('body'\): got the bounds 0.0 and 6.0"),
        (
            lambda x: F.dropout(x, 0.5),
            r"cannot pack dropout .*it drops values in eval mode too; pass training=self.training",
        ),
        (lambda x: x.view(-1, 3), r"cannot pack view \('view'\): it turns \(N, 6\) into \(N, 3\), expected \(N, 6\)"),
        (lambda x: x.view(-1, 2, 3), r"it turns \(N, 6\) into \(N, 2, 3\)"),
        (unused, r"cannot pack relu .*its result is never used"),
        (read_twice, r"cannot pack relu .*it overwrites a value that is also used elsewhere"),
        (lambda x: (x, x), r"the model returns a tuple, expected one tensor"),
        (
            lambda x: x if x.sum() > 0 else -x,
            r"cannot follow Net.forward on images \(2, 1, 3, 4\): .*not on the contents of tensors",
        ),
        (lambda x: F.linear(x.new_ones(2, 5), x), r"cannot follow Net.forward"),
        (lambda x: F.linear(x, torch.ones(3, 6)), r"the tensor '_tensor_constant0' is used outside a layer"),
    ],
)
def test_what_cannot_be_packed_is_named(body: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(FoldError, match=message) as caught:
        pack(Net(body).eval(), input_shape=SHAPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), BinaryLinear(12, 3)),
        nn.Sequential(BinaryLinear(4, 3)),
        nn.Sequential(nn.Sequential(nn.Dropout(), InputCoding()), nn.Flatten(), BinaryLinear(12, 3)),
        FloatFirst(),
    ],
)
def test_a_model_without_input_coding_is_refused(model: nn.Module) -> None:
    message = r"expected InputCoding: a packed net takes uint8 images; pack nn.Sequential\(InputCoding\("
    with pytest.raises(FoldError, match=message):
        pack(model, input_shape=SHAPE)


def test_only_one_coding_of_the_image() -> None:
    with pytest.raises(FoldError, match=r"cannot pack InputCoding \('1'\): expected one coding, of the image itself"):
        pack(nn.Sequential(InputCoding(), InputCoding(), nn.Flatten(), BinaryLinear(12, 3)), input_shape=SHAPE)


def test_hooks_on_a_layer_are_refused_and_on_containers_traced() -> None:
    inner = nn.Sequential(nn.Flatten(), BinaryLinear(12, 3, input_quantizer=None))
    model = nn.Sequential(InputCoding(), inner)
    handle = inner.register_forward_hook(lambda module, inputs, output: torch.relu(output))
    packed = pack(model, input_shape=SHAPE)
    assert kinds(packed) == ["Flatten", "Dense", "Relu"]
    assert_agrees(model, packed)
    handle.remove()
    for layer in (inner[1], inner[1].weight_quantizer):
        handle = layer.register_forward_hook(lambda module, inputs, output: -output)
        with pytest.raises(FoldError, match=r"cannot pack BinaryLinear \('1.1'\): it has forward hooks"):
            pack(model, input_shape=SHAPE)
        handle.remove()
    assert kinds(pack(model, input_shape=SHAPE)) == ["Flatten", "Dense"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("1.1.weight", r"layer '1.1': 2 of 240 latent weights are not finite"),
        ("1.1.bias", r"layer '1.1': 2 of 20 biases are not finite"),
        ("1.2.weight", r"layer '1.2': 2 of 20 BatchNorm weight values are not finite"),
        ("1.2.bias", r"layer '1.2': 2 of 20 BatchNorm bias values are not finite"),
        ("1.2.running_mean", r"layer '1.2': 2 of 20 BatchNorm running_mean values are not finite"),
        ("1.2.running_var", r"layer '1.2': 2 of 20 BatchNorm running_var values are not finite"),
        ("1.4.weight", r"layer '1.4': 2 of 60 weights are not finite"),
        ("0.mean", r"layer '0': 1 of 1 mean values are not finite"),
    ],
)
def test_parameters_that_are_not_finite_are_refused(path: str, message: str, value: float) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3))
    coding = InputCoding("standardize", mean=[100.0], std=[50.0])
    model = nn.Sequential(coding, binarize_(net, where=lambda name, layer: name == "1").model).eval()
    with torch.no_grad():
        model.state_dict()[path].view(-1)[:2] = value
    with pytest.raises(NotBinaryError, match=message):
        pack(model, input_shape=SHAPE)


def test_a_norm_whose_folded_values_are_not_finite_is_refused() -> None:
    model = make_mlp((12, 4, 2))
    with torch.no_grad():
        model.get_submodule("norm1").running_var[1] = -1.0
    with pytest.raises(NotBinaryError, match=r"layer 'norm1': 1 of 4 folded BatchNorm values are not finite"):
        pack(model)


def test_signs_other_than_plus_and_minus_one_are_refused() -> None:
    class Ternary(Quantizer):
        def forward(self, latent: Tensor) -> Tensor:
            return latent.round()

        def decompose(self, latent: Tensor) -> BinaryWeight:
            return BinaryWeight(latent.detach().round())

    model = make_mlp((12, 2), weight_quantizer=Ternary())
    with pytest.raises(NotBinaryError, match=r"layer 'linear1': \d+ of 24 values are neither \+1 nor -1"):
        pack(model)


def test_usage_errors() -> None:
    with pytest.raises(NotBinaryError, match=r"no binary layer; make its layers binary with onebit.binarize_"):
        pack(make_mlp(weight_quantizer=None))
    foreign = nn.Sequential(InputCoding(), nn.Flatten(), BinaryLinear(12, 3))
    with pytest.raises(UsageError, match=r"got input_shape None, expected \(C, H, W\)"):
        pack(foreign)
    for shape in ((12,), (1, 3, 0), (1, 3, 4.0), "abc"):
        with pytest.raises(UsageError, match=r"got input_shape .*, expected \(C, H, W\)"):
            pack(foreign, input_shape=shape)  # type: ignore[arg-type]
    with pytest.raises(FoldError, match=r"cannot follow Sequential.forward on images \(2, 1, 2, 2\)"):
        pack(foreign, input_shape=(1, 2, 2))
    with pytest.raises(
        FoldError, match=r"got latent weights of torch.float64, expected torch.float32; use model.float\(\)"
    ):
        pack(make_mlp().double())


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    model = make_mlp()
    model.kept = model(torch.zeros((1, *SHAPE), dtype=torch.uint8))  # a result of forward, with its graph
    with pytest.raises(FoldError, match=r"cannot copy the MLP: .*; do not keep results of forward in it"):
        pack(model)


def test_real_layers_next_to_binary_ones_are_kept() -> None:
    model = nn.Sequential(InputCoding(), nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), BinaryLinear(9, 3)).eval()
    packed = pack(model, input_shape=SHAPE)
    assert [type(node) for node in packed.nodes[1:]] == [RealDense, Affine, Relu, Dense]
    assert_agrees(model, packed)


def test_every_activation_is_packed() -> None:
    model = nn.Sequential(
        InputCoding("standardize", mean=[100.0], std=[50.0]),
        nn.Flatten(),
        BinaryLinear(12, 9),
        nn.Hardtanh(),
        BinaryLinear(9, 8),
        BinaryLinear(8, 3, input_quantizer="ste_sign"),
    ).eval()
    packed = pack(model, input_shape=SHAPE)
    assert [type(node) for node in packed.nodes[1:]] == [Dense, Hardtanh, Dense, Sign, Dense]
    # some sums of clipped values are 0 up to rounding, where torch's order of additions decides the sign
    different = (run(packed, images_of()) != torch_logits(model, images_of())).any(axis=1)
    assert different.mean() < 0.05
