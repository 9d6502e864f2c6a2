"""`packed_layers_`: any torch model with binary layers gives the same answers from bits."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import onebit
from onebit.errors import FoldError, NotBinaryError, UsageError
from onebit.layers import BinaryConv1d, BinaryConv2d, BinaryConvTranspose1d, BinaryConvTranspose2d, BinaryLinear
from onebit.native import instruction_sets
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS, BinaryWeight, SteSign
from onebit.runtime.torch_layers import PackedLayer, PackedLinear

TOLERANCE = 1e-5
"""Of the largest output: exact sums of rounded inputs against float32 sums in some order."""


class Centered(SteSign):
    """A quantizer whose weights are ±s + c, with a scale and a center per output."""

    def decompose(self, latent: Tensor) -> BinaryWeight:
        rows = latent.detach().flatten(1)
        return BinaryWeight(super().decompose(latent).signs, rows.abs().mean(1) + 0.1, rows.mean(1))

    def forward(self, latent: Tensor) -> Tensor:
        return self.decompose(latent).dense()


def tensors_of(made: Any) -> list[Tensor]:
    if isinstance(made, Tensor):
        return [made]
    if isinstance(made, PackedSequence):
        return [made.data]
    return [tensor for part in made if part is not None for tensor in tensors_of(part)]


def assert_agrees(model: nn.Module, *inputs: Any, **options: Any) -> nn.Module:
    """The packed model, which gives what `model` gives."""
    model.eval()
    packed = copy.deepcopy(model)
    report = onebit.packed_layers_(packed)
    assert report.model is packed
    assert not list(onebit.layers.binary_layers(packed))
    with torch.no_grad():
        expected, found = (tensors_of(net(*inputs, **options)) for net in (model, packed))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=TOLERANCE * max(1.0, float(one.abs().max())))
    return packed


def binary(model: nn.Module, quantizer: Any = None, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onebit.binarize_(model, weight_quantizer=quantizer or Centered(), **options)
    return model


class Around(nn.Module):
    """A module with one layer, so that the layer itself can be replaced."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.layer(*inputs, **options)


CONVOLUTIONS = [
    (BinaryConv1d(6, 12, 5, padding=2, padding_mode="circular", bias=True), (3, 6, 21)),
    (BinaryConv1d(6, 12, 4, padding="same", dilation=2, groups=3, padding_value=-1), (3, 6, 21)),
    (BinaryConv2d(6, 12, (3, 1), stride=(2, 1), padding=(1, 0), bias=True), (3, 6, 9, 8)),
    (BinaryConv2d(6, 6, 3, padding=1, groups=6, padding_mode="reflect"), (3, 6, 9, 8)),
    (BinaryConv2d(6, 12, 3, padding=2, padding_value=1, dilation=2), (3, 6, 9, 8)),
    (BinaryConvTranspose1d(6, 12, 4, stride=3, padding=1, output_padding=2, bias=True), (3, 6, 11)),
    (BinaryConvTranspose2d(6, 12, 3, stride=2, padding=1, output_padding=(1, 0), groups=2), (3, 6, 5, 6)),
]


@pytest.mark.parametrize("quantizer", [SteSign(), Centered()], ids=["signs", "scale and center"])
@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS, ids=[str(n) for n in range(len(CONVOLUTIONS))])
@pytest.mark.parametrize("inputs", [None, "ste_sign", "rsign", "adabin"])
def test_convolutions(layer: Any, shape: tuple[int, ...], quantizer: Any, inputs: str | None) -> None:
    layer = copy.deepcopy(layer)
    layer._add_quantizers(copy.deepcopy(quantizer), inputs, 1.0)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert_agrees(Around(layer), x)
    assert_agrees(Around(layer), x[0])


@pytest.mark.parametrize("inputs", [None, "ste_sign", "rsign", "adabin"])
def test_dense_layers(inputs: str | None) -> None:
    layer = BinaryLinear(20, 30, bias=True, weight_quantizer=Centered(), input_quantizer=inputs)
    for shape in ((20,), (5, 20), (5, 3, 20)):
        if inputs != "rsign" or len(shape) > 1:
            assert_agrees(Around(layer), torch.randn(shape))


def test_a_transposed_convolution_takes_an_output_size() -> None:
    net = Around(BinaryConvTranspose2d(4, 3, 3, stride=2))
    packed = assert_agrees(net, torch.randn(2, 4, 5, 5), output_size=[12, 11])
    with pytest.raises(UsageError, match="output_size"):
        packed(torch.randn(2, 4, 5, 5), output_size=[13, 11])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}, {"bias": False, "bidirectional": True}],
)
def test_recurrent_layers(kind: Any, options: dict[str, Any]) -> None:
    net = binary(Around(kind(10, 12, **options)))
    x = torch.randn(6, 4, 10)
    assert_agrees(net, x)
    assert_agrees(net, x[0])
    lengths = [3, 6, 1, 4]
    packed = assert_agrees(net, pack_padded_sequence(x, lengths, enforce_sorted=False))
    state = net(x)[1]
    assert_agrees(net, x, state)
    with pytest.raises(UsageError, match="inputs"):
        packed(torch.randn(6, 4, 11))
    with pytest.raises(UsageError, match="hx"):
        packed(x, torch.randn(7, 4, 12))


def test_recurrent_layers_of_other_forms() -> None:
    x = torch.randn(5, 4, 10)
    assert_agrees(binary(Around(nn.RNN(10, 12, nonlinearity="relu"))), x)
    hx, lengths = (torch.randn(2, 4, 6), torch.randn(2, 4, 12)), [3, 5, 1, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that a slower implementation runs
        assert_agrees(binary(Around(nn.LSTM(10, 12, proj_size=6, num_layers=2))), x, hx)
        both = binary(Around(nn.LSTM(10, 12, proj_size=6, bidirectional=True)))
        assert_agrees(both, pack_padded_sequence(x, lengths, enforce_sorted=False), hx)
    for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell):
        assert_agrees(binary(Around(kind(10, 12))), x[0])
        assert_agrees(binary(Around(kind(10, 12))), x[0, 0])


ATTENTION: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"batch_first": True}, {"need_weights": False, "attn_mask": torch.eye(5, dtype=torch.bool)}),
    ({"batch_first": True, "bias": False}, {"key_padding_mask": torch.tensor([[False] * 4 + [True]] * 3)}),
    ({"batch_first": True, "add_bias_kv": True, "add_zero_attn": True}, {"average_attn_weights": False}),
    (
        {"batch_first": True, "add_bias_kv": True},
        {"attn_mask": torch.randn(12, 5, 5), "key_padding_mask": torch.tensor([[False] * 4 + [True]] * 3)},
    ),
    # without weights torch takes the hint in place of the mask, which hides the added keys, too
    *(
        (
            {"batch_first": True, **more},
            {"attn_mask": torch.ones(5, 5).triu(1).bool(), "is_causal": True, "need_weights": needed},
        )
        for more in ({"add_bias_kv": True}, {"add_zero_attn": True}, {})
        for needed in (False, True)
    ),
]


@pytest.mark.parametrize(("options", "call"), ATTENTION)
def test_attention_to_itself(options: dict[str, Any], call: dict[str, Any]) -> None:
    net = binary(Around(nn.MultiheadAttention(32, 4, **options)))
    x = torch.randn(3, 5, 32) if options.get("batch_first") else torch.randn(5, 3, 32)
    if "key_padding_mask" in call and "attn_mask" in call:
        call = {**call, "key_padding_mask": torch.zeros(3, 5).masked_fill_(call["key_padding_mask"], float("-inf"))}
    assert_agrees(net, x, x, x, **call)


def test_attention_to_others() -> None:
    net = binary(Around(nn.MultiheadAttention(32, 4, batch_first=True)))
    x, memory = torch.randn(3, 5, 32), torch.randn(3, 7, 32)
    assert_agrees(net, x, memory, memory)
    assert_agrees(net, x, memory, torch.randn(3, 7, 32))
    packed = assert_agrees(net, x[0], memory[0], memory[0])
    net = binary(Around(nn.MultiheadAttention(32, 4, batch_first=True, kdim=16, vdim=8)))
    assert_agrees(net, x, torch.randn(3, 7, 16), torch.randn(3, 7, 8))
    with pytest.raises(UsageError, match="attn_mask"):
        packed(x, x, x, is_causal=True)


def test_transformers_of_torch() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    hidden = torch.arange(7)[None] > torch.tensor([[6], [3], [5]])
    net, x = binary(nn.TransformerEncoder(layer, 2)), torch.randn(3, 7, 32)
    packed = assert_agrees(net, x, src_key_padding_mask=hidden)
    inputs = [x.clone().requires_grad_() for _ in (net, packed)]  # other branches of torch's layers than without
    weight = torch.randn(3, 7, 32)  # the normalization makes the sum of all outputs constant
    expected, found = (
        torch.autograd.grad((one(x) * weight).sum(), x)[0] for one, x in zip((net, packed), inputs, strict=True)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed(x), net(x), rtol=0, atol=TOLERANCE * 4)
    decoder = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(7)
    assert_agrees(binary(decoder), x, torch.randn(3, 5, 32), tgt_mask=mask, tgt_is_causal=True)


@pytest.mark.parametrize("name", WEIGHT_QUANTIZERS)
def test_every_weight_quantizer(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(6, 8, 3), nn.Flatten(), nn.Linear(8 * 19, 5))
    assert_agrees(binary(net, name), torch.randn(2, 6, 21))
    assert_agrees(binary(Around(nn.LSTM(10, 12)), name), torch.randn(6, 4, 10))
    assert_agrees(binary(Around(nn.MultiheadAttention(32, 4)), name), *[torch.randn(5, 3, 32)] * 3)


@pytest.mark.parametrize("name", INPUT_QUANTIZERS)
def test_every_input_quantizer(name: str) -> None:
    layer = BinaryConv2d(6, 12, 3, padding=1, padding_value=1, input_quantizer=name)
    assert_agrees(Around(layer), torch.randn(3, 6, 9, 8))
    assert_agrees(Around(BinaryLinear(20, 30, input_quantizer=name)), torch.randn(3, 20))


def test_empty_batches_and_empty_sequences() -> None:
    net = binary(Around(nn.LSTM(10, 12, bidirectional=True)))
    onebit.packed_layers_(net)
    output, (h, cell) = net(torch.randn(6, 0, 10))
    assert (output.shape, h.shape, cell.shape) == ((6, 0, 24), (2, 0, 12), (2, 0, 12))
    attention = binary(Around(nn.MultiheadAttention(32, 4, batch_first=True)))
    onebit.packed_layers_(attention)
    assert attention(*[torch.randn(0, 5, 32)] * 3)[0].shape == (0, 5, 32)
    conv = nn.Sequential(BinaryConv2d(3, 4, 3))
    onebit.packed_layers_(conv)
    assert conv(torch.randn(0, 3, 8, 9)).shape == (0, 4, 6, 7)


def test_whole_models_in_half_precision_and_exported() -> None:
    torch.manual_seed(0)
    net = binary(nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 1)).eval()
    x = torch.randn(3, 7, 32)
    onebit.packed_layers_(net)
    expected = net(x).detach()
    assert torch.equal(torch.export.export(net, (x,)).module()(x), expected)
    with torch.no_grad():
        for dtype, tolerance in ((torch.float16, 0.01), (torch.bfloat16, 0.06)):
            found = copy.deepcopy(net).to(dtype)(x.to(dtype))
            assert found.dtype == dtype
            torch.testing.assert_close(found.float(), expected, rtol=0, atol=tolerance)


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


def test_products_of_packed_attention_count_as_before() -> None:
    net = binary(Around(nn.MultiheadAttention(32, 4, batch_first=True, add_bias_kv=True)))
    conv = binary(nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)))
    for model, x in ((net, torch.randn(2, 5, 32)), (conv, torch.randn(2, 4, 5, 6))):
        model = nn.Sequential(model) if model is conv else SelfAttention(model)
        before = onebit.summary(model, x)
        onebit.packed_layers_(model)
        after = onebit.summary(model, x)
        for name in ("binary_weights", "binary_macs", "real_macs"):
            assert after.total(name) == before.total(name)


class SelfAttention(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


def test_a_layer_that_is_used_twice_stays_one_layer() -> None:
    shared = BinaryLinear(8, 8)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    assert_agrees(net, torch.randn(2, 8))
    report = onebit.packed_layers_(net)
    assert net[0] is net[2]
    assert len(report.packed) == 1


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


@pytest.mark.parametrize(
    ("net", "error", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2)), NotBinaryError, "no binary layer"),
        (BinaryLinear(2, 2), NotBinaryError, "lone layer"),
        (nn.Sequential(nn.Sequential(Own(2, 2))), FoldError, "layer '0.0': Own cannot hold bits"),
    ],
)
def test_what_cannot_be_packed_is_named(net: nn.Module, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        onebit.packed_layers_(net)


def test_a_refusal_leaves_the_model_as_it_was() -> None:
    mixed = nn.Sequential(BinaryLinear(8, 8, input_quantizer="int8"), Own(8, 8)).train()
    with pytest.raises(FoldError):
        onebit.packed_layers_(mixed)
    assert all(module.training for module in mixed.modules())
    net = nn.Sequential(BinaryLinear(8, 8), BinaryLinear(8, 8))
    with torch.no_grad():
        net[1].weight[0, 0] = float("nan")  # type: ignore[index]
    with pytest.raises(NotBinaryError, match="latent weights"):
        onebit.packed_layers_(net)
    assert not any(isinstance(layer, PackedLinear) for layer in net)
    with pytest.raises(UsageError, match="weights"):
        onebit.packed_layers_(net, weights="latent")


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
def test_numbers_below_the_normal_ones_count_whatever_torch_flushes(make: Any) -> None:
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


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    onebit.binarize_(model)
    model[0].register_forward_hook(lambda module, inputs, y: 2 * y - 1)
    return model


def hooked_lstm() -> nn.Module:
    model = nn.Sequential(nn.LSTM(8, 8))
    onebit.binarize_(model)
    model[0].register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    return model


def twice_parametrized() -> nn.Module:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    onebit.binarize_(model, weight_quantizer="xnor")
    nn.utils.parametrize.register_parametrization(model.self_attn.out_proj, "weight", Half())
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (hooked, "hooks"),
        (hooked_lstm, "hooks"),
        (twice_parametrized, "'self_attn'"),
    ],
)
def test_what_a_packed_layer_would_not_compute_is_refused(make: Any, reason: str) -> None:
    model = make().eval()
    x = torch.randn(4, 5, 8)
    before, kept = tensors_of(model(x)), dict(model.named_modules())
    with pytest.raises(FoldError, match=reason):
        onebit.packed_layers_(model)
    assert dict(model.named_modules()) == kept
    for one, other in zip(before, tensors_of(model(x)), strict=True):
        assert torch.equal(one, other)


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
