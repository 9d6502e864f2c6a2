"""One web page that runs a packed net: no server, no network, no library."""

from __future__ import annotations

import base64
import html
import subprocess
import zlib
from importlib import resources
from math import prod
from pathlib import Path
from shutil import which

import numpy as np

from onebit.errors import OnebitError
from onebit.export.target import CannotRun
from onebit.packed import OPS, Node, PackedNet, dumps, infer, nodes

OPERATIONS: frozenset[type[Node]] = frozenset(OPS.values())
EXACT = True
RUNS_WITH = "node"

_ENGINE: dict[str, frozenset[type[Node]]] = {
    "tables": frozenset({nodes.Dense, nodes.Conv, nodes.ConvTranspose}),
    "reals": frozenset({nodes.RealDense, nodes.RealConv, nodes.RealConvTranspose}),
    "pools": frozenset({nodes.MaxPool, nodes.AveragePool, nodes.AdaptiveAveragePool}),
}
"""Parts of the engine that only some nets need -> their operations."""


def write(net: PackedNet, path: Path) -> None:
    """Write the page of a net."""
    net_text = base64.b64encode(zlib.compress(dumps(net), 9)).decode()
    engine = "\n".join(compact(_asset(f"engine/{name}.js")) for name in engine_parts(net))
    page = _asset("page/page.html")
    for name, text in {"title": html.escape(net.name or "packed net"), "net": net_text, "engine": engine}.items():
        page = page.replace("{{" + name + "}}", text)
    path.write_text(page, encoding="utf-8")


def run(net: PackedNet, path: Path, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of the page's own script, run in node."""
    return run_page(net, path, inputs)[0]


def run_page(net: PackedNet, path: Path, inputs: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    """The outputs of `run`, and the median of the milliseconds that a sample takes.

    Raises:
        CannotRun: node is not installed.
        OnebitError: the script failed.
    """
    node = which("node")
    if node is None:
        raise CannotRun("node is not installed")
    with resources.as_file(resources.files("onebit.export.html") / "run_page.js") as script:
        command = [node, str(script), str(path), net.input.dtype, "time"]
        done = subprocess.run(command, input=np.ascontiguousarray(inputs).tobytes(), capture_output=True)
    if done.returncode:
        raise OnebitError(f"node could not run the page: {done.stderr.decode(errors='replace').strip()}")
    known, found, start = infer(net), {}, 0
    left = np.frombuffer(done.stdout, np.float32)
    for name in net.outputs:
        shape = (len(inputs), *known[name].shape)
        found[name] = left[start : start + prod(shape)].reshape(shape)
        start += prod(shape)
    return found, float(done.stderr)


def engine_parts(net: PackedNet) -> list[str]:
    """The files of the engine that a net needs, in order."""
    kinds = {type(node) for node in net.nodes}
    parts = ["read", "net", "pointwise", "arrange"]
    weights = kinds & (_ENGINE["tables"] | _ENGINE["reals"])
    if weights or kinds & _ENGINE["pools"]:
        parts.append("grid")
    parts += [name for name, needing in _ENGINE.items() if kinds & needing]
    values = infer(net)
    if any(isinstance(node, nodes.OneBitWeights) and values[node.inputs[0]].kind == "sign" for node in net.nodes):
        parts.append("bits")
    return parts


def compact(text: str) -> str:
    """A script or style sheet without comments and indentation; comments follow two spaces, or have their own line."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line.partition("  // ")[0] for line in lines if line and not line.startswith(("//", "/*")))


def _asset(name: str) -> str:
    return (resources.files("onebit.export.html") / name).read_text(encoding="utf-8")
