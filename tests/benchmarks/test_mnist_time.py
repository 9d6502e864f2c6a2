"""`benchmarks.mnist_time`: its targets are recipes, and it runs, on the digits that ship."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import mnist_time
from onebit.errors import UsageError

ROOT = Path(__file__).parents[2]


def test_row_of_a_target() -> None:
    done: list[tuple[int, int]] = []
    result = mnist_time.measure(
        targets=[92], seeds=[0, 1, 2], dataset="mnist-sample", on_round=lambda i, n: done.append((i, n))
    )
    (row,) = result["rows"]
    assert row["target"] == 92
    assert len(row["accuracies"]) == len(row["seconds"]) == 3
    # 6 steps on 8,000 digits: far above chance, below the target
    assert 40 < row["median_accuracy"] == sorted(row["accuracies"])[1] < 92
    assert min(row["seconds"]) == row["min_seconds"] > 0
    assert row["limit"] is row["reached"] is None  # those of the targets are for all digits
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert "missed" not in mnist_time.describe(result)


@pytest.mark.nightly
def test_same_seed_same_accuracy_in_a_fresh_process() -> None:
    options = {"targets": ["92"], "seeds": ["3"], "dataset": ["mnist-sample"]}
    flags = [word for name, values in options.items() for word in (f"--{name}", *values)]
    command = [sys.executable, "-m", "benchmarks", "mnist-time", *flags, "--cold", "--json"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    (cold,) = json.loads(printed)["rows"]
    (warm,) = mnist_time.measure(targets=[92], seeds=[3], dataset="mnist-sample")["rows"]
    assert cold["accuracies"] == pytest.approx(list(warm["accuracies"]))
    assert cold["min_seconds"] > warm["min_seconds"]
    assert cold["median_cpu_seconds"] > 0


def test_a_row_is_reached_by_its_medians() -> None:
    def reached(accuracies: tuple[float, ...], seconds: tuple[float, ...]) -> bool:
        results = tuple(mnist_time.Result(a, s, s) for a, s in zip(accuracies, seconds, strict=True))
        return mnist_time.Row(92, 0.5, "", (0, 1, 2), results).as_dict()["reached"]

    assert reached((91.0, 92.0, 93.0), (0.1, 0.5, 9.0))
    assert not reached((91.0, 91.9, 93.0), (0.1, 0.5, 9.0))
    assert not reached((91.0, 92.0, 93.0), (0.1, 0.6, 9.0))
    slow = mnist_time.Row(92, 0.5, "", (0,), (mnist_time.Result(92.0, 0.6, 0.6),)).as_dict()
    found = {"machine": {"cpu": ""}, "settings": {"clock": "", "dataset": "mnist"}, "rows": [slow]}
    assert mnist_time.describe(found).endswith("92.00  (missed)")


def test_every_target_uses_all_training_images_one_thread_and_one_bit() -> None:
    for target in mnist_time.TARGETS:
        recipe = target.recipe
        assert (recipe.dataset, recipe.validation, recipe.threads) == ("mnist", 0, 1)
        assert recipe.model.weight_quantizer == "sign"
        assert not recipe.model.real_last


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown target 93; known: 92, 97, 98, 98\.5"):
        mnist_time.measure(targets=[93])
