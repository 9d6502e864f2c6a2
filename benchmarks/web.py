"""Web pages of `onebit export --to html`: their size, and milliseconds per sample in node and in Chromium.

The nets are files, because the size depends on their weights: trained ones compress a little, random ones do not.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onebit
from benchmarks.browser import MISSING, Browser
from benchmarks.shared import add_rounds, describe_machine, set_up_process
from onebit.export.html import writer
from onebit.export.writing import export_net, random_inputs
from onebit.nets import net_path

SAMPLES = 100


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument(
        "nets", nargs="+", metavar="NET", help="packed nets: files, or names of those that come with onebit"
    )
    parser.add_argument("--samples", type=int, default=SAMPLES, metavar="N", help=f"timed in node ({SAMPLES})")
    add_rounds(parser, 5)


def measure(
    nets: Sequence[str],
    *,
    samples: int = SAMPLES,
    rounds: int = 5,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Export each net, compare its page with the reference executor, then time it: a process of node for each round.

    Returns:
        machine, settings, and rows of net, bytes of its file and of the page, and milliseconds per sample: the median
        and the fastest in node, and the fastest rounds in Chromium, None where it is not installed.

    Raises:
        UsageError: no rounds or samples. CannotRun: node is not installed.
    """
    if min(rounds, samples) < 1:
        raise onebit.errors.UsageError(f"rounds and samples must be 1 or more, got {rounds} and {samples}")
    where = set_up_process(1)
    rows = []
    for done, name in enumerate(nets):
        net = onebit.load(name)
        inputs = random_inputs(net, samples)
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "net.html"
            export_net(net, "html", page, inputs=inputs[:2], what="random inputs")
            times = [writer.run_page(net, page, inputs)[1] for _ in range(rounds)]
            rows.append(
                {
                    "net": Path(name).name,
                    "file_bytes": net_path(name).stat().st_size,
                    "page_bytes": page.stat().st_size,
                    "node_ms": statistics.median(median for median, _ in times),
                    "node_fastest_ms": min(fastest for _, fastest in times),
                    "chromium_ms": None if MISSING else _in_browser(page, rounds),
                }
            )
        if on_round is not None:
            on_round(done + 1, len(nets))
    settings = {"rounds": rounds, "samples": samples}
    return {"benchmark": "web", "machine": where, "settings": settings, "rows": rows}


def _in_browser(page: Path, rounds: int) -> float:
    """Milliseconds per sample in Chromium, as the page itself measures them; the fastest round."""
    with Browser() as browser:
        browser.open(page)
        numbers = "net.bytes ? new Uint8Array(net.count).fill(100) : new Float32Array(net.count).fill(0.5)"
        call = f"answer({numbers}); return timed(() => net.run(last), took)"
        return min(float(browser.script(call)) for _ in range(rounds))


def describe(result: dict[str, Any]) -> str:
    """The result as text."""
    names = ("file", "page", "node", "fastest", "Chromium")
    lines = [describe_machine(result["machine"]), f"{'net':<22}" + "".join(f"{name:>12}" for name in names)]
    for row in result["rows"]:
        sizes = "".join(f"{row[key]:>10,} B" for key in ("file_bytes", "page_bytes"))
        keys = ("node_ms", "node_fastest_ms", "chromium_ms")
        times = "".join(f"{'-' if row[key] is None else f'{row[key]:.2f} ms':>12}" for key in keys)
        lines.append(f"{row['net']:<22}{sizes}{times}")
    return "\n".join(lines)
