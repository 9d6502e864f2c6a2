"""The whole proof of a trained net, from its latent weights to the packed file."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from onebit.data import DATASETS, VOID, Dataset, Split, by_pixel, fitted_to
from onebit.errors import NotBinaryError, UsageError
from onebit.evaluation.batches import OnImages, in_tiles, predict_logits
from onebit.evaluation.modes import bn_images, evaluate, fixed_weights, reestimate_batch_norm_
from onebit.export.torch_state import plain_twin, save_plain
from onebit.fold import pack
from onebit.layers import binary_layers
from onebit.packed import Certificate, PackedNet
from onebit.packed.difference import Difference, array_differences, graph_difference
from onebit.runs.run import Run
from onebit.runtime import native_plan
from onebit.runtime import run as run_packed
from onebit.train.weights import read_state
from onebit.verification.agreement import certify, prove
from onebit.verification.inspection import inspect_state
from onebit.verification.tally import Agreement, reference_images


@dataclass(frozen=True)
class Step:
    """One claim, whether it holds, and the counts behind it."""

    name: str
    ok: bool
    detail: str


def refuse_whitened(run: Run) -> None:
    """Refuse a net that a packed one cannot stand for, before any data are read.

    Raises:
        UsageError: it was trained on whitened images.
    """
    if run.recipe.whitening is not None:
        raise UsageError(
            f"{run.recipe.name} was trained on whitened images, and a packed net takes images as they are: "
            "train without whitening to pack it; onebit evaluate gives its accuracy"
        )


def fold_run(run: Run, data: Dataset | None, *, weights: str = "binary", seed: int = 0) -> tuple[nn.Module, PackedNet]:
    """A trained net and what it packs to, without a certificate.

    Args:
        data: only a draw needs them, whose BatchNorm statistics are those of the training images.
        weights, seed: as `pack_run`.

    Raises:
        UsageError: a draw without data, or a net trained on whitened images. NotBinaryError, FoldError: as `pack_run`.
    """
    refuse_whitened(run)
    model, classes = run.model, _class_names(run) if data is None else data.classes
    if weights == "sample":
        if data is None:
            raise UsageError("a draw needs the training images, for its BatchNorm statistics; or --weights binary")
        model = _with_statistics_of_draw(model, data, seed=seed)
    return model, pack(model, weights=weights, seed=seed, classes=classes, name=run.recipe.name)


def pack_run(
    run: Run,
    data: Dataset,
    *,
    weights: str = "binary",
    seed: int = 0,
    images: int | None = None,
    on_images: OnImages | None = None,
) -> PackedNet:
    """Fold and pack a trained net, and certify it on the test split of its data.

    Args:
        weights: "binary", or "sample" for one random draw by `seed`.
        images: how many of the split are compared, evenly spread over it; all when None.
        on_images: called with (images done, images) of the comparison.

    Raises:
        UsageError: a net that was trained on whitened images.
        NotBinaryError: no binary layer, or weights that are not numbers. FoldError: an operation that cannot be folded.
    """
    model, packed = fold_run(run, data, weights=weights, seed=seed)
    split = data.test if images is None else data.test.spread(images)
    return certify(
        model,
        packed,
        in_tiles(model, split),
        dataset=data.name,
        weights=weights,
        seed=seed,
        source=run.sha256,
        recipe=run.recipe.name,
        images=None if split is data.test else images,
        on_images=on_images,
    )


def _class_names(run: Run) -> tuple[str, ...] | None:
    """The names that were stored beside the weights, or those of the data set."""
    stored, known = run.facts.get("classes"), DATASETS.get(run.recipe.dataset)
    if isinstance(stored, list):
        return tuple(map(str, stored))
    return None if known is None else known.classes


def _with_statistics_of_draw(model: nn.Module, data: Dataset, *, seed: int) -> nn.Module:
    """A copy whose BatchNorm statistics belong to one random draw: those of the signs would cost it its accuracy."""
    model = copy.deepcopy(model)
    with fixed_weights(model, "sample", generator=torch.Generator().manual_seed(seed)):
        reestimate_batch_norm_(model, bn_images(data.train))
    return model


def prove_run(run: Run, data: Dataset, *, on_images: OnImages | None = None) -> Iterator[Step]:
    """Every claim about a trained net, checked on the test split, in float32, one after the other.

    Latent weights in range, binarized exactly to two values, the accuracy of those, the binarized file, the same
    predictions from plain layers that reload it, and the same predictions from the packed net.

    Args:
        on_images: called with (images done, images) of each claim that looks at many.

    Raises:
        NotBinaryError: the net has no binary layer: there is nothing to prove.
    """
    if not any(True for _ in binary_layers(run.model)):
        raise NotBinaryError(f"{run.source}: the net has no binary layer, all its weights are real")
    return _steps(run, data, on_images)


def _steps(run: Run, data: Dataset, on_images: OnImages | None) -> Iterator[Step]:
    model, test = run.model, in_tiles(run.model, data.test)
    yield _latents_in_range(model, clipped=run.recipe.optimizer.latent_clip is not None)
    yield _binarized(model)
    score = evaluate(model, test, weights="binary", loss=run.recipe.loss, on_images=on_images)
    counts = np.bincount(test.labels if test.labels.ndim == 1 else test.labels[test.labels != VOID])
    largest = int(counts.max())  # what the same answer to every image reaches
    better, least = score.correct > largest, f"more than {largest:,}, the largest class"
    if score.mean_iou is not None:  # of most masks a class has nearly all pixels
        same = largest / int(counts.sum()) / int(np.count_nonzero(counts))
        better, least = (
            bool(score.mean_iou > same),
            f"a mean IoU above {same:.4f}, that of the largest class everywhere",
        )
    yield Step("binary accuracy", better, f"{score} on {data.name} test, expected {least}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "binarized.pth"
        save_plain(model, path)
        state, facts = read_state(path)
        found = inspect_state(state, file="binarized.pth", kind="torch", facts=facts)
        binary = {f"{name}.weight" for name, _ in binary_layers(model)}
        layers = [layer for layer in found.layers if layer.name in binary]
        minus, plus = sum(layer.minus_one for layer in layers), sum(layer.plus_one for layer in layers)
        yield Step(
            "binarized weights",
            all(layer.verdict == "binary" for layer in layers),
            f"{len(layers)} of {len(binary)} layers hold two values per output channel "
            f"({minus:,} at -1, {plus:,} at +1) in a plain state_dict",
        )
        twin = plain_twin(run, state, source=str(path))
        yield _reloaded(model, twin, test, on_images)
    packed = pack_run(run, data, on_images=on_images)
    yield _packed(packed, reference_images(len(test)))


def _packed(packed: PackedNet, reference: int) -> Step:
    """What packing compared a moment ago: the labels, the signs of every layer, and the bits of native logits.

    Args:
        reference: on how many images numpy computed the net, too.
    """
    certificate = packed.certificate
    assert certificate is not None
    agreement = Agreement(
        certificate.count,
        certificate.label_mismatches,
        certificate.max_logit_difference,
        certificate.bit_exact,
        certificate.tied,
    )
    detail = str(agreement)
    proven = [layer for layer in certificate.layers if layer.proof == "every integer"]
    broken = sum(layer.mismatches for layer in proven)
    if proven:
        cases = sum(layer.integers for layer in proven)
        detail += f"; {len(proven)} layers proven at every reachable integer ({cases:,} cases, {broken} mismatches)"
    compared = [layer for layer in certificate.layers if layer.proof != "every integer"]
    if compared:
        signs, differing = (sum(getattr(layer, name) for layer in compared) for name in ("integers", "mismatches"))
        detail += f"; {len(compared)} layers compared on the images ({differing:,} of {signs:,} signs differ)"
    if (plan := native_plan(packed)) is not None:
        detail += f"; native kernels ({plan.isa.name}) and numpy equal bit for bit on {reference:,} images"
    return Step("packed", agreement.ok and not broken, detail)


def _latents_in_range(model: nn.Module, *, clipped: bool) -> Step:
    low, high, outside, count, unbounded = math.inf, -math.inf, 0, 0, 0
    for _, layer in binary_layers(model):
        latent = layer.weight.detach()
        bound = layer.weight_quantizer.latent_bound if layer.weight_quantizer is not None else None
        low, high = min(low, float(latent.min())), max(high, float(latent.max()))
        count += latent.numel()
        if bound is None:
            unbounded += latent.numel()
        else:
            outside += int(torch.count_nonzero(~(latent.abs() <= bound)))
    where = f" in [{low:.4g}, {high:.4g}]" if count else ""
    detail = f"{count:,} latent weights{where}, {outside:,} outside their bound"
    return Step(
        "latent weights", outside == 0 or not clipped, detail if clipped else detail + " (no latent clip was set)"
    )


def _binarized(model: nn.Module) -> Step:
    wrong = count = 0
    for _, layer in binary_layers(model):
        signs = layer.binary_weight().signs
        wrong += int(torch.count_nonzero(signs.abs() != 1)) + int(torch.count_nonzero(torch.isnan(layer.weight)))
        count += signs.numel()
    return Step("binarize", wrong == 0, f"{count - wrong:,} of {count:,} signs are exactly -1 or +1")


def _reloaded(model: nn.Module, twin: nn.Module, test: Split, on_images: OnImages | None) -> Step:
    here, there = (predict_logits(net, test.images, on_images=on_images).argmax(1) for net in (model, twin))
    equal, count = int((here == there).sum()), here.numel()
    what = "predictions" if here.dim() == 1 else "pixels"
    return Step(
        "reload",
        equal == count,
        f"{equal:,} of {count:,} {what} equal after reloading into plain torch.nn layers",
    )


def prove_packed(
    net: PackedNet, data: Dataset | None, *, source: Run | None = None, on_images: OnImages | None = None
) -> Iterator[Step]:
    """Recompute the certificate of a packed net: its accuracy; and with its source all that is in the file.

    Args:
        data: the data set that the certificate names; None for a net without certificate.
        source: the trained net it was packed from.
        on_images: called with (images done, images) of each claim.
    """
    certificate = net.certificate
    if certificate is None or data is None:
        if source is None:
            yield Step("certificate", False, "the packed net carries none")
        else:
            yield _same_net(net, fold_run(source, None)[1])
        return
    split = getattr(data, certificate.split)
    split = fitted_to(net, split if certificate.images is None else split.spread(certificate.images))
    logits, labels = by_pixel(run_packed(net, split.images, on_images=on_images), split.labels)
    correct, count = int((logits.argmax(axis=1) == labels).sum()), len(labels)
    yield Step(
        "packed accuracy",
        correct == certificate.correct and count == certificate.count,
        f"{correct:,} of {count:,} correct on {data.name} {certificate.split} with packed weights; "
        f"certified: {certificate.correct} of {certificate.count}",
    )
    if source is None:
        return
    same_file = source.sha256 == certificate.source
    yield Step("source", same_file, f"{source.source} is {'' if same_file else 'not '}the certified checkpoint")
    seed = certificate.seed or 0
    model, fresh = fold_run(source, data, weights=certificate.weights, seed=seed)
    yield _same_net(net, fresh)
    if graph_difference(net, fresh) is not None:
        return
    again = certify(
        model,
        net,
        split,
        dataset=data.name,
        split_name=certificate.split,
        weights=certificate.weights,
        seed=seed,
        source=source.sha256,
        recipe=source.recipe.name,
        # of what is packed here: in a tie another processor may round the sum that a threshold is at
        layers=prove(model, fresh, weights=certificate.weights, seed=seed),
        images=certificate.images,
        on_images=on_images,
    ).certificate
    assert again is not None
    yield _same_claims(certificate, again)


def _same_net(net: PackedNet, fresh: PackedNet) -> Step:
    """Whether a net is the one that its source packs to, up to rounding, which depends on the processor."""
    if (different := graph_difference(net, fresh)) is not None:
        return Step("packed bits", False, f"the file is not what its source packs to: {different}")
    arrays = list(array_differences(net, fresh))
    if changed := [found for found in arrays if not found.rounding]:
        return Step("packed bits", False, f"the file is not what its source packs to: {_listed(changed)}")
    detail = "every weight and parameter equal to those of the source, packed again"
    if arrays:
        detail = f"equal to the source, packed again, up to the rounding of torch: {_listed(arrays)}"
    return Step("packed bits", True, detail)


def _listed(arrays: list[Difference]) -> str:
    more = f", and {len(arrays) - 1} more arrays" if len(arrays) > 1 else ""
    return f"{arrays[0]} differ{more}"


def _same_claims(certificate: Certificate, again: Certificate) -> Step:
    """Whether a certificate was found again, and beside that what may be another one elsewhere."""
    claims, found = certificate.claims, again.claims
    differing = [name for name, value in claims.items() if found.get(name) != value]
    detail = f"differs in {', '.join(differing)}" if differing else "recomputed, equal"
    if again.onebit != certificate.onebit:
        detail += f"; packed by onebit {certificate.onebit}, recomputed by {again.onebit}"
    if again.max_logit_difference != certificate.max_logit_difference:
        detail += (
            f"; largest logit difference {certificate.max_logit_difference:.3g}, here {again.max_logit_difference:.3g}"
        )
    return Step("certificate", not differing, detail)
