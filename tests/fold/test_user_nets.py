"""Well-known nets as people write them: each packs whole and exactly, or a message names the layer and the way on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from onebit.errors import FoldError, UsageError
from onebit.fold import pack
from onebit.layers import BinaryLinear, batch_norms, binarize_
from onebit.packed import dumps, loads
from onebit.packed.nodes.activation import Hardswish, Silu
from onebit.train.check import check
from onebit.verification.agreement import certify, verify
from support.covering import covering
from support.fold_nets import assert_answers, assert_native, inputs_of
from support.user_nets import Mixer, MobileNetV3, SEResNet, UNet

NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "squeeze and excite": (SEResNet, (3, 12, 12)),
    "sigmoid gates": (lambda: SEResNet(nn.Sigmoid), (3, 12, 12)),
    "mobilenet v3": (MobileNetV3, (3, 16, 16)),
    "mixer": (Mixer, (3, 16, 16)),
    "mixer with gelu": (lambda: Mixer(act=nn.GELU), (3, 16, 16)),
    "unet": (UNet, (1, 16, 16)),
    "unet of odd images": (UNet, (1, 18, 21)),
}


def made_binary(make: Callable[[], nn.Module], shape: tuple[int, ...], input_quantizer: str | None) -> nn.Module:
    """A net with random weights and the BatchNorm statistics of random inputs."""
    torch.manual_seed(0)
    model = make()
    binarize_(model, input_quantizer=input_quantizer)
    for norm in batch_norms(model):
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(8, *shape))
    return model.eval()


@pytest.mark.parametrize("name", NETS)
def test_a_net_packs_whole_and_answers_as_torch(name: str) -> None:
    make, shape = NETS[name]
    inputs = inputs_of(shape)
    model = made_binary(make, shape, None)
    assert check(model, inputs).whole
    packed = loads(dumps(pack(model, inputs)))
    assert_answers(model, packed, inputs, atol=2e-5)


def test_the_certificate_of_activations_and_gates_promises_real_values() -> None:
    images = inputs_of((3, 16, 16), count=40)
    model = made_binary(MobileNetV3, (3, 16, 16), None)
    packed = pack(model, images)
    found = certify(model, packed, images)
    assert found.promise == "real"
    assert found.certificate is not None
    assert (found.certificate.ok, found.certificate.label_mismatches) == (True, 0)
    wrong = (
        Hardswish(inputs=node.inputs, output=node.output) if isinstance(node, Silu) else node for node in packed.nodes
    )
    with pytest.raises(UsageError, match="operations"):
        verify(model, replace(packed, nodes=tuple(wrong)), images)


@pytest.mark.parametrize("name", covering(NETS, heavy={"unet of odd images"}))
def test_a_net_of_signs_has_the_same_bits_in_every_executor(name: str) -> None:
    """Torch may take another sign of a real sum that is nearly 0, but all executors take the same."""
    make, shape = NETS[name]
    inputs = inputs_of(shape)
    assert_native(pack(made_binary(make, shape, "ste_sign"), inputs), inputs)


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lambda: SEResNet(nn.Softplus), (3, 12, 12), r"Softplus \('layer1.se.fc.3'\)"),
        (lambda: Mixer(lambda width: nn.Sequential(nn.CELU())), (3, 16, 16), r"CELU \('blocks.0.norm1.0'\)"),
        (lambda: Mixer(act=nn.SELU), (3, 16, 16), r"SELU \('blocks.0.token.1'\)"),
    ],
)
def test_a_refusal_names_the_layer(make: Callable[[], nn.Module], shape: tuple[int, ...], message: str) -> None:
    model, inputs = made_binary(make, shape, None), inputs_of(shape)
    with pytest.raises(FoldError, match=f"^cannot pack {message}") as caught:
        pack(model, inputs)
    assert "\n" not in str(caught.value)
    report = check(model, inputs)
    assert not report.whole
    assert str(caught.value) == next(iter(report.reasons.values()))


def test_a_recurrent_layer_is_refused() -> None:
    with pytest.raises(FoldError, match="LSTM"):
        pack(nn.Sequential(BinaryLinear(6, 4), nn.LSTM(4, 4)), inputs_of((3, 6)))
