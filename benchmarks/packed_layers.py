"""Layers that hold bits (`onebit.packed_layers_`) against float32 ones: a dense layer and a block of a ViT."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import onebit
from benchmarks.shared import (
    add_process_options,
    add_rounds,
    add_seconds,
    describe_machine,
    need_positive,
    set_up_process,
)
from onebit.native.layer_call import dense_call
from onebit.runtime.timing import Timed, speedups, take_turns

TOLERANCE = 1e-4
"""How far packed layers may be from the binary ones in float32, as a share of the largest output."""


class Block(nn.Module):
    """A block of a vision transformer: attention and a perceptron, each after a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        y = self.first(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.perceptron(self.second(x))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument("--features", type=int, default=4096, help="inputs and outputs of the dense layer (4096)")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64], help="batches of the dense layer (1 64)")
    parser.add_argument("--width", type=int, default=384, help="of the block; a head has 64 (384)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 197], help="of one image (64 197)")
    add_process_options(parser)
    add_rounds(parser, 11)
    add_seconds(parser, 0.05)


def measure(
    *,
    features: int = 4096,
    rows: list[int] | tuple[int, ...] = (1, 64),
    width: int = 384,
    tokens: list[int] | tuple[int, ...] = (64, 197),
    threads: int = 1,
    default_malloc: bool = False,
    rounds: int = 11,
    seconds: float = 0.05,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Time each in turn: torch in float32, packed layers, and for the dense layer the kernel alone.

    Returns:
        machine, and rows of case, variant, µs, speedups, and the share of float32 that the weights take.

    Raises:
        UsageError: numbers that are not positive, or no native library. OnebitError: packed layers with wrong answers.
    """
    least = {"features": features, "rows": min(rows, default=1), "width": width, "tokens": min(tokens, default=1)}
    need_positive(seconds, **least, threads=threads, rounds=rounds)
    if (isa := onebit.native.instruction_set()) is None:
        raise onebit.errors.UsageError("the native library is not installed, or ONEBIT_NATIVE=0 is set")
    machine = set_up_process(threads, default_malloc=default_malloc)
    torch.manual_seed(0)
    made = []
    dense, block = nn.Linear(features, features, bias=False), Block(width, max(1, width // 64)).eval()  # as it is run
    cases: list[tuple[str, nn.Module, Tensor]]
    cases = [(f"dense {features} × {features}, batch {n}", dense, torch.randn(n, features)) for n in rows]
    cases += [(f"ViT block of width {width}, {n} tokens", block, torch.randn(1, n, width)) for n in tokens]
    with torch.inference_mode():
        for number, (name, real, x) in enumerate(cases):
            packed, ratio = _packed(name, real, x)
            timed = [
                Timed("torch float32", None, lambda real=real, x=x: real(x)),  # type: ignore[misc]
                Timed("packed layers", None, lambda packed=packed, x=x: packed(x)),  # type: ignore[misc]
            ]
            if real is dense:
                timed.append(Timed("kernel alone", None, _kernel(packed, x, threads, isa.name)))

            def done(count: int, of: int, number: int = number) -> None:
                if on_round is not None:
                    on_round(number * rounds + count, len(cases) * rounds)

            take_turns(timed, rounds=rounds, seconds=seconds, on_round=done)
            for one in timed:
                row = {
                    "case": name,
                    "variant": one.variant,
                    "us": 1e6 * one.median,
                    "fastest_us": 1e6 * min(one.seconds),
                }
                row |= {**speedups(one, timed[0], "torch"), "weights_to_float32": ratio if one is timed[1] else None}
                if real is dense and one is timed[1]:
                    row["times_the_kernel"] = 1 / speedups(one, timed[2], "kernel")["kernel_speedup"]
                made.append(row)
    settings = {"rounds": rounds, "seconds": seconds, "isa": isa.name}
    return {"benchmark": "packed-layers", "machine": machine, "settings": settings, "rows": made}


def _packed(name: str, real: nn.Module, x: Tensor) -> tuple[nn.Module, float]:
    """The same module with packed layers, and its weights' bytes as a share of float32."""
    around = nn.Sequential(copy.deepcopy(real)).eval()
    onebit.binarize_(around, weight_quantizer="xnor")
    expected = around(x)
    report = onebit.packed_layers_(around)
    found = around(x)
    if not float((found - expected).abs().max()) <= TOLERANCE * float(expected.abs().max()):
        raise onebit.errors.OnebitError(f"{name}: the packed layers do not give what the binary ones give")
    return around[0], sum(row.packed_bytes for row in report.packed) / sum(row.float_bytes for row in report.packed)


def _kernel(layer: Any, x: Tensor, threads: int, isa: str) -> Callable[[], None]:
    """The call of the library that a packed dense layer makes."""
    call = dense_call(isa, layer.outputs, layer.terms, layer.signs)
    out = torch.empty(len(x), layer.outputs)
    given = layer.words.data_ptr(), layer.scale.data_ptr(), None, None
    return lambda: call.run(x.data_ptr(), len(x), given, out.data_ptr(), threads, keep=None)


def describe(result: dict[str, Any]) -> str:
    """The result as text."""
    lines = [
        f"{describe_machine(result['machine'])}; {result['settings']['isa']}, medians of {result['settings']['rounds']}"
    ]
    lines.append(f"{'':<50}{'µs':>10}{'× torch':>10}{'× kernel':>10}{'weights':>10}")
    for row in result["rows"]:
        kernel = f"{row['times_the_kernel']:.2f}" if "times_the_kernel" in row else ""
        weights = f"1/{1 / row['weights_to_float32']:.1f}" if row["weights_to_float32"] else ""
        name = f"{row['case']}: {row['variant']}"
        lines.append(f"{name:<50}{row['us']:10,.1f}{row['torch_speedup']:10.2f}{kernel:>10}{weights:>10}")
    return "\n".join(lines)
