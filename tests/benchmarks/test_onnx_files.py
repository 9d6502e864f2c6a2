"""`python -m benchmarks onnx` times exported files whose outputs are equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from benchmarks import onnx as benchmark
from benchmarks.__main__ import main
from benchmarks.twins import NETS
from onebit.errors import OnebitError, UnknownNameError, UsageError


def quick(**options: Any) -> dict[str, Any]:
    return benchmark.measure(**{"width": 0.02, "rounds": 2, "seconds": 1e-6, "default_malloc": True, **options})


def test_both_files_of_every_net_are_timed() -> None:
    result = quick(batches=[1, 3])
    assert json.dumps(result)
    rows = {(row["net"], row["batch"], row["flavor"]): row for row in result["rows"]}
    assert rows.keys() == {(net, batch, flavor) for net in NETS for batch in (1, 3) for flavor in ("float", "standard")}
    assert all(0 < row["fastest_us"] <= row["us"] for row in rows.values())
    assert rows["mlp-signs", 1, "float"]["float_speedup"] == 1
    assert rows["mlp-signs", 1, "standard"]["operators"]["MatMulInteger"] == 4
    assert rows["vgg-signs", 3, "standard"]["operators"]["QLinearConv"] == 5
    assert "MatMulInteger" not in rows["mlp-signs", 1, "float"]["operators"]
    assert "vgg-signs" in benchmark.describe(result)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--nets", "mlp-signs", "--width", "0.02", "--rounds", "1", "--seconds", "0.001", "--default-malloc"]
    assert main(["onnx", *options]) == 0
    assert "standard" in capsys.readouterr().out


def test_files_that_differ_and_wrong_options_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="mlp-sign"):
        quick(nets=["mlp-sign"])
    with pytest.raises(UsageError, match="must be positive"):
        quick(rounds=0)
    write = benchmark.target.write

    def other(net: Any, path: Path, *, flavor: str) -> None:
        write(net, path, flavor=flavor)
        if flavor == "float":
            model = onnx.load(str(path))
            shift = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("/shift"))
            shift.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(shift) + 1, shift.name))
            onnx.save(model, str(path))

    monkeypatch.setattr(benchmark.target, "write", other)
    with pytest.raises(OnebitError, match="mlp-signs, batch 1: the two files give different outputs"):
        quick(nets=["mlp-signs"])
