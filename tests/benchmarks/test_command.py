"""`python -m benchmarks NAME`."""

from __future__ import annotations

import json

import pytest

from benchmarks import BENCHMARKS
from benchmarks.__main__ import main
from benchmarks.shared import table


def test_without_a_name_it_lists_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert ", ".join(BENCHMARKS) in capsys.readouterr().out
    assert main(["kernel"]) == 2


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out


FEW = ["--rounds", "2", "--seconds", "0.000001"]
SMALL = {
    "cortex-m4": None,  # tests/export/test_c.py runs it
    "kernels": ["--cases", "integer-conv-64", *FEW],
    "mnist-time": ["--targets", "92", "--seeds", "0", "1", "--dataset", "mnist-sample"],
    "nets": ["--nets", "mlp-signs", "--width", "0.02", "--batches", "2", *FEW],
    "packed-layers": ["--features", "64", "--batches", "2", "--width", "64", "--tokens", "5", *FEW],
    "startup": None,  # its processes import torch anew
    "training-step": ["--flags", "--model.widths [784,8,10]", "--methods", "bnn", "--batch", "4", *FEW],
}


@pytest.mark.parametrize("name", [name for name, words in SMALL.items() if words])
def test_it_measures_and_prints_a_table(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = SMALL[name]
    assert words is not None
    assert main([name, *words]) == 0
    text = capsys.readouterr().out
    assert main([name, *words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) >= {"benchmark", "machine", "settings", "rows"}
    assert len(text.splitlines()) > 1 + len(result["rows"])
    for row in result["rows"]:
        assert all(value > 0 for key, value in row.items() if key.endswith(("us", "ms", "speedup", "ratio", "seconds")))


@pytest.mark.nightly
def test_start_up_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["startup", "--rounds", "1", "--json"]) == 0
    assert all(row["fastest_seconds"] > 0 for row in json.loads(capsys.readouterr().out)["rows"])


def test_a_column_without_a_value_is_left_out() -> None:
    rows = [{"net": "mlp", "ms": 1.25, "int8": None}, {"net": "a longer one", "ms": None}]
    shown = table(rows, {"net": "", "ms": ".2f", "int8": ".1f"})
    assert shown.splitlines() == ["net             ms", "mlp           1.25", "a longer one"]
