"""Two executions of one net over images, torch with the weights that ship and the packed net: what differs."""

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
from onebit.data import VOID
from onebit.errors import FoldError, UsageError
from onebit.evaluation.batches import fitting_batch, predict_logits
from onebit.evaluation.modes import fixed_weights
from onebit.fold import SignSite, eval_copy
from onebit.packed import LayerProof, PackedNet, check_net
from onebit.runtime.running import check_batch_size, check_images

TIED = 1e-5
"""Of the largest logit: two logits that are no further apart are equal up to rounding."""
REFERENCE_IMAGES = 1000
"""On about so many images numpy computes the packed net, too; it takes 100 times as long as the native library."""
MOST_OTHERWISE = 1 / 200
"""Of the labels, that rounding in another order of the preprocessing may change."""
Trained = Callable[[Tensor], Any] | Any
"""The model as it was trained: uint8 images (n, C, H, W) -> logits (n, K), or the logits (N, K) of all images."""


@dataclass(frozen=True)
class Agreement:
    """Counts of two executions of one net: torch in float32 with the weights that ship, and the packed net.

    count: images compared, or of a net that gives masks their pixels.
    label_mismatches: those that the two label differently.
    max_logit_difference: largest |difference| of two logits.
    bit_exact: every logit is equal.
    tied: of the mismatches, pixels of masks whose two labels neither net's logits tell apart: they differ by no more
        than `TIED` times the largest logit. Among millions of pixels rounding decides one now and then.
    correct: labels of the packed net that are right; None without labels.
    trained_mismatches: labels of the packed net that the model as trained, with its own preprocessing, gives
        otherwise; trained_correct: labels of that model that are right. None where it was not given.
    own_model: it is not one of onebit, so that it may have been trained with another preprocessing than it has now.
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
        """Whether all labels are equal, but those of tied pixels; to those of the model as trained 99.5 %."""
        return self.label_mismatches == self.tied and self.as_trained

    @property
    def as_trained(self) -> bool:
        """Whether no more labels are other than those of the model as trained than rounding explains."""
        return (self.trained_mismatches or 0) <= max(1, MOST_OTHERWISE * self.count)

    def __str__(self) -> str:
        detail = "bit for bit" if self.bit_exact else f"logits differ by at most {self.max_logit_difference:.2g}"
        tied = f"; {self.tied:,} tied pixels in which rounding decides" if self.tied else ""
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
    """What was counted over images: of logits and labels, and of signs."""

    agreement: Agreement
    proofs: dict[str, LayerProof]


def _reference_step(count: int) -> int:
    """Of `count` images, numpy computes the first, and then each that is so many further."""
    return max(1, count // REFERENCE_IMAGES)


def reference_images(count: int) -> int:
    """How many of `count` images numpy computes where there is a native library, which computes all."""
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
    """Run both nets over images, batch by batch, and count where they differ; no more than a batch is kept.

    Args:
        images: uint8 (N, C, H, W).
        sites: signs that are compared too, on the images that numpy computes.
        labels: (N,), or masks (N, H, W), whose `VOID` pixels are not compared.
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
        _signs_of(model, sites) as theirs_seen,
    ):
        for start in range(0, len(images), size):
            batch = np.asarray(images[start : start + size])
            chosen = slice(-start % step, None, step)
            ours, values = _packed_logits(packed, batch, chosen, {site.seen for site in sites})
            batch = batch.reshape(len(ours), *packed.input.shape)
            theirs = predict_logits(model, batch, batch_size=len(batch)).numpy()
            _check_shape("the model makes", theirs, ours)
            if not np.isfinite(theirs).all():
                raise FoldError("the model's own logits are not finite on these images; there is nothing to agree with")
            labelled = ours.argmax(axis=1)
            truth = labelled if labels is None else np.asarray(labels[start : start + size])
            known = np.ones(len(ours), np.bool_) if truth.ndim == 1 else truth != VOID
            expected = theirs.argmax(axis=1)
            differs = (labelled != expected) & known
            label_mismatches += int(np.count_nonzero(differs))
            if theirs.ndim > 2:
                apart = np.maximum(_lead(theirs, labelled), _lead(ours, expected))
                tied += int(np.count_nonzero(apart[differs] <= TIED * np.abs(theirs).max()))
            difference = max(difference, float(np.abs(ours.astype(np.float64) - theirs).max()))
            bit_exact = bit_exact and bool((ours == theirs).all())
            correct += int(np.count_nonzero((labelled == truth)[known]))
            if trained is not None:
                made = trained(torch.from_numpy(batch)) if callable(trained) else trained[start : start + size]
                logits = torch.as_tensor(made).detach().cpu().numpy()
                _check_shape("the model as trained makes", logits, ours)
                as_trained = logits.argmax(axis=1)
                trained_mismatches += int(np.count_nonzero((labelled != as_trained)[known]))
                trained_correct += int(np.count_nonzero((as_trained == truth)[known]))
            for site in sites if len(values) else ():
                signs = values[site.seen]
                compared[site.value] += signs.size
                mismatches[site.value] += int(np.count_nonzero((signs > 0) != theirs_seen[site.value][chosen]))
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
    """The logits of a batch, and by numpy the values `names` of those images that are `chosen`; {} when none is.

    Raises:
        FoldError: the native library does not give the reference executor's logits, bit for bit.
    """
    plan = runtime.native_plan(packed)
    part = images if plan is None else images[chosen]
    parts = [values for _, values in runtime.batches(packed, part, {packed.output, *names})]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    if plan is None:
        runtime.check_logits(packed, values[packed.output])
        return values[packed.output], {name: value[chosen] for name, value in values.items()}
    ours = runtime.run(packed, images, executor="native")
    different = (ours[chosen] != values[packed.output]).reshape(len(part), -1).any(axis=1).sum() if parts else 0
    if different:
        raise FoldError(
            f"the native library ({plan.isa.name}) computes other logits than numpy for {different} of {len(part)} "
            "images: that is an error of onebit; ONEBIT_NATIVE=0 does without the library"
        )
    return ours, values


def _check_shape(who: str, theirs: np.ndarray, ours: np.ndarray) -> None:
    if theirs.shape != ours.shape:
        got, expected = (f"(N, {', '.join(map(str, logits.shape[1:]))})" for logits in (theirs, ours))
        raise UsageError(f"{who} logits {got}, the packed net {expected}: it is of another model")


def _lead(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """By how much the largest logit of (N, K, h, w) exceeds that of a label, (N, h, w)."""
    return logits.max(axis=1) - np.take_along_axis(logits, labels[:, np.newaxis], axis=1)[:, 0]


def seed_of(weights: str, seed: int | None) -> int | None:
    """The seed of the draw that was packed, None for weights that are not drawn."""
    if weights == "sample" and seed is None:
        raise UsageError("got weights 'sample' without a seed, expected the seed of the draw that was packed")
    return seed if weights == "sample" else None


@contextmanager
def _signs_of(model: nn.Module, sites: Sequence[SignSite]) -> Iterator[dict[str, np.ndarray]]:
    """For each site where torch had +1 in the last batch, bool (N, …): filled while the model runs."""
    seen: dict[str, np.ndarray] = {}
    wanted = {(model.get_submodule(site.module), site.call): site.value for site in sites}
    calls: Counter[nn.Module] = Counter()

    def record(module: nn.Module, inputs: object, output: Tensor) -> None:
        if (value := wanted.get((module, calls[module]))) is not None:
            stated = module.binary_input()  # type: ignore[operator]
            seen[value] = stated.upper(output).numpy()
        calls[module] += 1

    hooks = [module.register_forward_hook(record) for module in {module for module, _ in wanted}]
    hooks.append(model.register_forward_pre_hook(lambda module, inputs: calls.clear()))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
