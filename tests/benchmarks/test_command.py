"""`python -m benchmarks NAME`."""

from __future__ import annotations

import argparse
import importlib
import inspect
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
def test_every_flag_is_an_argument_of_the_benchmark(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out
    module, parser = importlib.import_module(f"benchmarks.{name.replace('-', '_')}"), argparse.ArgumentParser()
    module.add_options(parser)
    flags = {action.dest for action in parser._actions} - {"help"}
    parameters = inspect.signature(module.measure).parameters.values()
    arguments = {each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD}
    assert arguments <= flags <= arguments | {"rounds", "seconds"}


@pytest.mark.parametrize(
    "words",
    [
        ["mnist-time", "--targets", "92", "--seeds", "0", "--dataset", "mnist-sample", "--json"],
        ["packed-layers", "--features", "64", "--batches", "2", "--width", "64", "--tokens", "5", "--rounds", "2",
         "--seconds", "0.000001", "--json"],
        pytest.param(["startup", "--rounds", "1", "--json"], marks=pytest.mark.nightly),  # processes that import torch
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_it_prints_json_and_a_table(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result.keys() >= {"benchmark", "machine", "settings", "rows"}
    for row in result["rows"]:
        assert all(value > 0 for key, value in row.items() if key.endswith(("us", "speedup", "ratio", "seconds")))
    if words[0] == "packed-layers":
        assert main(words[:-1]) == 0
        assert len(capsys.readouterr().out.splitlines()) > 1 + len(result["rows"])


def test_a_column_without_a_value_is_left_out() -> None:
    rows = [{"net": "mlp", "ms": 1.25, "int8": None}, {"net": "a longer one", "ms": None}]
    shown = table(rows, {"net": "", "ms": ".2f", "int8": ".1f"})
    assert shown.splitlines() == ["net             ms", "mlp           1.25", "a longer one"]
