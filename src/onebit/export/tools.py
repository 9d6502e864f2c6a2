"""The programs and packages that run an exported net."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any

from onebit.errors import OnebitError, shortened
from onebit.export.targets import CannotRun


def require(*names: str, find: Callable[[str], object] = which, hint: str = "") -> None:
    """Raise CannotRun for the first program that `find` does not find; `importlib.util.find_spec` finds packages."""
    for name in names:
        if find(name) is None:
            raise CannotRun(f"{name} is not installed{hint}")


def output_of(
    command: list[str], given: bytes = b"", *, error: type[Exception] = OnebitError, **settings: Any
) -> bytes:
    """What a program prints, or an error with the line on stderr that names its failure, else with the first line.

    Args:
        given: its stdin.
        settings: of `subprocess.run`.
    """
    done = subprocess.run(command, input=given, capture_output=True, **settings)
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit status {done.returncode}"]
        line = next((line for line in lines if "rror: " in line), lines[0])
        raise error(f"{Path(command[0]).name} failed: {shortened(line, 200)}")
    return done.stdout
