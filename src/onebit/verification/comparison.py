"""Run a packed net and its model on the same samples, and count how they differ."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from onebit import runtime
from onebit.common import __version__
from onebit.common.fields import read
from onebit.data import Dataset, Split
from onebit.errors import FoldError, OnebitError, UsageError
from onebit.evaluation.modes import fixed_weights
from onebit.evaluation.packed_nets import fitted_to
from onebit.evaluation.sources import as_samples, fitting_batch
from onebit.fold import eval_copy
from onebit.fold.shipped import PackedMode
from onebit.packed import Certificate, PackedNet
from onebit.runtime.input_batch import as_batch
from onebit.verification.layer_proofs import Proof
from onebit.verification.outputs import OutputCounts
from onebit.verification.samples import (
    Trained,
    TrainedFeed,
    all_in_order,
    output_keys,
    outputs_by_key,
    targets_by_key,
    tensors,
)
from onebit.verification.sites import SiteCounts, recorded

REFERENCE_IMAGES = 1000
"""Approximate number of images on which numpy runs too; it takes 100 times as long as the native library."""
MOST_CHANGED = 1 / 200
"""Fraction of labels, or of samples, that rounding in the preprocessing of the training may change."""


def reference_images(count: int) -> int:
    """How many of `count` images numpy runs if the native library runs all."""
    return -(-count // _reference_step(count))


def _reference_step(count: int) -> int:
    """Numpy runs every n-th of `count` images, beginning with the first; this is n."""
    return max(1, count // REFERENCE_IMAGES)


def compared(
    model: nn.Module,
    packed: PackedNet,
    data: Any,
    labels: Any,
    trained: Trained | None,
    preprocess: nn.Module | None,
    weights: str,
    seed: int | None,
    batch_size: int | None,
    on_images: Callable[[int, int], None] | None,
    activations: int | None = None,
) -> tuple[Certificate, Proof | None]:
    """Compare both nets on samples, and what is proved without; None if the model does not take what the net takes.

    Arguments: see `onebit.verify`.
    """
    read(weights, PackedMode, name="weights")
    if weights == "sample" and seed is None:
        raise UsageError("got weights 'sample' without a seed, expected the seed of the draw that was packed")
    split = data.test if isinstance(data, Dataset) else data
    samples = as_samples(fitted_to(packed, split) if isinstance(split, Split) else split)
    count, done = samples.count, 0
    given = None if labels is None else all_in_order(tensors(labels), name="labels", count=count)
    feed = None if trained is None else TrainedFeed(packed, trained, count)
    fed_otherwise = preprocess is None and feed is not None and feed.feeds_model
    proof = None
    # without the packed preprocessing, a model that is fed by its own pipeline may not take what the packed net takes
    with suppress(*[OnebitError] * fed_otherwise):
        proof = Proof.of(model, packed, weights=weights, seed=seed, preprocess=preprocess, activations=activations)
    sites = proof.sites if proof else ()
    counts = dict[str, OutputCounts]()
    model = eval_copy(model)
    behind = model if preprocess is None else nn.Sequential(eval_copy(preprocess), model)
    size = max(1, batch_size or fitting_batch(packed.input.shape))
    step = _reference_step(count or 10 * REFERENCE_IMAGES)
    at_sites = SiteCounts(packed, sites)
    joint = np.zeros(2, np.int64)
    generator = torch.Generator().manual_seed(seed or 0)
    with (
        torch.no_grad(),
        fixed_weights(model, weights, generator=generator),
        torch.autocast("cpu", enabled=False),
        recorded(behind, sites) as theirs_at_sites,
    ):
        for inputs, targets in samples.batches(size):
            as_batch(packed.input, inputs)
            inputs = inputs.reshape(len(inputs), *packed.input.shape)
            as_trained = None
            if feed is not None:
                made, other_targets = feed.take(model, inputs)
                targets = other_targets if targets is None else targets
                as_trained = outputs_by_key(packed, made, len(inputs), who="the model as trained")
            theirs = as_trained
            if proof:
                theirs = outputs_by_key(packed, behind(inputs.clone()), len(inputs), who="the model")
                if not all(np.isfinite(output).all() for output in theirs.values()):
                    raise FoldError("the model's own logits are not finite on these images: nothing can be compared")
            assert theirs is not None
            truth = targets_by_key(packed, targets if given is None else given.take(len(inputs)))
            ours = outputs_by_key(packed, runtime.run(packed, inputs.numpy()), len(inputs), who="the packed net")
            if not done:
                for key, name in output_keys(packed).items():
                    counts[key] = OutputCounts(packed, name, ours[key], truth.get(key))
            chosen = (done + np.arange(len(inputs))) % step == 0
            if proof and not proof.rounded:  # only a sign that rounding decides may explain another output
                chosen |= np.any([output.apart(ours[key], theirs[key]) for key, output in counts.items()], axis=0)
            fed_torch = _reference(packed, at_sites, inputs.numpy(), chosen, ours, theirs_at_sites)
            both = np.zeros((2, len(inputs)), np.bool_)
            for key, output in counts.items():
                trained_output = None if as_trained is None else as_trained[key]
                both |= output.add(ours[key], theirs[key], trained_output, truth.get(key))
                if proof and proof.activations is None:
                    layered = ours[key].copy()
                    layered[chosen] = fed_torch[key]
                    judged = chosen if proof.rounded else slice(None)
                    output.judge(layered[judged], theirs[key][judged])
            joint += both.sum(axis=1)
            done += len(inputs)
            if on_images is not None:
                on_images(done, count or done)
    if not done:
        raise UsageError("got no images, expected some to compare the two nets on")
    for each in (feed, given):
        if each is not None:
            each.check_end()
    found = _counts(counts, done, joint, with_trained=feed is not None)
    faults = [*(proof.faults if proof else ()), *at_sites.faults()]
    faults += [fault for key, output in counts.items() if (fault := output.fault(key or "outputs"))]
    if (found.get("trained_mismatches") or 0) > max(found["count"] >= 10, MOST_CHANGED * found["count"]):
        faults.append("what is packed is not the preprocessing of the training")
    layers = [
        replace(layer, integers=at_sites.counts[layer.name], mismatches=at_sites.differing[layer.name])
        if layer.proof == "float"
        else layer
        for layer in (proof.layers if proof else ())
    ]
    certificate = Certificate(
        onebit=__version__,
        dataset=_name_of(data),
        split="test" if isinstance(data, Dataset) else "",
        weights=weights,
        seed=None if weights == "binary" else seed,
        max_logit_difference=max(output.difference for output in counts.values()),
        bit_exact=all(output.bit_exact for output in counts.values()),
        layers=tuple(layers),
        faults=tuple(faults),
        **found,
    )
    return certificate, proof


def _counts(counts: dict[str, OutputCounts], done: int, joint: np.ndarray, *, with_trained: bool) -> dict[str, Any]:
    """The fields of a certificate; of several outputs the samples in which any differs, and the only correct labels."""
    parts = [output.result() for output in counts.values()]
    if len(parts) == 1:
        return parts[0]
    labeled = [part for part in parts if "correct" in part and part["compared"] != "values" and part["count"] == done]
    correct = labeled[0] if len(labeled) == 1 else {}
    fields = {name: value for name, value in correct.items() if name.endswith("correct")}
    fields |= {"compared": "values", "count": done, "label_mismatches": int(joint[0])}
    return fields | ({"trained_mismatches": int(joint[1])} if with_trained else {})


def _reference(
    packed: PackedNet,
    sites: SiteCounts,
    inputs: np.ndarray,
    chosen: np.ndarray,
    ours: dict[str, np.ndarray],
    theirs: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Numpy's outputs of the chosen samples, each layer fed as in torch; FoldError if the native ones are others."""
    images, keys = inputs[chosen], output_keys(packed)
    if not len(images):
        return {key: ours[key][:0] for key in keys}
    made, replaced = sites.outputs(images, {name: values[chosen] for name, values in theirs.items()})
    fed_torch = {key: made[name] for key, name in keys.items()}
    numpy = {key: output.copy() for key, output in fed_torch.items()}
    if replaced.any():
        again = runtime.run(packed, images[replaced], executor="reference")
        for key, output in outputs_by_key(packed, again, len(again), who="numpy").items():
            numpy[key][replaced] = output
    wrong = [(ours[key][chosen] != output).reshape(len(images), -1).any(axis=1) for key, output in numpy.items()]
    if count := int(np.count_nonzero(np.any(wrong, axis=0))):
        raise FoldError(
            f"the native library gives other logits than numpy for {count} of {len(images)} images: this is a bug in "
            "onebit; set ONEBIT_NATIVE=0 to run without the library"
        )
    return fed_torch


def _name_of(data: Any) -> str:
    """The name of a data set, and for other data their form."""
    if isinstance(data, Dataset):
        return data.name
    form = "arrays" if isinstance(data, (tuple, list)) or hasattr(data, "__array__") else type(data).__name__
    return f"own data ({form})"
