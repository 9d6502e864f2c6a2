"""`torchrun … -m onebit train`: the curve of one process, one voice, and resuming after a process is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from onebit.recipe import flatten
from support.command_line import Onebit
from support.rank_agents import Agents, Ended

TOY = ["--dataset", "toy", "--model.widths", "[64,16,4]", "--precision", "fp32", "--threads", "1", "--lr", "0.02"]
SYNCED = [*TOY, "--batch_size", "512", "--epochs", "3"]
TIMES = ("seconds", "images_per_second")


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def numbers(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in flatten(row).items() if isinstance(value, (int, float))}


@pytest.mark.nightly
def test_torchrun_gives_the_curve_of_one_process(onebit: Onebit, tmp_path: Path) -> None:
    """The command as it stands in docs/scaling.md."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "onebit"]
    done = subprocess.run(
        [*torchrun, "train", *SYNCED, "--sync_norm", "true", "--json", "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    two = json.loads(done.stdout)
    one = onebit("train", *SYNCED, "--json", "--out", tmp_path / "one").json
    for ours, theirs in zip(rows(tmp_path / "two"), rows(tmp_path / "one"), strict=True):
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-4, abs=1e-6)
    assert two["test"]["binary"]["count"] == 512
    for mode, score in one["test"].items():
        assert numbers(two["test"][mode]) == pytest.approx(numbers(score), rel=1e-4)
    assert (one["processes"], one["batch_per_process"]) == (1, 512)
    assert (two["processes"], two["batch_per_process"]) == (2, 256)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}
    # both processes talk through the first one
    for text in (done.stderr, (tmp_path / "two" / "log.txt").read_text()):
        assert [text.count(f" {epoch}/3  ") for epoch in (1, 2, 3)] == [1, 1, 1]
        assert text.count("fp32 products on 2 processes, each cpu, 1 thread") == 1


@dataclass(frozen=True)
class Stopped:
    """A training that was stopped by Ctrl-C, resumed, and killed with its first process."""

    folder: Path
    ends: dict[str, Ended]
    epochs: dict[str, int]
    processes: list[int]


@pytest.fixture(scope="module")
def stopped(agents: Agents, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    folder = tmp_path_factory.mktemp("stopped") / "run"
    ends, epochs, processes = {}, {}, []
    for name in ("ctrl-c", "kill"):
        fresh = [*TOY, "--batch_size", "256", "--epochs", "4", "--out", folder]
        go = folder.parent / f"go-{name}"
        arguments = fresh if name == "ctrl-c" else ["--resume", folder]
        launch = agents.launch("support.command_line:held", go, "train", *arguments)
        launch.wait_for(Path(f"{go}.held").exists)  # an epoch has been added
        processes += [launch.rank(0), launch.rank(1)]
        if name == "ctrl-c":
            os.kill(launch.pid, signal.SIGINT)  # torchrun passes it on
        else:
            os.kill(launch.rank(0), signal.SIGKILL)
            go.touch()
        ends[name] = launch.end()
        epochs[name] = len(torch.load(folder / "last.ckpt", weights_only=True)["rows"])
    return Stopped(folder, ends, epochs, processes)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_and_a_kill_stop_all_and_the_training_goes_on(stopped: Stopped, onebit: Onebit) -> None:
    """To the very bits: tests/train/test_ranks.py."""
    ended = stopped.ends["ctrl-c"]
    assert ended.out == ""
    assert ended.line == f"onebit: interrupted; continue with: torchrun … -m onebit train --resume {stopped.folder}"
    assert all(ended.status != 0 for ended in stopped.ends.values())
    assert not [pid for pid in stopped.processes if alive(pid)]
    assert stopped.epochs == {"ctrl-c": 1, "kill": 2}  # it went on where it had stopped
    assert (stopped.folder / "log.txt").read_text().count("interrupted") == 1
    refused = onebit("train", "--resume", stopped.folder)
    assert (refused.status, "processes" in refused.line) == (2, True)


def test_no_process_leaves_before_all_are_done(agents: Agents, tmp_path: Path) -> None:
    assert agents.launch("support.command_line:leaving", tmp_path).end().status == 0


@pytest.mark.parametrize(
    ("arguments", "noun"), [([*TOY, "--batch_size", "3"], "batch_size"), (["--epochz", "3"], "--epochz")]
)
def test_wrong_settings_are_said_once(agents: Agents, tmp_path: Path, arguments: list[str], noun: str) -> None:
    ended = agents.onebit("train", *arguments, "--out", tmp_path / "run").end()
    assert (ended.status != 0, noun in ended.line) == (True, True)
    assert not (tmp_path / "run").exists()


def test_processes_need_torchrun(onebit: Onebit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = onebit("train", *TOY)
    assert (refused.status, "MASTER_ADDR" in refused.line) == (2, True)


def test_what_is_printed_is_printed_once(agents: Agents) -> None:
    ended = agents.onebit("train", *TOY, "--print-config", "--json").end()
    assert (ended.status, json.loads(ended.out)["dataset"]) == (0, "toy")
    assert ended.err.count("\n") == 1  # the note on TOY's --lr
