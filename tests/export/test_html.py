"""The file of the web page: what it stores, its size, and that names in it stay text."""

from __future__ import annotations

import base64
import io
import json
import re
import runpy
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onebit.data import load_dataset
from onebit.errors import OnebitError
from onebit.export import export_net
from onebit.export.html import scripts, target
from onebit.export.html.scripts import asset
from onebit.packed import OPS, Certificate, Node, costs, dumps, load, nodes as op
from support.html_pages import HOSTILE, digits_net
from support.packed_nets import NETS, Builder, inputs_of, integer_resnet, make_packed_mlp, real_resnet

needs_node = pytest.mark.skipif(which("node") is None, reason="node is not installed")


def stored(page: Path, name: str) -> bytes:
    """What a page stores under an id."""
    found = re.search(rf'<script id="{name}" type="text/plain">([^<]*)</script>', page.read_text(encoding="utf-8"))
    assert found is not None
    return zlib.decompress(base64.b64decode(found[1]))


def info_of(page: Path) -> dict[str, Any]:
    """The JSON that a page stores."""
    found = re.search(r'<script id="info" type="application/json">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found is not None
    made: dict[str, Any] = json.loads(found[1])
    return made


def test_registered_operations_are_not_those_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the module is imported before or after their registration."""
    monkeypatch.setitem(OPS, "own_operation", Node)
    imported_later = runpy.run_path(target.__file__)["OPERATIONS"]
    ours = {kind for kind in OPS.values() if kind.__module__.startswith("onebit.")} - {Node}
    assert imported_later == target.OPERATIONS == ours - {OPS["normalize"], OPS["softmax"], OPS["product"]}


@needs_node
def test_a_page_with_a_wrong_number_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = scripts.engine_script
    monkeypatch.setattr(target, "engine_script", lambda *given: right(*given).replace("2 * x - 255", "2 * x - 254"))
    with pytest.raises(OnebitError, match="differs"):
        export_net(make_packed_mlp(), "html", tmp_path / "net.html")
    assert list(tmp_path.iterdir()) == []


def test_without_node_the_page_is_written_but_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert export_net(make_packed_mlp(), "html", tmp_path / "net.html").not_compared == "node is not installed"
    assert stored(tmp_path / "net.html", "net") == dumps(make_packed_mlp())
    (tmp_path / "node").write_text("#!/bin/sh\necho FATAL ERROR: out of memory >&2\nexit 134\n")
    (tmp_path / "node").chmod(0o755)
    with pytest.raises(OnebitError, match="memory"):
        export_net(make_packed_mlp(), "html", tmp_path / "net.html")


def test_inputs_and_outputs_are_shown_by_their_kind(certificate: Certificate) -> None:
    net = digits_net()
    assert target.input_kind(net) == "digits"
    assert target.input_kind(replace(net, classes=("ill", *net.classes[1:]))) == "images"
    assert target.input_kind(replace(net, classes=None)) == "images"
    assert target.output_kind(net) == "classes"
    values = replace(certificate, compared="values")
    assert target.output_kind(replace(net, certificate=values)) == "outputs"


def test_what_surrounds_the_net_is_small(tmp_path: Path) -> None:
    """The trained MLP takes 89.2 kB and ResNet-20 53.5 kB of base64: the limits are 110 and 75 kB."""
    rng = np.random.default_rng(0)
    digits = load_dataset("mnist-sample").test.images[:60]
    smooth = np.repeat(np.repeat(rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8), 4, axis=2), 4, axis=3)
    for net, samples, most in (
        (make_packed_mlp((784, 512, 256, 10), shape=(1, 28, 28)), digits, 19_500),
        (real_resnet((16,), size=32, coding="standardise"), smooth, 20_900),
        (integer_resnet((16,), size=32), smooth, 20_000),
    ):
        page = tmp_path / "net.html"
        target.write(net, page, samples=samples)
        assert page.stat().st_size - len(target._zlib(*target.parts_of(dumps(net)))) < most


def test_a_page_has_only_the_engine_that_its_net_needs(tmp_path: Path) -> None:
    page = tmp_path / "net.html"
    target.write(make_packed_mlp(), page)
    engine = stored(page, "engine").decode()
    assert "OPS.relu" in engine
    for other in ("OPS.max_pool", "OPS.permute", "realWeights", "xnor", "placesOf", "//"):
        assert other not in engine


def test_the_page_requests_nothing(tmp_path: Path) -> None:
    for make in NETS.values():
        page = tmp_path / "net.html"
        target.write(make(0), page)
        text = page.read_text(encoding="utf-8")
        assert "default-src 'none'" in text
        assert "unsafe" not in text
        code = "".join(stored(page, name).decode() for name in ("style", "engine", "page"))
        assert not re.search(r"https?:|//\w+\.|\bfetch\(|XMLHttpRequest|innerHTML|\beval\(|@import", text + code)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    page = tmp_path / "net.html"
    target.write(
        replace(digits_net(), name=HOSTILE[:60] + "{{net}}", classes=tuple(f"{HOSTILE}{k}" for k in range(10))), page
    )
    text = page.read_text(encoding="utf-8")
    assert "<img" not in text
    assert text.count("<script") == text.count("</script>") == 7
    assert "{{net}}</title>" in text


@needs_node
def test_of_several_labels_those_above_zero_are_shown(tmp_path: Path) -> None:
    """As `onebit evaluate` counts them; an output of integers can be 0."""
    program = """
      const part = (children = []) => ({
        children, style: {}, append(...more) { children.push(...more); }, get firstChild() { return children[0]; },
      });
      const boxes = { answer: part(), results: part() };
      const $ = (id) => boxes[id];
      const element = (tag, options, ...children) => part(children);
      const net = { outputs: ["y"], graph: { classes: ["a", "b", "c"] } };
      const info = { several: true };
    """
    program += asset("page/classes.js") + 'show(new Map([["y", Float32Array.of(0, 2, -2)]]));'
    (tmp_path / "page.js").write_text(program + "console.log(boxes.answer.textContent);")
    done = subprocess.run(["node", str(tmp_path / "page.js")], capture_output=True, text=True, check=True)
    assert done.stdout == "b\n"


def test_the_page_counts_weights_as_inspect_does(tmp_path: Path) -> None:
    """Weights that several layers share count once; multipliers and offsets of integer nets are real numbers."""
    b = Builder((8,))
    signs = b.signs(8, 8)
    for _ in range(3):
        b.add(op.Dense, **signs)
    target.write(b.net(), tmp_path / "net.html")
    assert info_of(tmp_path / "net.html")["ratio"] == pytest.approx(4 * 64 / len(dumps(b.net())))
    net = load("resnet20-cifar10-int8")
    target.write(net, tmp_path / "net.html")
    reals = info_of(tmp_path / "net.html")["reals"]
    assert reals == [row.real_parameters for row in costs(net)]
    assert sum(reals) > 1000


@pytest.mark.parametrize(("shape", "stored"), [((1, 1, 70_000), 0), ((1, 30_000, 3), 2), ((3, 2, 65_500), 4)])
def test_a_sheet_of_samples_fits_into_a_jpeg_file(shape: tuple[int, ...], stored: int) -> None:
    b = Builder(shape)
    b.add(op.AdaptiveAveragePool, size=(1, 1))
    b.add(op.Flatten)
    b.add(op.Dense, **b.signs(3, shape[0]))
    sheet, numbers = target.samples_of(b.net(), "images", np.zeros((4, *shape), np.uint8), 1 << 20)
    assert numbers == []
    assert (Image.open(io.BytesIO(base64.b64decode(sheet))).height // shape[1] if sheet else 0) == stored


def test_samples_of_features_are_stored_as_numbers(tmp_path: Path) -> None:
    net = NETS["features"](0)
    inputs = inputs_of(net, 30)
    export_net(net, "html", tmp_path / "net.html", inputs=inputs)
    samples = np.array(info_of(tmp_path / "net.html")["samples"], np.float32)
    assert (samples[:, np.newaxis] == inputs).all(axis=2).sum() == len(samples) == target.SAMPLES
