"""The structures in Python are those of the header of the C library, and a library of another header is refused."""

from __future__ import annotations

import ast
import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from onebit.errors import UsageError
from onebit.native import abi, library
from tools.abi import HEADERS, MODULE, made, text

STRUCTURES = {
    name: one for name, one in vars(abi).items() if isinstance(one, type) and issubclass(one, ctypes.Structure)
}


def c_name(structure: str) -> str:
    """CallStruct -> ob_call, EpilogueOpStruct -> ob_epilogue_op."""
    return "ob" + "".join(f"_{c.lower()}" if c.isupper() else c for c in structure.removesuffix("Struct"))


def test_the_module_is_made_from_the_header() -> None:
    """Where it fails: python -m tools.abi && make format."""
    assert ast.dump(ast.parse(MODULE.read_text())) == ast.dump(ast.parse(text()))


def test_the_hash_tells_of_every_change() -> None:
    header = "".join(header.read_text() for header in HEADERS)
    changed = header.replace("KERNEL(XNOR,", "KERNEL(BITS,", 1)
    assert made(header) == text() != made(changed)
    assert abi.HASH in made(header)
    assert abi.HASH not in made(changed)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_compiler_places_every_field_where_python_does(tmp_path: Path) -> None:
    expected, lines = [], []
    for name, structure in STRUCTURES.items():
        expected.append(ctypes.sizeof(structure))
        lines.append(f'printf("%zu\\n", sizeof({c_name(name)}));')
        for field, *_ in structure._fields_:
            expected.append(getattr(structure, field).offset)
            lines.append(f'printf("%zu\\n", offsetof({c_name(name)}, {field.rstrip("_")}));')
    kinds = ("EPILOGUE", "KERNEL", "CODING", "NORM", "WEIGHT", "SURROGATE", "ACTIVATION", "STAGE")
    numbers = {f"OB_{kind}_{name.upper()}": n for kind in kinds for name, n in getattr(abi, kind).items()}
    numbers |= {f"OB_{name}": number for name, number in vars(abi).items() if isinstance(number, int)}
    numbers["(int)sizeof(segment_t)"] = 4 * abi.SEGMENT_UNITS
    assert {"OB_AXES", "OB_BLOCK", "OB_AMX_BYTES"} <= set(numbers)
    expected += numbers.values()
    lines += [f'printf("%d\\n", {name});' for name in numbers]
    source = tmp_path / "offsets.c"
    body, header = "\n".join(lines), HEADERS[0].with_name("kernels.h")
    source.write_text(f'#include <stdio.h>\n#include "{header}"\nint main(void) {{ {body} return 0; }}\n')
    subprocess.run(["cc", str(source), "-o", str(tmp_path / "offsets"), "-lm"], check=True)
    found = subprocess.run([str(tmp_path / "offsets")], capture_output=True, text=True, check=True).stdout
    assert [int(line) for line in found.split()] == expected
    assert len(STRUCTURES) > 10


@pytest.mark.skipif(not library.instruction_sets(), reason="the native library is not installed")
def test_a_library_of_another_header_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "HASH", "0" * 64)
    with pytest.raises(UsageError, match="version"):
        library._load.__wrapped__()
