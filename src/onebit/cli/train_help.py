"""The text of `onebit train --help`: every field of a recipe, with its value and meaning."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
import textwrap
from collections.abc import Mapping
from itertools import starmap
from typing import Any

from onebit.recipe import Recipe
from onebit.recipe.options import Part, declared, descriptions
from onebit.recipe.settings import OWN_ONLY

WHAT_TO_TYPE = """onebit train: name what to train:

  onebit train mnist-fast                                  a recipe (onebit list recipes)
  onebit train --model resnet20 --dataset cifar10 --method bnn
                                                           any model, data set and method (onebit list)
  onebit train --model nets.py:Net --dataset mnist --method bnn
                                                           a torch module of your own, from a file
  onebit train --model vgg_small --dataset folder --data DIR --input_size 32
                                                           your own images, in a folder for each class
  onebit train --resume runs/mnist-fast                    go on with a training
  onebit train --help                                      every flag"""

USAGE = """usage: onebit train [RECIPE] [--FIELD VALUE ...] [--out DIR] [--resume [RUN]]

Train a recipe into a run folder. Without a recipe: --model, --dataset and
--method, with defaults that suit them.

  onebit train mnist-fast
  onebit train cifar10-resnet20-binaryconnect --epochs 40 --seeds 0-2 --out a
  onebit train --model resnet_binary --dataset cifar10 --epochs 100
"""
OPTIONS = {
    "RECIPE": "a recipe of onebit (onebit list recipes), or a YAML or JSON file; with --help, its own values",
    "--method NAME": "quantizers, optimizer, activation, initial weights and loss of a method (onebit list methods)",
    "--task NAME": "permuted-mnist: learn several tasks one after the other (docs/continual.md); image: none",
    "--out DIR": "run folder (default: runs/NAME, or runs/NAME-2 and so on if that holds a run)",
    "--resume [RUN]": "go on from the last checkpoint, bit-identically; of RUN, or of the run folder",
    "--overwrite": "replace the run in the run folder; it is kept until the new one has a checkpoint",
    "--seeds 0-4": "train once for each seed into DIR/seed-N, and report mean and standard deviation; also 0,3,7",
    "--wandb": "log to Weights & Biases too (WANDB_MODE=offline: into the run folder)",
    "--tensorboard": "log to RUN/tensorboard too",
    "--data DIR": "folder of data sets or of your own images, or FILE.npz",
    "--print-config": "print the complete recipe and exit",
    "--json": "print exactly one JSON object: recipe, dataset, seed, epochs, test, seconds, parameters, ...",
}
CLASSIC = (
    "The flags of BinaryNet.pytorch (-a -b -e -j -p --lr --wd --save --gpus --type ...) work too: docs/coming-from.md."
)
OWN = (
    "A model of your own: --model FILE.py:Class or --model package.module:Class, and --model.NAME VALUE for the "
    "arguments of its constructor (with --help: a list of them)."
)
FIELDS = "Every field of a recipe is a flag, shown with {}. --flag alone means true."
INDENT = 37


def train_help(recipe: Recipe | None = None, parameters: Mapping[str, tuple[Any, Any]] | None = None) -> str:
    """The whole text, as wide as the terminal.

    Args:
        recipe: its values are shown; None for the defaults.
        parameters: of a model of the user's own, see `onebit.runs.own_model.parameters`.
    """
    base = "its base value; --model, --dataset and --method change some"
    values = base if recipe is None else f"its value in {recipe.name}"
    parts = [
        USAGE,
        *(_line(flag, text) for flag, text in OPTIONS.items()),
        "",
        *textwrap.wrap(OWN, _width()),
        "",
        *textwrap.wrap(CLASSIC, _width()),
        "",
        *textwrap.wrap(FIELDS.format(values), _width()),
        "",
        *_section(Recipe() if recipe is None else recipe, ""),
    ]
    if recipe is not None and parameters is not None:
        parts[-1:] = [parts[-1], "", f"arguments of {recipe.model.name}:", *starmap(_argument, parameters.items())]
    return "\n".join(parts).rstrip()


def _section(part: Any, prefix: str) -> list[str]:
    """The lines of the fields of a dataclass, followed by those of its parts."""
    described = descriptions(type(part))
    lines: list[str] = []
    parts: list[str] = []
    for item in dataclasses.fields(part):
        value = getattr(part, item.name)
        if dataclasses.is_dataclass(value):
            parts += ["", f"{described.get(item.name, item.name)}:", *_section(value, f"{item.name}.")]
        elif item.name not in ("own", *OWN_ONLY) or not isinstance(part, Part):
            # a part is chosen by its name: --model NAME
            flag = f"--{prefix}{item.name}".removesuffix(".name")
            lines.append(_line(f"{flag} {_shown(value)}", described.get(item.name, "")))
    for name, found in declared(part.PART).items() if isinstance(part, Part) else ():
        lines.append(_line(f"--{prefix}{name} {_shown(getattr(part, name))}", found.described()))
    return [*lines, *parts]


def _argument(name: str, known: tuple[Any, Any]) -> str:
    """The line of an argument of a model of the user's own."""
    hint, default = known
    shown = "VALUE" if default is inspect.Parameter.empty else str(default)
    kind = "" if hint is None else getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint)
    need = "required" if default is inspect.Parameter.empty else ""
    return _line(f"--model.{name} {shown}", ", ".join(filter(None, (kind, need))))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _width() -> int:
    return max(40, min(shutil.get_terminal_size((80, 24)).columns, 140))


def _line(flag: str, text: str) -> str:
    width = _width()
    flag = flag if len(flag) + 2 <= width else f"{flag[: width - 3]}…"  # summary and reference are long
    indent = min(INDENT, width // 2)
    gap = "\n" + " " * indent if len(flag) + 4 > indent else " " * (indent - 2 - len(flag))
    return f"  {flag}{gap}" + ("\n" + " " * indent).join(textwrap.wrap(text, width - indent))
