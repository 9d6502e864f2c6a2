"""Which images a model takes, and on which device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from onebit.common.arguments import described
from onebit.errors import UsageError, first_line


def model_device(model: nn.Module) -> torch.device:
    """The device of the first parameter; the CPU for a net without any."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@torch.no_grad()
def check_takes(model: nn.Module, shape: Sequence[int], *, classes: int | None = None, data: str = "") -> None:
    """Refuse images that a model does not take, and labels that it has no logits for, by a pass of two blank images.

    Args:
        shape: of an image, (C, H, W); data: the name of the data set.
        classes: how many logits an image needs; None leaves them unchecked.

    Raises:
        UsageError: the model does not take uint8 images (N, C, H, W), or its logits are not (N, classes).
    """
    check_own_shape(model, shape)
    model = getattr(model, "_orig_mod", model)  # what torch.compile was given: two images need no compilation
    images = torch.zeros(2, *shape, dtype=torch.uint8, device=model_device(model))
    training = {module: module.training for module in model.modules()}
    name = f" of {data}" if data else ""
    try:
        with torch.random.fork_rng(devices=[]):
            logits = model.eval()(images)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            f"the model does not take the uint8 images {'×'.join(map(str, shape))}{name} ({first_line(error)}): "
            "begin it with onebit.InputCoding()"
        ) from None
    finally:
        for module, was in training.items():
            module.training = was
    if classes is None:
        return
    if not isinstance(logits, Tensor) or logits.dim() < 2 or logits.shape[1] < classes:
        made = f"logits {tuple(logits.shape)}" if isinstance(logits, Tensor) else described(logits)
        raise UsageError(f"the model makes {made} of two images, expected (2, {classes}) for the classes{name}")


def check_own_shape(model: nn.Module, shape: Sequence[int]) -> None:
    """Refuse images of another shape than a model states.

    Raises:
        UsageError: both shapes.
    """
    wanted = tuple(getattr(model, "input_shape", shape))
    if wanted != tuple(shape):
        raise UsageError(f"the model takes images of shape {wanted}, the data has {tuple(shape)}")


@contextmanager
def explained(model: nn.Module, shape: Sequence[int], *, classes: int | None = None, data: str = "") -> Iterator[None]:
    """Within the context an error of torch is that of `check_takes`, where the model does not take the images.

    Args:
        shape, classes, data: see `check_takes`.
    """
    try:
        yield
    except (RuntimeError, IndexError, TypeError, ValueError):
        if not hasattr(model, "output_shape"):  # a U-Net takes tiles of any image
            check_takes(model, shape, classes=classes, data=data)
        raise
