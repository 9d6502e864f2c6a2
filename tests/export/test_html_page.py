"""The web page in Chromium."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onebit.data import load_dataset
from onebit.export.html import target
from onebit.packed import Certificate, PackedNet, dumps, nodes as op
from onebit.packed.bits import unpack_signs
from onebit.runtime import run, softmax
from support.browser import MISSING, Browser
from support.html_pages import HOSTILE, digits_net
from support.packed_nets import NETS_OF_OTHER_INPUTS, Builder, inputs_of

pytestmark = pytest.mark.nightly  # starts a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if MISSING:
        pytest.skip(f"{MISSING} is not installed")
    with Browser() as made:
        yield made
        assert made.messages() == []


def open_page(browser: Browser, net: PackedNet, page: Path, samples: np.ndarray | None = None) -> None:
    target.write(net, page, samples=samples)
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


def image_net() -> PackedNet:
    b = Builder((3, 20, 24), coding="standardise")
    b.add(op.Conv, **b.signs(8, 27), kernel=(3, 3))
    b.add(op.Relu)
    b.add(op.AdaptiveAveragePool, size=(1, 1))
    b.add(op.Flatten)
    b.add(op.Dense, **b.signs(3, 8))
    b.add(op.Affine, scale=np.full(3, 1e-1, np.float32))
    return b.net()


def mask_net() -> PackedNet:
    b = Builder((3, 20, 24))
    b.add(op.Conv, **b.signs(4, 27), kernel=(3, 3), padding=(1, 1, 1, 1))
    return replace(b.net(), classes=("sky", "tree", "house", HOSTILE[:190]))


PAGES = {
    "digits": lambda: (digits_net(), load_dataset("mnist-sample").test.images[:20]),
    "images": lambda: (replace(image_net(), classes=("first", "second", "third")), inputs_of(image_net(), 3)),
    "masks": lambda: (mask_net(), None),
    "numbers": lambda: (NETS_OF_OTHER_INPUTS["features"](0), None),
    "signal": lambda: (NETS_OF_OTHER_INPUTS["signal"](0), None),
}


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


SLOW = """
const right = Worker.prototype.postMessage;
window.sent = [];
Worker.prototype.postMessage = function (data) { sent.push(data); right.call(this, data); };
"""


def test_a_drawn_digit_is_recognized(browser: Browser, tmp_path: Path) -> None:
    net, test = digits_net(), load_dataset("mnist-sample").test
    open_page(browser, net, tmp_path / "net.html", test.images[:60])
    browser.wait("document.querySelectorAll('#choices button').length === 10")
    box = browser.script("const { x, y } = document.getElementById('pad').getBoundingClientRect(); return [x, y]")
    right = run(net, test.images).argmax(axis=1) == test.labels
    for label in (3, 7):
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


def test_outputs_are_those_of_the_reference_and_the_net_can_be_downloaded(browser: Browser, tmp_path: Path) -> None:
    net, images = digits_net(), load_dataset("mnist-sample").test.images[:50]
    open_page(browser, net, tmp_path / "net.html")
    text = base64.b64encode(images.tobytes()).decode()
    found = browser.script(
        "const bytes = Uint8Array.from(atob(values[0]), (letter) => letter.charCodeAt(0));"
        "return Array.from({ length: 50 }, (_, k) =>"
        " [...[...onebit.run(bytes.subarray(784 * k, 784 * (k + 1))).values()][0]])",
        text,
    )
    np.testing.assert_array_equal(np.array(found, np.float32), run(net, images, executor="reference"))
    with pytest.raises(RuntimeError, match="784"):
        browser.script("onebit.run(new Uint8Array(3))")
    downloaded = browser.script(
        "let blob; URL.createObjectURL = (made) => { blob = made; return 'blob:null/0' };"
        "HTMLAnchorElement.prototype.click = () => {};"
        "document.getElementById('download').click(); return [...new Uint8Array(await blob.arrayBuffer())]"
    )
    assert bytes(downloaded) == dumps(net)


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


def test_several_labels_have_a_probability_each(browser: Browser, tmp_path: Path, certificate: Certificate) -> None:
    net = digits_net()
    compared = replace(certificate, compared="multi-label", layers=())
    image = load_dataset("mnist-sample").test.images[:1]
    open_page(browser, replace(net, certificate=compared), tmp_path / "net.html", image)
    browser.wait("document.querySelectorAll('.bar').length === 10")
    logits = run(net, image)[0].astype(np.float64)
    assert answer(browser) == ", ".join(str(k) for k in np.flatnonzero(logits > 0))
    shown = browser.script("return [...document.querySelectorAll('.bar b')].map((one) => parseFloat(one.textContent))")
    np.testing.assert_allclose(shown, 100 / (1 + np.exp(-logits)), atol=0.051)


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


def test_the_last_of_many_pictures_is_answered(browser: Browser, tmp_path: Path) -> None:
    """Pictures that are chosen while the net runs are skipped; the answer belongs to the picture shown."""
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


def test_errors_of_the_net_are_shown(browser: Browser, tmp_path: Path) -> None:
    b = Builder((3, 20, 24), coding="values")
    b.add(op.Affine, scale=np.full(3, 3e38, np.float32))
    b.add(op.Flatten)
    b.add(op.RealDense, weight=b.real(3, 3 * 20 * 24))
    open_page(browser, b.net(), tmp_path / "net.html", np.zeros((1, 3, 20, 24), np.uint8))
    browser.wait("document.querySelectorAll('#results .bar').length > 0")
    Image.new("RGB", (24, 20), "white").save(tmp_path / "white.png")
    browser.keys("#file", str(tmp_path / "white.png"))
    browser.wait("document.getElementById('answer').textContent === 'outputs are NaN or infinite'")
    assert browser.script("return document.getElementById('results').children.length") == 0


def test_hostile_names_are_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    net = replace(digits_net(), name=HOSTILE, classes=tuple(f"{HOSTILE}{k}" for k in range(10)))
    image = load_dataset("mnist-sample").test.images[:1]
    open_page(browser, net, tmp_path / "net.html", image)
    label = int(run(net, image)[0].argmax())
    browser.wait("document.getElementById('answer').textContent === values[0]", f"{HOSTILE}{label}")
    assert browser.script("return [document.title, document.getElementById('name').textContent]") == [HOSTILE, HOSTILE]
    assert browser.script("return document.querySelectorAll('img').length") == 0
    assert browser.messages() == []


def test_weights_and_masks_are_pictures(browser: Browser, tmp_path: Path) -> None:
    b = Builder((1, 5, 6))
    b.add(op.Flatten)
    b.dense(7)
    open_page(browser, b.net(), tmp_path / "net.html")
    shape = browser.script("const { width, height } = document.getElementById('signs'); return [height, width, 4]")
    pixels = pixels_of(browser, "signs").reshape(shape)
    first = b.nodes[1]
    assert isinstance(first, op.Dense)
    signs = unpack_signs(first.signs, 30).reshape(7, 5, 6)
    for k in range(7):
        np.testing.assert_array_equal(pixels[:5, 7 * k : 7 * k + 6, 0] > 128, signs[k] > 0)

    net, image = mask_net(), np.broadcast_to(np.arange(0, 240, 10, dtype=np.uint8), (1, 3, 20, 24))
    open_page(browser, net, tmp_path / "net.html", image)
    browser.wait("document.getElementById('map') !== null")
    labels = run(net, seen(browser, (3, 20, 24)))[0].argmax(axis=0)  # of the sample after JPEG
    pixels = pixels_of(browser, "map").reshape(20 * 24, 4)
    colors = {label: {tuple(pixel) for pixel in pixels[labels.ravel() == label]} for label in np.unique(labels)}
    assert len(colors) > 1
    assert all(len(found) == 1 for found in colors.values())
    assert len(set.union(*colors.values())) == len(colors)


def test_numbers_are_entered_by_field_slider_and_text(browser: Browser, tmp_path: Path) -> None:
    def enter(selector: str, text: object) -> None:
        browser.script(
            "const field = document.querySelector(values[0]); field.value = values[1];"
            "field.dispatchEvent(new Event('input', { bubbles: true }))",
            selector,
            text,
        )

    def shown() -> list[list[float]]:
        found: list[list[float]] = browser.script(
            "return [...document.querySelectorAll('#results .row')]"
            ".map((row) => [...row.children].map((one) => +one.textContent))"
        )
        return found

    net, inputs = NETS_OF_OTHER_INPUTS["features"](0), np.zeros((1, 20), np.float32)
    open_page(browser, net, tmp_path / "net.html")
    for selector, value in (("#fields input[type=number]", 1.25), ("#fields input[type=range]", -2.4)):
        inputs[0, 0] = value
        enter(selector, value)
        expected = run(net, inputs)
        for key, found in zip(net.output, shown(), strict=True):
            np.testing.assert_allclose(found, expected[key].reshape(-1)[:60], rtol=1e-4)
    for text in ("", "1e39"):  # more than float32 holds
        enter("#fields input[type=number]", text)
        assert answer(browser) == "Input 0 is not a number"

    signal = NETS_OF_OTHER_INPUTS["signal"](0)
    open_page(browser, signal, tmp_path / "net.html")
    numbers = inputs_of(signal, 1)
    enter("textarea", ", ".join(map(str, numbers.ravel().tolist())))
    np.testing.assert_allclose(shown()[0], run(signal, numbers)[0][0], rtol=1e-4)
    enter("textarea", "1, 2, 300")
    assert answer(browser) == "Got 3 numbers, expected 57"
    enter("textarea", ", ".join(["300"] * 57))
    assert answer(browser) == "Input 0 is not a whole number from 0 to 255"


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
