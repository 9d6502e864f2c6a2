"""Counts the differences between two executions of a net on samples: torch with binary weights, and the packed net."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from onebit import runtime
from onebit.common.fields import read
from onebit.errors import FoldError, OnebitError, UsageError
from onebit.evaluation.modes import fixed_weights
from onebit.evaluation.sources import fitting_batch
from onebit.fold import RoundingSite, SignSite, eval_copy, example_of, fold_model
from onebit.fold.shipped import PackedMode
from onebit.layers import InputCoding
from onebit.packed import LayerProof, PackedNet
from onebit.packed.node_text import to_lines
from onebit.quantizers import Quantizer
from onebit.runtime.running import check_batch_size
from onebit.verification.counted import OutputCounts, decided_inside, joint
from onebit.verification.outcome import MOST_CHANGED, TIED, Agreement
from onebit.verification.samples import (
    Labels,
    Trained,
    TrainedFeed,
    batches_of,
    by_key,
    check_fed,
    output_keys,
    packed_samples,
    same_targets,
)
from onebit.verification.ties import decided_by_ties, made_at

__all__ = [
    "MOST_CHANGED",
    "REFERENCE_IMAGES",
    "TIED",
    "Agreement",
    "Tally",
    "Trained",
    "reference_images",
    "seed_of",
    "tally",
]

REFERENCE_IMAGES = 1000
"""Approximate number of images on which numpy runs too; it takes 100 times as long as the native library."""


class Tally(NamedTuple):
    """The counts for logits and labels, and for signs."""

    agreement: Agreement
    proofs: dict[str, LayerProof]


def _reference_step(count: int) -> int:
    """Numpy runs every n-th of `count` images, beginning with the first; this is n."""
    return max(1, count // REFERENCE_IMAGES)


def reference_images(count: int) -> int:
    """How many of `count` images numpy runs if the native library runs all."""
    return -(-count // _reference_step(count))


def _ties(
    model: nn.Module, packed: PackedNet, weights: str, seed: int | None, preprocess: nn.Module | None
) -> tuple[SignSite | RoundingSite, ...]:
    """Where a model takes signs or rounds to integers of few bits; nowhere if the packed net is of another model."""
    quantizers = [module for module in model.modules() if isinstance(module, Quantizer)]
    if all(quantizer.integer_input() is None and quantizer.binary_input() is None for quantizer in quantizers):
        return ()
    try:
        folded = fold_model(model, example_of(packed.input), preprocess=preprocess, weights=weights, seed=seed or 0)
    except OnebitError:
        return ()
    return (*folded.signs, *folded.roundings) if to_lines(folded.net.nodes) == to_lines(packed.nodes) else ()


def _decided(
    model: nn.Module,
    packed: PackedNet,
    ties: Callable[[], tuple[SignSite | RoundingSite, ...]],
    inputs: Tensor,
    rows: np.ndarray,
) -> np.ndarray:
    """The samples of `rows`, bool (n,), that differ because rounding decides a sign or an integer."""
    found = np.zeros_like(rows)
    if rows.any() and (sites := ties()):
        found[rows] = decided_by_ties(model, packed, sites, inputs, rows)
    return found


def _upper(site: SignSite, module: Any, output: Tensor) -> np.ndarray:
    """Where torch has +1."""
    return module.binary_input().upper(output).numpy()


def tally(
    model: nn.Module,
    packed: PackedNet,
    data: Any,
    weights: str,
    seed: int | None,
    batch_size: int | None,
    *,
    sites: Sequence[SignSite] = (),
    labels: Any = None,
    trained: Trained | None = None,
    preprocess: nn.Module | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> Tally:
    """Run both nets on samples, batch by batch, and count the differences.

    Args:
        data: what the packed net is fed: inputs, (inputs, targets), a torch data set or loader, a split, a data set.
        sites: signs to compare too, on the samples that numpy runs.
        labels: targets (N, …), or masks (N, H, W) whose `VOID` pixels are not compared; those of the data if None.
        preprocess: what was packed in front of the model.
    """
    check_batch_size(batch_size)
    seed = seed_of(weights, seed)
    samples = packed_samples(packed, data)
    count = samples.count
    targets_of = Labels(packed, labels, count)
    feed = None if trained is None else TrainedFeed(packed, trained, count)
    # without the packed preprocessing, a model that is fed by its own pipeline cannot run on what the packed net takes
    alone = preprocess is not None or feed is None or not feed.feeds_model
    done, keys = 0, output_keys(packed)
    inside = decided_inside(packed)
    counts = {key: OutputCounts(alone=len(keys) == 1, **inside) for key in keys}
    compared, mismatches = Counter[str](), Counter[str]()
    coding, original = _coding(model, preprocess), model
    own_model = not hasattr(model, "input_shape")
    model = eval_copy(model)
    behind = model if preprocess is None else nn.Sequential(eval_copy(preprocess), model)
    size, step = batch_size or fitting_batch(packed.input.shape), _reference_step(count or 10 * REFERENCE_IMAGES)
    generator = torch.Generator().manual_seed(seed or 0)

    @cache  # only where a label differs
    def ties() -> tuple[SignSite | RoundingSite, ...]:
        return _ties(original, packed, weights, seed, preprocess)

    with (
        torch.no_grad(),
        fixed_weights(model, weights, generator=generator),
        torch.autocast("cpu", enabled=False),
        made_at(behind, sites if alone else (), _upper) as their_signs,
    ):
        for inputs, targets in batches_of(samples, size):
            check_fed(packed, inputs)
            inputs = inputs.reshape(len(inputs), *packed.input.shape)
            chosen = slice(-done % step, None, step)
            ours, values = _packed_outputs(packed, inputs.numpy(), chosen, {site.compared for site in sites})
            theirs = as_trained = None
            if alone:
                theirs = _checked("the model makes", packed, _run_model(behind, inputs.clone()), ours)
                if not all(np.isfinite(output).all() for output in theirs.values()):
                    raise FoldError(
                        "the model's own logits are not finite on these images: there is nothing to compare"
                    )
                for site in sites if len(values) else ():
                    theirs_up = their_signs[site.value][chosen]
                    found = values[site.compared].reshape(theirs_up.shape)  # an image of height 1 is a signal
                    compared[site.value] += found.size
                    mismatches[site.value] += int(np.count_nonzero((found > 0) != theirs_up))
            if feed is not None:
                made = feed.outputs(inputs, done) if not feed.feeds_model else None
                if feed.feeds_model:
                    fed, their_targets = feed.take(len(inputs))
                    targets = same_targets(targets, their_targets, done) if labels is None else targets
                    made = _run_model(model, fed, by_trained=True)
                as_trained = _checked("the model as trained makes", packed, made, ours)
            if theirs is None:
                assert as_trained is not None
                theirs = as_trained
            truth = targets_of.batch(targets, done, done + len(inputs))
            decided = partial(_decided, behind, packed, ties if any(inside.values()) and alone else tuple, inputs)
            for key, output in counts.items():
                trained_output = None if as_trained is None else as_trained[key]
                output.add(ours[key], theirs[key], truth.get(key), trained_output, decided)
            done += len(inputs)
            if on_images is not None:
                on_images(done, count or done)
    if feed is not None:
        feed.check_end()
    targets_of.check_end(done)
    proofs = {
        name: LayerProof(name=name, proof="float", integers=compared[name], mismatches=mismatches[name])
        for name in compared
    }
    agreement = counts[""].result() if "" in counts else joint(counts)

    def completed(part: Agreement) -> Agreement:
        # the packed preprocessing may round in another order than the pipeline of the training
        tied = part.tied if alone or not part.as_trained else part.label_mismatches
        outputs = {key: completed(output) for key, output in part.outputs.items()}
        return replace(part, own_model=own_model, through_model=alone, coding=coding, tied=tied, outputs=outputs)

    return Tally(completed(agreement), proofs)


def _coding(model: nn.Module, preprocess: nn.Module | None) -> str:
    """What preprocesses the input of the packed net, for messages."""
    if preprocess is not None:
        return type(preprocess).__name__
    return "InputCoding" if _has_coding(model) else "what is packed"


def _has_coding(model: nn.Module) -> bool:
    return any(isinstance(module, InputCoding) for module in model.modules())


def _run_model(model: nn.Module, inputs: Any, *, by_trained: bool = False) -> Any:
    """The outputs of a model."""
    if by_trained and isinstance(inputs, Tensor) and inputs.is_floating_point() and _has_coding(model):
        raise UsageError(
            "the model begins with InputCoding, which takes raw pixels, and trained gives float inputs: pass the net "
            "behind it and preprocess=InputCoding(...), or a function: trained=lambda images: net(preprocessed(images))"
        )
    return model(inputs)


def _packed_outputs(
    packed: PackedNet, images: np.ndarray, chosen: slice, names: set[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The outputs of a batch, and numpy's values `names` of the `chosen` samples; FoldError if the executors differ."""
    keys, plan = output_keys(packed), runtime.native_plan(packed)
    part = images if plan is None else images[chosen]
    parts = [values for _, values in runtime.batches(packed, part, {*packed.outputs, *names})]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    if plan is None:
        outputs = {key: values[name].astype(np.float32, copy=False) for key, name in keys.items()}
        for output in outputs.values():
            runtime.check_logits(packed, output)
        return outputs, {name: value[chosen] for name, value in values.items()}
    ours = by_key(packed, runtime.run(packed, images, executor="native"), "the native library gives")
    wrong = np.zeros(len(part), np.bool_)
    for key, name in keys.items() if parts else ():
        wrong |= (ours[key][chosen] != values[name]).reshape(len(part), -1).any(axis=1)
    if wrong.any():
        raise FoldError(
            f"the native library ({plan.isa.name}) gives other logits than numpy for {wrong.sum()} of {len(part)} "
            "images: this is a bug in onebit; set ONEBIT_NATIVE=0 to run without the library"
        )
    return ours, values


def _checked(who: str, packed: PackedNet, made: Any, ours: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by key, of the shapes of the packed ones, or UsageError."""
    theirs = by_key(packed, made, who)
    for key, output in ours.items():
        if theirs[key].shape != output.shape:
            shapes = [theirs[key].shape, output.shape]
            per_sample = len({shape[1:] for shape in shapes}) == 1  # the model makes another number of samples
            got, expected = (", ".join(map(str, shape if per_sample else ("N", *shape[1:]))) for shape in shapes)
            raise UsageError(
                f"{who} logits ({got}){key and f' as {key}'}, the packed net ({expected}): it is from another model"
            )
    return theirs


def seed_of(weights: str, seed: int | None) -> int | None:
    """The seed of the draw that was packed; None without a draw. UsageError for a test mode that cannot be packed."""
    read(weights, PackedMode, name="weights")
    if weights == "sample" and seed is None:
        raise UsageError("got weights 'sample' without a seed, expected the seed of the draw that was packed")
    return None if weights == "binary" else seed
