"""`packed_layers_`: any torch model with binary layers gives the same answers from bits."""

from __future__ import annotations

import copy
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import onebit
from onebit.errors import FoldError, NotBinaryError, UsageError
from onebit.layers import BinaryConv1d, BinaryConv2d, BinaryConvTranspose1d, BinaryConvTranspose2d, BinaryLinear
from onebit.modules.layers import PackedLayer, PackedLinear
from onebit.native import instruction_sets
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS, SteSign
from support.covering import covering
from support.packed_layers import Around, Centered, assert_agrees_packed, binary

CONVOLUTIONS = [
    (BinaryConv1d(6, 12, 5, padding=2, padding_mode="circular", bias=True), (3, 6, 21)),
    (BinaryConv1d(6, 12, 4, padding="same", dilation=2, groups=3, padding_value=-1), (3, 6, 21)),
    (BinaryConv2d(6, 12, (3, 1), stride=(2, 1), padding=(1, 0), bias=True), (3, 6, 9, 8)),
    (BinaryConv2d(6, 6, 3, padding=1, groups=6, padding_mode="reflect"), (3, 6, 9, 8)),
    (BinaryConv2d(6, 12, 3, padding=2, padding_value=1, dilation=2), (3, 6, 9, 8)),
    (BinaryConvTranspose1d(6, 12, 4, stride=3, padding=1, output_padding=2, bias=True), (3, 6, 11)),
    (BinaryConvTranspose2d(6, 12, 3, stride=2, padding=1, output_padding=(1, 0), groups=2), (3, 6, 5, 6)),
]


@pytest.mark.parametrize(
    ("index", "quantizer", "inputs"),
    covering(
        product(range(len(CONVOLUTIONS)), [SteSign, Centered], [None, "ste_sign", "rsign", "adabin"]),
        of=lambda index, quantizer, inputs: ((index, quantizer), (quantizer, inputs)),
    ),
)
def test_convolutions(index: int, quantizer: Any, inputs: str | None) -> None:
    layer, shape = copy.deepcopy(CONVOLUTIONS[index])
    layer._add_quantizers(quantizer(), inputs, 1.0)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert_agrees_packed(Around(layer), x)
    assert_agrees_packed(Around(layer), x[0])


@pytest.mark.parametrize("inputs", [None, "ste_sign", "rsign", "adabin"])
def test_dense_layers(inputs: str | None) -> None:
    layer = BinaryLinear(20, 30, bias=True, weight_quantizer=Centered(), input_quantizer=inputs)
    for shape in ((20,), (5, 20), (5, 3, 20)):
        if inputs != "rsign" or len(shape) > 1:
            assert_agrees_packed(Around(layer), torch.randn(shape))


def test_a_transposed_convolution_takes_an_output_size() -> None:
    net = Around(BinaryConvTranspose2d(4, 3, 3, stride=2))
    packed = assert_agrees_packed(net, torch.randn(2, 4, 5, 5), output_size=[12, 11])
    with pytest.raises(UsageError, match="output_size"):
        packed(torch.randn(2, 4, 5, 5), output_size=[13, 11])


@pytest.mark.parametrize("name", WEIGHT_QUANTIZERS)
def test_every_weight_quantizer(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(6, 8, 3), nn.Flatten(), nn.Linear(8 * 19, 5))
    assert_agrees_packed(binary(net, name), torch.randn(2, 6, 21))
    assert_agrees_packed(binary(Around(nn.LSTM(10, 12)), name), torch.randn(6, 4, 10))
    assert_agrees_packed(binary(Around(nn.MultiheadAttention(32, 4)), name), *[torch.randn(5, 3, 32)] * 3)


@pytest.mark.parametrize("name", INPUT_QUANTIZERS)
def test_every_input_quantizer(name: str) -> None:
    layer = BinaryConv2d(6, 12, 3, padding=1, padding_value=1, input_quantizer=name)
    assert_agrees_packed(Around(layer), torch.randn(3, 6, 9, 8))
    assert_agrees_packed(Around(BinaryLinear(20, 30, input_quantizer=name)), torch.randn(3, 20))


def test_a_packed_model_is_evaluated_counted_and_described() -> None:
    torch.manual_seed(0)
    net = binary(
        nn.Sequential(nn.Conv1d(4, 6, 3), nn.Flatten(), nn.Linear(54, 10), nn.BatchNorm1d(10), nn.Linear(10, 3)), "xnor"
    ).eval()
    packed = copy.deepcopy(net)
    onebit.packed_layers_(packed)
    x, labels = torch.randn(30, 4, 11), torch.randint(3, (30,))
    before, after = (onebit.evaluate(one, (x, labels)) for one in (net, packed))
    assert (after.weights, after.correct, after.count) == ("packed", before.correct, 30)
    assert after.loss == pytest.approx(before.loss, rel=1e-4)
    before, after = onebit.summary(net, x), onebit.summary(packed, x)
    for name in ("binary_weights", "binary_macs", "real_macs"):
        assert [getattr(row, name) for row in after.layers] == [getattr(row, name) for row in before.layers]
    scales = 6 + 10 + 3
    assert after.total("real_parameters") == before.total("real_parameters") + scales
    text = str(onebit.describe_layers(packed))
    assert f"{4 * 6 * 3 + 540 + 30} binary weights, {2 * scales + 20} real parameters" in text
    assert "PackedConv" in text
    assert "the layers of the model hold bits already" in str(onebit.check(packed, x))
    for refused in (onebit.packed_layers_, lambda model: onebit.pack(model, x)):
        with pytest.raises(NotBinaryError, match="packed_layers_"):
            refused(packed)


def test_a_layer_that_is_used_twice_stays_one_layer() -> None:
    shared = BinaryLinear(8, 8)
    net = assert_agrees_packed(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(2, 8))
    assert net[0] is net[2]  # type: ignore[index]


def test_the_state_loads_into_another_packed_model(tmp_path: Path) -> None:
    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = nn.ModuleDict(
            {"lstm": nn.LSTM(8, 12), "dense": nn.Linear(12, 4), "attention": nn.MultiheadAttention(8, 2)}
        )
        binary(net)
        onebit.packed_layers_(net)
        return net

    one, other = make(0), make(1)
    save_file(one.state_dict(), tmp_path / "net.safetensors")
    other.load_state_dict(load_file(tmp_path / "net.safetensors"), strict=True)
    x = torch.randn(5, 3, 8)
    for name, inputs in (("lstm", (x,)), ("attention", (x, x, x))):
        assert torch.equal(one[name](*inputs)[0], other[name](*inputs)[0])  # type: ignore[index]
    assert one.state_dict()["lstm.weight_ih_l0.signs"].shape == (48, 1)


def test_weights_take_a_thirtieth_of_float32_and_nothing_else_is_kept() -> None:
    net = binary(nn.Sequential(nn.Linear(384, 1152), nn.Linear(1152, 1536), nn.BatchNorm1d(1536)), "xnor")
    report = onebit.packed_layers_(net)
    packed = sum(row.packed_bytes for row in report.packed)
    assert 30 * packed <= sum(row.float_bytes for row in report.packed) == 4 * 1152 * (384 + 1536)
    layers = [layer for layer in net if isinstance(layer, PackedLayer)]
    biases = 4 * (1152 + 1536)
    assert sum(b.untyped_storage().nbytes() for layer in layers for b in layer.buffers()) == packed + biases
    tensors = {
        id(value) for layer in layers for value in vars(layer).values() if isinstance(value, (Tensor, np.ndarray))
    }
    assert tensors == set()
    assert report.real_bytes == biases + 4 * 4 * 1536 + 8
    lines = str(report).splitlines()
    assert len(lines) == 5
    assert lines[-1].startswith("1/30.")


def test_a_draw_is_reproduced_by_its_seed() -> None:
    net = nn.Sequential(BinaryLinear(40, 30, weight_quantizer="stochastic"))
    drawn = []
    for seed in (0, 0, 1):
        packed = copy.deepcopy(net)
        onebit.packed_layers_(packed, weights="sample", seed=seed)
        drawn.append(packed[0].signs.numpy())
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()


class Own(BinaryLinear):
    """A layer whose forward pass is not known."""


def not_finite() -> nn.Module:
    layer = BinaryLinear(8, 8)
    with torch.no_grad():
        layer.weight[0, 0] = float("nan")
    return layer


def hooked_lstm() -> nn.Module:
    lstm = binary(nn.Sequential(nn.LSTM(8, 8)))[0]  # type: ignore[index]
    lstm.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    return lstm


def twice_parametrized() -> nn.Module:
    model: Any = binary(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), "xnor")
    nn.utils.parametrize.register_parametrization(model.self_attn.out_proj, "weight", Half())
    return model


@pytest.mark.parametrize(
    ("make", "error", "noun"),
    [
        (lambda: Own(8, 8, input_quantizer="int8"), FoldError, "Own"),
        (not_finite, NotBinaryError, "latent weights"),
        (hooked_lstm, FoldError, "hooks"),
        (twice_parametrized, FoldError, "self_attn"),
    ],
)
def test_a_refusal_leaves_the_model_as_it_was(make: Any, error: Any, noun: str) -> None:
    model = nn.Sequential(BinaryLinear(8, 8), make()).train()
    kept = dict(model.named_modules())
    with pytest.raises(error, match=noun):
        onebit.packed_layers_(model)
    assert dict(model.named_modules()) == kept
    assert all(module.training for module in model.modules())


def test_models_without_binary_layers_lone_layers_and_other_weights_are_refused() -> None:
    with pytest.raises(NotBinaryError, match="binary layer"):
        onebit.packed_layers_(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(NotBinaryError, match="lone layer"):
        onebit.packed_layers_(BinaryLinear(2, 2))
    with pytest.raises(UsageError, match="weights"):
        onebit.packed_layers_(nn.Sequential(BinaryLinear(8, 8)), weights="latent")


def test_packed_layers_stay_in_eval_mode_and_compile() -> None:
    net = binary(nn.Sequential(nn.Linear(16, 24), nn.LayerNorm(24), nn.Linear(24, 4)))
    onebit.packed_layers_(net)
    net.train()
    assert not net[0].training
    x = torch.randn(3, 16)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(x), net(x))
    assert net(x).requires_grad  # through the normalization
    net(x).sum().backward()


@pytest.mark.parametrize(
    "make", [lambda: BinaryConv2d(3, 16, 3, value=1e-40), lambda: BinaryLinear(6, 16, value=1e-40)]
)
def test_denormal_weights_count_even_if_torch_flushes_them(make: Any) -> None:
    if not instruction_sets() or not torch.set_flush_denormal(False):
        pytest.skip("without the native library, torch computes; or the processor flushes nothing")
    torch.manual_seed(0)
    net = nn.Sequential(make())
    onebit.packed_layers_(net)
    x = torch.randn(9, 3, 6, 6)
    if isinstance(net[0], PackedLinear):
        x = x[:, 0]
    with torch.no_grad():
        right = net(x)
        assert right.view(torch.int32).count_nonzero() > right.numel() // 2
        try:
            torch.set_flush_denormal(True)
            assert torch.equal(net(x).view(torch.int32), right.view(torch.int32))
        finally:
            torch.set_flush_denormal(False)


class Half(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


@pytest.mark.parametrize("quantizer", ["xnor", "recu", "adabin"])
def test_autocast_around_a_call_changes_nothing(quantizer: str) -> None:
    torch.manual_seed(0)
    models = [nn.Sequential(BinaryLinear(64, 32, weight_quantizer=quantizer)).eval() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(3, 64)
    expected = onebit.packed_layers_(models[0]).model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        packed = onebit.packed_layers_(models[1]).model
    assert torch.equal(packed(x), expected)
