"""benchmarks/mnist_time.py: its targets are recipes, and it runs, on the digits that ship."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "mnist_time.py"


@pytest.fixture(scope="module")
def mnist_time() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mnist_time", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mnist_time"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_json_row(mnist_time: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert mnist_time.main(["--targets", "92", "--seeds", "0", "1", "2", "--dataset", "mnist-sample", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["target"] == 92
    assert len(row["accuracies"]) == len(row["seconds"]) == 3
    # 6 steps on 8,000 digits: far above chance, below the target
    assert 40 < row["median_accuracy"] == sorted(row["accuracies"])[1] < 92
    assert min(row["seconds"]) == row["min_seconds"] > 0
    assert not row["reached"]


def test_same_seed_same_accuracy_in_a_fresh_process(mnist_time: ModuleType) -> None:
    target = mnist_time.TARGETS[0]
    warm = mnist_time.measure(target, seeds=[3], dataset="mnist-sample")
    cold = mnist_time.measure(target, seeds=[3], dataset="mnist-sample", cold=True)
    assert cold.results[0].accuracy == pytest.approx(warm.results[0].accuracy, abs=1e-3)
    assert cold.results[0].seconds > warm.results[0].seconds
    assert cold.results[0].cpu_seconds > 0


def test_a_row_is_reached_by_its_medians(mnist_time: ModuleType) -> None:
    def row(accuracies: tuple[float, ...], seconds: tuple[float, ...]) -> Any:
        results = tuple(mnist_time.Result(a, s, s) for a, s in zip(accuracies, seconds, strict=True))
        return mnist_time.Row(92, 0.5, "", "", (0, 1, 2), results)

    reached = row((91.0, 92.0, 93.0), (0.1, 0.5, 9.0))
    inaccurate, slow = row((91.0, 91.9, 93.0), (0.1, 0.5, 9.0)), row((91.0, 92.0, 93.0), (0.1, 0.6, 9.0))
    assert [r.as_dict()["reached"] for r in (reached, inaccurate, slow)] == [True, False, False]
    table = mnist_time.table([reached, inaccurate, slow]).splitlines()
    assert [line.endswith("(missed)") for line in table[1:]] == [False, True, True]


def test_every_target_uses_all_training_images_one_thread_and_one_bit(mnist_time: ModuleType) -> None:
    for target in mnist_time.TARGETS:
        recipe = target.recipe
        assert (recipe.dataset, recipe.validation, recipe.threads) == ("mnist", 0, 1)
        assert recipe.model.weight_quantizer == "sign"
        assert not recipe.model.real_last


def test_an_unknown_target_is_refused(mnist_time: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        mnist_time.main(["--targets", "93"])
    assert "no such target: 93" in capsys.readouterr().err
