"""Agreement of a packed net with the trained net it came from: on images, and on every integer its signs can meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import onebit
from onebit import runtime
from onebit.data import VOID, Split
from onebit.errors import FoldError, UsageError
from onebit.evaluation import fixed_weights, predict_logits
from onebit.fold import SignSite, eval_copy, fold_model
from onebit.packed import Certificate, LayerProof, PackedNet, Threshold, infer
from onebit.packed.net import op_name

TIED = 1e-5
"""Of the largest logit: two logits that are no further apart are equal up to rounding."""


@dataclass(frozen=True)
class Agreement:
    """Counts of two executions of one net: torch in float32 with the weights that ship, and the packed net.

    count: images compared, or of a net that gives masks their pixels.
    label_mismatches: those that the two label differently.
    max_logit_difference: largest |difference| of two logits.
    bit_exact: every logit is equal.
    tied: of the mismatches, pixels of masks whose two labels neither net's logits tell apart: they differ by no more
        than `TIED` times the largest logit. Among millions of pixels rounding decides one now and then.
    """

    count: int
    label_mismatches: int
    max_logit_difference: float
    bit_exact: bool
    tied: int = 0

    @property
    def equal_labels(self) -> int:
        return self.count - self.label_mismatches

    @property
    def ok(self) -> bool:
        """Whether all labels are equal, but those of tied pixels."""
        return self.label_mismatches == self.tied

    def __str__(self) -> str:
        detail = "bit for bit" if self.bit_exact else f"logits differ by at most {self.max_logit_difference:.2g}"
        tied = f"; {self.tied:,} tied pixels in which rounding decides" if self.tied else ""
        return f"{self.equal_labels:,} of {self.count:,} equal ({detail}){tied}"


def verify(
    model: nn.Module,
    packed: PackedNet,
    images: Any,
    *,
    weights: str = "binary",
    seed: int | None = None,
    batch_size: int | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Compare the labels and logits of a model with those of a packed net.

    Args:
        model: the trained net; compared on the CPU in float32 and eval mode.
        packed: what `onebit.pack` made of it.
        images: uint8 (N, C, H, W).
        weights: what was packed: "binary" or "sample".
        seed: of the draw that was packed.
        batch_size: images at a time; as many as fit when None.
        on_images: called with (images done, images).

    Raises:
        UsageError: images of another shape or none, or a test mode that was not packed.
        FoldError: the model's own logits are not finite.

    Example:
        >>> print(verify(model, packed, data.test.images))  # doctest: +SKIP
        10,000 of 10,000 equal (logits differ by at most 1.9e-06)
    """
    return _tally(model, packed, images, weights, seed, batch_size, on_images=on_images).agreement


def prove(
    model: nn.Module,
    packed: PackedNet,
    *,
    images: Any | None = None,
    weights: str = "binary",
    seed: int | None = None,
    batch_size: int | None = None,
) -> tuple[LayerProof, ...]:
    """Compare each place where a packed net takes signs with the trained modules.

    A threshold of exact integers is compared on every integer that can occur, in every channel. A sign of real values,
    or of sums that torch rounds, is compared on `images`; without images its proof counts 0.

    Args:
        weights, seed: as `verify`.

    Raises:
        UsageError: the packed net has other operations than the model.
        FoldError, NotBinaryError: as `onebit.pack`.
    """
    seed = _seed_of(weights, seed)
    proofs, sites = _proofs(model, packed, weights, seed)
    if images is not None and sites:
        proofs |= _tally(model, packed, images, weights, seed, batch_size, sites=sites).proofs
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
    batch_size: int | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> PackedNet:
    """The packed net with a certificate: what agrees with the trained net, counted now.

    Args:
        split: images and labels that are compared.
        dataset, split_name: their names.
        weights, seed: as `verify`.
        source: sha256 of the checkpoint, in hexadecimal.
        recipe: its name.
        layers: proofs from `prove`; made here when None.
        batch_size, on_images: as `verify`.

    Raises:
        UsageError, FoldError, NotBinaryError: as `verify` and `prove`.
    """
    sites: Sequence[SignSite] = ()
    proofs: dict[str, LayerProof] = {}
    if layers is None:
        proofs, sites = _proofs(model, packed, weights, _seed_of(weights, seed))
    tally = _tally(
        model, packed, split.images, weights, seed, batch_size, sites=sites, labels=split.labels, on_images=on_images
    )
    agreement = tally.agreement
    certificate = Certificate(
        onebit=onebit.__version__,
        dataset=dataset,
        split=split_name,
        count=agreement.count,
        weights=weights,
        label_mismatches=agreement.label_mismatches,
        max_logit_difference=agreement.max_logit_difference,
        bit_exact=agreement.bit_exact,
        seed=_seed_of(weights, seed),
        correct=tally.correct,
        tied=agreement.tied,
        source=source,
        recipe=recipe,
        layers=tuple(layers if layers is not None else (proofs | tally.proofs).values()),
    )
    return replace(packed, certificate=certificate)


def _proofs(
    model: nn.Module, packed: PackedNet, weights: str, seed: int | None
) -> tuple[dict[str, LayerProof], list[SignSite]]:
    """What is proven of each sign without images, by name, and the signs that can only be compared on images."""
    folded = fold_model(model, input_shape=packed.input.shape, weights=weights, seed=seed or 0)
    if _outline(folded.net) != _outline(packed):
        raise UsageError("the packed net has other operations than this model makes; pack it from this model")
    nodes = {node.output: node for node in packed.nodes}
    proofs: dict[str, LayerProof] = {}
    for site in folded.signs:
        node = nodes[site.value]
        integers, mismatches = 0, 0
        exact = site.chain is not None and site.chain.exact
        if site.chain is not None and exact:
            assert isinstance(node, Threshold)
            integers = len(site.chain.reach) * site.chain.channels
            mismatches = site.chain.mismatches(node.threshold, node.direction)
        proofs[site.value] = LayerProof(
            name=site.value, proof="every integer" if exact else "float", integers=integers, mismatches=mismatches
        )
    return proofs, [site for site in folded.signs if proofs[site.value].proof == "float"]


class _Tally(NamedTuple):
    """What was counted over images: of logits, of labels that are right, and of signs."""

    agreement: Agreement
    correct: int
    proofs: dict[str, LayerProof]


def _tally(
    model: nn.Module,
    packed: PackedNet,
    images: Any,
    weights: str,
    seed: int | None,
    batch_size: int | None,
    *,
    sites: Sequence[SignSite] = (),
    labels: np.ndarray | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> _Tally:
    """Run both nets over images, batch by batch, and count where they differ; no more than a batch is kept.

    Args:
        images: uint8 (N, C, H, W).
        sites: signs that are compared too.
        labels: (N,), or masks (N, H, W), whose `VOID` pixels are not compared.
    """
    seed = _seed_of(weights, seed)
    if len(images) == 0:
        raise UsageError("got no images, expected some to compare the two nets on")
    done = count = label_mismatches = correct = tied = 0
    difference, bit_exact = 0.0, True
    compared, mismatches = Counter[str](), Counter[str]()
    model = eval_copy(model)
    names = {packed.output, *(site.seen for site in sites)}
    generator = torch.Generator().manual_seed(seed or 0)
    with (
        fixed_weights(model, weights, generator=generator),
        torch.autocast("cpu", enabled=False),
        _signs_of(model, sites) as theirs_seen,
    ):
        for batch, values in runtime.batches(packed, images, names, batch_size=batch_size):
            ours = values[packed.output]
            runtime.check_logits(packed, ours)
            _check_native(packed, batch, ours)
            theirs = predict_logits(model, batch, batch_size=len(batch)).numpy()
            if theirs.shape != ours.shape:
                got, expected = (f"(N, {', '.join(map(str, logits.shape[1:]))})" for logits in (theirs, ours))
                raise UsageError(f"the model makes logits {got}, the packed net {expected}: it is of another model")
            if not np.isfinite(theirs).all():
                raise FoldError("the model's own logits are not finite on these images; there is nothing to agree with")
            labelled = ours.argmax(axis=1)
            truth = labelled if labels is None else labels[done : done + len(ours)]
            known = np.ones(len(ours), np.bool_) if truth.ndim == 1 else truth != VOID
            expected = theirs.argmax(axis=1)
            differs = (labelled != expected) & known
            label_mismatches += int(np.count_nonzero(differs))
            if theirs.ndim > 2:
                apart = np.maximum(_lead(theirs, labelled), _lead(ours, expected))
                tied += int(np.count_nonzero(apart[differs] <= TIED * np.abs(theirs).max()))
            difference = max(difference, float(np.abs(ours.astype(np.float64) - theirs).max()))
            bit_exact = bit_exact and bool((ours == theirs).all())
            if labels is not None:
                correct += int(np.count_nonzero((labelled == truth)[known]))
            for site in sites:
                signs = values[site.seen]
                compared[site.value] += signs.size
                mismatches[site.value] += int(np.count_nonzero((signs > 0) != theirs_seen[site.value]))
            done += len(ours)
            count += int(np.count_nonzero(known))
            if on_images is not None:
                on_images(done, len(images))
    proofs = {
        name: LayerProof(name=name, proof="float", integers=compared[name], mismatches=mismatches[name])
        for name in compared
    }
    return _Tally(Agreement(count, label_mismatches, difference, bit_exact, tied), correct, proofs)


def _check_native(packed: PackedNet, images: np.ndarray, logits: np.ndarray) -> None:
    """Raises FoldError where the native library does not give the reference executor's logits, bit for bit."""
    plan = runtime.native_plan(packed)
    if plan is None:
        return
    different = (runtime.run(packed, images, executor="native") != logits).reshape(len(logits), -1).any(axis=1).sum()
    if different:
        raise FoldError(
            f"the native library ({plan.isa.name}) computes other logits than numpy for {different} of {len(images)} "
            "images: that is an error of onebit; ONEBIT_NATIVE=0 does without the library"
        )


def _lead(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """By how much the largest logit of (N, K, h, w) exceeds that of a label, (N, h, w)."""
    return logits.max(axis=1) - np.take_along_axis(logits, labels[:, np.newaxis], axis=1)[:, 0]


def _seed_of(weights: str, seed: int | None) -> int | None:
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


def _outline(net: PackedNet) -> tuple[object, ...]:
    """What two nets share when they come from the same model: operations, shapes and kinds, not what arrays hold."""
    nodes = [
        (op_name(node), node.inputs, node.output, [getattr(node, name) for name in node.attributes])
        for node in net.nodes
    ]
    return net.input.coding, nodes, infer(net), net.output
