"""The text of `onebit train --help`: every field of a recipe, with its value and meaning."""

from __future__ import annotations

import dataclasses
import inspect
import json
from argparse import ArgumentParser, HelpFormatter
from collections.abc import Mapping
from functools import partial
from typing import Any

from onebit.cli.train_command import OPTIONS
from onebit.common.fields import descriptions, field_types
from onebit.errors import escaped, shortened
from onebit.recipe import Recipe
from onebit.recipe.sections import CHOICES, own_types

USAGE = """onebit train [RECIPE] [--FIELD VALUE ...] [--out DIR] [--resume [RUN]]

  onebit train mnist-fast                a recipe (onebit list recipes)
  onebit train --model resnet20 --dataset cifar10 --method bnn
                                         any of them (onebit list)
  onebit train --model nets.py:Net --dataset mnist --method bnn
                                         a custom torch module
  onebit train --model vgg_small --dataset folder --data DIR --input_size 32
                                         your own images, a folder per class
  onebit train --resume runs/mnist-fast  continue a run
  onebit train --help                    every flag"""
DESCRIPTION = (
    "A custom model: --model FILE.py:Class or --model package.module:Class, with --model.NAME VALUE for each argument "
    "of its constructor (--help lists them). "
    "The flags of BinaryNet.pytorch (-a -b -e -j -p --lr --wd --save --gpus --type ...) work too: docs/coming-from.md."
)
RECIPE = "name of a recipe (onebit list recipes), or a YAML or JSON file; --help shows its values"
INDENT = 37
MAX_VALUE_LENGTH = 40


def train_help(recipe: Recipe | None, parameters: Mapping[str, tuple[Any, Any]] | None) -> str:
    """The whole text with the values of a recipe, or the defaults, and the `parameters` of a custom model."""
    layout: Any = partial(HelpFormatter, max_help_position=INDENT)
    made = ArgumentParser(usage=USAGE, description=DESCRIPTION, formatter_class=layout, add_help=False)
    made.conflict_handler = "resolve"  # an argument of a custom model replaces a field of that name
    options = made.add_argument_group("options")
    options.add_argument("RECIPE", help=RECIPE)
    for name, (_, metavar, text) in OPTIONS.items():
        options.add_argument(f"--{name}", metavar=metavar, help=text)
    base = "its base value; --model, --dataset and --method change some"
    values = base if recipe is None else f"its value in {recipe.name}"
    fields = made.add_argument_group("fields of the recipe", f"Every one is a flag, shown with {values}.")
    _add_section(made, fields, recipe or Recipe(), "")
    if recipe is not None and parameters:
        group = made.add_argument_group(f"arguments of {recipe.model.name}")
        for name, (hint, default) in parameters.items():
            required = default is inspect.Parameter.empty
            kind = hint.__name__ if isinstance(hint, type) else str(hint or "")
            words = filter(None, (kind, "required" if required else ""))
            _add(group, f"model.{name}", "VALUE" if required else str(default), ", ".join(words))
    return made.format_help().rstrip()


def _add_section(made: ArgumentParser, group: Any, part: Any, prefix: str) -> None:
    """Add the fields of a dataclass, those of other entries of its table, and then those of its parts."""
    kind: Any = next((base for base in CHOICES if isinstance(part, base)), type(part))
    described = descriptions(type(part))
    parts = {}
    for name in field_types(kind):
        value, text = getattr(part, name), described.get(name, "")
        if dataclasses.is_dataclass(value):
            parts[name] = value, text or name
        else:  # a part is chosen by its name: --model NAME
            _add(group, f"{prefix}{name}".removesuffix(".name"), value, text)
    for name, (_, owner, entries) in own_types(kind).items():
        value = getattr(part, name, getattr(owner, name, None))
        _add(group, f"{prefix}{name}", value, f"{', '.join(entries)}: {descriptions(owner).get(name, '')}")
    for name, (value, text) in parts.items():
        _add_section(made, made.add_argument_group(text), value, f"{name}.")


def _add(group: Any, name: str, value: Any, text: str) -> None:
    shown = value if isinstance(value, str) and value else json.dumps(value)
    group.add_argument(f"--{name}", metavar=shortened(escaped(shown), MAX_VALUE_LENGTH), help=text.replace("%", "%%"))
