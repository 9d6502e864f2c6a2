"""Compiles exported nets into one program, runs it, and compares its outputs with the reference executor."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from benchmarks.cortex_m4 import STRICT
from onebit.export.c import target as c
from onebit.packed import PackedNet, infer
from support.executors import bits_of, reference
from support.extreme_nets import EXTREMES, extreme_inputs
from support.packed_nets import NETS, inputs_of

Case = tuple[PackedNet, np.ndarray]

GNU = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pedantic")
"""Flags for a GNU dialect, in which gcc contracts products and sums unless net.c forbids it."""
SMALL = [make() for make in NETS.values()]


def needs(*tools: str) -> None:
    """Skip the test unless all tools are installed."""
    missing = [tool for tool in tools if which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def extremes() -> list[Case]:
    return [(net, extreme_inputs(net)) for net in (make() for make in EXTREMES.values())]


def with_inputs(nets: list[PackedNet], count: int) -> list[Case]:
    return [(net, inputs_of(net, count)) for net in nets]


def exported(net: PackedNet, folder: Path, **options: str) -> Path:
    """Write a net into a new folder."""
    folder.mkdir(parents=True)
    c.write(net, folder, **options)
    return folder


def assert_reference_bits(cases: Sequence[Case], found: Sequence[np.ndarray]) -> None:
    """Every bit is that of the reference executor."""
    for (net, inputs), numbers in zip(cases, found, strict=True):
        expected = reference(net, inputs)
        assert expected is not None
        sizes = np.cumsum([np.prod(infer(net)[name].shape) for name in net.outputs])
        parts = np.split(numbers, sizes[:-1].astype(int), axis=1)
        flat = np.concatenate([part.reshape(-1) for part in parts])
        np.testing.assert_array_equal(bits_of(flat), bits_of(expected.reshape(-1)), err_msg=repr(net))


def outputs_of(
    cases: Sequence[Case],
    folder: Path,
    command: Sequence[str],
    runner: Sequence[str] = (),
    *,
    strict: Sequence[str] = STRICT,
) -> list[np.ndarray]:
    """(N, numbers) float32 of each net; `command` compiles all of them into one program, which `runner` runs.

    strict: further flags for net.c.
    """
    lines = ["#include <stdio.h>"]
    body, objects, commands = [], [], []
    for k, (net, inputs) in enumerate(cases):
        net_c = exported(net, folder / f"net{k}") / "net.c"
        names = [f"-Dnet_run=net_run_{k}", f"-Dnet_classes=net_classes_{k}"]
        objects.append(str(folder / f"net{k}.o"))
        commands.append([*command, *strict, *names, "-c", str(net_c), "-o", objects[-1]])
        lines += [
            f"#undef {name}" for name in ("NET_H", "NET_ID", "NET_INPUT_SIZE", "NET_OUTPUT_SIZE", "NET_INPUT_IS_FLOAT")
        ]
        lines += ["#undef NET_OUTPUT_IS_FLOAT", *(f"#undef NET_OUTPUT_{n}" for n in range(9))]
        renamed = {"net_run": f"net_run_{k}", "net_classes": f"net_classes_{k}"}
        renamed |= {"net_input_t": f"input_{k}_t", "net_output_t": f"output_{k}_t"}
        lines += [f"#define {name} {other}" for name, other in renamed.items()]
        lines.append(f'#include "net{k}/net.h"')
        lines += [f"#undef {name}" for name in renamed]
        lines.append(f"static input_{k}_t in_{k}[NET_INPUT_SIZE]; static output_{k}_t out_{k}[NET_OUTPUT_SIZE];")
        body.append(
            f"for (int n = 0; n < {len(inputs)}; n++) {{ if (fread(in_{k}, sizeof in_{k}, 1, stdin) != 1) return 1; "
            f"net_run_{k}(in_{k}, out_{k}); fwrite(out_{k}, sizeof out_{k}, 1, stdout); }}"
        )
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda made: subprocess.run(made, capture_output=True, text=True), commands):
            assert done.returncode == 0, done.stderr[:3000]
    (folder / "all.c").write_text("\n".join([*lines, "int main(void) {", *body, "return 0;", "}", ""]))
    program = str(folder / "all")
    subprocess.run([*command, str(folder / "all.c"), *objects, "-o", program], check=True)
    data = b"".join(np.ascontiguousarray(inputs).tobytes() for _, inputs in cases)
    ran = subprocess.run([*runner, program], input=data, capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()[-3000:]
    found, start = [], 0
    for k, (_, inputs) in enumerate(cases):
        text = (folder / f"net{k}" / "net.h").read_text()
        size = int(text.partition("NET_OUTPUT_SIZE ")[2].split()[0])
        dtype = np.float32 if "NET_OUTPUT_IS_FLOAT 1" in text else np.int32
        numbers = np.frombuffer(ran.stdout, dtype, len(inputs) * size, start)
        start += numbers.nbytes
        found.append(numbers.reshape(len(inputs), size).astype(np.float32))
    assert start == len(ran.stdout)
    return found
