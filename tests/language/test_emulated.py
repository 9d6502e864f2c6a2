"""The decoder of AArch64 under qemu: the same bits as numpy on this machine."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onebit.language.native_decoder import NativeDecoder
from onebit.language.net import read_net
from onebit.language.reference import ReferenceDecoder
from onebit.native.abi import DecoderStruct, MatrixStruct
from support.compiling import EMULATOR, emulated_program, needs_emulator
from support.gguf_models import tokens_of, write_model

pytestmark = needs_emulator


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return emulated_program("emulated_decoder.c", tmp_path_factory.mktemp("emulated"))


def blob(path: Path, tokens: np.ndarray, options: dict[str, Any]) -> tuple[bytes, int]:
    """A file for the program, and the number of logits of a row."""
    isa: Any = SimpleNamespace(run_decoder=lambda *_: 0)
    decoder = NativeDecoder(read_net(path)[0], isa, threads=1, **(options | {"exact": True}))  # turns no matrix
    call, data, offsets = decoder._call, bytearray(64), dict[int, int]()
    call.tokens, call.rows, call.row_limit, call.all = tokens.ctypes.data, len(tokens), len(tokens), 1

    def put(content: bytes) -> int:
        place = len(data)
        data.extend(content + bytes(-len(content) % 64))
        return place

    def relocated(struct: Any) -> bytes:
        for name, kind in struct._fields_:
            if kind is ctypes.c_void_p and getattr(struct, name):
                setattr(struct, name, offsets.get(getattr(struct, name), 0))
        return bytes(struct)

    for kept in [*decoder._kept, tokens]:
        if isinstance(kept, np.ndarray):
            offsets[kept.ctypes.data] = put(kept.tobytes())
    for kept in decoder._kept:
        if isinstance(kept, ctypes.Array):
            matrices = kept._type_ is MatrixStruct
            content = b"".join(map(relocated, kept)) if matrices else np.array([offsets.get(at, 0) for at in kept])
            offsets[ctypes.addressof(kept)] = put(bytes(content))
    place = put(relocated(DecoderStruct.from_buffer_copy(call)))
    head = np.array([len(data), place, len(tokens) * decoder._columns, not options["exact"]], np.int64)
    return head.tobytes() + bytes(data), decoder._columns


@pytest.mark.parametrize(("isa", "kv"), [("neon", "float16"), ("neon", "int8"), ("portable", "float16")])
def test_every_instruction_set_has_the_bits_of_the_reference(program: Path, isa: str, kv: str, tmp_path: Path) -> None:
    for case in ({}, {"kind": "llama", "ends": "F16", "tied": False}, {"weights": "Q8_0", "ends": "BF16"}):
        path = write_model(tmp_path / "x.gguf", **case)
        net, options = read_net(path)[0], {"context": 9, "kv": kv, "exact": False}
        tokens = tokens_of(net, 9)
        content, columns = blob(path, tokens, options)
        (tmp_path / "net").write_bytes(content)
        index = ("portable", "neon").index(isa)
        subprocess.run(
            [str(EMULATOR), str(program), str(index), str(tmp_path / "net"), str(tmp_path / "out")], check=True
        )
        found = np.frombuffer((tmp_path / "out").read_bytes(), np.float32).reshape(-1, columns)[:, : net.vocabulary]
        expected = ReferenceDecoder(net, **options).run(tokens, 0, all_rows=True)
        np.testing.assert_array_equal(found, expected)
