"""An argparse parser whose errors are one line with a did-you-mean."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from onebit.common.files import refuse_unwritable
from onebit.common.tables import did_you_mean
from onebit.errors import UsageError

_MOST_THREADS = 4096


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of printing usage and leaving; knows no abbreviated options."""

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(prog=f"onebit {verb}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help)")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """All of `argv`, or a UsageError that names what is not understood."""
        found, extra = self.parse_known_args(argv)
        if extra:
            flags = [flag for action in self._actions for flag in action.option_strings]
            near = did_you_mean(extra[0].partition("=")[0], flags) if extra[0].startswith("-") else ""
            self.error(f"unexpected {extra[0]!r}{near}")
        return found


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object")


def thread_number(text: str) -> int:
    """argparse type: a number of threads."""
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_THREADS:
        raise argparse.ArgumentTypeError(f"must be from 1 to {_MOST_THREADS}, got {text!r}")
    return int(text)


class _SetThreads(argparse.Action):
    """For all that computes in this process."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        os.environ["ONEBIT_THREADS"] = str(values)


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        type=thread_number,
        action=_SetThreads,
        metavar="N",
        help="that compute; before ONEBIT_THREADS (default: one per core)",
    )


def _not_empty(text: str) -> str:
    if not text:  # what "$DIR" is where nothing set it
        raise argparse.ArgumentTypeError("needs a value")
    return text


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=_not_empty,
        metavar="DIR",
        help="folder of data sets or of your own images, or FILE.npz of your own arrays; instead of ONEBIT_DATA",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder, or weight file")
    parser.add_argument(
        "--recipe", metavar="NAME", help="recipe of a weight file that does not carry one and is in no run folder"
    )


def one_of(*names: str) -> dict[str, Any]:
    """Settings of `add_argument` for a choice among names, the first of them the default."""

    def choose(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"invalid choice: {text!r}{did_you_mean(text, names)}")
        return text

    return {"type": choose, "metavar": "|".join(names), "default": names[0]}


def seed(text: str) -> int:
    """argparse type: a seed of random draws."""
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2^63 - 1, got {text}")
    return value


def output_path(text: str, *, suffixes: Sequence[str], run: str) -> Path:
    """Where a verb may write: a file of a known kind that is neither its own source nor part of a run.

    Raises:
        UsageError: another suffix, or a file that holds a training. OnebitError: it cannot be written.
    """
    path = Path(text)
    if path.suffix not in suffixes:
        raise UsageError(f"{text}: the output ends in {' or '.join(suffixes)}")
    part_of_run = path.name in ("best.safetensors", "final.safetensors") and (path.parent / "recipe.yaml").exists()
    if os.path.realpath(path) == os.path.realpath(run) or part_of_run:
        raise UsageError(f"{text}: holds the trained weights, which this would overwrite; choose another --output")
    refuse_unwritable(path)
    return path
