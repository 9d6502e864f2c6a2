"""What the tests of the command line share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onebit.train.ranks import Ranks

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


def in_together(verb: Callable[[Ranks], int]) -> int:
    """Run a verb in a rank as the command line does."""
    from onebit.cli import processes
    from onebit.cli.main import run_program

    return run_program(lambda argv: processes.together(verb), [], name="onebit train")


def held(go: str, *arguments: str) -> int:
    """The command line in a rank; the first one waits after its first checkpoint: for the file `go`, or a signal."""
    from rank_agents import wait_for

    from onebit.__main__ import main
    from onebit.train import loop

    write = loop.write_epoch

    def write_and_wait(job: Any) -> None:
        write(job)
        if job.ranks.writes:
            Path(f"{go}.held").touch()
            wait_for(Path(go).exists)

    loop.write_epoch = write_and_wait
    return main(list(arguments))


def stuck(folder: str) -> int:
    """A rank that waits in C for what never comes, as for a GPU whose partner has gone."""
    import torch

    from onebit.cli import processes

    processes.GRACE = 0.5
    say = processes.say

    def say_late(text: str) -> None:  # the other process learns of the end before the line is there
        time.sleep(0.3)
        say(text)

    processes.say = say_late

    def verb(ranks: Ranks) -> int:
        Path(folder, f"stuck-{ranks.rank}").touch()
        torch.distributed.recv(torch.zeros(1), src=1 - ranks.rank)  # each from the other
        return 0

    return in_together(verb)


def starting(folder: str, lost: str) -> int:
    """Of two ranks one, `lost`, never comes to where they meet: it is killed."""
    from onebit.cli import processes
    from onebit.train import ranks

    processes.GRACE = 0.5
    waiting, meet = Path(folder, "waiting"), ranks.meet

    def arrive(own: Ranks) -> Ranks:
        waiting.touch()
        return meet(own)

    if os.environ["RANK"] != lost:
        ranks.meet = arrive
        return in_together(lambda ranks: 0)
    while not waiting.exists():
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def leaving(folder: str) -> int:
    """Of two ranks one has nothing to do, the other works for a while: status 1 if one leaves before all are done."""
    done = Path(folder, "done")

    def verb(ranks: Ranks) -> int:
        if ranks.rank == 1:
            time.sleep(0.3)
            done.touch()
        return 0

    return in_together(verb) or int(not done.exists())


def forking() -> int:
    """A rank whose child, as a worker of a DataLoader, is terminated: that is nothing to the rank."""
    from onebit.cli import processes

    processes.GRACE = 0.1

    def verb(ranks: Ranks) -> int:
        ready, here = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(here, b"x")
                time.sleep(60)
            finally:
                os._exit(0)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        time.sleep(0.5)
        return 0

    return in_together(verb)


def failing() -> int:
    """Two ranks that fail at the same time; torchrun's SIGTERM reaches the second one as it asks who reports."""
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
    return in_together(verb)
