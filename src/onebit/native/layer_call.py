"""A layer of one-bit weights by itself: its words as the kernels read them, and the call of the library."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from onebit.native.abi import LayerStruct, ParametersStruct
from onebit.native.library import InstructionSet, instruction_sets
from onebit.native.taps import axes_of
from onebit.native.thread_pool import run_shares
from onebit.packed import Conv, ConvTranspose, Value

WORD = 32  # weights
PANEL = PADDING = 32  # outputs, and words that the kernels may read past the last one
_UNITS = 16  # of a cache line
_LOOKUP_WORK = 6  # operations on a register, about, that a word of weights takes for each lane of places
_THREAD_WORK = 1 << 17  # least work per thread: about 50 µs


def kernel_words(rows: np.ndarray, groups: int) -> np.ndarray:
    """File rows of signs as the kernels read them: uint8 (O, ceil(K / 8)) -> uint32, see `ob_parameters`."""
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    parts = padded.reshape(groups, -1, padded.shape[1])
    panels = [parts[:, span].swapaxes(1, 2).reshape(groups, -1) for span in panel_spans(parts.shape[1])]
    made = np.concatenate([np.concatenate(panels, axis=1).ravel(), np.zeros(4 * PADDING, np.uint8)])
    return made.view(np.uint32)


def file_rows(words: np.ndarray, groups: int, outputs: int, terms: int) -> np.ndarray:
    """The inverse of `kernel_words`; outputs: of all groups. terms: weights of an output, K."""
    count = 4 * -(-terms // WORD)
    panels = words.view(np.uint8)[: outputs * count].reshape(groups, -1, count)
    parts = [panels[:, span].reshape(groups, count, -1).swapaxes(1, 2) for span in panel_spans(outputs // groups)]
    return np.ascontiguousarray(np.concatenate(parts, axis=1).reshape(outputs, count)[:, : -(-terms // 8)])


def panel_spans(outputs: int) -> list[slice]:
    """The outputs of each panel of a group."""
    return [slice(first, min(first + PANEL, outputs)) for first in range(0, outputs, PANEL)]


def kernel_word_count(outputs: int, terms: int) -> int:
    """How many words `kernel_words` gives."""
    return outputs * -(-terms // WORD) + PADDING


@dataclass(eq=False)
class LayerCall:
    """A layer for inputs of one shape, ready to be called.

    layer: keeps the memory that it points to in `kept`. units: of scratch memory, per thread. work: per sample.
    """

    layer: LayerStruct
    isa: InstructionSet
    units: int
    work: int
    kept: tuple[Any, ...] = field(repr=False)
    spare: list[tuple[int, np.ndarray]] = field(default_factory=list, repr=False)

    def run(
        self, x: int, count: int, parameters: tuple[int | None, ...], out: int, threads: int, *, keep: object
    ) -> None:
        """Write the outputs of `count` samples.

        Args:
            x, out: addresses of contiguous float32 arrays.
            parameters: addresses of words, scale, center and bias; None for 1 or 0.
            threads: the most that share the work.
            keep: what the addresses point to. Threads may outlive an interrupted call.
        """
        given = ParametersStruct(*parameters)
        parts = 1 if threads == 1 else max(1, min(threads, self.work * count // _THREAD_WORK))

        def run_part(part: int, kept: object = keep) -> None:
            try:
                address, memory = self.spare.pop()
            except IndexError:
                address, memory = self._scratch()
            self.isa.run_layer(self.layer, x, count, given, out, address, part, parts)
            self.spare.append((address, memory))

        if parts == 1:
            run_part(0)
        else:
            for _ in run_shares(run_part, range(parts)):
                pass

    def _scratch(self) -> tuple[int, np.ndarray]:
        """Memory of a thread, which begins a cache line: its address, and what keeps it."""
        memory = np.empty(self.units + _UNITS, np.uint32)
        start = memory.ctypes.data
        return start + -start % 64, memory


@lru_cache(maxsize=256)
def dense_call(isa: str, outputs: int, inputs: int, signs: bool) -> LayerCall:
    """A dense layer on an instruction set. signs: multiply the signs of the values."""
    layer = LayerStruct(1, outputs, inputs, inputs, 1, 1, 1, 1)
    layer.taps_down = layer.taps_across = 1
    layer.signs = signs
    return _call(layer, instruction_sets()[isa], 1, ())


def window_call(isa: str, node: Conv | ConvTranspose, shape: tuple[int, int, int], signs: bool) -> LayerCall:
    """A (transposed) convolution of images (C, H, W) on an instruction set. The signs of `node` are not read."""
    made: Any = node.infer(Value(shape, "real")).shape
    rows, columns = (np.ascontiguousarray(axis.taps) for axis in axes_of(node, shape[1:], made[1:]))
    layer = LayerStruct(
        node.groups, node.outputs // node.groups, node.terms, node.group_channels, *shape[1:], *made[1:]
    )
    layer.rows, layer.columns = rows.ctypes.data, columns.ctypes.data
    layer.taps_down, layer.taps_across = node.kernel
    layer.padding = getattr(node, "padding_value", 0)
    layer.signs = signs
    return _call(layer, instruction_sets()[isa], prod(made[1:]), (rows, columns))


def _call(layer: LayerStruct, isa: InstructionSet, pixels: int, kept: tuple[Any, ...]) -> LayerCall:
    units = isa.run_layer(layer, None, 0, None, None, None, 0, 1)
    words = layer.groups * layer.outputs * -(-layer.terms // WORD)
    return LayerCall(layer, isa, int(units), pixels * words * _LOOKUP_WORK // 8, kept)
