"""An argparse parser whose errors are one line with a did-you-mean, and the arguments that several verbs have."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from onebit.common.files import refuse_unwritable
from onebit.common.tables import did_you_mean
from onebit.errors import UsageError
from onebit.nets import is_packed, net_path


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of printing usage and exiting; options cannot be abbreviated.

    Args:
        verb: its name.
        description: one sentence.
        shared: names in `SHARED`, which follow the arguments of the verb itself; one of `RUNS` comes before them.
    """

    def __init__(self, verb: str, description: str, *shared: str) -> None:
        super().__init__(prog=f"onebit {verb}", description=description, allow_abbrev=False)
        self.register("type", None, _not_empty)  # of each path and name
        self._shared = [name for name in shared if name not in RUNS]
        for name in RUNS.keys() & shared:
            self.add_argument("run", metavar=name.upper(), help=RUNS[name])
            self.add_argument("--recipe", **SHARED["recipe"])
            self.add_model()

    def add_model(self) -> None:
        """Add `--model FILE.py:Class`, and `--model.NAME VALUE` for its arguments, a mapping in `model_arguments`."""
        self.add_argument(
            "--model",
            metavar="FILE.py:Class",
            help="the code of a model of your own, also package.module:Class; --model.NAME VALUE for its arguments",
        )
        self.set_defaults(model_arguments={})

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help)")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """All of `argv`, or a UsageError that names what is not understood."""
        for name in self._shared:
            self.add_argument(f"--{name}", **SHARED[name])
        arguments: dict[str, object] = {}
        argv = self._spelled(argv)
        if self.get_default("model_arguments") is not None:  # taken out first: a value is not the next positional one
            argv, arguments = _without_arguments(argv)
        found, extra = self._known(argv)
        if arguments:
            found.model_arguments = arguments
            if not found.model:
                self.error(f"--model.{next(iter(arguments))} belongs to --model FILE.py:Class")
        if extra:
            flags = [flag for action in self._actions for flag in action.option_strings]
            near = did_you_mean(extra[0].partition("=")[0], flags) if extra[0].startswith("-") else ""
            file = f", or ./{extra[0]} for the file of this name" if os.path.lexists(extra[0]) else ""
            self.error(f"unexpected {extra[0]!r}{near}{file}")
        return found

    def _known(self, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """What is understood of `argv`, and the rest."""
        if any(action.nargs == "+" for action in self._get_positional_actions()):
            with suppress(UsageError):  # `predict NET a.png --invert b.png` has two files
                found, extra = self.parse_known_intermixed_args(argv)
                if not extra:
                    return found, extra
            # argparse does not intermix all words with `--` before the first positional one
        return self.parse_known_args(argv)

    def _spelled(self, argv: Sequence[str]) -> list[str]:
        """Words with each option as the parser spells it: dashes and underscores in it are equivalent."""
        known = {flag.replace("_", "-"): flag for action in self._actions for flag in action.option_strings}
        words = []
        for word in argv:
            name, equals, value = word.partition("=")
            words.append(known.get(name.replace("_", "-"), name) + equals + value if name[:2] == "--" else word)
        return words


def _without_arguments(words: Sequence[str]) -> tuple[list[str], dict[str, object]]:
    """Words without `--model.NAME VALUE`, and NAME -> VALUE."""
    rest: list[str] = []
    arguments: dict[str, object] = {}
    left = list(words)
    while left:
        name, equals, value = left.pop(0).partition("=")
        argument = name.removeprefix("--model.").replace("-", "_")
        if argument == name.replace("-", "_") or not argument.isidentifier():
            rest.append(name + equals + value)
        else:
            arguments[argument] = value if equals else left.pop(0) if left and left[0][:2] != "--" else "true"
    return rest, arguments


class _SetThreads(argparse.Action):
    """Sets the threads of everything that computes in this process."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        os.environ["ONEBIT_THREADS"] = str(values)


def whole_number(least: int, most: int | None = None) -> Any:
    """argparse type: a whole number within bounds."""
    expected = f"{least} or more" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= (most or int(text)):
            raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}")
        return int(text)

    return read


thread_number = whole_number(1, 4096)


def _not_empty(text: str) -> str:
    """argparse type of arguments without one of their own."""
    if not text:  # "$DIR" where nothing set it: the path "" would be the current folder
        raise argparse.ArgumentTypeError("needs a value")
    return text


NET_HELP = "packed net: a .1bit file, or the name of one that comes with onebit (onebit list nets)"
RUNS = {"run": "run folder, or weight file", "run-or-net": f"run folder, weight file, or {NET_HELP}"}
"""The first argument of a verb -> its help; `--recipe` and `--model` go with it."""
SHARED: dict[str, dict[str, Any]] = {
    "recipe": {"metavar": "NAME", "help": "recipe of a weight file without one, outside a run folder"},
    "dataset": {"metavar": "NAME", "help": "another data set than the recipe's"},
    "seed": {"type": whole_number(0, 2**63 - 1), "metavar": "N", "help": "of random draws (default: 0)"},
    "data": {
        "metavar": "DIR",
        "help": "folder of data sets or of your own images, or FILE.npz of your own arrays; instead of ONEBIT_DATA",
    },
    "threads": {
        "type": thread_number,
        "action": _SetThreads,
        "metavar": "N",
        "help": "CPU threads; wins over ONEBIT_THREADS (default: one per core)",
    },
    "json": {"action": "store_true", "help": "print exactly one JSON object"},
}
"""Option -> its arguments of `add_argument`."""


def one_of(*names: str) -> dict[str, Any]:
    """Settings of `add_argument` for a choice among names, the first of them the default."""

    def choose(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"invalid choice: {text!r}{did_you_mean(text, names)}")
        return text

    return {"type": choose, "metavar": "|".join(names), "default": names[0]}


def output_path(text: str, *, suffixes: Sequence[str], run: str) -> Path:
    """The path to write to; an error for another suffix, a file that holds trained weights, or one not writable."""
    if Path(text).suffix not in suffixes:
        raise UsageError(f"{text}: the output ends in {' or '.join(suffixes)}")
    path = refuse_trained(text, run=run)
    refuse_unwritable(path)
    return path


def refuse_trained(text: str, *, run: str) -> Path:
    """The path to write to; an error for a file that holds trained weights."""
    path = Path(text)
    part_of_run = path.name in ("best.safetensors", "final.safetensors") and (path.parent / "recipe.yaml").exists()
    if os.path.realpath(path) == os.path.realpath(net_path(run)) or part_of_run:
        raise UsageError(f"{text}: holds the trained weights, which this would overwrite; choose another --output")
    return path


def refuse_run_folder(net: str, verb: str) -> None:
    """UsageError where a run folder is given to a verb that takes a packed net: with the command that packs it."""
    from onebit.runs.folders import is_run_folder  # a third of the start-up of verbs that need none

    if not is_packed(net) and is_run_folder(Path(net)):
        command = shlex.join(["onebit", "pack", net, "-o", f"{Path(net).resolve().name}.1bit"])
        raise UsageError(f"{net} is a run folder, {verb} takes a packed net; pack it first: {command}")
