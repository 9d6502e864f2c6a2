"""Proof of a trained net: a list of claims, from the latent weights to the packed file."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from onebit.data import VOID, Dataset, Split
from onebit.errors import FoldError, NotBinaryError, UsageError
from onebit.evaluation.forward import OnImages, in_tiles, predict_logits
from onebit.evaluation.modes import evaluate
from onebit.evaluation.packed_nets import fitted_to, score_packed
from onebit.layers import binary_layers, latent_keys
from onebit.packed import Card, CardScore, Certificate, LayerProof, PackedNet
from onebit.packed.certificate import PROMISES
from onebit.packed.difference import Difference, array_differences, graph_difference
from onebit.runs.card import card_score, stored_result
from onebit.runs.opening import Run
from onebit.runs.plain_state import plain_twin, save_plain
from onebit.runtime import native_plan
from onebit.train.weights import read_state
from onebit.verification.agreement import certify
from onebit.verification.inspection import holds_two_values
from onebit.verification.layer_proofs import with_own_ties
from onebit.verification.run_packing import Rounding, fold_run, pack_run
from onebit.verification.sample_comparison import reference_images


@dataclass(frozen=True)
class Claim:
    """A claim, whether it holds, and its counts."""

    name: str
    ok: bool
    detail: str


def prove_run(run: Run, data: Dataset, *, on_images: OnImages | None = None) -> Iterator[Claim]:
    """Check every claim about a trained net on the test split, in float32.

    Latent weights are in range and binarize to exactly two values; the accuracy with binary weights; the binarized
    file; equal predictions of plain layers that load it, and of the packed net. A result.json of other weights is a
    claim that fails.

    Args:
        on_images: called with (images done, images) during each claim about images.
    """
    model, test = run.model, in_tiles(run.model, data.test)
    if not any(binary_layers(model)):
        raise NotBinaryError(f"{run.source}: the net has no binary layer, all its weights are real")
    if not stored_result(run).is_about(run.sha256):
        yield Claim("result", False, f"result.json is about other weights than {run.source.name}")
    yield _latents_in_range(model, clipped=run.recipe.optimizer.latent_clip is not None)
    yield _binarized(model)
    score = evaluate(model, test, weights="binary", loss=run.recipe.loss, on_images=on_images)
    counts = np.bincount(test.labels if test.labels.ndim == 1 else test.labels[test.labels != VOID])
    largest = int(counts.max())  # right answers if every image gets the largest class
    better, least = (score.correct or 0) > largest, f"more than {largest:,}, the largest class"
    if score.mean_iou is not None:  # one class may have nearly all pixels
        constant = largest / int(counts.sum()) / int(np.count_nonzero(counts))
        better = bool(score.mean_iou > constant)
        least = f"a mean IoU above {constant:.4f}, that of the largest class everywhere"
    yield Claim("binary accuracy", better, f"{score} on {data.name} test, expected {least}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "binarized.pth"
        save_plain(model, path)
        state, _ = read_state(path)
        latents = latent_keys(model).values()
        rows = [layer.outputs_first(state[key].detach()).flatten(1).numpy() for key, _, layer in latents]
        binary = [values for values in rows if holds_two_values(values)]
        minus, plus = (sum(int((values == sign).sum()) for values in binary) for sign in (-1, 1))
        yield Claim(
            "binarized weights",
            len(binary) == len(rows),
            f"{len(binary)} of {len(rows)} layers hold two values per output channel "
            f"({minus:,} at -1, {plus:,} at +1) in a plain state_dict",
        )
        twin = plain_twin(run, state, source=str(path))
        yield _reloaded(model, twin, test, on_images)
    packed = pack_run(run, data, on_images=on_images)
    made = packed.certificate
    assert made is not None
    detail = f"{made}; {packed.promise}: {PROMISES[packed.promise]}"
    if (plan := native_plan(packed)) is not None:
        on = reference_images(len(test))
        detail += f"; native kernels ({plan.isa.name}) and numpy equal bit for bit on {on:,} images"
    yield Claim("packed", made.ok, detail)


def _latents_in_range(model: nn.Module, *, clipped: bool) -> Claim:
    latents, outside = [], 0
    for _, layer in binary_layers(model):
        bound = getattr(layer.weight_quantizer, "latent_bound", None)
        latents.append(layer.weight.detach().flatten())
        outside += int(torch.count_nonzero(~(latents[-1].abs() <= (math.inf if bound is None else bound))))
    every = torch.cat(latents)
    low, high = every.aminmax()
    detail = f"{len(every):,} latent weights in [{low:.4g}, {high:.4g}], {outside:,} outside their bound"
    detail += "" if clipped else " (no latent clip was set)"
    return Claim("latent weights", outside == 0 or not clipped, detail)


def _binarized(model: nn.Module) -> Claim:
    layers = [layer for _, layer in binary_layers(model)]
    signs = torch.cat([layer.binary_weight().signs.flatten() for layer in layers])
    latents = torch.cat([layer.weight.flatten() for layer in layers])
    count, wrong = len(signs), int(torch.count_nonzero((signs.abs() != 1) | torch.isnan(latents)))
    return Claim("binarize", wrong == 0, f"{count - wrong:,} of {count:,} signs are exactly -1 or +1")


def _reloaded(model: nn.Module, twin: nn.Module, test: Split, on_images: OnImages | None) -> Claim:
    here, there = (predict_logits(net, test.images, on_images=on_images).argmax(1) for net in (model, twin))
    equal, count = int((here == there).sum()), here.numel()
    what = "predictions" if here.dim() == 1 else "pixels"
    return Claim(
        "reload", equal == count, f"{equal:,} of {count:,} {what} equal after reloading into plain torch.nn layers"
    )


def prove_packed(
    net: PackedNet, data: Dataset | None, *, source: Run | None = None, on_images: OnImages | None = None
) -> Iterator[Claim]:
    """Recompute the accuracy in the certificate of a packed net; with its source, everything in the file.

    Args:
        data: the data set named in the certificate; None for a net without certificate.
        source: the trained net that was packed.
        on_images: called with (images done, images) during each claim.
    """
    certificate, stated = net.certificate, (net.card or Card()).test.get("packed")
    if certificate is None or data is None:
        yield from _prove_uncertified(net, data, source, on_images)
        return
    if not certificate.split:
        raise UsageError(f"the certificate is about {certificate.dataset}, which are not stored: use onebit.verify(…)")
    split = getattr(data, certificate.split)
    split = fitted_to(net, split if certificate.images is None else split.spread(certificate.images))
    score = _packed_score(net, split, on_images)
    detail = (
        f"{score.correct:,} of {score.count:,} correct on {data.name} {certificate.split} with packed weights; "
        f"certified: {certificate.correct} of {certificate.count}"
    )
    same = (score.correct, score.count) == (certificate.correct, certificate.count)
    yield Claim("packed accuracy", same, detail)
    if stated is not None:
        whole = certificate.split == "test" and certificate.images is None
        yield _card_claim(net, data, stated, score if whole else _packed_score(net, data.test, on_images))
    if source is not None:
        yield from _prove_source(net, certificate, data, split, source, score.correct, on_images)


def _prove_uncertified(
    net: PackedNet, data: Dataset | None, source: Run | None, on_images: OnImages | None
) -> Iterator[Claim]:
    """The claims about a net without a certificate."""
    stated = (net.card or Card()).test.get("packed")
    if source is None:
        yield Claim("certificate", False, "the packed net has no certificate")
        return
    if stated is not None and data is None:
        yield Claim("card", False, f"states {stated}, which was not compared")
    elif stated is not None and data is not None:
        yield _card_claim(net, data, stated, _packed_score(net, data.test, on_images))
    model, fresh = fold_run(source, None, sizes=net.sizes)
    yield _same_net(net, fresh, *with_own_ties(model, net, weights="binary", seed=0))


def _prove_source(
    net: PackedNet,
    certificate: Certificate,
    data: Dataset,
    split: Split,
    source: Run,
    correct: int,
    on_images: OnImages | None,
) -> Iterator[Claim]:
    """The packed net is that of its source, and the certificate is recomputed.

    Args:
        split: the images that the certificate is about.
        correct: how many of them the packed net gets right.
    """
    same_file = source.sha256 == certificate.source
    yield Claim("source", same_file, f"{source.source} is {'' if same_file else 'not '}the certified checkpoint")
    seed = certificate.seed or 0
    model, fresh = fold_run(source, data, weights=certificate.weights, seed=seed, sizes=net.sizes)
    if certificate.activations is not None and certificate.calibration is not None:
        fresh = Rounding(certificate.activations, certificate.calibration).of(model, fresh, data).net
    ours, exact = with_own_ties(model, net, weights=certificate.weights, seed=seed)
    yield _same_net(net, fresh, ours, exact if certificate.activations is None else set())
    if graph_difference(net, fresh) is not None:
        return
    try:
        again = certify(
            model,
            ours,
            split,
            dataset=data.name,
            split_name=certificate.split,
            weights=certificate.weights,
            seed=seed,
            source=source.sha256,
            recipe=source.recipe.name,
            images=certificate.images,
            activations=certificate.activations,
            calibration=None if certificate.calibration is None else min(certificate.calibration, len(data.train)),
            on_images=on_images,
        )
    except FoldError as error:
        yield Claim("certificate", False, str(error))
        return
    yield _same_claims(net, again, correct)


def _packed_score(net: PackedNet, split: Split, on_images: OnImages | None) -> CardScore:
    return card_score(score_packed(net, split, on_images=on_images))


def _card_claim(net: PackedNet, data: Dataset, stated: CardScore, found: CardScore) -> Claim:
    """The accuracy in the card of a packed net is that of the whole test split."""
    known = data.name if net.certificate is None else net.certificate.dataset
    named = (net.card or Card()).dataset or known
    found = found if stated.mean_iou is not None else replace(found, mean_iou=None)
    detail = f"states {stated} on {named} test with packed weights, found {found} on {known}"
    return Claim("card", (stated, named) == (found, known), detail)


def _same_net(net: PackedNet, fresh: PackedNet, here: PackedNet, exact: set[str]) -> Claim:
    """The packed net equals its source, packed again, up to rounding, which depends on the processor.

    Args:
        here: the net with the thresholds of this processor where rounding decides; `exact` ones must be equal.
    """
    if (different := graph_difference(net, fresh)) is not None:
        return Claim("packed bits", False, f"the file differs from its source, packed again: {different}")
    arrays = list(array_differences(here, fresh))
    if changed := [array for array in arrays if not array.rounding or array.node in exact]:
        return Claim("packed bits", False, f"the file differs from its source, packed again: {_listed(changed)}")
    detail = "every weight and parameter equals that of the source, packed again"
    if arrays := list(array_differences(net, fresh)):
        detail = f"equal to the source, packed again, up to rounding in torch: {_listed(arrays)}"
    return Claim("packed bits", True, detail)


def _listed(arrays: list[Difference]) -> str:
    more = f", and {len(arrays) - 1} more arrays" if len(arrays) > 1 else ""
    return f"{arrays[0]} differ{more}"


def _same_claims(net: PackedNet, made: PackedNet, correct: int) -> Claim:
    """A recomputed certificate equals the one in the file, except for what depends on rounding in torch."""
    assert net.certificate is not None
    assert made.certificate is not None
    stated, again = net.certificate, replace(made.certificate, correct=correct)
    names = ["dataset", "split", "count", "weights", "seed", "correct", "source", "recipe", "images", "compared"]
    names += ["activations", "calibration", "sizes"]
    if made.promise == "exact":
        names.append("label_mismatches")
    differing = [name for name in names if getattr(stated, name) != getattr(again, name)]
    if _of_thresholds(net, stated) != _of_thresholds(made, again):
        differing.append("layers")
    detail = f"differs in {', '.join(differing)}" if differing else "recomputed, equal"
    if again.onebit != stated.onebit:
        detail += f"; packed by onebit {stated.onebit}, recomputed by {again.onebit}"
    return Claim("certificate", not differing, detail)


def _of_thresholds(net: PackedNet, made: Certificate) -> dict[str, LayerProof]:
    """The proofs on every integer of thresholds, by name."""
    thresholds = {node.output for node in net.nodes if "threshold" in node.arrays}
    return {layer.name: layer for layer in made.layers if layer.name in thresholds and layer.proof == "every integer"}
