"""The picture of docs/performance.md that says which kernel runs when: python tools/kernel_picture.py

A row is a layer of `python -m benchmarks kernels`, a column an instruction set of this machine. The plans of the native
library say which kernel multiplies by the weights; signs of real values make no difference. AVX-512 is there twice,
because its lookups of bytes are chosen on processors that start one in every cycle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onebit
from benchmarks.layers import CASES, KINDS, Layer
from onebit.report.drawing import COLORS, INK, picture

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "which-kernel.png"
KERNELS = {
    "xnor": "XNOR and count of 32 signs",
    "dot": "bytes × bits that become bytes",
    "dot_lut": "lookups of sums of 5 bytes",
    "lut": "lookups of sums of 3 or 4 integers",
    "planes": "the bytes of integers × bits, plane by plane",
}
"""Kernel of the library -> what it does, as the legend says it. "planes" is a way of "dot" and "lut" with AMX."""
COLUMN, ROW = 1.5, 0.27  # inches


def columns() -> dict[str, onebit.native.InstructionSet]:
    """Heading -> instruction set."""
    sets = onebit.native.instruction_sets()
    found = {name: sets[name] for name in ("portable", "avx2", "avx512", "neon") if name in sets}
    if "avx512" in found:
        best = found.pop("avx512")
        found["AVX-512\nwithout fast lookups"] = best._replace(dot_lut=0)
        found["AVX-512\nwith fast lookups"] = best._replace(dot_lut=32)
    if "amx" in sets:
        found["AMX, batches\nof 16 and more"] = sets["amx"]
    return found


def kernel_of(layer: Layer, isa: onebit.native.InstructionSet) -> str:
    """The kernel that multiplies by the weights of a layer."""
    plan = onebit.native.make_plan(layer.packed, isa)
    calls = zip(plan.kernels, plan.kept[0], strict=True)
    (kernel,) = {"planes" if call.planes else name for name, call in calls if name in KERNELS}
    return kernel


def main() -> None:
    sets = columns()
    rows = [(KINDS[case.kind], case.text, Layer(case, 1)) for case in CASES.values() if case.kind != "relu"]
    color = dict(zip(KERNELS, COLORS, strict=False))
    with picture(PICTURE, width=3.4 + COLUMN * len(sets), height=1.4 + ROW * len(rows)) as figure:
        axes = figure.add_subplot()
        for down, (_, _, layer) in enumerate(rows):
            for across, isa in enumerate(sets.values()):
                kernel = kernel_of(layer, isa)
                axes.barh(down, 0.94, left=across + 0.03, height=0.86, color=color[kernel], alpha=0.25)
                axes.text(across + 0.5, down, kernel.replace("_", " "), ha="center", va="center", color=INK, fontsize=8)
        axes.set_yticks(range(len(rows)), [f"{kind}, {text}" for kind, text, _ in rows])
        axes.set_xticks([0.5 + place for place in range(len(sets))], list(sets))
        axes.set_xlim(0, len(sets))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[["left", "bottom"]].set_visible(False)
        patches: list[Any] = [axes.barh(0, 0, color=color[name], alpha=0.25) for name in KERNELS]
        legend = [f"{name.replace('_', ' ')}: {words}" for name, words in KERNELS.items()]
        figure.legend(patches, legend, loc="outside lower center", ncols=2)


if __name__ == "__main__":
    main()
