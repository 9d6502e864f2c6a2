"""What a recipe's device, precision and threads come to on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch

from onebit.evaluation.precision import resolve_precision
from onebit.recipe import Recipe
from onebit.runs.model import resolve_device
from onebit.train.ranks import ALONE, Ranks, rank_device


@dataclass(frozen=True)
class Machine:
    """device: of this process; precision: "bf16" or "fp32"; threads: of torch, in this process."""

    device: torch.device
    precision: Literal["bf16", "fp32"]
    threads: int


def resolve_machine(recipe: Recipe, ranks: Ranks = ALONE) -> Machine:
    """The machine that a recipe trains on, with nothing left at "auto".

    Args:
        ranks: which of several processes this is.
    """
    device = rank_device(resolve_device(recipe.device), ranks)
    precision = cast(Any, resolve_precision(recipe.precision, device))
    return Machine(device, precision, recipe.threads or torch.get_num_threads())


@contextmanager
def own_threads(recipe: Recipe) -> Iterator[None]:
    """The context in which torch has the threads of a recipe, if it names a number."""
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
