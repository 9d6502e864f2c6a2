"""An argparse parser whose errors are one line with a did-you-mean."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

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
        UsageError: another suffix, or a file that holds a training.
    """
    path = Path(text)
    if path.suffix not in suffixes:
        raise UsageError(f"{text}: the output ends in {' or '.join(suffixes)}")
    part_of_run = path.name in ("best.safetensors", "final.safetensors") and (path.parent / "recipe.yaml").exists()
    if os.path.realpath(path) == os.path.realpath(run) or part_of_run:
        raise UsageError(f"{text}: holds the trained weights, which this would overwrite; choose another --output")
    return path


def own_spelling(word: str, own: Sequence[str]) -> str:
    """A word of the command line, a flag of the verb itself as `own` spells it: dashes and underscores are the same."""
    flag, equals, value = word.partition("=")
    name = next((name for name in own if flag == f"--{name.replace('-', '_')}"), None)
    return word if name is None else f"--{name}{equals}{value}"


def refuse_unknown_flags(words: Sequence[str], *, fields: Sequence[str], own: Sequence[str]) -> None:
    """Refuse a flag that is no field of a recipe, with the nearest one; of the verb's own flags the nearest, too.

    Args:
        fields: names of the flags that are fields; own: names of the verb's own flags.

    Raises:
        UsageError: the first of them.
    """
    for word in words:
        flag = word.partition("=")[0]
        name = flag.removeprefix("--").replace("-", "_")
        # of a part its name is meant, and a field of options holds whatever its quantizer takes
        if not flag.startswith("--") or {name, f"{name}.name", name.rpartition(".")[0]} & set(fields):
            continue
        flags = [[f"--{known}" for known in names] for names in (fields, own)]
        near = [repr(found) for known in flags for found in get_close_matches(flag, known, n=1, cutoff=0.8)]
        offered = f"; did you mean {' or '.join(near)}?" if near else did_you_mean(flag, chain(*flags))
        raise UsageError(f"unknown option {flag}{offered}")


def option_value(argv: list[str], name: str, *, optional: bool = False) -> tuple[bool, str | None, list[str]]:
    """Take `--name VALUE` or `--name=VALUE` out of `argv`: (was it there, its value, the rest).

    Raises:
        UsageError: the value is missing and not optional, or the option stands twice.
    """
    rest: list[str] = []
    found, value = False, None
    i = 0
    while i < len(argv):
        flag, equals, inline = argv[i].partition("=")
        i += 1
        if flag != f"--{name}":
            rest.append(argv[i - 1])
            continue
        if found:
            raise UsageError(f"--{name} stands twice")
        found = True
        if equals:
            value = inline
        elif i < len(argv) and not argv[i].startswith("-"):
            value, i = argv[i], i + 1
        if not value and not optional:  # also "", what "$DIR" is where nothing set it
            raise UsageError(f"--{name} needs a value")
    return found, value, rest
