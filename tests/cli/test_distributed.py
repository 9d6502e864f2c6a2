"""`torchrun … -m onebit train`: the curve of one process, one voice, and resuming after a process is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from onebit.recipe import flatten
from support.command_line import Onebit
from support.rank_agents import Agents

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


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("how", ["ctrl-c", pytest.param("kill", marks=pytest.mark.nightly)])
def test_what_stops_a_process_stops_all_and_leaves_a_checkpoint(
    agents: Agents, tmp_path: Path, onebit: Onebit, how: str
) -> None:
    """A resumed training ends in the very bits: tests/train/test_ranks.py."""
    folder, go = tmp_path / "run", tmp_path / "go"
    launch = agents.launch("support.command_line:held", go, "train", *TOY, "--batch_size", "256", "--out", folder)
    launch.wait_for(Path(f"{go}.held").exists)  # an epoch has been added
    processes = [launch.rank(0), launch.rank(1)]
    if how == "ctrl-c":
        os.kill(launch.pid, signal.SIGINT)  # torchrun passes it on
    else:
        os.kill(processes[0], signal.SIGKILL)
        go.touch()
    ended = launch.end()
    assert ended.status != 0
    assert not [pid for pid in processes if alive(pid)]
    assert len(torch.load(folder / "last.ckpt", weights_only=True)["rows"]) == 1
    if how == "ctrl-c":
        assert ended.out == ""
        assert ended.line == f"onebit: interrupted; continue with: torchrun … -m onebit train --resume {folder}"
        assert (folder / "log.txt").read_text().count("interrupted") == 1
    refused = onebit("train", "--resume", folder)
    assert (refused.status, "processes" in refused.line) == (2, True)


def test_no_process_leaves_before_all_are_done(agents: Agents, tmp_path: Path) -> None:
    assert agents.launch("support.command_line:leaving", tmp_path).end().status == 0


def test_wrong_settings_are_said_once(agents: Agents, tmp_path: Path) -> None:
    ended = agents.onebit("train", *TOY, "--batch_size", "3", "--out", tmp_path / "run").end()
    assert (ended.status != 0, "batch_size" in ended.line) == (True, True)
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
