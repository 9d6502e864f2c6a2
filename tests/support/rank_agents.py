"""Training runs of several processes for the tests: torchrun's own agent, in a process that has imported everything.

`torchrun` imports torch, and so does each process that it starts: seconds for a training of milliseconds. Here the
agent and the ranks are forked from one warm process, everything else is as under torchrun.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT = 300.0
"""Seconds that a launch may take on a busy machine."""


@dataclass(frozen=True)
class Ended:
    """What a launch left: exit status of the agent, and what all processes wrote."""

    status: int
    out: str
    err: str

    @property
    def talk(self) -> str:
        """What the ranks wrote on stderr; the agent writes there too, each line with a time before it."""
        return "".join(
            line for line in self.err.splitlines(keepends=True) if not re.match(r"[EWI]\d{4} |agent: ", line)
        )

    @property
    def lines(self) -> list[str]:
        """The errors and notes of onebit on stderr."""
        assert "Traceback" not in self.talk
        return [line for line in self.talk.splitlines() if line.startswith("onebit: ")]

    @property
    def line(self) -> str:
        """The only one of `lines`."""
        assert len(self.lines) == 1, self.err
        return self.lines[0]


class Launch:
    """One training of several processes."""

    def __init__(self, agents: Agents, folder: Path, pid: int) -> None:
        self.agents, self.folder, self.pid = agents, folder, pid

    def rank(self, number: int) -> int:
        """The process id of a rank."""
        wait_for(lambda: (self.folder / f"rank-{number}").is_file())
        return int((self.folder / f"rank-{number}").read_text())

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return when `condition()` holds."""
        wait_for(condition)

    def end(self) -> Ended:
        """Wait for it."""
        status = self.agents.answer("ended", self.pid)
        return Ended(status, (self.folder / "out").read_text(), (self.folder / "err").read_text())


class Agents:
    """The warm process, seen from a test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def launch(self, function: str, *arguments: object, processes: int = 2) -> Launch:
        """Call `module:function` with `arguments` in each of several processes."""
        self.count += 1
        folder = self.folder / f"launch-{self.count}"
        folder.mkdir()
        request = {"function": function, "arguments": list(map(str, arguments)), "processes": processes}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request | {"path": sys.path, "folder": str(folder)}) + "\n")
        return Launch(self, folder, self.answer("launched"))

    def onebit(self, *arguments: object) -> Launch:
        """`torchrun --nproc-per-node 2 -m onebit ARGUMENTS`."""
        return self.launch("onebit.__main__:main", *arguments)

    def answer(self, kind: str, pid: int | None = None) -> int:
        """The number of the next answer of a kind; those of launches that a failed test left behind are skipped."""
        assert self.process.stdout is not None
        while True:
            found, of, number = self.process.stdout.readline().split()
            if found == kind and pid in (None, int(of)):
                return int(number)


@contextmanager
def warm_agents(folder: Path) -> Iterator[Agents]:
    """`Agents`, ended with the block."""
    agents = Agents(folder)
    try:
        yield agents
    finally:
        agents.process.kill()
        agents.process.communicate()


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when `condition()` holds."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def in_rank(function: str, arguments: Sequence[str], folder: str) -> None:
    """What a forked rank does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a new process, not the handlers of the agent
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Path(folder, f"rank-{os.environ['RANK']}.new").write_text(str(os.getpid()))
    os.replace(Path(folder, f"rank-{os.environ['RANK']}.new"), Path(folder, f"rank-{os.environ['RANK']}"))
    module, _, name = function.partition(":")
    call = getattr(importlib.import_module(module), name)
    status = call(list(arguments)) if module == "onebit.__main__" else call(*arguments)
    if status:  # the agent waits for those that return
        sys.exit(status)


def launch(request: dict[str, Any]) -> None:
    """What the forked agent does: as torchrun, but for the import of everything."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    signal.alarm(int(LIMIT))
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(request["folder"], name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=request["processes"],
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.05,
        start_method="fork",
    )
    elastic_launch(config, in_rank)(request["function"], request["arguments"], request["folder"])


def serve() -> None:
    """Read a launch per line, answer with the process id of its agent and, when it has ended, with its status."""
    import torch

    for module in ("onebit.cli.train_verb", "onebit.runs.run", "torch.distributed.run"):
        importlib.import_module(module)
    torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])  # the first optimizer of a process imports much
    for line in sys.stdin:
        request = json.loads(line)
        sys.path[:] = request["path"]
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                launch(request)
                status = 0
            except Exception as error:  # as torchrun, which shows a traceback of its own
                print(f"agent: {type(error).__name__}", file=sys.stderr)
            finally:
                sys.stderr.flush()
                os._exit(status)
        print("launched", pid, pid, flush=True)
        print("ended", pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
