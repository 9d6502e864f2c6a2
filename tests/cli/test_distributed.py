"""`torchrun … -m onebit train`: the curve of one process, one voice, and resuming after a process is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from onebit.recipe import flatten
from support.command_line import Outcome
from support.rank_agents import Agents, Ended

TOY = ["--dataset", "toy", "--model.widths", "[64,16,4]", "--precision", "fp32", "--threads", "1", "--lr", "0.02"]
SYNCED = [*TOY, "--batch_size", "512", "--epochs", "3"]
RANDOM = [*TOY, "--batch_size", "256", "--epochs", "4"]
RANDOM += ["--model.weight_quantizer", "stochastic", "--model.dropout", "0.1"]
TIMES = ("seconds", "images_per_second")


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def numbers(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in flatten(row).items() if isinstance(value, (int, float))}


@pytest.mark.nightly
def test_torchrun_gives_the_curve_of_one_process(onebit: Callable[..., Outcome], tmp_path: Path) -> None:
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
    """A training that was stopped by Ctrl-C, resumed, killed with its first process, resumed, and ended."""

    folder: Path
    whole: Path
    ends: dict[str, Ended]
    epochs: dict[str, int]
    processes: list[int]


@pytest.fixture(scope="module")
def stopped(agents: Agents, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    folder, whole = (tmp_path_factory.mktemp("stopped") / name for name in ("run", "whole"))
    ends, epochs, processes = {}, {}, []
    for name in ("ctrl-c", "rank 0", "end"):
        arguments = ["train", *([*RANDOM, "--out", folder] if name == "ctrl-c" else ["--resume", folder])]
        if name == "end":
            launch = agents.onebit(*arguments)
        else:
            go = folder.parent / f"go-{name}"
            launch = agents.launch("support.command_line:held", go, *arguments)
            launch.wait_for(Path(f"{go}.held").exists)  # an epoch has been added
            processes += [launch.rank(0), launch.rank(1)]
            if name == "ctrl-c":
                os.kill(launch.pid, signal.SIGINT)  # torchrun passes it on
            else:
                os.kill(launch.rank(int(name[-1])), signal.SIGKILL)
                go.touch()
        ends[name] = launch.end()
        epochs[name] = len(torch.load(folder / "last.ckpt", weights_only=True)["rows"])
    ends["whole"] = agents.onebit("train", *RANDOM, "--out", whole).end()
    return Stopped(folder, whole, ends, epochs, processes)


def test_ctrl_c_stops_all_with_one_line(stopped: Stopped) -> None:
    ended = stopped.ends["ctrl-c"]
    assert ended.out == ""
    assert ended.line == f"onebit: interrupted; continue with: torchrun … -m onebit train --resume {stopped.folder}"


def test_whatever_stops_a_process_stops_all(stopped: Stopped) -> None:
    assert all(stopped.ends[name].status != 0 for name in ("ctrl-c", "rank 0"))
    assert not [pid for pid in stopped.processes if alive(pid)]


def test_no_process_leaves_before_all_are_done(agents: Agents, tmp_path: Path) -> None:
    assert agents.launch("support.command_line:leaving", tmp_path).end().status == 0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_stopped_processes_go_on_to_the_very_bits(stopped: Stopped) -> None:
    assert [ended.status for name, ended in stopped.ends.items() if name in ("end", "whole")] == [0, 0]
    assert stopped.epochs == {"ctrl-c": 1, "rank 0": 2, "end": 4}  # each went on where one had stopped
    assert rows(stopped.folder) == rows(stopped.whole)
    for name in ("best.safetensors", "final.safetensors"):
        found, expected = load_file(stopped.folder / name), load_file(stopped.whole / name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert not list(stopped.folder.glob(".onebit-*"))
    log = (stopped.folder / "log.txt").read_text()
    assert log.count("interrupted") == 1
    assert log.count(" 4/4 ") == 1


def test_another_number_of_processes_is_refused(stopped: Stopped, onebit: Callable[..., Outcome]) -> None:
    refused = onebit("train", "--resume", stopped.folder)
    assert refused.status == 2
    assert "was trained with processes = 2, now it is 1" in refused.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TOY, "--batch_size", "3"], "batch_size is 3"),
        (["--epochz", "3"], "--epochz"),
    ],
)
def test_wrong_settings_are_said_once(agents: Agents, tmp_path: Path, arguments: list[str], message: str) -> None:
    ended = agents.onebit("train", *arguments, "--out", tmp_path / "run").end()
    assert ended.status != 0
    assert message in ended.line
    assert not (tmp_path / "run").exists()


def test_processes_need_torchrun(onebit: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = onebit("train", *TOY)
    assert refused.status == 2
    assert "MASTER_ADDR" in refused.line


def test_what_is_printed_is_printed_once(agents: Agents) -> None:
    ended = agents.onebit("train", *TOY, "--print-config", "--json").end()
    assert ended.status == 0
    assert json.loads(ended.out)["dataset"] == "toy"
    assert ended.err.count("\n") == 1  # the note on TOY's --lr
