"""Counts the differences between two executions of a net on images: torch with binary weights, and the packed net."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from onebit import runtime
from onebit.common.moved import renamed
from onebit.data import VOID
from onebit.errors import FoldError, UsageError
from onebit.evaluation.batches import fitting_batch, predict_logits
from onebit.evaluation.modes import fixed_weights
from onebit.fold import SignSite, eval_copy
from onebit.packed import LayerProof, PackedNet, check_net
from onebit.runtime.running import check_batch_size, check_images

TIED = 1e-5
"""Two logits are equal up to rounding if they differ by at most this fraction of the largest logit."""
REFERENCE_IMAGES = 1000
"""Approximate number of images on which numpy runs too; it takes 100 times as long as the native library."""
MOST_CHANGED = 1 / 200
"""Fraction of labels that may change because the preprocessing rounds in another order."""
Trained = Callable[[Tensor], Any] | Any
"""The model as trained: a function from uint8 images (n, C, H, W) to logits (n, K), or all logits (N, K)."""

__getattr__ = renamed(__name__, {"MOST_OTHERWISE": "MOST_CHANGED"})


@dataclass(frozen=True)
class Agreement:
    """Counts of two executions of a net: torch in float32 with binary weights, and the packed net.

    count: number of images compared; for segmentation, here and below, pixels.
    label_mismatches: images to which the two give different labels.
    max_logit_difference: largest |difference| between two logits.
    bit_exact: every logit is equal.
    tied: mismatches of pixels whose two labels are tied in both nets: their logits differ by at most `TIED` times the
        largest logit. Among millions of pixels, rounding decides a few.
    correct: correct labels of the packed net; None without labels.
    trained_mismatches: labels in which the packed net differs from the model as trained, with its own preprocessing.
    trained_correct: correct labels of that model. Both are None if it was not given.
    own_model: the model is not one of onebit's, so it may have been trained with another preprocessing.
    """

    count: int
    label_mismatches: int
    max_logit_difference: float
    bit_exact: bool
    tied: int = 0
    correct: int | None = None
    trained_mismatches: int | None = None
    trained_correct: int | None = None
    own_model: bool = field(default=False, compare=False)

    @property
    def equal_labels(self) -> int:
        return self.count - self.label_mismatches

    @property
    def ok(self) -> bool:
        """Whether all labels except those of tied pixels are equal, and 99.5 % equal those of the model as trained."""
        return self.label_mismatches == self.tied and self.as_trained

    @property
    def as_trained(self) -> bool:
        """Whether rounding can explain the labels that differ from those of the model as trained."""
        return (self.trained_mismatches or 0) <= max(1, MOST_CHANGED * self.count)

    def __str__(self) -> str:
        detail = "bit for bit" if self.bit_exact else f"logits differ by at most {self.max_logit_difference:.2g}"
        tied = f"; {self.tied:,} tied pixels, decided by rounding" if self.tied else ""
        correct = "" if self.correct is None else f"; {self.correct:,} correct"
        return f"{self.equal_labels:,} of {self.count:,} equal ({detail}){tied}{correct}{self._against_training}"

    @property
    def _against_training(self) -> str:
        if self.trained_mismatches is None:
            return "; nothing was compared with the training pipeline (trained=…)" if self.own_model else ""
        right = "" if self.trained_correct is None else f"{self.trained_correct:,} correct, "
        way_out = "" if self.as_trained else ": InputCoding is not the preprocessing of the training"
        return f"; as trained {right}{self.trained_mismatches:,} labels differ{way_out}"


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


def tally(
    model: nn.Module,
    packed: PackedNet,
    images: Any,
    weights: str,
    seed: int | None,
    batch_size: int | None,
    *,
    sites: Sequence[SignSite] = (),
    labels: Any = None,
    trained: Trained | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> Tally:
    """Run both nets on images, batch by batch, and count the differences.

    Args:
        images: uint8 (N, C, H, W).
        sites: signs to compare too, on the images that numpy runs.
        labels: (N,), or masks (N, H, W) whose `VOID` pixels are not compared.
    """
    check_net(packed)
    check_batch_size(batch_size)
    seed = seed_of(weights, seed)
    if check_images(packed.input, images) == 0:
        raise UsageError("got no images, expected some to compare the two nets on")
    for what, given in (("labels", labels), ("logits of the model as trained", trained)):
        if given is not None and not callable(given) and len(given) != len(images):
            raise UsageError(f"got {len(given):,} {what} for {len(images):,} images")
    done = count = label_mismatches = correct = tied = trained_mismatches = trained_correct = 0
    difference, bit_exact = 0.0, True
    compared, mismatches = Counter[str](), Counter[str]()
    own_model = not hasattr(model, "input_shape")
    model = eval_copy(model)
    size, step = batch_size or fitting_batch(packed.input.shape), _reference_step(len(images))
    generator = torch.Generator().manual_seed(seed or 0)
    with (
        torch.no_grad(),
        fixed_weights(model, weights, generator=generator),
        torch.autocast("cpu", enabled=False),
        _signs_of(model, sites) as their_signs,
    ):
        for start in range(0, len(images), size):
            batch = np.asarray(images[start : start + size])
            chosen = slice(-start % step, None, step)
            ours, values = _packed_logits(packed, batch, chosen, {site.compared for site in sites})
            batch = batch.reshape(len(ours), *packed.input.shape)
            theirs = predict_logits(model, batch, batch_size=len(batch)).numpy()
            _check_shape("the model makes", theirs, ours)
            if not np.isfinite(theirs).all():
                raise FoldError("the model's own logits are not finite on these images: there is nothing to compare")
            predicted = ours.argmax(axis=1)
            truth = predicted if labels is None else np.asarray(labels[start : start + size])
            known = np.ones(len(ours), np.bool_) if truth.ndim == 1 else truth != VOID
            expected = theirs.argmax(axis=1)
            differs = (predicted != expected) & known
            label_mismatches += int(np.count_nonzero(differs))
            if theirs.ndim > 2:
                apart = np.maximum(_margin(theirs, predicted), _margin(ours, expected))
                tied += int(np.count_nonzero(apart[differs] <= TIED * np.abs(theirs).max()))
            difference = max(difference, float(np.abs(ours.astype(np.float64) - theirs).max()))
            bit_exact = bit_exact and bool((ours == theirs).all())
            correct += int(np.count_nonzero((predicted == truth)[known]))
            if trained is not None:
                made = trained(torch.from_numpy(batch)) if callable(trained) else trained[start : start + size]
                logits = torch.as_tensor(made).detach().cpu().numpy()
                _check_shape("the model as trained makes", logits, ours)
                as_trained = logits.argmax(axis=1)
                trained_mismatches += int(np.count_nonzero((predicted != as_trained)[known]))
                trained_correct += int(np.count_nonzero((as_trained == truth)[known]))
            for site in sites if len(values) else ():
                signs = values[site.compared]
                compared[site.value] += signs.size
                mismatches[site.value] += int(np.count_nonzero((signs > 0) != their_signs[site.value][chosen]))
            done += len(ours)
            count += int(np.count_nonzero(known))
            if on_images is not None:
                on_images(done, len(images))
    proofs = {
        name: LayerProof(name=name, proof="float", integers=compared[name], mismatches=mismatches[name])
        for name in compared
    }
    agreement = Agreement(
        count,
        label_mismatches,
        difference,
        bit_exact,
        tied,
        correct=None if labels is None else correct,
        trained_mismatches=None if trained is None else trained_mismatches,
        trained_correct=None if trained is None or labels is None else trained_correct,
        own_model=own_model,
    )
    return Tally(agreement, proofs)


def _packed_logits(
    packed: PackedNet, images: np.ndarray, chosen: slice, names: set[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The logits of a batch, and numpy's values `names` of the `chosen` images; FoldError if the executors differ."""
    plan = runtime.native_plan(packed)
    part = images if plan is None else images[chosen]
    parts = [values for _, values in runtime.batches(packed, part, {packed.only_output, *names})]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    if plan is None:
        runtime.check_logits(packed, values[packed.only_output])
        return values[packed.only_output], {name: value[chosen] for name, value in values.items()}
    ours = runtime.run(packed, images, executor="native")
    different = (ours[chosen] != values[packed.only_output]).reshape(len(part), -1).any(axis=1).sum() if parts else 0
    if different:
        raise FoldError(
            f"the native library ({plan.isa.name}) gives other logits than numpy for {different} of {len(part)} "
            "images: this is a bug in onebit; set ONEBIT_NATIVE=0 to run without the library"
        )
    return ours, values


def _check_shape(who: str, theirs: np.ndarray, ours: np.ndarray) -> None:
    if theirs.shape != ours.shape:
        got, expected = (f"(N, {', '.join(map(str, logits.shape[1:]))})" for logits in (theirs, ours))
        raise UsageError(f"{who} logits {got}, the packed net {expected}: it is from another model")


def _margin(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Largest logit minus the logit of a label: (N, K, h, w) and (N, h, w) -> (N, h, w)."""
    return logits.max(axis=1) - np.take_along_axis(logits, labels[:, np.newaxis], axis=1)[:, 0]


def seed_of(weights: str, seed: int | None) -> int | None:
    """The seed of the draw that was packed; None without a draw."""
    if weights == "sample" and seed is None:
        raise UsageError("got weights 'sample' without a seed, expected the seed of the draw that was packed")
    return seed if weights == "sample" else None


@contextmanager
def _signs_of(model: nn.Module, sites: Sequence[SignSite]) -> Iterator[dict[str, np.ndarray]]:
    """Where torch had +1 in the last batch, bool (N, …), for each site; updated while the model runs."""
    positive: dict[str, np.ndarray] = {}
    values = {(model.get_submodule(site.module), site.call): site.value for site in sites}
    calls: Counter[nn.Module] = Counter()

    def record(module: nn.Module, inputs: object, output: Tensor) -> None:
        if (value := values.get((module, calls[module]))) is not None:
            positive[value] = module.binary_input().upper(output).numpy()  # type: ignore[operator]
        calls[module] += 1

    hooks = [module.register_forward_hook(record) for module in {module for module, _ in values}]
    hooks.append(model.register_forward_pre_hook(lambda module, inputs: calls.clear()))
    try:
        yield positive
    finally:
        for hook in hooks:
            hook.remove()
