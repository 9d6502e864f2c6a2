"""Packages of other projects that nightly tests install into a cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest


def cached(name: str, install: Callable[[Path], list[list[str]]]) -> Path:
    """A folder into which commands installed something, now or before; skips the test where they cannot."""
    folder = Path(tempfile.gettempdir()) / f"onebit-{name}-{os.getuid() if hasattr(os, 'getuid') else 0}"
    done = folder / "done"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        for command in install(folder):
            made = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if made.returncode:
                pytest.skip(f"cannot install {name} here: {(made.stderr or made.stdout).strip()[-300:]}")
        done.touch()
    return folder
