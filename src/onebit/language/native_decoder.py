"""Runs a net with the kernels of csrc/decoder.h."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress
from time import perf_counter
from typing import Any

import numpy as np

from onebit.common.signals import uninterrupted
from onebit.language.net import INTERLEAVED, Matrix, Net
from onebit.native.abi import MATRIX, PANEL_ROWS, SEGMENT, TURN_ROWS, DecoderStruct, MatrixStruct
from onebit.native.library import InstructionSet
from onebit.native.thread_pool import run_parts, run_shares

ROWS = 64
"""The most tokens of a call."""
PROBE = 32
"""Of so many tokens one is tried with the other number of threads."""
KV_BYTES = {"float16": 2, "int8": 1}


class NativeDecoder:
    """Keys and values of `context` positions, and what computes the next ones.

    Args:
        exact: products with float32 inputs; else inputs of Q1_0 matrices are rounded, see csrc/sign_tables.h.
    """

    def __init__(self, net: Net, isa: InstructionSet, *, threads: int, context: int, kv: str, exact: bool) -> None:
        self.net, self._isa, self._threads = net, isa, threads
        self._kept, self._turns = list[Any](), list[tuple[Any, int]]()
        self._columns = -(-net.vocabulary // PANEL_ROWS) * PANEL_ROWS
        self._seconds, self._calls = dict.fromkeys((threads, 1), 0.0), 0  # of a token
        embedding, head, *others = net.matrices
        matrices = (MatrixStruct * len(net.matrices))()
        for struct, matrix in zip(matrices[1:], [head, *others], strict=True):
            self._place(struct, matrix, turned=not exact)
        for _ in run_shares(self._turn, [self._turns[part::threads] for part in range(threads)]):
            pass
        if embedding.weight is head.weight:  # which was turned in its place
            matrices[0] = matrices[1]
        else:
            self._place(matrices[0], embedding, turned=False)
        # on a small file, working memory is not larger than the file
        rows = max(1, min(ROWS, context, net.bytes_ // (50 * max(net.width, net.inner, net.heads * net.head_size))))
        norms = (ctypes.c_void_p * len(net.norms))(*(self._address(norm) for norm in net.norms))
        count = -(-context // SEGMENT) * SEGMENT * net.layers * net.kv_heads
        self._call = call = DecoderStruct(
            width=net.width, inner=net.inner, layers=net.layers, heads=net.heads, kv_heads=net.kv_heads,
            head_size=net.head_size, context=context, interleaved=INTERLEAVED[net.kind], kv_bytes=KV_BYTES[kv],
            eps=net.eps, matrices=ctypes.addressof(matrices), norms=ctypes.addressof(norms),
            rotation=self._address(net.rotation(context)), row_limit=rows, parts=threads,
        )  # fmt: skip
        kv_bytes = 2 * count * net.head_size * KV_BYTES[kv]
        call.keys, call.values = (self._address(_zeros(kv_bytes // 2)) for _ in range(2))
        if kv == "int8":
            call.kv_scales = self._address(_zeros(8 * count))
        scratch = np.empty(isa.run_decoder(call, 0, threads, None) + 63, np.uint8)
        call.scratch = self._address(scratch) + -scratch.ctypes.data % 64
        self._kept += [matrices, norms]

    def run(self, tokens: np.ndarray, position: int, *, all_rows: bool = False) -> np.ndarray:
        """The logits after the last of the tokens (int32), or after each: (T, vocabulary)."""
        logits = np.empty((len(tokens) if all_rows else 1, self._columns), np.float32)
        call = self._call
        for at in range(0, len(tokens), call.row_limit):
            part = np.ascontiguousarray(tokens[at : at + call.row_limit], np.int32)
            call.tokens, call.rows, call.position, call.all = part.ctypes.data, len(part), position + at, all_rows
            last = at + len(part) == len(tokens)
            call.logits = logits[at:].ctypes.data if all_rows else logits.ctypes.data if last else None
            call.taken[:] = [0, 0, 0]
            self._run_parts(call, alone=len(part) == 1)
        return logits[:, : self.net.vocabulary]

    def _run_parts(self, call: Any, *, alone: bool) -> None:
        """Run a call; a single token in as many threads as are faster just now.

        Where another program has a core, threads wait for the one that it stops, longer than a single one takes.
        """
        parts = min(self._seconds, key=self._seconds.__getitem__) if alone else self._threads
        self._calls += alone
        if alone and self._calls % PROBE == 0:
            parts = 1 if parts > 1 else self._threads
        begin = perf_counter()
        with uninterrupted():  # no part goes on after this call
            run_parts(lambda share, of, barrier: self._isa.run_decoder(call, share, of, barrier), parts)
        if alone:
            self._seconds[parts] += (perf_counter() - begin - self._seconds[parts]) / 2

    def _address(self, array: np.ndarray | None) -> Any:
        if array is None:
            return None
        self._kept.append(array)
        return array.ctypes.data

    def _place(self, struct: Any, matrix: Matrix, *, turned: bool) -> None:
        weight = matrix.weight
        struct.outputs, struct.inputs = weight.shape
        struct.kind, struct.rows = MATRIX[weight.kind.lower()], self._address(weight.data)
        struct.bias = self._address(matrix.bias)
        if turned and weight.kind == "Q1_0":
            panels = weight.data  # in their place, which no other matrix shares
            if struct.outputs % PANEL_ROWS:  # panels need more room than rows
                panels = np.empty((-(-struct.outputs // PANEL_ROWS) * PANEL_ROWS, weight.data.shape[1]), np.uint8)
            self._turns.append((struct, self._address(panels)))

    def _turn(self, turns: list[tuple[Any, int]]) -> None:
        for struct, panels in turns:
            scratch = np.empty(TURN_ROWS * struct.inputs // 128 * 18, np.uint8)
            self._isa.run_turn(struct, panels, scratch.ctypes.data)
            struct.rows, struct.kind = panels, MATRIX["panels"]


def _zeros(size: int) -> np.ndarray:
    """Bytes whose pages cost nothing until they are used; large ones, where the system has them."""
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
