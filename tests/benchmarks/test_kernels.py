"""`python -m benchmarks kernels` times products whose sums are right, against products in float32 and 8 bits."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import kernels, peaks
from benchmarks.__main__ import main
from benchmarks.kernels import describe, measure
from benchmarks.layers import CASES, KINDS, Case, Layer
from benchmarks.rivals import Rival, onnxruntime_version
from benchmarks.twins import FLOOR
from onebit.errors import OnebitError, UnknownNameError, UsageError
from onebit.native import NativePlan, instruction_sets, make_plan

SMALL = {
    case.name: case
    for kind in KINDS
    for case in (
        Case(f"{kind}-dense", kind, (20, 1, 1), 24, (1, 3)),
        Case(f"{kind}-conv", kind, (5, 4, 3), 6, (1, 2), convolves=True),
    )
}
MANY = Case("first-many", "first", (20, 1, 1), 24, (130,))
FIELDS = {
    *("kind", "layer", "size", "batch", "instruction_set", "step", "us", "fastest_us", "clock_ghz", "limit"),
    *("mac_per_cycle", "fastest_mac_per_cycle", "peak_share", "fastest_peak_share"),
    *(f"{name}{what}" for name in kernels.RIVALS for what in ("", "_us", "_speedup", "_fastest_speedup")),
}
native = pytest.mark.skipif(not instruction_sets(), reason="the native library is not installed")
with_onnxruntime = pytest.mark.skipif(onnxruntime_version() is None, reason="onnxruntime is not installed")


@pytest.fixture
def without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


def quick(*cases: str | Case, **options: Any) -> dict[str, Any]:
    chosen = [SMALL.get(case, case) if isinstance(case, str) else case for case in cases] or None
    return measure(**{"cases": chosen, "rounds": 2, "seconds": 1e-6, "default_malloc": True, **options})


@native
@pytest.mark.parametrize("name", SMALL)
def test_every_instruction_set_is_a_row(name: str) -> None:
    told: list[tuple[int, int]] = []
    result = quick(name, on_round=lambda *news: told.append(news))
    assert json.dumps(result)
    assert told == [(1, 2), (2, 2)] * 2
    for batch in SMALL[name].batches:
        rows = [row for row in result["rows"] if row["batch"] == batch]
        assert [row["instruction_set"] for row in rows] == list(instruction_sets())
        for row in rows:
            assert set(row) == FIELDS
            assert row["kind"] == SMALL[name].kind
            assert row["torch"] == FLOOR
            assert 0 < row["fastest_us"] <= row["us"]
            assert min(row["torch_speedup"], row["best_speedup"]) > 0
            assert row["best_us"] <= row["torch_us"]
    assert sum(line.startswith("|") for line in describe(result).splitlines()) == 2 + len(result["rows"])


@native
@pytest.mark.usefixtures("without_onnxruntime")
def test_images_of_several_batches_of_the_plan_are_whole() -> None:
    for row in quick(MANY)["rows"]:
        assert row["step"] in ("dot", "dot_lut", "lut")


@native
@with_onnxruntime
@pytest.mark.parametrize(
    ("name", "fastest"), [("xnor-dense", {"MatMulInteger"}), ("weights-conv", {"ConvInteger", "QLinearConv"})]
)
def test_products_in_8_bits_are_compared_with(name: str, fastest: set[str]) -> None:
    for row in quick(name)["rows"]:
        assert row["int8"] in fastest
        assert row["int8_us"] > 0
        assert row["int8_speedup"] > 0


@native
@pytest.mark.usefixtures("without_onnxruntime")
def test_without_onnxruntime_its_column_is_empty() -> None:
    result = quick("first-dense")
    assert all(row["int8"] is row["int8_us"] is row["int8_speedup"] is None for row in result["rows"])
    assert all(row["best"] != "onnxruntime" for row in result["rows"])
    text = describe(result)
    assert "pip install 'onebit[bench]'" in text
    assert " | – | " in text.splitlines()[-1]


@native
@pytest.mark.nightly  # daily one thread
def test_threads_share_the_images() -> None:
    result = quick("weights-dense", "xnor-conv", threads=2)
    assert result["machine"]["threads"] == 2


@native
def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "small", SMALL["xnor-dense"])
    options = ["kernels", "--rounds", "1", "--seconds", "1e-6", "--default-malloc", "--cases", "small"]
    assert main([*options, "--isa", "portable"]) == 0
    table = capsys.readouterr().out.splitlines()[-4:]
    assert [line.count("|") for line in table] == [12] * 4
    assert "| ±1 × ±1, dense 20 → 24 | 3 | `portable` |" in table[-1]
    assert main([*options, "--isa", "portable", "--json"]) == 0
    assert [row["batch"] for row in json.loads(capsys.readouterr().out)["rows"]] == [1, 3]
    assert main([*options, "--isa", "portabel"]) == 2
    assert "did you mean 'portable'?" in capsys.readouterr().err


@native
@pytest.mark.usefixtures("without_onnxruntime")
def test_a_plan_with_wrong_logits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., tuple[np.ndarray, bool]] = NativePlan.run

    def wrong(plan: NativePlan, images: np.ndarray) -> tuple[np.ndarray, bool]:
        logits, nan = right(plan, images)
        logits[-1, 3] = np.nextafter(logits[-1, 3], np.inf)
        return logits, nan

    monkeypatch.setattr(NativePlan, "run", wrong)
    with pytest.raises(
        OnebitError, match="weights-dense, batch 1, portable: the logits of 1 of 1 images are not those"
    ):
        quick("weights-dense")


@native
@pytest.mark.usefixtures("without_onnxruntime")
@pytest.mark.parametrize("name", ["xnor-dense", "first-conv"])
def test_a_timed_step_with_wrong_sums_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., Callable[[], np.ndarray]] = kernels.alone

    def wrong(plan: NativePlan, images: np.ndarray, steps: range) -> Callable[[], np.ndarray]:
        call = right(plan, images, steps)

        def one_more() -> np.ndarray:
            sums = call().copy()
            sums[0, 2] += 1
            return sums

        return one_more

    monkeypatch.setattr(kernels, "alone", wrong)
    with pytest.raises(OnebitError, match=rf"{name}, batch 1, portable: 1 of \d+ sums are not those of plain torch"):
        quick(name)


@native
def test_a_rival_with_wrong_sums_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., list[Rival]] = Layer.rivals

    def wrong(layer: Layer, **options: Any) -> list[Rival]:
        *most, last = right(layer, **options)
        return [*most, replace(last, call=lambda: last.call() + 2)]

    monkeypatch.setattr(Layer, "rivals", wrong)
    with pytest.raises(OnebitError, match=r"first-dense, batch 1, \w+: 24 of 24 sums are not those of plain torch"):
        quick("first-dense", isa=["portable"])


@native
@pytest.mark.parametrize("threads", [1, 3])
def test_the_share_of_the_peak_is_that_of_the_products_of_a_core_in_a_cycle(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "clock", lambda: 2e9)
    monkeypatch.setattr(kernels, "limit", lambda name, isa, step: {"xnor": 512.0}[step])
    for row in quick("xnor-conv", "xnor-dense", threads=threads)["rows"]:
        macs = row["batch"] * (6 * 5 * 9 * 4 * 3 if "3×3" in row["layer"] else 20 * 24)
        cycles = 2e3 * min(threads, row["batch"])
        assert row["clock_ghz"] == 2
        assert row["mac_per_cycle"] == pytest.approx(macs / (row["us"] * cycles))
        assert row["fastest_mac_per_cycle"] == pytest.approx(macs / (row["fastest_us"] * cycles))
        assert row["peak_share"] == pytest.approx(row["mac_per_cycle"] / 512)
        assert row["fastest_peak_share"] == pytest.approx(row["fastest_mac_per_cycle"] / 512)


@native
def test_without_a_known_clock_or_limit_there_is_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "limit", lambda *of: None)
    result = quick("xnor-dense")
    assert all(row["peak_share"] is None for row in result["rows"])
    monkeypatch.setattr(peaks.platform, "machine", lambda: "riscv64")
    result = quick("xnor-dense")
    assert all(row["mac_per_cycle"] is row["clock_ghz"] is None for row in result["rows"])
    assert describe(result).endswith("| – | – |")


@native
def test_the_clock_is_that_of_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks.platform, "machine", lambda: "x86_64")
    found = peaks.clock()
    assert found is not None
    assert 1e7 < found < 1e10


@pytest.mark.parametrize(
    ("vendor", "family", "model", "expected"),
    [
        ("GenuineIntel", 6, 85, "skylake"),
        ("GenuineIntel", 6, 143, "ice lake"),
        ("AuthenticAMD", 26, 2, "zen 5"),
        ("AuthenticAMD", 23, 1, None),  # units of 128 bits
        ("GenuineIntel", 6, 1, None),
        ("Another", 6, 85, None),
    ],
)
def test_the_processor_is_looked_up(vendor: str, family: int, model: int, expected: str | None, tmp_path: Path) -> None:
    facts = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: X\n\n"
    path = tmp_path / "cpuinfo"
    path.write_text(facts + facts.replace(": 0", ": 1"), encoding="utf-8")
    assert peaks.microarchitecture(str(path)) == expected
    assert peaks.microarchitecture(str(tmp_path / "none")) is None
    assert (peaks.limit(expected, "avx2", "xnor") is None) == (expected is None)
    assert peaks.limit(expected, "portable", "xnor") is None


def test_every_microarchitecture_has_limits() -> None:
    assert {name for families in peaks._FAMILIES.values() for name in families} == set(peaks.LIMITS)


@native
def test_steps_alone_compute_what_they_compute_among_the_others() -> None:
    layer = Layer(Case("x", "weights", (3, 5, 4), 7, (9,), convolves=True), 9)
    for isa in instruction_sets().values():
        plan = make_plan(layer.packed, isa)
        plan.plan.batch = 4
        (product,) = kernels.matmuls(plan)
        assert plan.kernels[product - 1 : product + 1] == ("grid", "lut")
        call = kernels.alone(plan, layer.images, range(product - 1, product + 1))
        logits, _ = plan.run(layer.images)
        for _ in range(3):
            found = call().view(np.float32).reshape(4, 5, 4, 7).transpose(0, 3, 1, 2)
            np.testing.assert_array_equal(found, logits[:4, :7])


@pytest.mark.parametrize("convolves", [False, True])
def test_values_after_a_relu_are_not_negative(convolves: bool) -> None:
    shape = (4, 3, 5) if convolves else (60, 1, 1)
    layers = [Layer(Case("x", kind, shape, 6, (2,), convolves=convolves), 2) for kind in ("weights", "relu")]
    signed, positive = (layer.product.x for layer in layers)
    assert bool((signed < 0).any())
    assert torch.equal(positive, signed.clamp(min=0))
    assert (layers[1].int8.x.min(), layers[1].int8.x.max(), layers[1].zero) == (0, 255, 0)


@native
def test_a_curve_says_where_float_is_faster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sizes = [Case(f"xnor-{size}", "xnor", (size, 1, 1), size, (1, 2)) for size in (4, 8, 16)]
    monkeypatch.setattr(kernels, "scaling_cases", lambda: sizes)
    result = quick(scaling=True, picture=tmp_path / "curve.png")
    assert [(row["size"], row["batch"]) for row in result["rows"]] == [(n, b) for n in (4, 8, 16) for b in (1, 2)]
    assert {row["instruction_set"] for row in result["rows"]} == {list(instruction_sets())[-1]}
    assert all(row["int8"] is None for row in result["rows"])
    for row, ratio in zip(result["rows"], (0.5, 2.0, 0.9, 2.0, 1.0, 2.0), strict=True):
        row["best_speedup"] = ratio
    one, two = describe(result).splitlines()[-2:]
    assert one.endswith("| K = N = 4, 8 |")
    assert two.endswith("| none |")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@native
def test_a_picture_is_drawn(tmp_path: Path) -> None:
    quick("xnor-dense", "weights-conv", "first-dense", picture=tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


@native
def test_a_picture_that_cannot_be_drawn_is_refused_before_anything_is_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kernels, "time_layer", lambda *of, **options: pytest.fail("timed"))
    with pytest.raises(UsageError, match=r"ends in \.png"):
        quick("xnor-dense", picture=tmp_path / "bars.svg")


def test_wrong_numbers_and_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"rounds": 0}, {"threads": 0}, {"seconds": 0}):
        with pytest.raises(UsageError, match="must be positive"):
            quick(**options)
    with pytest.raises(UsageError, match="--scaling has its own layers"):
        quick("xnor-dense", scaling=True)
    monkeypatch.setattr("onebit.native.instruction_sets", lambda: {"portable": None})
    with pytest.raises(UnknownNameError, match="did you mean 'xnor-dense-4096'"):
        quick("xnor-dense-409")
    with pytest.raises(UnknownNameError, match="unknown instruction set of this machine 'sse'"):
        quick("xnor-dense", isa=["sse"])
    monkeypatch.setattr("onebit.native.instruction_sets", dict)
    with pytest.raises(UsageError, match="the native library is not installed"):
        quick()
