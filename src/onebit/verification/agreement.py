"""Packing a net, and its agreement with the trained net on samples and on every integer input of its signs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from onebit.errors import FoldError, UsageError
from onebit.fold import pack as fold
from onebit.integer import LEAST_IMAGES
from onebit.packed import Certificate, PackedNet
from onebit.verification.comparison import compared
from onebit.verification.samples import Trained


def verify(
    model: nn.Module,
    packed: PackedNet,
    data: Any,
    *,
    labels: Any = None,
    trained: Trained | None = None,
    preprocess: nn.Module | None = None,
    weights: str = "binary",
    seed: int | None = None,
    batch_size: int | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> Certificate:
    """Compare a packed net with its model, and both with the labels if there are some: `found.ok`, and the counts.

    The signs of weights must be those of the model, and its real numbers equal up to rounding. What else must hold
    follows from the operations of the net, see `PackedNet.promise`:

    - "exact", integers throughout: each threshold gives the sign of the trained modules for every integer that can
      occur, and the outputs are equal; those behind a last scale or BatchNorm to within its rounding.
    - "real", real activations: no output differs by more than 1e-5·√L of the largest, with L layers of
      weights, so labels differ only at ties.
    - "rounded", signs or rounding behind float sums: each sign and each rounded integer, fed the values that torch
      feeds it, is that of torch, unless its number is within 1e-5 of the largest one from the step. So are
      the outputs. Labels that differ, because such a sign does, are counted. An integer net of `integer_net` has the
      weights of the model, and each of its roundings is less than 2⁻⁸ of a step off.

    The native library runs all samples. Numpy runs every (N // 1000)-th of them, and must give the same bits.

    Args:
        model: the trained net; runs on the CPU in float32 and eval mode.
        packed: the result of `onebit.pack` or `onebit.integer_net`.
        data: what the packed net is fed, raw pixels for instance: inputs (N, …), a pair (inputs, targets), a torch data
            set, a DataLoader, a `Split` or a `Dataset` (its test split). A shuffling loader is read in order.
        labels: integers (N,), masks (N, H, W), or float targets of the shape of the outputs; those of the data if None.
            For several outputs a tuple or dict.
        trained: how the model as trained sees the same samples in the same order: data of any of these forms that the
            model is fed; a function from a tensor of raw inputs to outputs in eval mode; or all outputs. Without
            `preprocess`, data of this kind replace the inputs of the packed net for the model. At most 0.5 % of the
            labels, or of the samples of other outputs, may differ.
        preprocess: what was packed in front of the model, the argument of `onebit.pack`.
        weights: the test mode that was packed: "binary" or "sample".
        seed: of the draw that was packed.
        batch_size: samples per batch; chosen automatically if None.
        on_images: called with (samples done, all samples).

    Raises:
        UsageError: the packed net does not have the operations of the model; no samples, samples of another shape or
            dtype, wrong labels, another number of samples in `trained`, or a test mode that cannot be packed.
        DataError: a loader in `trained` gives more or fewer samples. FoldError, NotBinaryError: as `onebit.pack`;
            FoldError also if the model's own outputs are not finite.

    Example:
        >>> print(verify(model, packed, data.test))  # doctest: +SKIP
        10,000 mnist test labels: 9,831 correct with packed weights, 0 labels differ from torch, largest logit
        difference 1.9e-06
    """
    return compared(model, packed, data, labels, trained, preprocess, weights, seed, batch_size, on_images)[0]


def certify(
    model: nn.Module,
    packed: PackedNet,
    data: Any,
    *,
    dataset: str | None = None,
    split_name: str | None = None,
    labels: Any = None,
    weights: str = "binary",
    seed: int | None = None,
    source: str | None = None,
    recipe: str | None = None,
    trained: Trained | None = None,
    preprocess: nn.Module | None = None,
    images: int | None = None,
    activations: int | None = None,
    calibration: int | None = None,
    batch_size: int | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> PackedNet:
    """The packed net with a certificate of its agreement with the trained net; `onebit.save` stores it.

    Args:
        data, labels, weights, seed, trained, preprocess, batch_size, on_images: as for `verify`.
        dataset, split_name: names of the data set and the split; by default of the test split of a `Dataset`, and for
            other forms "own data (arrays)" or the like, and no split.
        source: sha256 of the checkpoint, in hexadecimal.
        recipe: name of the recipe.
        images: number of images to state if `data` is only a part of the split, evenly spread over it.
        activations, calibration: of a net from `onebit.integer_net`: bits of its activations, and the number of
            training images, evenly spread over the split.

    Raises:
        UsageError, DataError, FoldError, NotBinaryError: as `verify`; FoldError also if the nets do not agree.

    Example:
        >>> packed = certify(model, pack(model), data.test, dataset=data.name)  # doctest: +SKIP
        >>> print(packed.certificate)  # doctest: +SKIP
        10,000 mnist test labels: 9,862 correct with packed weights, 0 labels differ from torch, largest logit differ…
    """
    found, proof = compared(
        model, packed, data, labels, trained, preprocess, weights, seed, batch_size, on_images, activations
    )
    if not found.ok:
        raise FoldError(f"the packed net does not agree with the model: {found}")
    if proof is None:
        raise UsageError("the model does not take what the packed net takes: pass the preprocess that was packed")
    if activations != proof.activations or (activations is not None and (calibration or 0) < LEAST_IMAGES):
        raise UsageError(
            f"got activations={activations} and calibration={calibration}, expected activations={proof.activations}, "
            f"to which the net rounds, and for an integer net a calibration of {LEAST_IMAGES} images or more"
        )
    certificate = replace(
        found,
        dataset=dataset or found.dataset,
        split=split_name or ("test" if dataset else found.split),
        source=source,
        recipe=recipe,
        images=images,
        activations=activations,
        calibration=calibration,
    )
    return replace(packed, certificate=certificate)


def pack(
    model: nn.Module,
    example: Any = None,
    *,
    input_shape: tuple[int, int, int] | None = None,
    preprocess: nn.Module | None = None,
    data: Any = None,
    trained: Trained | None = None,
    labels: Any = None,
    weights: str = "binary",
    seed: int = 0,
    classes: Sequence[str] | None = None,
    name: str = "",
    on_images: Callable[[int, int], None] | None = None,
) -> PackedNet:
    """The packed net that computes what `model` computes in eval mode with its binary weights.

    With `data` it is compared with the model, as `onebit.verify` does, and carries the certificate; without, nothing is
    compared, and `packed.statement` says so.

    Args:
        model: any torch model in float32. It is not changed.
        example: a batch as the model is fed, (N, …), float32 or uint8; it gives shape and dtype of the input.
        input_shape: (C, H, W) of uint8 images, in place of an example; optional if the model has this attribute.
        preprocess: a module that you applied outside of the model, such as `onebit.Normalize(mean, std)`; the packed
            net then takes what it takes: uint8 pixels.
        data: what the packed net is fed: inputs, (inputs, targets), a torch data set, a DataLoader, a `Split` or a
            `Dataset`.
        trained: how the model as trained sees the same samples, in the same order: a loader of preprocessed inputs, a
            function from raw inputs to outputs, or all outputs.
        labels: targets, where the data have none.
        weights: "binary" for the result of `decompose`, "sample" for one random draw.
        seed: of the draw; `onebit.evaluate` on the CPU makes the same draw from it.
        classes: one name per logit.
        name: name of the recipe or model, for display.
        on_images: called with (samples done, all samples) during the comparison.

    Raises:
        WrongTypeError: not a model.
        UsageError: no example or one of another dtype, an unknown test mode, a quantizer that defines no random draw,
            or another number of samples in `trained`.
        NotBinaryError: no binary layer, or parameters that are not finite; names the layer.
        FoldError: an operation that cannot be packed; or the packed net does not agree with the model on the data.
        FormatError: a name that is too long, or another number of `classes` than of logits.
        DataError: a loader in `trained` gives more or fewer samples than `data`.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), onebit.BinaryLinear(4, 2))
        >>> packed = pack(model, torch.rand(8, 1, 2, 2), data=torch.rand(8, 1, 2, 2))
        >>> packed.certificate.count, pack(model, torch.rand(8, 1, 2, 2)).statement
        (8, 'not certified: nothing was compared with the trained net')
    """
    if data is None and (trained is not None or labels is not None):
        raise UsageError(
            "got trained or labels without data, expected data as well: the raw inputs that the packed net is fed"
        )
    packed = fold(
        model,
        example,
        input_shape=input_shape,
        preprocess=preprocess,
        weights=weights,
        seed=seed,
        classes=classes,
        name=name,
    )
    if data is None:
        return packed
    return certify(
        model,
        packed,
        data,
        labels=labels,
        trained=trained,
        preprocess=preprocess,
        weights=weights,
        seed=seed,
        on_images=on_images,
    )
