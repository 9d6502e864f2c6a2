"""Agreement of a packed net with its trained net: on images, and on every possible integer input of its signs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from onebit.common import __version__
from onebit.data import Dataset
from onebit.errors import FoldError, UsageError
from onebit.fold import SignSite, example_of, fold_model
from onebit.integer import LEAST_IMAGES, MOST_OFF, RealRounding, proved, real_arithmetic
from onebit.packed import (
    Certificate,
    LayerProof,
    PackedNet,
    Quantize,
    Requantize,
    Threshold,
    Value,
)
from onebit.packed.net import op_name
from onebit.verification.outcome import Agreement
from onebit.verification.samples import Trained
from onebit.verification.tally import seed_of, tally
from onebit.verification.thresholds import same_threshold


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
) -> Agreement:
    """Compare the outputs of a model with those of a packed net, and both with the labels if there are some.

    The native library runs all samples, and numpy, as a check, every (N // 1000)-th of them. Nets with one output of
    logits agree if they give the same labels; other outputs, and those with float targets, if their values differ by no
    more than rounding.

    Args:
        model: the trained net; runs on the CPU in float32 and eval mode.
        packed: the result of `onebit.pack`.
        data: what the packed net is fed, raw pixels for instance: inputs (N, …), a pair (inputs, targets), a torch data
            set, a DataLoader, a `Split` or a `Dataset` (its test split). A shuffling loader is read in order.
        labels: integers (N,), masks (N, H, W), or float targets of the shape of the outputs; those of the data if None.
            For several outputs a tuple or dict.
        trained: how the model as trained sees the same samples in the same order: data of any of these forms that the
            model is fed; a function from a tensor of raw inputs to outputs in eval mode; or all outputs. Without
            `preprocess`, data of this kind replace the inputs of the packed net for the model.
        preprocess: what was packed in front of the model, the argument of `onebit.pack`.
        weights: the test mode that was packed: "binary" or "sample".
        seed: of the draw that was packed.
        batch_size: samples per batch; chosen automatically if None.
        on_images: called with (samples done, all samples).

    Raises:
        UsageError: no samples, samples of another shape or dtype, wrong labels, another number of samples in `trained`,
            or a test mode that cannot be packed.
        DataError: `data` and `trained` have other labels. FoldError: the model's own outputs are not finite.

    Example:
        >>> print(verify(model, packed, data.test))  # doctest: +SKIP
        10,000 of 10,000 equal (logits differ by at most 1.9e-06); 9,831 correct
        >>> packed = onebit.pack(model, x, preprocess=onebit.Normalize([0.1307], [0.3081]))  # doctest: +SKIP
        >>> print(verify(model, packed, (pixels, labels), trained=loader))  # doctest: +SKIP
        9,999 of 10,000 equal (logits differ by at most 1.9e-06); 9,831 correct; as trained 9,832 correct, 1 labels
        differ
    """
    counted = tally(
        *(model, packed, data, weights, seed, batch_size),
        labels=labels,
        trained=trained,
        preprocess=preprocess,
        on_images=on_images,
    )
    return counted.agreement


def prove(
    model: nn.Module,
    packed: PackedNet,
    *,
    images: Any | None = None,
    preprocess: nn.Module | None = None,
    weights: str = "binary",
    seed: int | None = None,
    batch_size: int | None = None,
    activations: int | None = None,
) -> tuple[LayerProof, ...]:
    """Compare the signs of a packed net with those of the trained modules, and its roundings with real arithmetic.

    A threshold of exact integers is compared on every possible integer in every channel. A sign of real values, or of
    sums that torch rounds, is compared on `images`; without images its proof counts 0. A rounding of exact integers is
    compared with the numbers of the model in float64 on every possible integer, or, where sums of several values are
    too many, by how near their weighted sums are to a step.

    Args:
        preprocess, weights, seed: as for `verify`.
        activations: bits to which the activations were rounded after the training; their roundings are compared with
            the exact net, and of the thresholds those that are still its own.

    Raises:
        UsageError: the packed net does not have the operations of the model.
        FoldError, NotBinaryError: as `onebit.pack`; FoldError also for a rounding with other numbers than the model's.
    """
    seed = seed_of(weights, seed)
    proofs, sites = _proofs(model, packed, weights, seed, preprocess, activations)
    if images is not None and sites:
        proofs |= tally(model, packed, images, weights, seed, batch_size, sites=sites, preprocess=preprocess).proofs
    return tuple(proofs.values())


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
    layers: Sequence[LayerProof] | None = None,
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
        data, labels, trained, preprocess, batch_size, on_images: as for `verify`.
        dataset, split_name: names of the data set and the split; by default of the test split of a `Dataset`, and for
            other forms "own data (arrays)" or the like, and no split.
        weights, seed: as for `verify`.
        source: sha256 of the checkpoint, in hexadecimal.
        recipe: name of the recipe.
        layers: proofs from `prove`; computed here if None.
        images: number of images to state if `data` is only a part of the split, evenly spread over it.
        activations, calibration: of a net from `onebit.integer_net`: bits of its activations, and the number of
            training images, evenly spread over the split.

    Raises:
        UsageError, DataError, FoldError, NotBinaryError: as `verify` and `prove`; FoldError if `trained` disagrees.

    Example:
        >>> packed = certify(model, pack(model), data.test, dataset=data.name)  # doctest: +SKIP
        >>> print(packed.certificate)  # doctest: +SKIP
        10,000 mnist test labels: 9,862 correct with packed weights, 0 labels differ from torch, largest logit differ…
    """
    _check_activations(packed, activations, calibration)
    sites: Sequence[SignSite] = ()
    proofs: dict[str, LayerProof] = {}
    if layers is None:
        proofs, sites = _proofs(model, packed, weights, seed_of(weights, seed), preprocess, activations)
    counted = tally(
        *(model, packed, data, weights, seed, batch_size),
        sites=sites,
        labels=labels,
        trained=trained,
        preprocess=preprocess,
        on_images=on_images,
    )
    agreement = counted.agreement
    if not agreement.as_trained:
        raise FoldError(str(agreement))
    if agreement.doubt:
        warnings.warn(agreement.doubt, stacklevel=2)
    if split_name is None:
        split_name = "test" if dataset is not None or isinstance(data, Dataset) else ""
    certificate = Certificate(
        onebit=__version__,
        dataset=_name_of(data) if dataset is None else dataset,
        split=split_name,
        count=agreement.count,
        weights=weights,
        label_mismatches=agreement.label_mismatches,
        max_logit_difference=agreement.max_logit_difference,
        bit_exact=agreement.bit_exact,
        seed=seed_of(weights, seed),
        correct=agreement.correct,
        tied=agreement.tied if activations is None else 0,  # labels that differ because of the activations
        source=source,
        recipe=recipe,
        layers=tuple(layers if layers is not None else (proofs | counted.proofs).values()),
        images=images,
        compared=agreement.compared,
        trained_mismatches=agreement.trained_mismatches,
        trained_correct=agreement.trained_correct,
        activations=activations,
        calibration=calibration,
        model_correct=None if activations is None else agreement.model_correct,
    )
    return replace(packed, certificate=certificate)


def _check_activations(packed: PackedNet, activations: int | None, calibration: int | None) -> None:
    """Raise UsageError unless both are given, and the net has values of these bits; or neither."""
    # a bound of the net itself, such as Hardtanh, may leave out an integer at the end of a range
    found = {(node.most - node.least).bit_length() for node in packed.nodes if isinstance(node, (Quantize, Requantize))}
    neither = activations is None and calibration is None
    if not neither and (activations not in found or (calibration or 0) < LEAST_IMAGES):
        raise UsageError(
            f"got activations of {activations!r} bits and a calibration of {calibration!r} images, expected neither or "
            f"one of {sorted(found)} bits, to which the net rounds, and {LEAST_IMAGES} images or more"
        )


def _name_of(data: Any) -> str:
    """The name of a data set, and for other data their form."""
    if isinstance(data, Dataset):
        return data.name
    form = "arrays" if isinstance(data, (tuple, list)) or hasattr(data, "__array__") else type(data).__name__
    return f"own data ({form})"


def _proofs(
    model: nn.Module,
    packed: PackedNet,
    weights: str,
    seed: int | None,
    preprocess: nn.Module | None,
    activations: int | None,
) -> tuple[dict[str, LayerProof], list[SignSite]]:
    """The proofs without images, by name, and the signs that can be compared only on images."""
    folded = fold_model(model, example_of(packed.input), preprocess=preprocess, weights=weights, seed=seed or 0)
    nodes = {node.output: node for node in packed.nodes}
    signs, real = folded.signs, folded.real
    if activations is not None:  # behind rounded values, a threshold is another one
        exact = {node.output: node for node in folded.net.nodes}
        signs = tuple(site for site in signs if same_threshold(exact[site.value], nodes.get(site.value)))
        real = {**real, **real_arithmetic(folded.net, packed, activations)}
    elif _outline(folded.net) != _outline(packed):
        raise UsageError(
            "the packed net does not have the operations of this model; pack it from this model, and certify a net of "
            "onebit.integer_net with activations= and calibration="
        )
    proofs: dict[str, LayerProof] = {}
    for site in signs:
        proof, integers, mismatches = "float", 0, 0
        if site.chain is not None and site.chain.exact:
            node = nodes[site.value]
            assert isinstance(node, Threshold)
            proof, integers = "every integer", len(site.chain.integers) * site.chain.channels
            mismatches = site.chain.mismatches(node.threshold, node.direction)
        proofs[site.value] = LayerProof(name=site.value, proof=proof, integers=integers, mismatches=mismatches)
    on_images = [site for site in signs if proofs[site.value].proof == "float"]
    values = packed.values
    for node in packed.nodes:
        if isinstance(node, Requantize):
            proofs[node.output] = _rounding(node, real[node.output], [values[name] for name in node.inputs])
    return proofs, on_images


def _rounding(node: Requantize, real: RealRounding, inputs: list[Value]) -> LayerProof:
    """The proof of a requantization; FoldError if its numbers are not those of the model."""
    found = proved(node, real, [x.limits for x in inputs])
    if not found.off <= MOST_OFF:
        raise FoldError(
            f"{node.output}: its multipliers and offsets are not those of the model: results are off by up to "
            f"{found.off:.3g} before they are rounded, expected at most {MOST_OFF:.2g}"
        )
    proof = "every integer" if found.exact else "within one"
    return LayerProof(name=node.output, proof=proof, integers=found.integers, mismatches=found.differing)


def _outline(net: PackedNet) -> tuple[object, ...]:
    """What two nets from the same model share: operations, shapes and kinds, but not the contents of arrays."""
    nodes = [
        (op_name(node), node.inputs, node.output, [getattr(node, name) for name in node.attributes])
        for node in net.nodes
    ]
    return net.input.coding, nodes, net.values, net.output
