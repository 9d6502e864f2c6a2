"""An argparse parser whose errors are UsageErrors, and arguments shared by verbs."""

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
    """Raises UsageError instead of printing usage and exiting; `shared` are names in `SHARED` and `RUNS`."""

    def __init__(self, verb: str, description: str, *shared: str) -> None:
        super().__init__(prog=f"onebit {verb}", description=description, allow_abbrev=False)
        self.register("type", None, _not_empty)  # the default type, of paths and names
        self.set_defaults(dataset=None)  # for verbs without --dataset
        common = self.add_argument_group("common options")  # printed last
        for name in shared:
            if name in RUNS:
                self.add_argument("run", metavar=name.upper(), help=RUNS[name])
            else:
                common.add_argument(f"--{name}", **SHARED[name])

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help)")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """All of `argv`, each `--model.NAME VALUE` in `model_arguments` or `quantizers`; UsageError for other words."""
        words = self._spelled(argv)
        if any(action.nargs == "+" for action in self._get_positional_actions()):
            with suppress(UsageError):  # options between files; fails if `--` is before the first file
                return self.parse_intermixed_args(words)
        found = self.parse_args(words)
        given = {name.removeprefix("model."): value for name, value in vars(found).items() if "model." in name}
        found.quantizers = {name: given.pop(name) for name in QUANTIZERS if name in given}
        if given and not found.model:
            self.error(f"--model.{next(iter(given))} has no effect without --model FILE.py:Class")
        found.model_arguments = given
        return found

    def _spelled(self, argv: Sequence[str]) -> list[str]:
        """Words with each option in the parser's spelling: dashes and underscores are equivalent."""
        known = {flag.replace("_", "-"): flag for action in self._actions for flag in action.option_strings}
        words = []
        for word in argv:
            name, equals, value = word.partition("=")
            if name[:2] == "--":
                name = known.get(name.replace("_", "-"), name)
            if "--model" in known and name.startswith("--model.") and name not in known:
                dest = name[2:].replace("-", "_")
                known[name] = name
                self.add_argument(name, dest=dest, nargs="?", const="true", type=str, default=argparse.SUPPRESS)
            words.append(name + equals + value)
        return words


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
    """argparse type of paths and names."""
    if not text:  # an unset "$DIR": the path "" would be the current folder
        raise argparse.ArgumentTypeError("needs a value")
    return text


QUANTIZERS = ("weight_quantizer", "input_quantizer")
"""Fields of a recipe that may name custom code beside that of the model."""
NET_HELP = "packed net: a .1bit file, or the name of a shipped one (onebit list nets)"
RUNS = {"run": "run folder, or weight file", "run-or-net": f"run folder, weight file, or {NET_HELP}"}
"""The first argument of a verb -> its help."""
SHARED: dict[str, dict[str, Any]] = {
    "recipe": {"metavar": "NAME", "help": "recipe of a weight file that stores none"},
    "model": {
        "metavar": "FILE.py:Class",
        "help": "code of a custom model, also package.module:Class; --model.NAME VALUE for its arguments; "
        "--model.weight_quantizer and --model.input_quantizer likewise for custom quantizers",
    },
    "dataset": {"metavar": "NAME", "help": "data set in place of the recipe's"},
    "seed": {"type": whole_number(0, 2**63 - 1), "default": 0, "metavar": "N", "help": "of random draws (default: 0)"},
    "data": {"metavar": "DIR", "help": "folder of data sets or images, or FILE.npz of arrays (default: ONEBIT_DATA)"},
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
    """The path to write to; UsageError if it is a file of trained weights."""
    path = Path(text)
    part_of_run = path.name in ("best.safetensors", "final.safetensors") and (path.parent / "recipe.yaml").exists()
    if os.path.realpath(path) == os.path.realpath(net_path(run)) or part_of_run:
        raise UsageError(f"{text}: would overwrite trained weights; choose another --output")
    return path
