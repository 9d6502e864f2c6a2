"""The text of `onebit train --help`: every field of a recipe on its line, with its default and what it means."""

from __future__ import annotations

import dataclasses
import json
import shutil
import textwrap
from typing import Any

from onebit.recipe import Recipe
from onebit.recipe.options import Part, declared, descriptions

WHAT_TO_TYPE = """onebit train: name what to train:

  onebit train mnist-fast                                  a recipe (onebit list recipes)
  onebit train --model resnet20 --dataset cifar10 --method bnn
                                                           any model, data set and method (onebit list)
  onebit train --model vgg_small --dataset folder --data DIR --input_size 32
                                                           your own images, in a folder for each class
  onebit train --resume runs/mnist-fast                    go on with a training
  onebit train --help                                      every flag"""

USAGE = """usage: onebit train [RECIPE|FILE] [--FIELD VALUE ...] [--out DIR] [--resume [RUN]]

Train a recipe into a run folder. Without a recipe: --model, --dataset and --method, with defaults that suit them.

  onebit train mnist-fast
  onebit train cifar10-resnet20-binaryconnect --epochs 40 --seeds 0-2 --out runs/try
  onebit train --model resnet_binary --dataset cifar10 --epochs 100

  RECIPE|FILE       a recipe that ships (onebit list recipes), or a YAML or JSON file
  --method NAME     set the quantizers of a method (onebit list methods)
  --task NAME       permuted-mnist: learn several tasks one after the other (docs/continual.md); image: none
  --out DIR         run folder (default: runs/NAME, or runs/NAME-2 and so on where that holds a run)
  --resume [RUN]    go on from the last checkpoint, bit-identically; of RUN, or of the run folder
  --overwrite       replace the run in the run folder; it is kept until the new training has made its first step
  --seeds 0-4       train once for each seed into DIR/seed-N, and report mean and standard deviation; also 0,3,7
  --wandb           log to Weights & Biases too (WANDB_MODE=offline: into the run folder)
  --tensorboard     log to RUN/tensorboard too
  --data DIR        folder of data sets or of your own images, or FILE.npz
  --print-config    print the complete recipe and leave
  --json            print exactly one JSON object: recipe, dataset, seed, epochs, test, seconds, parameters, ...

Classic flags (-a -b -e -j -p --lr --wd --save --gpus --type ...) are understood too: docs/coming-from.md.

Every field of a recipe is a flag; each stands here with its default. Of true and false, true need not be said:
"""
INDENT = 37


def train_help() -> str:
    """The whole text, as wide as the terminal."""
    return USAGE + "\n".join(_section(Recipe, "")).rstrip()


def _section(kind: type, prefix: str) -> list[str]:
    """The lines of the fields of a dataclass, those of its parts after its own."""
    described = descriptions(kind)
    lines: list[str] = []
    parts: list[str] = []
    for item in dataclasses.fields(kind):
        if isinstance(item.default_factory, type) and dataclasses.is_dataclass(item.default_factory):
            parts += ["", f"{described[item.name]}:", *_section(item.default_factory, f"{item.name}.")]
        elif item.name != "own" or not issubclass(kind, Part):
            # a part is chosen by its name: --model NAME
            flag = f"--{prefix}{item.name}".removesuffix(".name")
            lines.append(_line(f"{flag} {_shown(item)}", described[item.name]))
    for name, found in declared(kind.PART).items() if issubclass(kind, Part) else ():
        lines.append(_line(f"--{prefix}{name} {json.dumps(found.option.default)}", found.described()))
    return [*lines, *parts]


def _shown(item: dataclasses.Field[Any]) -> str:
    return item.default if isinstance(item.default, str) and item.default else json.dumps(item.default)


def _line(flag: str, text: str) -> str:
    width = min(shutil.get_terminal_size((120, 24)).columns, 140)
    gap = "\n" + " " * INDENT if len(flag) + 4 > INDENT else " " * (INDENT - 2 - len(flag))
    wrapped = textwrap.wrap(text, max(width - INDENT, 30))
    return f"  {flag}{gap}" + ("\n" + " " * INDENT).join(wrapped)
