"""Trained model -> packed net: trace, fold BatchNorm, sign and scales, one bit per weight.

The model runs once on an example under `torch.fx`, with known layers kept whole (`trace`). Each operation of the traced
graph has one function in the table `FOLDS` (`operations`): layers with weights, pools, arithmetic, activations, and
what moves elements. Per-channel operations are deferred until their value is needed (`folder`): a sign turns those on
integers into an integer threshold (`chain`, `value_range`), anything else into one affine map. Pools between BatchNorm
and a sign are deferred too, because the sign of the largest value is the largest sign.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from onebit.errors import FoldError, NotBinaryError, OnebitError, UsageError
from onebit.fold.folder import Folded, Folder, Site
from onebit.fold.operations import FOLDS
from onebit.fold.shipped import no_binary_layers, shipped_weights
from onebit.fold.trace import refuse_other_branch, trace
from onebit.integer import rounded_as_trained
from onebit.layers import binary_layers, has_other_statistics
from onebit.layers.base import unwrapped
from onebit.packed import InputSpec, PackedNet, dumps

__all__ = ["FOLDS", "Folded", "Site", "eval_copy", "example_of", "fold_model", "pack"]

OTHER_BATCH = 7
"""Samples of a second trace, which finds models that compute with the size of the batch."""
LARGE = 100_000
"""Numbers of a batch from which only shapes are followed where that is enough."""


def pack(
    model: nn.Module,
    example: Any = None,
    *,
    input_shape: tuple[int, int, int] | None = None,
    preprocess: nn.Module | None = None,
    weights: str = "binary",
    seed: int = 0,
    classes: Sequence[str] | None = None,
    name: str = "",
) -> PackedNet:
    """The packed net of a model, as `onebit.pack` makes it without data; its arguments and errors are documented there.

    What forward does to its input, such as `x.float() / 255`, `Normalize` or `InputCoding`, is packed with it.
    """
    folded = fold_model(model, example, input_shape=input_shape, preprocess=preprocess, weights=weights, seed=seed)
    if weights == "binary" and has_other_statistics(model):
        warnings.warn(
            "BatchNorm was trained with other weights than the binary ones, which costs accuracy: call "
            "onebit.evaluation.reestimate_batch_norm_(model, training_inputs) before",
            stacklevel=3,
        )
    return replace(folded.net, classes=None if classes is None else tuple(classes), name=name)


def fold_model(
    model: nn.Module,
    example: Any = None,
    *,
    input_shape: tuple[int, ...] | None = None,
    preprocess: nn.Module | None = None,
    weights: str = "binary",
    seed: int = 0,
) -> Folded:
    """The packed net of a model, and where it takes signs. Arguments and errors: see `pack`."""
    folder, batch = _prepared(model, example, input_shape, preprocess, weights, seed)
    graph = trace(folder.model, batch, is_leaf=folder.is_leaf)
    folded = folder.fold(graph)
    _check_other_batch(folded.net, batch, folder)
    refuse_other_branch(folder.model, graph, batch)
    net, real = rounded_as_trained(folded.net, folded.numbers)
    return folded._replace(net=net, real=real)


def fold_once(model: nn.Module, example: Tensor) -> Folded:
    """The packed net of a model, before its activations are rounded, and without the checks of `fold_model`."""
    folder, batch = _prepared(model, example)
    return folder.fold(trace(folder.model, batch, is_leaf=folder.is_leaf))


def refusals_of(
    model: nn.Module, example: Any = None, *, preprocess: nn.Module | None = None
) -> tuple[nn.Module, Tensor, dict[str, OnebitError]]:
    """The copy of a model that is traced, a batch for it, and why it cannot be packed whole: path -> error.

    Each operation is tried, also behind those that are refused. Other errors are those of `pack`.
    """
    folder, batch = _prepared(model, example, preprocess=preprocess)
    folder.refusals = refusals = dict[str, OnebitError]()
    graph = _traced(batch, folder)
    try:
        output = folder.walk(graph)
        if not refusals:
            _check_other_batch(folder.finish(output).net, batch, folder)
            if batch.numel() < LARGE:
                refuse_other_branch(folder.model, graph, batch)
    except OnebitError as error:
        refusals[""] = error
    return folder.model, batch, refusals


def _traced(batch: Tensor, folder: Folder) -> torch.fx.Graph:
    """The graph of a model, with only the shapes of a large batch unless forward reads its values."""
    if batch.numel() >= LARGE:
        with suppress(FoldError):
            return trace(folder.model, batch, is_leaf=folder.is_leaf, shapes_only=True)
    return trace(folder.model, batch, is_leaf=folder.is_leaf)


def _check_other_batch(net: PackedNet, batch: Tensor, folder: Folder) -> None:
    """Raise FoldError if the model is another net for more samples: a packed net takes any number of them."""
    larger = torch.zeros((OTHER_BATCH, *batch.shape[1:]), dtype=batch.dtype)
    folder = Folder(folder.model, folder.first_input, folder.shipped, folder.table)
    if dumps(net) != dumps(folder.fold(_traced(larger, folder)).net):
        raise FoldError(
            f"the model computes something else for {OTHER_BATCH} samples than for {len(batch)}: compute no values and "
            "take no branches from len(x), x.shape[0] or earlier batches"
        )


def example_of(spec: InputSpec) -> Tensor:
    """A batch of two zeros as a packed net takes it: what `fold_model` needs to fold its model again."""
    return torch.zeros((2, *spec.shape), dtype=getattr(torch, spec.dtype))


def _prepared(
    model: nn.Module,
    example: Any,
    input_shape: Any = None,
    preprocess: nn.Module | None = None,
    weights: str = "binary",
    seed: int = 0,
) -> tuple[Folder, Tensor]:
    """The folder of a copy of a model, and a batch of two for its trace."""
    model = eval_copy(model)
    batch = _batch(model, example, input_shape)
    if preprocess is not None:
        model = eval_copy(nn.Sequential(preprocess, model))
        batch = batch.to(torch.uint8)
    if not any(True for _ in binary_layers(model)):
        raise NotBinaryError(no_binary_layers(model))
    spec = InputSpec(shape=tuple(batch.shape[1:]), dtype=str(batch.dtype).removeprefix("torch."), coding="values")
    return Folder(model, spec, shipped_weights(model, weights, seed), FOLDS), batch


def _batch(model: nn.Module, example: Any, input_shape: Any) -> Tensor:
    """Two samples of zeros with the shape and dtype of the input."""
    if example is None:
        shape = getattr(model, "input_shape", None) if input_shape is None else input_shape
        if not shape:
            raise UsageError("expected an example, pack(model, x) with a batch x, or input_shape=(C, H, W)")
        return torch.zeros((2, *shape), dtype=torch.uint8)
    dtype = str(getattr(example, "dtype", type(example))).removeprefix("torch.")
    if dtype not in ("uint8", "float32"):
        raise UsageError(f"a packed net takes one tensor of uint8 or float32 (N, …), got {dtype}")
    return torch.zeros((2, *example.shape[1:]), dtype=getattr(torch, dtype))


def eval_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU in eval mode, of the model itself if it is wrapped; FoldError if it has no weights yet."""
    model = unwrapped(model)
    if lazy := [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor)]:
        raise FoldError(f"{lazy[0]} is not initialized: run a batch through the model first")
    return copy.deepcopy(model).cpu().eval()
