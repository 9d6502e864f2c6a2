"""The trainings of a day on a GPU: they stop, go home, go on another day, and need nothing that is not carried."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tools.gpu_day import JOBS, Job, main

pytestmark = pytest.mark.nightly

ROOT = Path(__file__).parents[2]
TOY = ("--dataset", "toy", "--model.widths", "[64,16,4]", "--device", "cpu")
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


def day(folder: Path, jobs: tuple[Job, ...], minutes: float) -> int:
    return main(["--minutes", str(minutes), "--runs", str(folder / "runs"), "--home", str(folder / "home")], jobs)


def test_a_long_training_goes_on_another_day_and_a_whole_one_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = Job("mnist-fast", flags=(*TOY, "--epochs", "100000"))
    assert day(tmp_path, (long,), 0.5) == 0
    assert (first := re.search(r"goes on after epoch (\d+) of 100000", capsys.readouterr().out))
    shutil.rmtree(tmp_path / "runs")  # the machine is gone
    assert day(tmp_path, (long,), 0.5) == 0
    assert (second := re.search(r"goes on after epoch (\d+) of 100000", capsys.readouterr().out))
    assert int(second[1]) > int(first[1])

    whole = Job("mnist-fast", 1, whole=True, flags=(*TOY, "--epochs", "40"))
    assert day(tmp_path, (whole,), 1) == 0
    assert re.search(r"seed-1: [\d.]+ % binary.*; 40 epochs", capsys.readouterr().out)
    with tarfile.open(tmp_path / "home" / "results.tar.gz") as tar:
        names = tar.getnames()
    assert {f"mnist-fast/seed-1/{name}" for name in ("result.json", "metrics.jsonl", "net.1bit")} <= set(names)
    assert not [name for name in names if name.endswith(".ckpt")]


def test_a_failed_training_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert day(tmp_path, (Job("mnist-fast", flags=(*TOY, "--loss", "none")),), 0.5) == 1
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
        [sys.executable, "-m", "tools.gpu_day", "--minutes", "1", "--device", "cpu"],
        cwd=there,
        env=env,
        capture_output=True,
        text=True,
    )
    logs = "".join(file.read_text() for file in there.glob("runs/gpu/**/*.log"))
    assert ended.returncode == 0, ended.stdout + ended.stderr + logs
    assert [line.partition(":")[0] for line in ended.stdout.splitlines()][-len(JOBS) :] == [job.name for job in JOBS]
    assert "of 20 layers binary" in logs
    assert "Traceback" not in logs
