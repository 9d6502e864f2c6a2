"""`pack --activations`: integer nets from a run, their certificate, its verification, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onebit.__main__ import main
from onebit.data import load_dataset
from onebit.packed import PackedNet, Requantize, load, save
from onebit.runtime import run
from support.command_line import SMALL, Onebit


@pytest.fixture(scope="module")
def integer_file(run_folder: Path) -> Path:
    """The run as an integer net of 8 bits."""
    path = run_folder.parent / "integer.1bit"
    assert main(["pack", str(run_folder), "-o", str(path), "--activations", "8"]) == 0
    return path


def changed(net: PackedNet, **arrays: Callable[[np.ndarray], np.ndarray]) -> PackedNet:
    """The net with other arrays in its first requantization."""
    [at, *_] = [index for index, node in enumerate(net.nodes) if isinstance(node, Requantize)]
    fields: dict[str, Any] = {name: change(getattr(net.nodes[at], name)) for name, change in arrays.items()}
    nodes = [*net.nodes[:at], replace(net.nodes[at], **fields), *net.nodes[at + 1 :]]
    return replace(net, nodes=tuple(nodes))


def test_a_certificate_has_both_accuracies(onebit: Onebit, run_folder: Path, packed_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.1bit"
    done = onebit(
        "pack", run_folder, "-o", path, "--activations", 2, "--calibration", 100, "--json", *("--allow-drop", 100)
    )
    assert done.status == 0
    assert "activations rounded to 2 bits" in done.err
    test = load_dataset("mnist-sample").test
    exact, rounded = (run(load(file), test.images).argmax(axis=1) for file in (packed_file, path))
    made = done.json["certificate"]
    assert made["activations"] == done.json["activations"] == 2
    assert made["calibration"] == 100
    assert made["count"] == len(test)
    assert made["correct"] == int((rounded == test.labels).sum())
    assert made["model_correct"] == int((exact == test.labels).sum())
    assert made["label_mismatches"] == int((exact != rounded).sum())
    assert done.json["promise"] == "rounded"
    assert {"step", "beyond"} == done.json["ranges"]["relu1"].keys()
    assert made["layers"] == []
    assert [(node.least, node.most) for node in load(path).nodes if isinstance(node, Requantize)] == [(0, 3)]


def test_an_integer_net_is_small_and_reproducible(
    onebit: Onebit, run_folder: Path, integer_file: Path, packed_file: Path, tmp_path: Path
) -> None:
    channels, certificate = 32 + 10, 100
    assert integer_file.stat().st_size <= packed_file.stat().st_size + 8 * channels + certificate
    assert onebit("pack", run_folder, "-o", tmp_path / "net.1bit", "--activations", 8).status == 0
    assert (tmp_path / "net.1bit").read_bytes() == integer_file.read_bytes()
    done = onebit("verify", integer_file, "--source", run_folder, "--json")
    assert done.status == 0, done.out
    assert [*done.steps] == ["packed accuracy", "card", "source", "packed bits", "certificate"]
    assert done.steps["packed bits"][1] == "every weight and parameter equals that of the source, packed again"
    assert onebit("verify", integer_file).status == 0


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        # another processor, or another version of torch, may round the float32 parameters of the run so
        ({"multiplier": lambda a: a + np.int32(1), "offset": lambda a: a + np.int64(100)}, True),
        ({"multiplier": lambda a: (a * 1.01).astype(np.int32)}, False),
        ({"offset": lambda a: a + np.abs(a).max() // 100}, False),
    ],
)
def test_the_source_finds_other_multipliers_but_not_another_rounding(
    onebit: Onebit, run_folder: Path, integer_file: Path, tmp_path: Path, changes: Any, holds: bool
) -> None:
    save(changed(load(integer_file), **changes), tmp_path / "net.1bit")
    done = onebit("verify", tmp_path / "net.1bit", "--source", run_folder, "--json")
    ok, detail = done.steps["packed bits"]
    assert (done.status == 0, ok) == (holds, holds)
    assert "32 of " in detail
    assert holds or f"{next(iter(changes))} of relu1" in detail


def test_too_large_a_loss_of_accuracy_writes_nothing(onebit: Onebit, run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.1bit"
    for flags, status in (((2, "--allow-drop", 0, "--json"), 1), ((8, "--calibration", 20), 2)):
        done = onebit("pack", run_folder, "-o", path, "--activations", *flags)
        assert (done.status, done.out, path.exists()) == (status, "", False)
        assert done.line
    assert onebit("pack", run_folder, "-o", path, "--activations", 2, "--allow-drop", 50).status == 0
    assert path.exists()


def test_a_net_that_was_trained_with_few_bits_is_proved(onebit: Onebit, tmp_path: Path) -> None:
    folder, path = tmp_path / "run", tmp_path / "net.1bit"
    flags = [*SMALL, "--model.input_quantizer", "uint4", "--epochs", "0.2", "--out", str(folder)]
    assert main(["train", "digits-smoke", *flags]) == 0
    done = onebit("pack", folder, "-o", path)
    assert done.status == 0, done.out
    done = onebit("verify", folder, "--json")
    assert done.steps["packed"][0]
    done = onebit("verify", path, "--source", folder, "--json")
    assert done.status == 0, done.out
    assert done.steps["certificate"] == (True, "recomputed, equal")
    save(changed(load(path), offset=lambda a: a + np.abs(a).max() // 100), path)
    done = onebit("verify", path, "--source", folder, "--json")
    assert done.status == 1
    assert "its multipliers and offsets are off" in done.steps["certificate"][1]


def test_evaluate_inspect_and_summary_take_an_integer_net(onebit: Onebit, integer_file: Path) -> None:
    assert onebit("evaluate", integer_file, "--json").json["correct"] == load(integer_file).certificate.correct
    inspected = onebit("inspect", integer_file).out
    assert "packed by: onebit pack RUN -o NET.1bit --activations 8 --calibration " in inspected
    assert "promise: rounded: " in inspected
    row = next(line for line in onebit("summary", integer_file).out.splitlines() if line.startswith("relu1"))
    assert row.endswith("integer: rounding")
