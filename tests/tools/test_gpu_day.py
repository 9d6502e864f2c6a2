"""The trainings of a day on a GPU: they stop, go home, go on another day, and need nothing that is not carried."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tools.gpu_day import TRAININGS, train

pytestmark = pytest.mark.nightly

ROOT = Path(__file__).parents[2]
TOY = "--dataset toy --model.widths [64,16,4] --device cpu"
ALONE = """
import importlib.abc, socket, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("rich", "pooch", "rfc3986"):
            raise ModuleNotFoundError(name)
sys.meta_path[:] = [Missing(), *(one for one in sys.meta_path if "editable" not in type(one).__module__)]
def refuse(*_):
    raise OSError("no network")
socket.socket.connect = refuse
"""


def test_a_training_goes_on_another_day(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = f"mnist-fast {TOY} --epochs 100000"
    epochs = []
    for _ in range(2):
        assert train(training, tmp_path, time.monotonic() + 30)
        assert "goes on" in capsys.readouterr().out
        [metrics] = tmp_path.glob("*/metrics.jsonl")
        epochs.append(metrics.read_text().count("\n"))
    assert 0 < epochs[0] < epochs[1]


def test_a_finished_net_is_packed_and_a_failed_training_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(f"mnist-fast --seed 1 {TOY} --epochs 4", tmp_path, time.monotonic() + 60)
    assert "finished" in capsys.readouterr().out
    assert {"result.json", "metrics.jsonl", "net.1bit"} <= {file.name for file in tmp_path.glob("*/*")}
    assert not train(f"mnist-fast {TOY} --loss none", tmp_path, time.monotonic() + 60)
    assert "failed" in capsys.readouterr().out


def test_a_minute_in_a_folder_of_what_is_carried(tmp_path: Path) -> None:
    there = tmp_path / "carried"
    for name in subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, there / name)
    (there / "sitecustomize.py").write_text(ALONE)
    data, rng = tmp_path / "cifar-10-batches-bin", np.random.default_rng(0)
    data.mkdir()
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records = rng.integers(0, 256, (10_000, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(data / name)
    env = {**os.environ, "PYTHONPATH": f"{there}{os.pathsep}{there / 'src'}", "ONEBIT_DATA": str(tmp_path)}
    find = [sys.executable, "-c", "import onebit; print(onebit.__file__)"]
    found = subprocess.run(find, cwd=there, env=env, capture_output=True, text=True)
    assert found.stdout.startswith(str(there)), found
    ended = subprocess.run(
        [sys.executable, "-m", "tools.gpu_day", "--minutes", "1", "--home", "carried"],
        cwd=there,
        env=env,
        capture_output=True,
        text=True,
    )
    logs = "".join(file.read_text() for file in there.glob("carried/*/output.log"))
    assert ended.returncode == 0, ended.stdout + ended.stderr + logs
    assert TRAININGS[0] in ended.stdout
    assert "of 20 layers binary" in logs
    assert "Traceback" not in logs
