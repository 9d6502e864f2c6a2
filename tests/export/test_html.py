"""The web page: every bit in node, and the page itself in Chromium."""

from __future__ import annotations

import base64
import io
import json
import re
import runpy
import subprocess
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from PIL import Image

from onebit.data import load_dataset
from onebit.errors import FormatError, NotBinaryError, OnebitError
from onebit.export import EXPORTS, export_net
from onebit.export.html import scripts, writer
from onebit.export.html.scripts import asset
from onebit.packed import (
    OPS,
    AdaptiveAveragePool,
    Add,
    Affine,
    AveragePool,
    Certificate,
    Conv,
    ConvTranspose,
    Dense,
    Flatten,
    Multiply,
    Node,
    PackedNet,
    Quantize,
    RealConv,
    RealConvTranspose,
    RealDense,
    Relu,
    Sign,
    costs,
    dumps,
    load,
)
from onebit.packed.bits import unpack_signs
from onebit.runtime import run, softmax
from support.browser import MISSING, Browser
from support.byte_nets import EXTREMES, extreme_inputs, residual_bytes
from support.drawn_nets import batches_of, nets
from support.packed_nets import IMAGE_NETS, OTHER_NETS, Builder, inputs_of, make_packed_mlp

MNIST_WIDTHS = (784, 512, 256, 10)
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
needs_node = pytest.mark.skipif(which("node") is None, reason="node is not installed")
needs_browser = pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} is not installed")


def stored(page: Path, name: str) -> bytes:
    """What a page stores under a name."""
    found = re.search(rf'<script id="{name}" type="text/plain">([^<]*)</script>', page.read_text(encoding="utf-8"))
    assert found is not None
    return zlib.decompress(base64.b64decode(found[1]))


def assert_equal(net: PackedNet, page: Path, inputs: np.ndarray) -> None:
    """The page gives the bits of the reference executor."""
    expected = net.by_name(run(net, inputs, executor="reference"))
    writer.write(net, page)
    found = writer.run(net, page, inputs)
    assert list(found) == list(net.outputs)
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name].view(np.int32), values.view(np.int32), err_msg=name)


@needs_node
@pytest.mark.parametrize("name", [*IMAGE_NETS, *OTHER_NETS])
def test_nets_of_all_operations_give_the_bits_of_the_reference(name: str, tmp_path: Path) -> None:
    for seed in range(2):
        net = {**IMAGE_NETS, **OTHER_NETS}[name](seed)
        assert_equal(net, tmp_path / "net.html", inputs_of(net, 3, seed))


@needs_node
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=nets().flatmap(lambda net: st.tuples(st.just(net), batches_of(net, 2))))
def test_drawn_nets_give_the_bits_of_the_reference(drawn: tuple[PackedNet, np.ndarray], tmp_path: Path) -> None:
    net, inputs = drawn
    try:
        run(net, inputs, executor="reference")
    except (FormatError, NotBinaryError):  # real parameters overflow
        assume(False)
    assert_equal(net, tmp_path / "net.html", inputs)


@needs_node
@pytest.mark.parametrize("name", EXTREMES)
def test_integers_of_few_bits_give_the_bits_of_the_reference(name: str, tmp_path: Path) -> None:
    net = EXTREMES[name]()
    assert_equal(net, tmp_path / "net.html", extreme_inputs(net))


@needs_node
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(net=nets(integers=True))
def test_drawn_integer_nets_give_the_bits_of_the_reference(net: PackedNet, tmp_path: Path) -> None:
    assert_equal(net, tmp_path / "net.html", extreme_inputs(net))


@needs_node
@pytest.mark.nightly
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(net=nets(integers=True))
def test_many_drawn_integer_nets_give_the_bits_of_the_reference(net: PackedNet, tmp_path: Path) -> None:
    assert_equal(net, tmp_path / "net.html", extreme_inputs(net))


@needs_node
def test_operations_of_other_packages_are_not_those_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are registered before or after the page is imported."""
    monkeypatch.setitem(OPS, "own_operation", Node)
    imported_later = runpy.run_path(writer.__file__)["OPERATIONS"]
    ours = {kind for kind in OPS.values() if kind.__module__.startswith("onebit.")} - {Node}
    assert imported_later == writer.OPERATIONS == ours


def test_nan_that_cannot_be_rounded_is_said(tmp_path: Path) -> None:
    b = Builder((3,), coding="float32")
    huge = np.full(3, 3e38, np.float32)
    made = [b.add(Affine, "input", scale=scale, shift=np.zeros(3, np.float32)) for scale in (huge, -huge)]
    b.add(Add, *made)
    b.add(Quantize, least=-7, most=9)
    net, page = b.net(), tmp_path / "net.html"
    writer.write(net, page)
    (found,) = writer.run(net, page, np.float32([[-0.5, 1, 0]])).values()
    np.testing.assert_array_equal(found, [[0, 0, 0]])
    with pytest.raises(OnebitError, match="NaN cannot be rounded to an integer"):
        writer.run(net, page, np.float32([[0, 2, 0]]))


@needs_node
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_an_error(number: float, tmp_path: Path) -> None:
    b = Builder((3,), coding="float32")
    b.add(RealDense, weight=np.full((1, 3), 1e38, np.float32))
    net, page = b.net(), tmp_path / "net.html"
    writer.write(net, page)
    with pytest.raises(OnebitError, match="inputs are NaN or infinite"):
        writer.run(net, page, np.float32([[0, number, 0]]))
    with pytest.raises(OnebitError, match="outputs are NaN or infinite"):
        writer.run(net, page, np.float32([[9, 9, 9]]))


@needs_node
def test_names_that_javascript_knows_are_names(tmp_path: Path) -> None:
    nodes = [
        Flatten(inputs=("input",), output="constructor"),
        Relu(inputs=("constructor",), output="__proto__"),
        Relu(inputs=("__proto__",), output="toString"),
    ]
    net = PackedNet(
        input=Builder((2, 3, 1)).input, nodes=tuple(nodes), output={"__proto__": "toString", "length": "__proto__"}
    )
    assert_equal(net, tmp_path / "net.html", inputs_of(net, 2))


def rounding_nets() -> dict[str, PackedNet]:
    """Nets with sums that doubles round, if they are added carelessly."""
    made = {}
    for terms in (2000, 2**15, 2**15 + 3):
        b = Builder((terms,), seed=terms, coding="float32")
        b.add(RealDense, weight=b.real(5, terms) ** 5)
        made[f"{terms} real products"] = b.net()
    b = Builder((2**13 + 1, 2, 2), coding="values")
    b.add(RealConvTranspose, weight=b.real(2, 4 * (2**13 + 1)), kernel=(2, 2))
    made["long sums of a transposed convolution"] = b.net()
    b = Builder((40, 5, 3))
    b.add(Conv, **b.signs(40, 360), kernel=(3, 3), padding=(1, 1, 1, 1), padding_value=-1)
    big = b.last
    for _ in range(9):  # integers beyond 2^24
        big = b.add(Add, big, big)
    b.add(RealConv, weight=b.real(3, 160), kernel=(2, 2), padding=(1, 0, 0, 0), padding_value=1)
    b.add(Multiply, b.last, b.last)
    real = b.add(Flatten)
    b.add(AveragePool, big, kernel=(2, 3), padding=(1, 0, 0, 1))
    b.add(AdaptiveAveragePool, size=(2, 2))
    b.add(ConvTranspose, big, **b.signs(40, 9, scale=True, centre=True), kernel=(3, 3), groups=40, stride=(2, 1))
    made["large integers"] = b.net((real, b.nodes[-2].output, b.last))
    b = Builder((33, 4, 4), coding="float32")
    b.add(Sign)
    b.add(Conv, **b.signs(66, 11 * 9, scale=True), kernel=(3, 3), groups=3, padding=(1, 0, 1, 1), padding_value=1)
    b.add(Sign)
    b.add(ConvTranspose, **b.signs(37, 66 * 6), kernel=(2, 3), padding=(1, 0, 0, 2), dilation=(1, 2))
    b.add(Sign)
    b.add(Conv, **b.signs(5, 37 * 4, centre=True), kernel=(2, 2), padding=(1, 1, 1, 1))
    made["signs in groups"] = b.net()
    b = Builder((2, 4, 4), coding="float32")
    large = b.add(Affine, scale=np.full(2, 2**20, np.float32))  # beside which a border of 1 is rounded to 0
    window = {"kernel": (2, 2), "padding": (2, 1, 2, 1), "padding_value": 1}
    one = b.add(Conv, large, **b.signs(3, 8), **window)
    b.add(RealConv, large, weight=b.real(3, 8), **window)
    made["borders of large numbers"] = b.net((one, b.last))
    return made


ROUNDING = rounding_nets()


@needs_node
@pytest.mark.parametrize("name", ROUNDING)
def test_sums_are_rounded_once(name: str, tmp_path: Path) -> None:
    net = ROUNDING[name]
    inputs = inputs_of(net, 2)
    if net.input.dtype == "float32":
        inputs = (
            inputs
            * np.float32(10)
            ** np.arange(-3, 3, 6 / inputs[0].size, dtype=np.float32).reshape(-1, *inputs.shape[1:])[:1]
        )
    assert_equal(net, tmp_path / "net.html", inputs)


@needs_node
def test_outputs_are_those_of_their_keys_in_any_order(tmp_path: Path) -> None:
    """JavaScript sorts keys that are numbers."""
    b = Builder((12,))
    b.add(Dense, **b.signs(3, 12))
    first = b.last
    b.add(Dense, **b.signs(2, 3))
    net = replace(b.net(), output={"10": first, "2": b.last})
    inputs = inputs_of(net, 5)
    writer.write(net, tmp_path / "net.html")
    assert_equal(net, tmp_path / "net.html", inputs)


@needs_node
def test_numbers_of_another_type_or_count_are_an_error(tmp_path: Path) -> None:
    def said(net: PackedNet, numbers: str) -> str:
        writer.write(net, tmp_path / "net.html")
        text = run_page.replace(
            "const sample = numbers.subarray(start, start + net.count)", f"const sample = {numbers}"
        )
        (tmp_path / "run.js").write_text(text)
        command = ["node", str(tmp_path / "run.js"), str(tmp_path / "net.html"), net.input.dtype]
        command.append(json.dumps(net.outputs))
        done = subprocess.run(command, input=bytes(48), capture_output=True, text=False)
        return "" if done.returncode == 0 else done.stderr.decode()

    run_page = (Path(writer.__file__).parent / "run_page.js").read_text()
    assert "const sample = numbers.subarray(start, start + net.count)" in run_page
    net = make_packed_mlp()
    assert said(net, "new Uint8Array(12)") == ""
    assert "Error: expected a Uint8Array, got Float32Array" in said(net, "new Float32Array(12)")
    assert "Error: expected a Uint8Array, got Array" in said(net, "Array(12).fill(256)")
    assert "Error: got 11 numbers, expected 12" in said(net, "new Uint8Array(11)")
    floats = OTHER_NETS["features"]()
    assert "Error: expected a Float32Array, got Uint8Array" in said(floats, "new Uint8Array(net.count)")


@needs_node
def test_one_wrong_number_is_found_before_the_page_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = scripts.engine_script
    monkeypatch.setattr(writer, "engine_script", lambda *given: right(*given).replace("2 * x - 255", "2 * x - 254"))
    with pytest.raises(OnebitError, match="the exported net is not the packed net"):
        export_net(make_packed_mlp(), "html", tmp_path / "net.html")
    assert list(tmp_path.iterdir()) == []


def test_without_node_the_page_is_written_and_the_export_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert export_net(make_packed_mlp(), "html", tmp_path / "net.html").not_compared == "node is not installed"
    assert stored(tmp_path / "net.html", "net") == dumps(make_packed_mlp())
    (tmp_path / "node").write_text("#!/bin/sh\necho FATAL ERROR: out of memory >&2\nexit 134\n")
    (tmp_path / "node").chmod(0o755)
    with pytest.raises(OnebitError, match="out of memory"):
        export_net(make_packed_mlp(), "html", tmp_path / "net.html")


def digits_net() -> PackedNet:
    """A net of digits that answers well: the class whose mean picture is most like the image."""
    train = load_dataset("mnist-sample").train
    images = train.images.reshape(len(train), -1).astype(np.float32)
    means = np.stack([images[train.labels == label].mean(axis=0) for label in range(10)])
    b = Builder((1, 28, 28))
    b.add(Flatten)
    weight = means - means.mean(axis=0)
    weight /= np.linalg.norm(weight, axis=1, keepdims=True) * 500
    b.add(RealDense, weight=weight.astype(np.float32))
    b.add(Affine, shift=np.zeros(10, np.float32))
    return replace(b.net(), classes=tuple("0123456789"), name="mean digits")


def test_only_digits_are_drawn() -> None:
    net = digits_net()
    assert writer.input_kind(net) == "digits"
    assert writer.input_kind(replace(net, classes=("ill", *net.classes[1:]))) == "images"
    assert writer.input_kind(replace(net, classes=None)) == "images"


def test_what_surrounds_the_net_is_small(tmp_path: Path) -> None:
    """The trained MLP takes 89.2 kB and ResNet-20 53.5 kB of base64: the limits are 110 and 75 kB."""
    rng = np.random.default_rng(0)
    digits = load_dataset("mnist-sample").test.images[:200]
    b = Builder((3, 32, 32), coding="standardise")
    b.add(Conv, **b.signs(16, 27), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.affine(16)
    x = b.add(Relu)
    b.add(Conv, **b.signs(16, 144), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.add(Add, b.affine(16), x)
    b.add(AdaptiveAveragePool, size=(1, 1))
    b.add(Flatten)
    b.dense(10)
    smooth = np.repeat(np.repeat(rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8), 4, axis=2), 4, axis=3)
    for net, samples, most in (
        (make_packed_mlp(MNIST_WIDTHS, shape=(1, 28, 28)), digits, 19_500),
        (b.net(), smooth, 20_900),
        (residual_bytes(32, (16,), 1), smooth, 20_000),
    ):
        page = tmp_path / "net.html"
        writer.write(net, page, samples=samples)
        assert page.stat().st_size - len(writer._zlib(*writer.parts_of(dumps(net)))) < most


def test_each_tensor_is_compressed_by_codes_of_its_own() -> None:
    file = dumps(residual_bytes(32, (16,), 1))
    parts = writer.parts_of(file)
    assert b"".join(parts) == file
    assert len(parts) == 6
    packed = writer._zlib(*parts)
    assert zlib.decompress(base64.b64decode(packed)) == file
    assert len(packed) < len(writer._zlib(file))


def test_a_page_has_only_the_engine_that_its_net_needs(tmp_path: Path) -> None:
    page = tmp_path / "net.html"
    writer.write(make_packed_mlp(), page)
    engine = stored(page, "engine").decode()
    assert "OPS.relu" in engine
    for other in ("OPS.max_pool", "OPS.permute", "realWeights", "xnor", "placesOf", "//"):
        assert other not in engine


def test_the_page_asks_for_nothing(tmp_path: Path) -> None:
    for make in (*IMAGE_NETS.values(), *OTHER_NETS.values()):
        page = tmp_path / "net.html"
        writer.write(make(0), page)
        text = page.read_text(encoding="utf-8")
        assert "default-src 'none'" in text
        assert "unsafe" not in text
        code = "".join(stored(page, name).decode() for name in ("style", "engine", "page"))
        assert not re.search(r"https?:|//\w+\.|\bfetch\(|XMLHttpRequest|innerHTML|\beval\(|@import", text + code)


def test_names_of_strangers_stay_text(tmp_path: Path) -> None:
    page = tmp_path / "net.html"
    writer.write(
        replace(digits_net(), name=HOSTILE[:60] + "{{net}}", classes=tuple(f"{HOSTILE}{k}" for k in range(10))), page
    )
    text = page.read_text(encoding="utf-8")
    assert "<img" not in text
    assert text.count("<script") == text.count("</script>") == 7
    assert "{{net}}</title>" in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if MISSING:
        pytest.skip(f"{MISSING} is not installed")
    with Browser() as made:
        yield made
        assert made.messages() == []


def open_page(browser: Browser, net: PackedNet, page: Path, samples: np.ndarray | None = None) -> None:
    writer.write(net, page, samples=samples)
    browser.resize(1000, 1400)
    browser.theme("light")
    browser.requests()
    browser.open(page)


def answer(browser: Browser) -> str:
    found = browser.script("return document.getElementById('answer').textContent")
    assert isinstance(found, str)
    return found


def seen(browser: Browser, shape: tuple[int, ...]) -> np.ndarray:
    """The picture that the page shows as what the net sees."""
    return pixels_of(browser, "seen").reshape(*shape[1:], 4).transpose(2, 0, 1)[np.newaxis, : shape[0]]


def pixels_of(browser: Browser, canvas: str) -> np.ndarray:
    """(H·W·4,) bytes of a canvas."""
    code = (
        "const { width, height } = document.getElementById(values[0]);"
        "const pen = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });"
        "pen.drawImage(document.getElementById(values[0]), 0, 0);"
        "return [...pen.getImageData(0, 0, width, height).data]"
    )
    return np.array(browser.script(code, canvas), np.uint8)


def strokes_of(digit: np.ndarray, corner: tuple[float, float]) -> list[list[tuple[float, float]]]:
    """Strokes along the rows of a digit (28, 28), thinner than it by the width of the pen; ten pixels for each."""
    strokes = []
    for row in range(28):
        bright = np.flatnonzero(digit[row] > 127)
        for part in np.split(bright, np.flatnonzero(np.diff(bright) > 1) + 1):
            if len(part):
                y = corner[1] + 10 * row + 5
                left, right = corner[0] + 10 * part[0] + 5, corner[0] + 10 * part[-1] + 5
                inset = min(8, (right - left) / 2)
                strokes.append([(left + inset, y), (right - inset, y)])
    return strokes


@needs_browser
def test_a_digit_that_is_drawn_is_read(browser: Browser, tmp_path: Path) -> None:
    net, test = digits_net(), load_dataset("mnist-sample").test
    open_page(browser, net, tmp_path / "net.html", test.images[:200])
    browser.wait("document.querySelectorAll('#choices button').length === 10")
    box = browser.script("const { x, y } = document.getElementById('pad').getBoundingClientRect(); return [x, y]")
    right = run(net, test.images).argmax(axis=1) == test.labels
    for label in (0, 3, 7):
        index = int(np.flatnonzero(right & (test.labels == label))[0])
        browser.script("document.getElementById('clear').click()")
        browser.wait("document.getElementById('answer').textContent === 'Draw something'")
        browser.draw(strokes_of(test.images[index, 0], box))
        browser.script("await new Promise(requestAnimationFrame); await new Promise(requestAnimationFrame)")
        picture = seen(browser, (1, 28, 28))
        # the digit itself, up to the width of the pen; as large and in the place as all of MNIST
        assert np.corrcoef(picture.ravel(), test.images[index].ravel())[0, 1] > 0.65
        sides = [np.flatnonzero(picture[0, 0].any(axis=axis)) for axis in (0, 1)]
        assert max(np.ptp(side) + 1 for side in sides) == 20
        mass = [picture[0, 0].sum(axis=axis) @ np.arange(28) / picture.sum() for axis in (0, 1)]
        np.testing.assert_allclose(mass, 14, atol=0.51)
        expected = softmax(run(net, picture))[0]
        assert answer(browser) == str(expected.argmax()) == str(label)
        shown = browser.script(
            "return [...document.querySelectorAll('.bar b')].map((cell) => parseFloat(cell.textContent))"
        )
        np.testing.assert_allclose(shown, 100 * expected, atol=0.051)
    assert {url.partition(":")[0] for url in browser.requests()} <= {"file", "blob", "data"}
    assert browser.messages() == []


@needs_browser
def test_labels_of_200_test_images_are_those_of_the_reference(browser: Browser, tmp_path: Path) -> None:
    for net in (digits_net(), make_packed_mlp(MNIST_WIDTHS, shape=(1, 28, 28), form="sign")):
        images = load_dataset("mnist-sample").test.images[:200]
        open_page(browser, net, tmp_path / "net.html")
        text = base64.b64encode(images.tobytes()).decode()
        found = browser.script(
            "const bytes = Uint8Array.from(atob(values[0]), (letter) => letter.charCodeAt(0));"
            "return Array.from({ length: 200 }, (_, k) =>"
            " [...[...onebit.run(bytes.subarray(784 * k, 784 * (k + 1))).values()][0]])",
            text,
        )
        with pytest.raises(RuntimeError, match="got 3 numbers, expected 784"):
            browser.script("onebit.run(new Uint8Array(3))")
        expected = run(net, images, executor="reference")
        np.testing.assert_array_equal(np.argmax(found, axis=1), expected.argmax(axis=1))
        np.testing.assert_array_equal(np.array(found, np.float32), expected)


@needs_browser
def test_the_digit_page_works_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    net = digits_net()
    open_page(browser, net, tmp_path / "net.html")
    browser.wait("document.getElementById('answer').textContent === 'Draw something'")
    down = "\ue015"
    browser.keys("#pad", " " + 8 * down)
    browser.wait("document.getElementById('answer').textContent !== 'Draw something'")
    picture = seen(browser, (1, 28, 28))
    assert np.count_nonzero(picture[0, 0].max(axis=1)) >= 18  # a vertical line
    assert answer(browser) == str(run(net, picture).argmax())
    browser.keys("#clear", " ")
    browser.wait("document.getElementById('answer').textContent === 'Draw something'")


PAGES = {
    "digits": lambda: (digits_net(), load_dataset("mnist-sample").test.images[:20]),
    "images": lambda: (replace(image_net(), classes=("first", "second", "third")), inputs_of(image_net(), 3)),
    "masks": lambda: (mask_net(), None),
    "numbers": lambda: (OTHER_NETS["features"](0), None),
    "signal": lambda: (OTHER_NETS["signal"](0), None),
}


def image_net() -> PackedNet:
    b = Builder((3, 20, 24), coding="standardise")
    b.add(Conv, **b.signs(8, 27), kernel=(3, 3))
    b.add(Relu)
    b.add(AdaptiveAveragePool, size=(1, 1))
    b.add(Flatten)
    b.add(Dense, **b.signs(3, 8))
    b.add(Affine, scale=np.full(3, 1e-1, np.float32))
    return b.net()


def mask_net() -> PackedNet:
    b = Builder((3, 20, 24))
    b.add(Conv, **b.signs(4, 27), kernel=(3, 3), padding=(1, 1, 1, 1))
    return replace(b.net(), classes=("sky", "tree", "house", HOSTILE[:190]))


CONTRAST = """
const channels = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
  .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
const light = (color) => { const [r, g, b] = channels(color); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (one) => {
  for (; one; one = one.parentElement) {
    const { backgroundColor: color } = getComputedStyle(one);
    if (color !== 'rgba(0, 0, 0, 0)') return color;
  }
};
const kinds = 'h1, h2, header p, dt, dd, button, output, footer, label, small, figcaption, #legend, .bar b';
return [...document.querySelectorAll(kinds)].filter((one) => one.textContent.trim() && one.offsetParent).map((one) => {
  const [a, b] = [light(getComputedStyle(one).color), light(behind(one))];
  return [one.tagName + ' ' + one.textContent.slice(0, 20), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
});
"""


@needs_browser
@pytest.mark.parametrize("kind", PAGES)
def test_every_page_is_readable_in_light_and_dark_and_on_narrow_screens(
    kind: str, browser: Browser, tmp_path: Path
) -> None:
    net, samples = PAGES[kind]()
    open_page(browser, net, tmp_path / "net.html", samples)
    browser.wait("/browser/.test(document.getElementById('time').textContent) || !last")
    facts = browser.script("return document.getElementById('facts').textContent")
    assert net.statement in facts
    bits, size = sum(node.binary_weights for node in net.nodes), f"{len(dumps(net)) / 1000:.1f}".removesuffix(".0")
    assert f"{bits:,} weights of one bit in a file of {size} kB" in facts
    assert browser.script("return document.querySelectorAll('#layers tr').length") == len(net.nodes) + 1
    papers = {}
    for theme in ("light", "dark"):
        browser.theme(theme)
        papers[theme] = browser.script("return getComputedStyle(document.body).backgroundColor")
        contrasts = browser.script(CONTRAST)
        assert len(contrasts) > 8
        assert [name for name, ratio in contrasts if ratio < 4.5] == []
    assert papers["light"] != papers["dark"]
    for width in (1000, 360):
        browser.resize(width, 700)
        browser.script("document.querySelector('details').open = true")
        assert browser.script("return document.documentElement.scrollWidth") <= width
        unnamed = browser.script(
            "return [...document.querySelectorAll('button, input, textarea, canvas[role=img]')].filter((one) =>"
            " !(one.ariaLabel || one.textContent || one.labels?.length)).map((one) => one.outerHTML)"
        )
        assert unnamed == []
    assert browser.messages() == []
    assert {url.partition(":")[0] for url in browser.requests()} <= {"file", "blob", "data"}


@needs_browser
def test_first_weights_are_pictures(browser: Browser, tmp_path: Path) -> None:
    b = Builder((1, 5, 6))
    b.add(Flatten)
    b.dense(7)
    net = b.net()
    open_page(browser, net, tmp_path / "net.html")
    shape = browser.script("const { width, height } = document.getElementById('signs'); return [height, width, 4]")
    pixels = pixels_of(browser, "signs").reshape(shape)
    first = net.nodes[1]
    assert isinstance(first, Dense)
    signs = unpack_signs(first.signs, 30).reshape(7, 5, 6)
    for k in range(7):
        np.testing.assert_array_equal(pixels[:5, 7 * k : 7 * k + 6, 0] > 128, signs[k] > 0)


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


def test_the_page_counts_the_weights_of_a_layer_once(tmp_path: Path) -> None:
    """Those that a model calls again are copies; `onebit pack` and `inspect` count the same."""
    b = Builder((8,))
    signs = b.signs(8, 8)
    for _ in range(3):
        b.add(Dense, **signs)
    writer.write(b.net(), tmp_path / "net.html")
    info = json.loads(re.findall(r'id="?info"?[^>]*>(.*?)</script>', (tmp_path / "net.html").read_text())[0])
    assert info["ratio"] == pytest.approx(4 * 64 / len(dumps(b.net())))


def test_the_page_counts_real_numbers_as_inspect_does(tmp_path: Path) -> None:
    """Those of an integer net are multipliers and offsets, too."""
    net = load("resnet20-cifar10-int8")
    writer.write(net, tmp_path / "net.html")
    info = json.loads(re.findall(r'id="?info"?[^>]*>(.*?)</script>', (tmp_path / "net.html").read_text())[0])
    assert info["reals"] == [row.real_parameters for row in costs(net)]
    assert sum(info["reals"]) > 1000


@needs_browser
def test_several_labels_have_a_probability_each(browser: Browser, tmp_path: Path) -> None:
    net = digits_net()
    compared = Certificate(
        onebit="1",
        dataset="d",
        split="",
        count=1,
        weights="binary",
        label_mismatches=0,
        max_logit_difference=0,
        bit_exact=True,
        compared="multi-label",
    )
    image = load_dataset("mnist-sample").test.images[:1]
    open_page(browser, replace(net, certificate=compared), tmp_path / "net.html", image)
    browser.wait("document.querySelectorAll('.bar').length === 10")
    logits = run(net, image)[0].astype(np.float64)
    assert answer(browser) == ", ".join(str(k) for k in np.flatnonzero(logits > 0))
    shown = browser.script("return [...document.querySelectorAll('.bar b')].map((one) => parseFloat(one.textContent))")
    np.testing.assert_allclose(shown, 100 / (1 + np.exp(-logits)), atol=0.051)
    assert writer.output_kind(replace(net, certificate=replace(compared, compared="values"))) == "outputs"


@needs_browser
def test_an_image_from_a_file_is_answered(browser: Browser, tmp_path: Path) -> None:
    net = replace(image_net(), classes=("first", "second", "third"))
    open_page(browser, net, tmp_path / "net.html")
    smooth = np.linspace(0, 255, 3 * 20 * 24).reshape(3, 20, 24).astype(np.uint8)[::-1]
    Image.fromarray(smooth.transpose(1, 2, 0)).save(tmp_path / "image.png")
    browser.keys("#file", str(tmp_path / "image.png"))
    label = net.classes[int(run(net, smooth[np.newaxis])[0].argmax())] if net.classes else ""
    browser.wait("document.getElementById('answer').textContent === values[0]", label)
    np.testing.assert_array_equal(seen(browser, (3, 20, 24))[0], smooth)
    done = "return document.getElementById('how').textContent"
    assert browser.script(done) == ""
    # a larger one, dropped: cut to the net's shape around its middle
    large = np.zeros((40, 100, 3), np.uint8)
    large[:, 26:74] = (10, 200, 30)
    stream = io.BytesIO()
    Image.fromarray(large).save(stream, "PNG")
    browser.script(
        "const bytes = Uint8Array.from(atob(values[0]), (letter) => letter.charCodeAt(0));"
        "const dataTransfer = new DataTransfer();"
        "dataTransfer.items.add(new File([bytes], 'x.png', { type: 'image/png' }));"
        "document.body.dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true }))",
        base64.b64encode(stream.getvalue()).decode(),
    )
    stop = time.monotonic() + 20
    while seen(browser, (3, 20, 24))[0, 1, 0, 0] != 200 and time.monotonic() < stop:
        time.sleep(0.05)
    assert (seen(browser, (3, 20, 24))[0] == np.array([10, 200, 30]).reshape(3, 1, 1)).all()
    assert browser.script(done) == "100 × 40 pixels, its middle 48 × 40, scaled to 24 × 20"


SLOW = """
const right = Worker.prototype.postMessage;
window.sent = [];
Worker.prototype.postMessage = function (data) { sent.push(data); right.call(this, data); };
"""


@needs_browser
def test_the_last_of_many_pictures_is_answered(browser: Browser, tmp_path: Path) -> None:
    """Those that are chosen while the net runs are left out, and the answer is never that of another picture."""
    net = image_net()
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 20, 24), dtype=np.uint8)
    open_page(browser, net, tmp_path / "net.html", images)
    browser.wait("document.querySelectorAll('#results .bar').length > 0")
    count = browser.script(
        SLOW + "const buttons = document.querySelectorAll('#choices button');"
        "buttons.forEach((one) => one.click());"
        "window.waits = document.getElementById('results').style.visibility; return buttons.length"
    )
    browser.wait("document.getElementById('results').style.visibility === ''")
    assert count > 2
    assert browser.script("return [window.waits, window.sent.length]") == ["hidden", 2]
    logits = run(net, seen(browser, (3, 20, 24)))[0]
    names = net.classes or [str(k) for k in range(len(logits))]
    assert answer(browser) == names[int(logits.argmax())]


@needs_browser
def test_what_the_net_refuses_is_said(browser: Browser, tmp_path: Path) -> None:
    b = Builder((3, 20, 24), coding="values")
    b.add(Affine, scale=np.full(3, 3e38, np.float32))
    b.add(Flatten)
    b.add(RealDense, weight=b.real(3, 3 * 20 * 24))
    open_page(browser, b.net(), tmp_path / "net.html", np.zeros((1, 3, 20, 24), np.uint8))
    browser.wait("document.querySelectorAll('#results .bar').length > 0")
    Image.new("RGB", (24, 20), "white").save(tmp_path / "white.png")
    browser.keys("#file", str(tmp_path / "white.png"))
    browser.wait("document.getElementById('answer').textContent === 'outputs are NaN or infinite'")
    assert browser.script("return document.getElementById('results').children.length") == 0


@needs_browser
def test_masks_show_the_label_of_each_pixel(browser: Browser, tmp_path: Path) -> None:
    net = mask_net()
    image = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[np.newaxis, np.newaxis, np.newaxis], 20, axis=2).repeat(
        3, axis=1
    )
    open_page(browser, net, tmp_path / "net.html", image)
    # the sample is stored as JPEG: the net sees what is shown
    browser.wait("document.getElementById('map') !== null")
    labels = run(net, seen(browser, (3, 20, 24)))[0].argmax(axis=0)
    pixels = pixels_of(browser, "map").reshape(20 * 24, 4)
    kinds = {label: {tuple(pixel) for pixel in pixels[labels.ravel() == label]} for label in np.unique(labels)}
    assert len(kinds) > 1
    assert all(len(found) == 1 for found in kinds.values())
    assert len(set.union(*kinds.values())) == len(kinds)


@needs_browser
def test_numbers_are_entered_by_field_slider_and_text(browser: Browser, tmp_path: Path) -> None:
    net = OTHER_NETS["features"](0)
    open_page(browser, net, tmp_path / "net.html")
    shown = (
        "return [...document.querySelectorAll('#results .row')]"
        ".map((row) => [...row.children].map((one) => +one.textContent))"
    )
    inputs = np.zeros((1, 20), np.float32)
    for selector, value in (("#fields input[type=number]", 1.25), ("#fields input[type=range]", -2.4)):
        inputs[0, 0] = value
        browser.script(
            "const field = document.querySelector(values[0]); field.value = values[1];"
            "field.dispatchEvent(new Event('input', { bubbles: true }))",
            selector,
            value,
        )
        expected = run(net, inputs)
        for key, found in zip(net.output, browser.script(shown), strict=True):
            np.testing.assert_allclose(found, expected[key].reshape(-1)[:60], rtol=1e-4)
    for nothing in ("", "1e39"):  # more than float32 holds
        browser.script(
            "const field = document.querySelector('#fields input[type=number]'); field.value = values[0];"
            "field.dispatchEvent(new Event('input', { bubbles: true }))",
            nothing,
        )
        assert answer(browser) == "Input 0 is not a number"

    signal = OTHER_NETS["signal"](0)
    open_page(browser, signal, tmp_path / "net.html")
    numbers = inputs_of(signal, 1)
    write = (
        "const area = document.querySelector('textarea'); area.value = values[0];"
        "area.dispatchEvent(new Event('input', { bubbles: true }))"
    )
    browser.script(write, ", ".join(map(str, numbers.ravel().tolist())))
    np.testing.assert_allclose(browser.script(shown)[0], run(signal, numbers)[0][0], rtol=1e-4)
    browser.script(write, "1, 2, 300")
    assert answer(browser) == "Got 3 numbers, expected 57"
    browser.script(write, ", ".join(["300"] * 57))
    assert answer(browser) == "Input 0 is not a whole number from 0 to 255"


@needs_browser
def test_names_of_strangers_are_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    net = replace(digits_net(), name=HOSTILE, classes=tuple(f"{HOSTILE}{k}" for k in range(10)))
    image = load_dataset("mnist-sample").test.images[:1]
    open_page(browser, net, tmp_path / "net.html", image)
    label = int(run(net, image)[0].argmax())
    browser.wait("document.getElementById('answer').textContent === values[0]", f"{HOSTILE}{label}")
    assert browser.script("return [document.title, document.getElementById('name').textContent]") == [HOSTILE, HOSTILE]
    assert browser.script("return document.querySelectorAll('img').length") == 0
    assert browser.messages() == []


@needs_browser
def test_the_packed_net_can_be_taken_out_of_the_page(browser: Browser, tmp_path: Path) -> None:
    net = digits_net()
    open_page(browser, net, tmp_path / "net.html")
    found = browser.script(
        "let blob; URL.createObjectURL = (made) => { blob = made; return 'blob:null/0' };"
        "HTMLAnchorElement.prototype.click = () => {};"
        "document.getElementById('download').click(); return [...new Uint8Array(await blob.arrayBuffer())]"
    )
    assert bytes(found) == dumps(net)


@pytest.mark.parametrize(("shape", "stored"), [((1, 1, 70_000), 0), ((1, 30_000, 3), 2), ((3, 2, 65_500), 4)])
def test_a_sheet_of_samples_is_one_that_jpeg_holds(shape: tuple[int, ...], stored: int) -> None:
    b = Builder(shape)
    b.add(AdaptiveAveragePool, size=(1, 1))
    b.add(Flatten)
    b.add(Dense, **b.signs(3, shape[0]))
    sheet, numbers = writer.samples_of(b.net(), "images", np.zeros((4, *shape), np.uint8), 1 << 20)
    assert numbers == []
    assert (Image.open(io.BytesIO(base64.b64decode(sheet))).height // shape[1] if sheet else 0) == stored


def test_samples_of_features_are_stored_as_numbers(tmp_path: Path) -> None:
    net = OTHER_NETS["features"](0)
    inputs = inputs_of(net, 30)
    export_net(net, "html", tmp_path / "net.html", inputs=inputs)
    text = (tmp_path / "net.html").read_text(encoding="utf-8")
    found = re.search(r'<script id="info" type="application/json">(.*?)</script>', text)
    assert found is not None
    stored_samples = np.array(json.loads(found[1])["samples"], np.float32)
    assert (stored_samples[:, np.newaxis] == inputs).all(axis=2).sum() == len(stored_samples) == writer.SAMPLES


def test_the_table_has_the_page() -> None:
    assert EXPORTS["html"].suffixes == (".html",)
    assert EXPORTS["html"].samples
