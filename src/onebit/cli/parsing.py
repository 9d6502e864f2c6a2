"""An argparse parser whose errors are UsageErrors, and the arguments that several verbs have."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from onebit.errors import UsageError
from onebit.nets import net_path


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of printing usage and exiting; options cannot be abbreviated.

    Args:
        verb: its name.
        description: one sentence.
        shared: names in `SHARED`; one of `RUNS` comes first.
    """

    def __init__(self, verb: str, description: str, *shared: str) -> None:
        super().__init__(prog=f"onebit {verb}", description=description, allow_abbrev=False)
        self.register("type", None, _not_empty)  # of each path and name
        for name in RUNS.keys() & shared:
            self.add_argument("run", metavar=name.upper(), help=RUNS[name])
            self.add_argument("--recipe", **SHARED["recipe"])
            self.add_model()
        common = self.add_argument_group("common options")  # printed after those of the verb
        for name in shared:
            if name in SHARED:
                common.add_argument(f"--{name}", **SHARED[name])

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
        """All of `argv`; UsageError for words that are not understood."""
        argv = self._spelled(argv)
        arguments: dict[str, object] = {}
        if self.get_default("model_arguments") is not None:  # taken out first: a value is not the next positional one
            argv, arguments = _without_arguments(argv)
        found = self._intermixed(argv) or self.parse_args(argv)
        if arguments:
            found.model_arguments = arguments
            if not found.model:
                self.error(f"--model.{next(iter(arguments))} belongs to --model FILE.py:Class")
        return found

    def _intermixed(self, argv: list[str]) -> argparse.Namespace | None:
        """The arguments of a verb that takes several files, between which options stand; None where argparse cannot.

        It cannot with `--` before the first positional word.
        """
        if any(action.nargs == "+" for action in self._get_positional_actions()):
            with suppress(UsageError):
                return self.parse_intermixed_args(argv)
        return None

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
    "seed": {"type": whole_number(0, 2**63 - 1), "default": 0, "metavar": "N", "help": "of random draws (default: 0)"},
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


def refuse_trained(text: str, *, run: str) -> Path:
    """The path to write to; an error for a file that holds trained weights."""
    path = Path(text)
    part_of_run = path.name in ("best.safetensors", "final.safetensors") and (path.parent / "recipe.yaml").exists()
    if os.path.realpath(path) == os.path.realpath(net_path(run)) or part_of_run:
        raise UsageError(f"{text}: holds the trained weights, which this would overwrite; choose another --output")
    return path
