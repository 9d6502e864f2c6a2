"""The picture of a web page for the README: `python -m tools.page_screenshot NET.1bit docs/images/page.png`.

Exports a net of digits, opens the page in Chromium, draws a digit with the mouse, and takes a picture of the window.
"""

from __future__ import annotations

import argparse
import io
import math
import tempfile
from pathlib import Path

from PIL import Image

import onebit
from benchmarks.browser import Browser
from onebit.common.files import write_atomic
from onebit.export import export_net

WIDTH, SCALE = 1000, 1.5
COLORS = 64  # few are enough for flat areas, and keep the file small


def three() -> list[list[tuple[float, float]]]:
    """The strokes of a 3, in shares of the drawing."""
    arcs = ((0.5, 0.34, 0.15, 0.13, 200, 450), (0.5, 0.63, 0.18, 0.16, 270, 515))
    points = [
        (x + width * math.cos(math.radians(angle)), y + height * math.sin(math.radians(angle)))
        for x, y, width, height, start, stop in arcs
        for angle in range(start, stop, 10)
    ]
    return [points]


def take(net: str, path: Path) -> str:
    """Write the picture; returns the answer of the page."""
    test = onebit.load_dataset("mnist-sample").test
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        page = Path(folder) / "page.html"
        export_net(onebit.load(net), "html", page, inputs=test.images[:200], what="digits")
        browser.resize(WIDTH, WIDTH, scale=SCALE)
        browser.theme("light")
        browser.open(page)
        browser.wait("document.querySelectorAll('#choices button').length > 0")
        browser.wait("/browser/.test(document.getElementById('time').textContent)")
        height = browser.script("return document.getElementById('weights').getBoundingClientRect().bottom + 16")
        browser.resize(WIDTH, round(height), scale=SCALE)
        browser.script("document.getElementById('clear').click()")
        left, top, side = browser.script(
            "const { x, y, width } = document.getElementById('pad').getBoundingClientRect(); return [x, y, width]"
        )
        browser.draw([[(left + side * x, top + side * y) for x, y in stroke] for stroke in three()])
        browser.script("await new Promise(requestAnimationFrame); await new Promise(requestAnimationFrame)")
        answer = str(browser.script("return document.getElementById('answer').textContent"))
        picture = Image.open(io.BytesIO(browser.picture())).convert("RGB").quantize(COLORS)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    write_atomic(path, stream.getvalue())
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", help="a .1bit file of 28×28 digits")
    parser.add_argument("path", type=Path)
    given = parser.parse_args()
    answer = take(given.net, given.path)
    print(f"{given.path}: {given.path.stat().st_size:,} bytes; the page reads a {answer}")


if __name__ == "__main__":
    main()
