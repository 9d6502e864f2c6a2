"""What the tests of the command line share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SMALL = ["--model.widths", "[784,32,10]", "--threads", "1"]


@dataclass(frozen=True)
class Outcome:
    """The result of a command: exit status, stdout, stderr."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """The one line on stderr of a refused command."""
        assert "Traceback" not in self.err
        assert self.err.count("\n") == 1, self.err
        return self.err.strip()


def command(*arguments: object) -> list[str]:
    """The command line of a process of its own."""
    return [sys.executable, "-m", "onebit", *map(str, arguments)]


def run_process(*arguments: object, **environment: str) -> Outcome:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def stuck(folder: str) -> int:
    """A rank that waits in C for what never comes, as for a GPU whose partner has gone."""
    import torch

    from onebit.cli import processes

    processes.GRACE = 0.2

    def verb(ranks: Any) -> int:
        Path(folder, f"stuck-{ranks.rank}").touch()
        torch.distributed.recv(torch.zeros(1), src=1 - ranks.rank)  # each from the other
        return 0

    return processes.together(verb)


def starting(folder: str, lost: str) -> int:
    """Of two ranks one, `lost`, never comes to where they meet: it is killed."""
    from onebit.cli import processes

    processes.GRACE = 0.2
    waiting = Path(folder, "waiting")
    if os.environ["RANK"] != lost:
        waiting.touch()
        return processes.together(lambda ranks: 0)
    while not waiting.exists():
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def failing() -> int:
    """Two ranks that fail at the same time; torchrun's SIGTERM reaches the second one as it asks who reports."""
    from onebit.cli import processes
    from onebit.cli.main import run_program
    from onebit.errors import UsageError
    from onebit.train.ranks import Ranks

    ask = Ranks.is_first_to_report

    def asked(ranks: Ranks) -> bool:
        first = ask(ranks)
        if not first:
            os.kill(os.getpid(), signal.SIGTERM)
        return first

    def verb(ranks: Ranks) -> int:
        raise UsageError(str(ranks.gather("both fail")[0]))

    Ranks.is_first_to_report = asked  # type: ignore[method-assign]
    return run_program(lambda argv: processes.together(verb), [], name="onebit train")
