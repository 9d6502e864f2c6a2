"""A training step reads no number from the device and waits for no copy, so that a GPU always has work.

On the device "meta", tensors have no numbers: reading one fails.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import onebit.train.step
from onebit.recipe import methods
from support.method_steps import Steps, recipe_of, steps, whole_net


class NoCopies(TorchDispatchMode):
    """Refuses copies that the program waits for: those between devices that are not `non_blocking`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.__name__
        if name.startswith(("_to_copy", "copy_")):
            into, source = (args[0], args[1]) if name.startswith("copy_") else (made, args[0])
            waits = not (kwargs or {}).get("non_blocking") and True not in args[2:]
            assert into.device == source.device or not waits, f"{name}: {source.device} -> {into.device}"
        return made


@pytest.fixture(autouse=True)
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has no autocast there."""
    monkeypatch.setattr(onebit.train.step, "autocast", lambda precision, device: nullcontext())


def meta_steps(method: str, net: str) -> Steps:
    recipe = recipe_of(method, net)
    made = steps(recipe, *whole_net(recipe, net), torch.device("meta"))
    optimizer: Any = made.training.optimizer
    for one in (optimizer, getattr(optimizer, "companion", None)):
        for group in [] if one is None else one.param_groups:
            group["fused"] = group["foreach"] = False  # neither has kernels there
    return made


@pytest.mark.parametrize(("method", "net"), [*product(methods(), ["mlp"]), ("react", "resnet20"), ("xnor", "resnet20")])
def test_no_step_reads_a_number_or_waits_for_a_copy(method: str, net: str) -> None:
    made = meta_steps(method, net)
    for _ in range(2):  # the first one makes the state of the optimizer
        with NoCopies():
            loss = made.step("fp32")
    assert loss.is_meta


def test_a_number_that_is_read_fails() -> None:
    with pytest.raises(RuntimeError, match="meta"), NoCopies():
        float(torch.ones((), device="meta"))
    x: Tensor = torch.ones(2)
    with pytest.raises(AssertionError, match="meta"), NoCopies():
        x.to("meta")
    with NoCopies():
        x.to("meta", non_blocking=True)
