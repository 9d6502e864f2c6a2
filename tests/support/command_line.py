"""What the tests of the command line share."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from onebit.__main__ import VERBS, main
from onebit.cli.parsing import Parser

if TYPE_CHECKING:
    from onebit.train.ranks import Ranks

SMALL = ["--model.widths", "[784,32,10]", "--threads", "1"]

CLASSIC = (
    *("results_dir", "save", "dataset", "model", "input_size", "model_config", "type", "gpus", "workers", "epochs"),
    *("start_epoch", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "print_freq", "resume", "evaluate"),
)
"""The flags of BinaryNet.pytorch."""


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
    def steps(self) -> dict[str, tuple[bool, str]]:
        """The claims of `verify --json`."""
        return {step["name"]: (step["ok"], step["detail"]) for step in self.json["steps"]}

    @property
    def line(self) -> str:
        """The one line of a refused command on stderr, after what it said of its work before."""
        *before, last = self.err.splitlines()
        assert "Traceback" not in self.err
        assert not [line for line in before if line.startswith("onebit: ") and "note: " not in line], self.err
        return last


Onebit = Callable[..., Outcome]
"""The fixture that runs one command in this process."""


def command(*arguments: object) -> list[str]:
    """The command line of a process of its own."""
    return [sys.executable, "-m", "onebit", *map(str, arguments)]


def run_process(*arguments: object, **environment: str) -> Outcome:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def run_as_rank(verb: Callable[[Ranks], int]) -> int:
    """Run a verb in a rank as the command line does."""
    from onebit.cli.main import run_program
    from onebit.cli.train_verb import run_under_torchrun

    return run_program(lambda argv: run_under_torchrun(verb), [], name="onebit train")


def held(go: str, *arguments: str) -> int:
    """The command line in a rank; the first one waits after its first checkpoint: for the file `go`, or a signal."""
    from onebit.__main__ import main
    from onebit.train import loop
    from support.rank_agents import wait_for

    write = loop.write_epoch

    def write_and_wait(job: Any) -> None:
        write(job)
        if job.ranks.writes:
            Path(f"{go}.held").touch()
            wait_for(Path(go).exists)

    loop.write_epoch = write_and_wait
    return main(list(arguments))


def leaving(folder: str) -> int:
    """Of two ranks one has nothing to do, the other works for a while: status 1 if one leaves before all are done."""
    done = Path(folder, "done")

    def verb(ranks: Ranks) -> int:
        if ranks.rank == 1:
            time.sleep(0.3)
            done.touch()
        return 0

    return run_as_rank(verb) or int(not done.exists())


LOADED = """
import json, sys
from contextlib import suppress
from onebit.__main__ import main
for words in json.loads(sys.argv[1]):
    with suppress(SystemExit):
        main(words)
print("\\n" + " ".join({name.partition(".")[0] for name in sys.modules}))
"""


def loaded_modules(*commands: list[str]) -> set[str]:
    """Top-level modules in memory of a process after these commands."""
    asked = [sys.executable, "-c", LOADED, json.dumps(commands)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.splitlines()[-1].split())


class Parsed(BaseException):
    """The arguments were understood; stops a verb before it does anything."""


def check_command(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Have the verb's own parser read a command line.

    Raises:
        AssertionError: an unknown verb, or arguments that the verb refuses.
    """
    parse = Parser.parse

    def stop(self: Parser, argv: list[str]) -> Namespace:
        parse(self, argv)
        raise Parsed

    verb, *rest = arguments
    assert verb in VERBS or verb in ("--help", "--version"), f"no such verb: {verb}"
    if verb == "train":
        rest.append("--print-config")  # reads the recipe and every flag, and leaves
    with monkeypatch.context() as patch:
        patch.setattr(Parser, "parse", stop)
        try:
            status = main([verb, *rest])
        except Parsed:
            return
    assert status == 0, f"onebit {shlex.join(arguments)}: {capsys.readouterr().err}"
