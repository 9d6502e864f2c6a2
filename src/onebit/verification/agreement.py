"""Pack a net and verify that it agrees with the trained net, on samples and on every integer input of its signs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from onebit.errors import FoldError, UsageError
from onebit.fold import pack as fold
from onebit.integer.ranges import MIN_IMAGES
from onebit.packed import Certificate, PackedNet
from onebit.verification.sample_comparison import REFERENCE_IMAGES, Comparison
from onebit.verification.sample_feeds import Trained

NUMPY_EXAMPLES = 8
"""About how many samples of an example numpy runs: a whole batch would take longer than packing."""


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
    """Compare a packed net with its model, and both with the labels if there are any: `found.ok`, and the counts.

    The weights must have the signs of the model, and real numbers must be equal up to rounding. The rest depends on the
    operations of the net, see `PackedNet.promise`:

    - "exact", integers throughout: each threshold gives the sign of the trained modules for every possible integer, and
      the outputs are equal; behind a last scale or BatchNorm up to its rounding.
    - "real", real activations: no output differs by more than 1e-5·√L of the largest, with L layers of weights, so
      labels differ only at ties.
    - "rounded", signs or rounding behind float sums: given the same inputs, each sign or integer equals that of torch,
      unless the value before rounding lies within 1e-5 (of the largest value) of a rounding threshold. Outputs agree
      within 1e-5 of the largest, given the same signs and integers. Labels that differ because of such a sign are
      counted. A net from `integer_net` has the weights of the model, and each of its roundings is off by less than 2⁻⁸
      of a step.

    The native library runs all samples. Numpy runs every (N // 1000)-th of them, and must give the same bits.

    Args:
        model: the trained net; runs on the CPU in float32 and eval mode.
        packed: the result of `onebit.pack` or `onebit.integer_net`.
        data: inputs of the packed net, such as raw pixels: inputs (N, …), a pair (inputs, targets), a torch data set, a
            DataLoader, a `Split` or a `Dataset` (its test split). A shuffling loader is read in order. Several inputs
            are a dict, or in a pair a dict or a tuple; a pair is never two inputs.
        labels: integers (N,), masks (N, H, W), or float targets of the shape of the outputs; None: those of the data.
            For several outputs a tuple or dict.
        trained: the same samples as in training, in the same order: inputs of the model, in any of these forms; a
            function from a tensor of raw inputs to outputs in eval mode; or all outputs. Without `preprocess`, the
            model gets these inputs instead of those of the packed net. At most 0.5 % of the labels, or of the samples
            of other outputs, may differ.
        preprocess: the `preprocess` given to `onebit.pack`.
        weights: the test mode that was packed: "binary" or "sample".
        seed: of the draw that was packed; None for 0.
        batch_size: samples per batch; None chooses it.
        on_images: called with (samples done, all samples).

    Raises:
        UsageError: the packed net does not have the operations of the model; no samples, samples of another shape or
            dtype, wrong labels, or a test mode that cannot be packed.
        DataError: more or fewer labels, or samples in `trained`. FoldError, NotBinaryError: as `onebit.pack`; FoldError
            also if outputs of the model are not finite.

    Example:
        >>> print(verify(model, packed, data.test))  # doctest: +SKIP
        10,000 mnist test labels: 9,831 correct with packed weights, 0 labels differ from torch, largest logit
        difference 1.9e-06
    """
    return Comparison(model, packed, data, labels, trained, preprocess, weights, seed, batch_size, on_images).run()[0]


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
    numpy: int = REFERENCE_IMAGES,
) -> PackedNet:
    """The packed net with a certificate of its agreement with the trained net; `onebit.save` stores it.

    Args:
        data, labels, weights, seed, trained, preprocess, batch_size, on_images: as for `verify`.
        dataset, split_name: of the data; by default of a `Dataset` and "test", or the form of other data.
        source: sha256 of the checkpoint, in hexadecimal. recipe: name of the recipe.
        images: number of images, if `data` is an evenly spaced part of the split.
        activations, calibration: of a net from `onebit.integer_net`: bits, and number of training images.
        numpy: about how many samples numpy runs, too.

    Raises:
        UsageError, DataError, FoldError, NotBinaryError: as `verify`; FoldError also if the nets do not agree.

    Example:
        >>> packed = certify(model, pack(model), data.test, dataset=data.name)  # doctest: +SKIP
        >>> print(packed.certificate)  # doctest: +SKIP
        10,000 mnist test labels: 9,862 correct with packed weights, 0 labels differ from torch, largest logit differ…
    """
    found, proof = Comparison(
        model, packed, data, labels, trained, preprocess, weights, seed, batch_size, on_images, activations, numpy
    ).run()
    if not found.ok:
        raise FoldError(f"the packed net does not agree with the model: {found}")
    if proof is None:
        raise UsageError("the model does not take what the packed net takes: pass the preprocess that was packed")
    if activations != proof.activations or (activations is not None and (calibration or 0) < MIN_IMAGES):
        raise UsageError(
            f"got activations={activations} and calibration={calibration}, expected activations={proof.activations} "
            f"and, for an integer net, calibration >= {MIN_IMAGES}"
        )
    certificate = replace(
        found,
        dataset=dataset or found.dataset,
        split=("test" if dataset else found.split) if split_name is None else split_name,
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
    sizes: str = "fixed",
    classes: Sequence[str] | None = None,
    name: str = "",
    on_images: Callable[[int, int], None] | None = None,
) -> PackedNet:
    """The packed net that computes what `model` computes in eval mode with its binary weights.

    It is compared with the model on `data`, or on the example, see `onebit.verify`, and has a certificate. Without both
    nothing is compared, as `packed.statement` says.

    Args:
        model: any torch model in float32; is not changed.
        example: a batch of inputs of the model, (N, …), float32 or uint8; several inputs as a tuple, the arguments of
            forward, or as a dict, its keyword arguments.
        input_shape: (C, H, W) of uint8 images, instead of an example; optional if the model has this attribute.
        preprocess: a module that was applied outside of the model, such as `onebit.Normalize(mean, std)`; the packed
            net then takes its inputs: uint8 pixels.
        data, trained, labels: as for `onebit.verify`.
        weights: "binary" for the result of `decompose`, "sample" for one random draw.
        seed: of the draw; `onebit.evaluate` on the CPU draws the same weights.
        sizes: "any" for a net that takes images of any size, if folding larger images than those of the example gives
            the same net: a fully convolutional one, global pools included. "fixed" for those of the example.
        classes: one name per logit; by default those that `fit` found as targets.
        name: of the recipe or model, for display.
        on_images: called with (samples done, all samples) during the comparison.

    Raises:
        WrongTypeError: not a model.
        UsageError: no example or one of another dtype, an unknown test mode, or a quantizer without random draws.
        NotBinaryError: no binary layer, or parameters that are not finite; names the layer.
        FoldError: an operation that cannot be packed, or a packed net that does not agree with the model on the data
            or the example.
        FormatError: a name that is too long, or another number of `classes` than of logits.
        DataError: more or fewer labels, or samples in `trained`, than in `data`.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), onebit.BinaryLinear(4, 2))
        >>> packed = pack(model, torch.rand(8, 1, 2, 2), data=torch.rand(8, 1, 2, 2))
        >>> packed.certificate.count, pack(model, input_shape=(1, 2, 2)).statement
        (8, 'not certified: nothing was compared with the trained net')
    """
    if data is None and (trained is not None or labels is not None):
        raise UsageError("got trained or labels without data, the inputs of the packed net")
    what: dict[str, Any] = {"preprocess": preprocess, "weights": weights, "seed": seed}
    classes = classes or getattr(model, "class_names", None)
    packed = fold(model, example, input_shape=input_shape, sizes=sizes, classes=classes, name=name, **what)
    if data is not None:
        return certify(model, packed, data, labels=labels, trained=trained, on_images=on_images, **what)
    if example is None:
        return packed
    if not isinstance(example, Mapping):
        example = dict(zip(packed.inputs, example if isinstance(example, (tuple, list)) else [example], strict=True))
    dtype = None if preprocess is None else torch.uint8
    inputs = {name: torch.as_tensor(x, dtype=dtype, device="cpu").detach() for name, x in example.items()}
    samples = inputs if len(packed.inputs) > 1 else next(iter(inputs.values()))
    return certify(model, packed, samples, dataset="the example", split_name="", numpy=NUMPY_EXAMPLES, **what)
