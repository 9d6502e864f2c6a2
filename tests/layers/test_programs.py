"""What torch makes programs of: binary and packed layers, in each of three ways."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

import onebit
from onebit.errors import UsageError
from onebit.layers import BinaryConv2d, BinaryLinear
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from support.covering import covering

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of its own tracers
SHAPE = (3, 2, 6, 6)


def of_weights() -> nn.Module:
    return nn.Sequential(nn.Flatten(), *(BinaryLinear(72, 72, weight_quantizer=name) for name in WEIGHT_QUANTIZERS))


def of_inputs() -> nn.Module:
    return nn.Sequential(*(BinaryConv2d(2, 2, 3, padding=1, input_quantizer=name) for name in INPUT_QUANTIZERS))


def mixed() -> nn.Module:
    return nn.Sequential(
        BinaryConv2d(2, 4, 3, padding=1, weight_quantizer="xnor"),
        nn.BatchNorm2d(4),
        BinaryConv2d(4, 4, 3, input_quantizer="ste_sign"),
        nn.Flatten(),
        nn.GELU(),
        BinaryLinear(64, 10, weight_quantizer="irnet"),
    )


def packed_layers() -> nn.Module:
    model = mixed().eval()
    onebit.packed_layers_(model)
    return model


def packed_module() -> nn.Module:
    model = nn.Sequential(BinaryConv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), BinaryLinear(64, 10))
    return onebit.PackedModule(onebit.pack(model.eval(), torch.zeros(SHAPE)))


def traced(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, (x,)), file)
    file.seek(0)
    return torch.jit.load(file)


def exported(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (x,)), file)
    file.seek(0)
    return torch.export.load(file).module()


def compiled(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    torch.compiler.reset()
    return torch.compile(model, fullgraph=True, backend="aot_eager")


ROWS = {
    "binary layers, with every quantizer of weights": of_weights,
    "binary layers, with every quantizer of inputs": of_inputs,
    "PackedModule": packed_module,
    "packed_layers_": packed_layers,
}
COLUMNS = {"torch.jit.trace": traced, "torch.export": exported, "torch.compile": compiled}


@pytest.mark.parametrize(("row", "column"), covering(product(ROWS, COLUMNS)))
def test_a_program_answers_as_the_model(row: str, column: str) -> None:
    torch.manual_seed(0)
    model = ROWS[row]().eval()
    program = COLUMNS[column](model, torch.randn(SHAPE))  # where torch follows gradients, as it usually does
    x = torch.randn(SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_trace_for_training_is_refused() -> None:
    """It would have no gradient of the latents, which would stay as they are in silence."""
    with pytest.raises(UsageError, match="trace"):
        torch.jit.trace(mixed().train(), (torch.randn(SHAPE),))
