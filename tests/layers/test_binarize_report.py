"""The report of `binarize_`: what became binary, what stayed real and why, and what could have been binary."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from onebit.errors import UsageError
from onebit.evaluation.counts import model_size, net_size
from onebit.layers import (
    BinaryConv2d,
    BinaryLinear,
    BinaryRow,
    InputCoding,
    RealRow,
    RPReLU,
    binarize_,
    describe_layers,
)


class OwnLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class OwnLstm(nn.LSTM):
    pass


class Mixer(nn.Module):
    """Multiplies by a parameter itself, and adds one that is no matrix of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(4, 4))
        self.position = nn.Parameter(torch.zeros(1, 7, 4))


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))
        self.position = nn.Parameter(torch.zeros(1, 7, 4))
        self.scale = nn.Parameter(torch.ones(4))


# layer that stays real -> its number of parameters, the reason, and whether to warn of it
REAL: dict[str, tuple[Callable[[], nn.Module], int, str, bool]] = {
    "own linear": (lambda: OwnLinear(3, 2), 8, "a subclass of Linear with an unknown forward", True),
    "own lstm": (lambda: OwnLstm(2, 1), 20, "a subclass of LSTM with an unknown forward", True),
    "conv3d": (lambda: nn.Conv3d(2, 2, 2, bias=False), 32, "there is no binary Conv3d", True),
    "bilinear": (lambda: nn.Bilinear(2, 2, 2), 10, "there is no binary Bilinear", True),
    "own matrix": (Mixer, 44, "Mixer uses mix directly", True),
    "no matrix": (Gate, 33, "no weight matrix", False),
    "lazy": (lambda: nn.LazyLinear(3), 0, "a LazyLinear has no shape before its first batch", True),
    "embedding": (lambda: nn.Embedding(5, 2), 10, "embedding", False),
    "bag": (lambda: nn.EmbeddingBag(5, 2), 10, "embedding", False),
    "batch norm": (lambda: nn.BatchNorm1d(3), 6, "normalization", False),
    "layer norm": (lambda: nn.LayerNorm((3, 2)), 12, "normalization", False),
    "group norm": (lambda: nn.GroupNorm(1, 4), 8, "normalization", False),
    "prelu": (nn.PReLU, 1, "activation", False),
    "rprelu": (lambda: RPReLU(2), 6, "activation", False),
    "real twin": (lambda: BinaryLinear(2, 2, weight_quantizer=None), 4, "weight_quantizer=None", False),
}


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("name", REAL)
def test_a_layer_that_stays_real_says_why(name: str) -> None:
    build, count, reason, warns = REAL[name]
    net = nn.Sequential(nn.Linear(4, 4, bias=False), build())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = binarize_(net, weight_quantizer="sign")
    assert report.binary == [BinaryRow("0", "BinaryLinear", 16, "sign")]
    assert [(row.name, row.parameters, row.reason) for row in report.real] == [("1", count, reason)]
    assert bool(report.warnings) == warns
    told = [warning for warning in caught if warning.category is UserWarning and "Lazy" not in str(warning.message)[:5]]
    assert [str(warning.message) for warning in told] == report.warnings
    if warns:
        assert [("'1'" in line, reason in line) for line in report.warnings] == [(True, True)]
        assert Path(told[0].filename) == Path(__file__), "the line of the caller"
        left = nn.Sequential(nn.Linear(4, 4, bias=False), build())
        report = binarize_(left, where=lambda name, layer: name == "0")  # warnings are errors here
        assert [row.reason for row in report.real] == ["not chosen by where"]
        assert report.warnings == []


def test_layers_without_parameters_are_not_listed() -> None:
    for build in (nn.ReLU, InputCoding, lambda: nn.BatchNorm1d(3, affine=False)):
        report = binarize_(nn.Sequential(nn.Linear(4, 4), build()))
        assert [row.name for row in report.real] == ["0"], "its bias"


def test_several_layers_of_one_kind_are_one_warning() -> None:
    net = nn.Sequential(nn.Linear(3, 3), *(OwnLinear(3, 3) for _ in range(7)), nn.Bilinear(2, 2, 2))
    with pytest.warns(UserWarning, match="Linear") as caught:
        report = binarize_(net)
    assert len(caught) == 1
    first, second = report.warnings
    assert "'1', '2'" in first
    assert "Bilinear" in second
    assert str(caught[0].message) == f"{first}; {second}"


def test_a_head_that_is_the_embedding_stays_real_and_is_counted_once() -> None:
    layers = {"embedding": nn.Embedding(5, 4), "body": nn.Linear(4, 4, bias=False), "head": nn.Linear(4, 5, bias=False)}
    net = nn.ModuleDict(layers)
    net["head"].weight = net["embedding"].weight
    report = binarize_(net)
    assert [row.name for row in report.binary] == ["body"]
    assert [row.parameters for row in report.real] == [20, 0]
    assert "embedding" in report.real[1].reason


def test_without_a_weight_quantizer_recurrent_layers_stay_as_they_are() -> None:
    net = nn.ModuleDict({"lstm": nn.LSTM(4, 4), "head": nn.Linear(4, 4), "last": nn.Linear(4, 2)})
    report = binarize_(net, weight_quantizer=None, input_quantizer="ste_sign")
    assert report.binary == []
    assert type(net["lstm"]) is nn.LSTM
    assert isinstance(net["last"], BinaryLinear)


def test_where_may_read_attributes_that_other_layers_lack() -> None:
    net = nn.Sequential(nn.Linear(4, 4), Mixer())
    with pytest.warns(UserWarning, match="Mixer"):
        binarize_(net, where=lambda name, layer: layer.bias is not None)


def test_an_error_names_the_layers_that_stay_real() -> None:
    with pytest.raises(UsageError, match="Linear"):
        binarize_(nn.Sequential(OwnLinear(3, 3)))


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.lstm = nn.LSTM(4, 4)
        self.head = nn.Linear(4, 2)


def test_the_rows_and_the_table_of_a_whole_net() -> None:
    net = Whole()
    parameters = sum(p.numel() for p in net.parameters())
    chosen = {"weight_quantizer": "sign", "input_quantizer": "rsign"}
    report = binarize_(net, **chosen, where=lambda name, layer: name != "stem")
    assert report.model is net
    assert report.binary == [
        BinaryRow("attention", "MultiheadAttention", 48, "sign"),
        BinaryRow("attention.out_proj", "Linear", 16, "sign"),
        BinaryRow("lstm", "LSTM", 128, "sign"),
        BinaryRow("head", "BinaryLinear", 8, "sign, inputs rsign"),
    ]
    assert RealRow("stem", "Conv2d", 112, "not chosen by where") in report.real
    assert RealRow("norm", "BatchNorm2d", 8, "normalization") in report.real
    numbers = sum(row.weights for row in report.binary) + sum(row.parameters for row in report.real)
    assert numbers == parameters + 4, "the shifts of rsign"
    assert model_size(net)[:2] == (200, numbers - 200)
    assert str(report).splitlines() == [
        "layer               kind                numbers",
        "attention           MultiheadAttention       48  binary: sign",
        "attention.out_proj  Linear                   16  binary: sign",
        "lstm                LSTM                    128  binary: sign",
        "head                BinaryLinear              8  binary: sign, inputs rsign",
        "stem                Conv2d                  112  real: not chosen by where",
        "norm                BatchNorm2d               8  real: normalization",
        "                                             54  real: bias and scales of binary",
        "                                                 layers",
        "200 binary weights, 174 real parameters",
    ]


@pytest.mark.parametrize(
    "build",
    [lambda: binarize_(nn.LSTM(3, 4, 2), weight_quantizer="recu").model, lambda: weight_norm(BinaryLinear(4, 2))],
    ids=["scales of parametrized weights", "weight norm"],
)
def test_the_rows_hold_the_numbers_that_are_packed(build: Callable[[], nn.Module]) -> None:
    report = describe_layers(net := nn.Sequential(build()))
    weights = sum(row.weights for row in report.binary)
    assert (weights, sum(row.parameters for row in report.real)) == model_size(net)[:2]


def test_any_model_can_be_described() -> None:
    net = nn.Sequential(BinaryConv2d(1, 2, 3, input_quantizer="ste_sign"), nn.Linear(4, 2), OwnLinear(2, 2))
    described = describe_layers(net)
    assert described.binary == [BinaryRow("0", "BinaryConv2d", 18, "sign, inputs ste_sign")]
    assert [(row.name, row.reason) for row in described.real] == [
        ("1", "left real"),
        ("2", "a subclass of Linear with an unknown forward"),
    ]
    assert len(described.warnings) == 1
    real = describe_layers(nn.Sequential(weight_norm(nn.Linear(4, 2))))
    assert (real.binary, real.real) == ([], [RealRow("0", "Linear", 12, "left real")])
    again = describe_layers(copy.deepcopy(net))
    assert (again.binary, again.real, again.warnings) == (described.binary, described.real, described.warnings)


def test_long_names_fit_a_screen() -> None:
    net: nn.Module = nn.Linear(3, 3)
    for _ in range(6):
        net = nn.ModuleDict({"encoder_layers": net})
    assert max(map(len, str(binarize_(net)).splitlines())) <= 80


def test_the_weights_of_a_model_are_what_multiplies_and_what_is_looked_up() -> None:
    parts = nn.ModuleList([BinaryLinear(8, 4), nn.Linear(8, 1), nn.BatchNorm1d(4), nn.Embedding(5, 4), nn.PReLU(4)])
    assert net_size(parts)[:2] == (32, 32 + 8 + 20)
    assert net_size(binarize_(nn.LSTM(3, 4)).model)[:2] == (4 * 4 * (3 + 4), 4 * 4 * (3 + 4))
