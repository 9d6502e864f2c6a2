"""Trained model -> packed net: trace, fold BatchNorm, sign and scales, one bit per weight.

`trace` runs the model once on an example under `torch.fx`, with known layers kept whole. The table `FOLDS`
(`operations`) has one function for each operation of the traced graph. `folder` defers per-channel operations until
their value is needed: a sign turns those on integers into an integer threshold (`chain`), anything else into one affine
map. Pools between BatchNorm and a sign are deferred too, because the sign of the largest value is the
largest sign.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from onebit.common.fields import read
from onebit.errors import FoldError, NotBinaryError, OnebitError, UsageError
from onebit.fold.folder import Folded, Folder, Site
from onebit.fold.operations import FOLDS
from onebit.fold.shipped import no_binary_layers, shipped_weights
from onebit.fold.trace import LAYER_BY_LAYER, Inputs, forward_names, refuse_other_branch, trace
from onebit.integer.nets import rounded_as_trained
from onebit.layers import binary_layers, has_other_statistics
from onebit.layers.base import unwrapped
from onebit.packed import InputSpec, PackedNet, dumps
from onebit.packed.difference import graph_difference
from onebit.packed.net import INPUT, resized, shown_sizes

__all__ = ["FOLDS", "Folded", "Site", "eval_copy", "example_of", "fold_model", "pack"]

COUNT, OTHER_BATCH = 2, 7
"""Samples of a trace, and of a second trace, which finds models that compute with the size of the batch."""
GROWTH = (1, 2, 4, 8, 16, 32, 64)
"""Larger images of a second trace have 3 and 5 times as many rows and columns more, the first that the model takes."""
LARGE = 100_000
"""Batches with at least so many numbers are traced by shape only, if the model reads no values."""


def pack(
    model: nn.Module,
    example: Any = None,
    *,
    input_shape: tuple[int, int, int] | None = None,
    preprocess: nn.Module | None = None,
    weights: str = "binary",
    seed: int = 0,
    sizes: str = "fixed",
    classes: Sequence[str] | None = None,
    name: str = "",
) -> PackedNet:
    """The packed net of a model; `onebit.pack` without data documents arguments and errors.

    Operations on the input, such as `x.float() / 255`, `Normalize` or `InputCoding`, are packed too.
    """
    what: dict[str, Any] = {"preprocess": preprocess, "weights": weights, "seed": seed, "sizes": sizes}
    folded = fold_model(model, example, input_shape=input_shape, **what)
    if weights == "binary" and has_other_statistics(model):
        warnings.warn(
            "BatchNorm was not trained with the binary weights, which costs accuracy: first call "
            "onebit.evaluation.reestimate_batch_norm_(model, training_inputs)",
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
    sizes: str = "fixed",
) -> Folded:
    """The packed net of a model, and where it takes signs. See `pack`."""
    read(sizes, Literal["fixed", "any"], name="sizes")
    folder, batch = _prepared(model, example, input_shape, preprocess, weights, seed)
    folder.free = sizes == "any"
    graph = trace(folder.model, batch, is_leaf=folder.is_leaf)
    folded = folder.fold(graph)
    _check_other_batch(folded.net, batch, folder)
    refuse_other_branch(folder.model, graph, batch)
    folded = _of_all_sizes(folded, folder, batch) if folder.free else folded
    net, real = rounded_as_trained(folded.net, folded.numbers)
    return folded._replace(net=net, real=real)


def fold_once(model: nn.Module, example: Any) -> Folded:
    """`fold_model` without its checks and without rounding activations to integers."""
    folder, batch = _prepared(model, example)
    return folder.fold(trace(folder.model, batch, is_leaf=folder.is_leaf))


def refusals_of(
    model: nn.Module, example: Any = None, *, preprocess: nn.Module | None = None
) -> tuple[nn.Module, Inputs, dict[str, OnebitError]]:
    """The traced copy of a model, a batch for it, and the errors of all operations that do not pack: path -> error.

    Raises the other errors of `pack`.
    """
    folder, batch = _prepared(model, example, preprocess=preprocess)
    folder.refusals = refusals = dict[str, OnebitError]()
    graph = _traced(batch, folder)
    try:
        output = folder.walk(graph)
        if not refusals:
            _check_other_batch(folder.finish(output).net, batch, folder)
            if _numbers(batch) < LARGE:
                refuse_other_branch(folder.model, graph, batch)
    except OnebitError as error:
        refusals[""] = error
    return folder.model, batch, refusals


def _numbers(batch: Inputs) -> int:
    return sum(x.numel() for x in batch.values())


def _traced(batch: Inputs, folder: Folder) -> torch.fx.Graph:
    """The graph of a model; of a large batch only the shapes are traced, unless forward reads its values."""
    if _numbers(batch) >= LARGE:
        with suppress(FoldError):
            return trace(folder.model, batch, is_leaf=folder.is_leaf, shapes_only=True)
    return trace(folder.model, batch, is_leaf=folder.is_leaf)


def _check_other_batch(net: PackedNet, batch: Inputs, folder: Folder) -> None:
    """Raise FoldError if the net depends on the number of samples."""
    larger = {name: x.new_zeros((OTHER_BATCH, *x.shape[1:])) for name, x in batch.items()}
    if dumps(net) != dumps(_folded_again(folder, larger)):
        raise FoldError(
            f"the model computes something else for {OTHER_BATCH} samples than for {COUNT}: its values and "
            "branches must not depend on len(x), x.shape[0] or earlier batches"
        )


def _folded_again(folder: Folder, batch: Inputs) -> PackedNet:
    """The net of another batch for the same model."""
    specs = {name: replace(spec, shape=tuple(batch[name].shape[1:])) for name, spec in folder.first_inputs.items()}
    again = Folder(folder.model, specs, folder.shipped, folder.table, folder.free)
    return again.fold(_traced(batch, again)).net


def _of_all_sizes(folded: Folded, folder: Folder, batch: Inputs) -> Folded:
    """A net that takes images of any size, if the net of larger ones is the same; FoldError if it is another.

    The two sides grow differently, and by odd numbers unless the model refuses these: windows and crops that depend on
    them differ.
    """
    images = [name for name, x in batch.items() if x.ndim == 4]
    if not images:
        raise UsageError('sizes="any" is for inputs (N, C, H, W)')
    inputs = {
        name: replace(spec, sizes="any" if name in images else "fixed") for name, spec in folded.net.inputs.items()
    }
    refusal = FoldError("")
    for step in GROWTH:
        sizes = {name: (batch[name].shape[2] + 3 * step, batch[name].shape[3] + 5 * step) for name in images}
        larger = {name: x.new_zeros((*x.shape[:2], *sizes.get(name, x.shape[2:]))) for name, x in batch.items()}
        try:
            other = _folded_again(folder, larger)
        except FoldError as error:
            refusal = error
            continue
        same = None
        with suppress(UsageError):  # no graph of this size
            same = resized(folded.net, sizes)
        if same is None or dumps(same) != dumps(other):
            what = "another node" if same is None else graph_difference(other, same) or "other numbers"
            raise FoldError(f"the net of images of {shown_sizes(sizes)} is another: {what}; use sizes='fixed'")
        return folded._replace(net=replace(folded.net, inputs=inputs))
    raise FoldError(f"the model does not take larger images: {refusal}")


def example_of(net: PackedNet) -> Any:
    """Two samples of zeros for a packed net, with which `fold_model` folds its model again."""
    made = {name: _zeros(spec.shape, spec.dtype) for name, spec in net.inputs.items()}
    return made[INPUT] if [*made] == [INPUT] else made


def _zeros(shape: Any, dtype: str) -> Tensor:
    return torch.zeros((COUNT, *shape), dtype=getattr(torch, dtype))


def _prepared(
    model: nn.Module,
    example: Any,
    input_shape: Any = None,
    preprocess: nn.Module | None = None,
    weights: str = "binary",
    seed: int = 0,
) -> tuple[Folder, Inputs]:
    """The folder of a copy of a model, and two samples to trace it with."""
    model = eval_copy(model)
    batch = _batch(model, example, input_shape)
    if preprocess is not None:
        if [*batch] != [INPUT]:
            raise UsageError("preprocess is for a single input: call it in forward")
        model = eval_copy(nn.Sequential(preprocess, model))
        batch = {INPUT: batch[INPUT].to(torch.uint8)}
    if not any(True for _ in binary_layers(model)):
        raise NotBinaryError(no_binary_layers(model))
    specs = {
        name: InputSpec(shape=tuple(x.shape[1:]), dtype=str(x.dtype).removeprefix("torch."), coding="values")
        for name, x in batch.items()
    }
    return Folder(model, specs, shipped_weights(model, weights, seed), FOLDS), batch


def _batch(model: nn.Module, example: Any, input_shape: Any) -> Inputs:
    """Two samples of zeros with the shapes and dtypes of the inputs."""
    if not isinstance(example, (tuple, list, Mapping)):
        return _of_one(model, example, input_shape)
    names = forward_names(model)
    if not isinstance(example, Mapping):
        several = names if len(names) >= len(example) else [f"input_{index}" for index in range(len(example))]
        example = dict(zip(several, example, strict=False))
    elif names and (unknown := [name for name in example if name not in names]):
        raise UsageError(f"forward has the arguments {', '.join(names)}, got a dict with {unknown[0]!r}")
    made = {str(name): _of_one(model, one, None)[INPUT] for name, one in example.items()}
    return {INPUT: made.popitem()[1]} if [*made] in (names[:1], ["input_0"]) else made


def _of_one(model: nn.Module, example: Any, input_shape: Any) -> Inputs:
    shape = getattr(model, "input_shape", None) if input_shape is None else input_shape
    if example is None and shape:
        return {INPUT: _zeros(shape, "uint8")}
    dtype = str(getattr(example, "dtype", type(example))).removeprefix("torch.")
    if example is None:
        raise UsageError("expected an example, a batch of inputs (N, …), or input_shape=(C, H, W)")
    if dtype in ("int64", "int32"):
        raise FoldError(f"a net of tokens ({dtype}) does not pack whole: {LAYER_BY_LAYER}")
    if dtype not in ("uint8", "float32"):
        raise UsageError(f"expected a batch (N, …) of uint8 or float32, or input_shape=(C, H, W), got {dtype}")
    return {INPUT: _zeros(example.shape[1:], dtype)}


def eval_copy(model: nn.Module) -> nn.Module:
    """A copy of the unwrapped model on the CPU in eval mode; FoldError for uninitialized lazy layers."""
    model = unwrapped(model)
    if lazy := [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor)]:
        raise FoldError(f"{lazy[0]} is not initialized: run a batch through the model first")
    return copy.deepcopy(model).cpu().eval()
