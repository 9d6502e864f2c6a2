"""The export target `html`: one web page that runs a packed net without server, network or library."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import zlib
from importlib import resources
from itertools import pairwise, product
from pathlib import Path

import numpy as np

from onebit.export.comparison import split_outputs
from onebit.export.html.scripts import asset, compact_script, engine_script, written_operations
from onebit.export.tools import output_of, require
from onebit.packed import OPS, Node, PackedNet, dumps, nodes
from onebit.packed.net import float32_bytes, op_name
from onebit.runtime import run as run_net

ENGINE = ("read", "net", "pointwise", "activation", "rounding", "arrange", "grid", "tables", "reals", "pools")
# not all of OPS, in which users register more operations
OPERATIONS: frozenset[type[Node]] = frozenset(OPS[name] for name in written_operations((*ENGINE, "bits")))
EXACT = True
RUNS_WITH = "node"

SAMPLES = 10
MAX_DRAWING = 64
"""Larger gray images, in pixels on a side, are chosen as files instead of drawn."""
DIGITS = tuple("0123456789")
"""The classes of a net whose inputs are drawn."""
SAMPLE_BYTES = 3000
SAMPLE_SHARE = 0.1
"""Samples take at most SAMPLE_BYTES as JPEG, or this share of the net's file; at least one is stored."""
MAX_SHEET = 65_500
"""Pixels on a side of a JPEG file."""
MAX_NUMBERS = 4096
"""Larger samples are not stored as numbers."""


def write(net: PackedNet, path: Path, *, samples: np.ndarray | None = None) -> None:
    """Write the page of a net; samples: (N, …) inputs, some of which the page offers to try."""
    kind, file = input_kind(net), dumps(net)
    shown = ["page", kind, output_kind(net)]
    script = "\n".join(compact_script(asset(f"page/{name}.js")) for name in shown)
    style = "".join(compact_script(asset(f"page/{name}.css")) for name in shown)
    one_bit = [node for node in net.nodes if isinstance(node, nodes.OneBitWeights)]
    multiplies_signs = any(net.values[node.inputs[0]].kind == "sign" for node in one_bit)
    files = [*ENGINE, "bits"] if multiplies_signs else ENGINE
    engine = engine_script(files, map(op_name, net.nodes))
    boot = compact_script(asset("page/boot.js"))
    stored, numbers = samples_of(net, kind, samples, len(file))
    parts = {
        "title": html.escape(net.name or "packed net"),
        "style_hash": _source_hash(style),
        "hashes": " ".join(map(_source_hash, (boot, engine, script))),
        "form": asset(f"page/{kind}.html").strip(),
        # without "<", no name can end the script
        "info": json.dumps(
            {
                "statement": net.statement,
                "several": net.compared == "multi-label",
                "samples": numbers,
                "reals": [node.real_parameters for node in net.nodes],
                "ratio": float32_bytes(net) / len(file),
            }
        ).replace("<", "\\u003c"),
        "net": _zlib(*parts_of(file)),
        "samples": stored,
        "style": _zlib(style.encode()),
        "engine": _zlib(engine.encode()),
        "page": _zlib(script.encode()),
        "boot": boot,
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], asset("page/page.html"))
    path.write_text(page, encoding="utf-8", newline="\n")


def run(net: PackedNet, path: Path, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Run the page's script in node."""
    require("node")
    with resources.as_file(resources.files("onebit.export.html") / "run_page.js") as script:
        command = ["node", str(script), str(path), net.input.dtype, json.dumps(net.outputs)]
        outputs = output_of(command, np.ascontiguousarray(inputs).tobytes())
    return split_outputs(net, np.frombuffer(outputs, np.float32).reshape(len(inputs), -1))


def input_kind(net: PackedNet) -> str:
    """How inputs are entered: "digits" are drawn, "images" are files, and "numbers" are typed."""
    shape = net.input.shape
    if net.input.dtype != "uint8" or len(shape) != 3 or shape[0] not in (1, 3):
        return "numbers"
    small = shape[0] == 1 and max(shape) <= MAX_DRAWING
    # the page scales and centers strokes as MNIST does; other gray images are not strokes
    return "digits" if small and output_kind(net) == "classes" and net.classes == DIGITS else "images"


def output_kind(net: PackedNet) -> str:
    """How outputs are shown: probabilities of "classes", "masks" of labels, or plain "outputs"."""
    if isinstance(net.output, str) and net.compared != "values":
        shape = net.values[net.output].shape
        image = len(net.input.shape) == 3 and net.input.dtype == "uint8"
        if len(shape) == 1 and shape[0] > 1 and (image or net.classes):
            return "classes"
        if len(shape) == 3 and image and net.pixels_have_classes(shape[0]):
            return "masks"
    return "outputs"


def samples_of(net: PackedNet, kind: str, inputs: np.ndarray | None, size: int) -> tuple[str, list[list[float]]]:
    """Some inputs as base64 of a zlib stream or of a JPEG file, or as numbers; `size`: bytes of the net's file."""
    chosen = [] if inputs is None or not len(inputs) else [inputs[k] for k in _of_all_labels(net, inputs)]
    if kind == "digits":
        return _zlib(b"".join(image.tobytes() for image in chosen)), []
    if kind == "numbers":
        return "", [[float(str(x)) for x in sample.reshape(-1)] for sample in chosen if sample.size <= MAX_NUMBERS]
    # JPEG limits the sides of the sheet
    count = min(len(chosen), MAX_SHEET // net.input.shape[1]) if net.input.shape[2] <= MAX_SHEET else 0
    while count > 1 and len(_jpeg(chosen[:count])) > max(SAMPLE_BYTES, SAMPLE_SHARE * size):
        count -= 1
    return _base64(_jpeg(chosen[:count])) if count else "", []


def _of_all_labels(net: PackedNet, inputs: np.ndarray) -> list[int]:
    """Indices of inputs with different labels as far as possible, else evenly spaced."""
    evenly = [len(inputs) * k // SAMPLES for k in range(SAMPLES)]
    if not isinstance(net.output, str) or len(net.values[net.output].shape) != 1:
        return sorted(set(evenly))
    first = np.unique(run_net(net, inputs).argmax(axis=1), return_index=True)[1].tolist()
    return first[:SAMPLES] if len(first) > SAMPLES // 2 else sorted({*first, *evenly})[:SAMPLES]


def _jpeg(images: list[np.ndarray]) -> bytes:
    """A JPEG file of images (C, H, W) of bytes, one below the other."""
    from PIL import Image

    sheet = np.concatenate(images, axis=1).transpose(1, 2, 0)
    stream = io.BytesIO()
    Image.fromarray(sheet if sheet.shape[2] == 3 else sheet[:, :, 0]).save(stream, "JPEG", quality=80, optimize=True)
    return stream.getvalue()


def parts_of(file: bytes) -> list[bytes]:
    """The header of a .1bit file and each of its tensors."""
    start = 8 + int.from_bytes(file[:8], "little")
    entries = json.loads(file[8:start])
    ends = sorted(entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__")
    return [file[a:b] for a, b in pairwise([0, start, *(start + end for end in ends)])]


def _zlib(*parts: bytes) -> str:
    """base64 of the shortest zlib stream that has separate codes for each part."""
    # small memory levels adapt to the data more often
    ways = product((4, 6, 7, 8, 9), (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED))
    return _base64(min((_packed(parts, zlib.compressobj(9, zlib.DEFLATED, 15, *way)) for way in ways), key=len))


def _packed(parts: tuple[bytes, ...], packer: zlib._Compress) -> bytes:
    return b"".join(packer.compress(part) + packer.flush(zlib.Z_BLOCK) for part in parts) + packer.flush()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _source_hash(text: str) -> str:
    """The hash by which a content security policy allows a script or style."""
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"
