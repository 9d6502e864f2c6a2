"""Agreement of a packed net with its trained net: on images, and on every possible integer input of its signs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from onebit._version import __version__
from onebit.data import Split, check_split
from onebit.errors import FoldError, UsageError
from onebit.fold import SignSite, example_of, fold_model
from onebit.packed import Certificate, LayerProof, PackedNet, Threshold, check_net, infer
from onebit.packed.net import op_name
from onebit.verification.tally import Agreement, Trained, seed_of, tally


def verify(
    model: nn.Module,
    packed: PackedNet,
    images: Any,
    *,
    labels: Any = None,
    trained: Trained | None = None,
    weights: str = "binary",
    seed: int | None = None,
    batch_size: int | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Compare the labels and logits of a model with those of a packed net.

    The native library runs all images, and numpy, as a check, every (N // 1000)-th of them. Both nets begin with the
    InputCoding of `model`; pass `trained` to check that this is the preprocessing of the training.

    Args:
        model: the trained net; runs on the CPU in float32 and eval mode.
        packed: the result of `onebit.pack`.
        images: uint8 (N, C, H, W).
        labels: (N,) integers or masks (N, H, W), to count correct images or pixels.
        trained: for a model that was trained with its own preprocessing: a callable from a uint8 tensor (n, C, H, W) to
            logits in eval mode, or the logits of all images.
        weights: the test mode that was packed: "binary" or "sample".
        seed: of the draw that was packed.
        batch_size: images per batch; chosen automatically if None.
        on_images: called with (images done, all images).

    Raises:
        UsageError: no images, images of another shape, wrong labels, or a test mode that cannot be packed.
        FoldError: the model's own logits are not finite.

    Example:
        >>> print(verify(model, packed, data.test.images))  # doctest: +SKIP
        10,000 of 10,000 equal (logits differ by at most 1.9e-06)
        >>> coding = onebit.InputCoding("standardize", mean=[0.1307], std=[0.3081], scale=255)
        >>> model = nn.Sequential(coding, net)  # doctest: +SKIP
        >>> as_trained = lambda images: net((images / 255 - 0.1307) / 0.3081)  # doctest: +SKIP
        >>> print(verify(model, packed, images, labels=labels, trained=as_trained))  # doctest: +SKIP
        10,000 of 10,000 equal (logits differ by at most 1.9e-06); 9,831 correct; as trained 9,831 correct, 0 labels
        differ
    """
    return tally(
        model, packed, images, weights, seed, batch_size, labels=labels, trained=trained, on_images=on_images
    ).agreement


def prove(
    model: nn.Module,
    packed: PackedNet,
    *,
    images: Any | None = None,
    weights: str = "binary",
    seed: int | None = None,
    batch_size: int | None = None,
) -> tuple[LayerProof, ...]:
    """Compare the signs of a packed net with those of the trained modules, one by one.

    A threshold of exact integers is compared on every possible integer in every channel. A sign of real values, or of
    sums that torch rounds, is compared on `images`; without images its proof counts 0.

    Args:
        weights, seed: as for `verify`.

    Raises:
        UsageError: the packed net does not have the operations of the model.
        FoldError, NotBinaryError: as `onebit.pack`.
    """
    seed = seed_of(weights, seed)
    proofs, sites = _proofs(model, packed, weights, seed)
    if images is not None and sites:
        proofs |= tally(model, packed, images, weights, seed, batch_size, sites=sites).proofs
    return tuple(proofs.values())


def certify(
    model: nn.Module,
    packed: PackedNet,
    split: Split,
    *,
    dataset: str,
    split_name: str = "test",
    weights: str = "binary",
    seed: int | None = None,
    source: str | None = None,
    recipe: str | None = None,
    layers: Sequence[LayerProof] | None = None,
    trained: Trained | None = None,
    images: int | None = None,
    batch_size: int | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> PackedNet:
    """The packed net with a certificate of its agreement with the trained net; `onebit.save` stores it.

    Args:
        split: images and labels to compare.
        dataset, split_name: names of the data set and the split.
        weights, seed: as for `verify`.
        source: sha256 of the checkpoint, in hexadecimal.
        recipe: name of the recipe.
        layers: proofs from `prove`; computed here if None.
        images: number of images to state if `split` is only a part of the split, evenly spread over it.
        trained, batch_size, on_images: as for `verify`.

    Raises:
        UsageError, FoldError, NotBinaryError: as `verify` and `prove`; also FoldError if `trained` disagrees.

    Example:
        >>> packed = certify(model, pack(model), data.test, dataset=data.name)  # doctest: +SKIP
        >>> print(packed.certificate)  # doctest: +SKIP
        10,000 mnist test labels: 9,862 correct with packed weights, 0 labels differ from torch, largest logit differ…
    """
    check_net(packed)
    check_split(split)
    sites: Sequence[SignSite] = ()
    proofs: dict[str, LayerProof] = {}
    if layers is None:
        proofs, sites = _proofs(model, packed, weights, seed_of(weights, seed))
    counted = tally(
        model,
        packed,
        split.images,
        weights,
        seed,
        batch_size,
        sites=sites,
        labels=split.labels,
        trained=trained,
        on_images=on_images,
    )
    agreement = counted.agreement
    if not agreement.as_trained:
        raise FoldError(str(agreement))
    certificate = Certificate(
        onebit=__version__,
        dataset=dataset,
        split=split_name,
        count=agreement.count,
        weights=weights,
        label_mismatches=agreement.label_mismatches,
        max_logit_difference=agreement.max_logit_difference,
        bit_exact=agreement.bit_exact,
        seed=seed_of(weights, seed),
        correct=agreement.correct,
        tied=agreement.tied,
        source=source,
        recipe=recipe,
        layers=tuple(layers if layers is not None else (proofs | counted.proofs).values()),
        images=images,
    )
    return replace(packed, certificate=certificate)


def _proofs(
    model: nn.Module, packed: PackedNet, weights: str, seed: int | None
) -> tuple[dict[str, LayerProof], list[SignSite]]:
    """The proof of each sign without images, by name, and the signs that can be compared only on images."""
    folded = fold_model(model, example_of(packed.input), weights=weights, seed=seed or 0)
    if _outline(folded.net) != _outline(packed):
        raise UsageError("the packed net does not have the operations of this model; pack it from this model")
    nodes = {node.output: node for node in packed.nodes}
    proofs: dict[str, LayerProof] = {}
    for site in folded.signs:
        proof, integers, mismatches = "float", 0, 0
        if site.chain is not None and site.chain.exact:
            node = nodes[site.value]
            assert isinstance(node, Threshold)
            proof, integers = "every integer", len(site.chain.integers) * site.chain.channels
            mismatches = site.chain.mismatches(node.threshold, node.direction)
        proofs[site.value] = LayerProof(name=site.value, proof=proof, integers=integers, mismatches=mismatches)
    return proofs, [site for site in folded.signs if proofs[site.value].proof == "float"]


def _outline(net: PackedNet) -> tuple[object, ...]:
    """What two nets from the same model share: operations, shapes and kinds, but not the contents of arrays."""
    nodes = [
        (op_name(node), node.inputs, node.output, [getattr(node, name) for name in node.attributes])
        for node in net.nodes
    ]
    return net.input.coding, nodes, infer(net), net.output
