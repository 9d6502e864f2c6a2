"""Agreement of a packed net with the trained net it came from: on images, and on every integer its signs can meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

import onebit
from onebit import runtime
from onebit.data import Split
from onebit.errors import FoldError, UsageError
from onebit.evaluation import fixed_weights, predict_logits
from onebit.fold import SignSite, eval_copy, fold_model
from onebit.packed import Certificate, LayerProof, PackedNet, Threshold, infer
from onebit.packed.net import op_name


@dataclass(frozen=True)
class Agreement:
    """Counts of two executions of one net: torch in float32 with the weights that ship, and the packed net.

    count: images compared.
    label_mismatches: images that the two label differently.
    max_logit_difference: largest |difference| of two logits.
    bit_exact: every logit is equal.
    """

    count: int
    label_mismatches: int
    max_logit_difference: float
    bit_exact: bool

    @property
    def equal_labels(self) -> int:
        return self.count - self.label_mismatches

    @property
    def ok(self) -> bool:
        """Whether all labels are equal."""
        return self.label_mismatches == 0

    def __str__(self) -> str:
        detail = "bit for bit" if self.bit_exact else f"logits differ by at most {self.max_logit_difference:.2g}"
        return f"{self.equal_labels:,} of {self.count:,} equal ({detail})"


def verify(
    model: nn.Module,
    packed: PackedNet,
    images: np.ndarray,
    *,
    weights: str = "binary",
    seed: int | None = None,
    batch_size: int = 1000,
) -> Agreement:
    """Compare the labels and logits of a model with those of a packed net.

    Args:
        model: the trained net; compared on the CPU in float32 and eval mode.
        packed: what `onebit.pack` made of it.
        images: uint8 (N, C, H, W).
        weights: what was packed: "binary" or "sample".
        seed: of the draw that was packed.

    Raises:
        UsageError: images of another shape or none, or a test mode that was not packed.
        FoldError: the model's own logits are not finite.

    Example:
        >>> print(verify(model, packed, data.test.images))  # doctest: +SKIP
        10,000 of 10,000 equal (logits differ by at most 1.9e-06)
    """
    return _compare(model, packed, images, weights, seed, batch_size)[0]


def prove(
    model: nn.Module,
    packed: PackedNet,
    *,
    images: np.ndarray | None = None,
    weights: str = "binary",
    seed: int | None = None,
    batch_size: int = 1000,
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
    folded = fold_model(model, input_shape=packed.input.shape, weights=weights, seed=seed or 0)
    if _outline(folded.net) != _outline(packed):
        raise UsageError("the packed net has other operations than this model makes; pack it from this model")
    nodes = {node.output: node for node in packed.nodes}
    proofs: dict[str, LayerProof] = {}
    on_images: list[SignSite] = []
    for site in folded.signs:
        node = nodes[site.value]
        if site.chain is None or not site.chain.exact:
            on_images.append(site)
            proofs[site.value] = LayerProof(name=site.value, proof="float", integers=0, mismatches=0)
        else:
            assert isinstance(node, Threshold)
            proofs[site.value] = LayerProof(
                name=site.value,
                proof="every integer",
                integers=len(site.chain.reach) * site.chain.channels,
                mismatches=site.chain.mismatches(node.threshold, node.direction),
            )
    if images is not None and on_images:
        seen = _signs_seen(model, on_images, images, weights, seed, batch_size)
        for site in on_images:
            ours = runtime.run(_part(packed, site.value), images, batch_size=batch_size)
            mismatches = int(np.count_nonzero((ours > 0) != seen[site.value]))
            proofs[site.value] = replace(proofs[site.value], integers=ours.size, mismatches=mismatches)
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
    batch_size: int = 1000,
) -> PackedNet:
    """The packed net with a certificate: what agrees with the trained net, counted now.

    Args:
        split: images and labels that are compared.
        dataset, split_name: their names.
        weights, seed: as `verify`.
        source: sha256 of the checkpoint, in hexadecimal.
        recipe: its name.
        layers: proofs from `prove`; made here when None.

    Raises:
        UsageError, FoldError, NotBinaryError: as `verify` and `prove`.
    """
    agreement, logits = _compare(model, packed, split.images, weights, seed, batch_size)
    if layers is None:
        layers = prove(model, packed, images=split.images, weights=weights, seed=seed, batch_size=batch_size)
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
        correct=int(np.count_nonzero(logits.argmax(axis=1) == split.labels)),
        source=source,
        recipe=recipe,
        layers=tuple(layers),
    )
    return replace(packed, certificate=certificate)


def _compare(
    model: nn.Module, packed: PackedNet, images: np.ndarray, weights: str, seed: int | None, batch_size: int
) -> tuple[Agreement, np.ndarray]:
    """The agreement, and the logits of the packed net."""
    seed = _seed_of(weights, seed)
    if len(images) == 0:
        raise UsageError("got no images, expected some to compare the two nets on")
    ours = runtime.run(packed, images, batch_size=batch_size)  # checks the images
    theirs = _torch_logits(eval_copy(model), images, weights, seed, batch_size)
    if theirs.shape != ours.shape:
        raise UsageError(f"the model makes logits {theirs.shape}, the packed net {ours.shape}: it is of another model")
    if not np.isfinite(theirs).all():
        raise FoldError("the model's own logits are not finite on these images; there is nothing to agree with")
    difference = np.abs(ours.astype(np.float64) - theirs)
    mismatches = int(np.count_nonzero(ours.argmax(axis=1) != theirs.argmax(axis=1)))
    return Agreement(len(ours), mismatches, float(difference.max()), bool((ours == theirs).all())), ours


def _seed_of(weights: str, seed: int | None) -> int | None:
    """The seed of the draw that was packed, None for weights that are not drawn."""
    if weights == "sample" and seed is None:
        raise UsageError("got weights 'sample' without a seed, expected the seed of the draw that was packed")
    return seed if weights == "sample" else None


def _torch_logits(model: nn.Module, images: np.ndarray, weights: str, seed: int | None, batch_size: int) -> np.ndarray:
    """Logits of an `eval_copy` with the weights that ship, float32."""
    generator = torch.Generator().manual_seed(seed or 0)
    batch = torch.from_numpy(np.ascontiguousarray(images))
    with fixed_weights(model, weights, generator=generator), torch.autocast("cpu", enabled=False):
        return predict_logits(model, batch[:, None] if batch.ndim == 3 else batch, batch_size=batch_size).numpy()


def _signs_seen(
    model: nn.Module, sites: Sequence[SignSite], images: np.ndarray, weights: str, seed: int | None, batch_size: int
) -> dict[str, np.ndarray]:
    """For each site where torch has +1 on the images: bool (N, …)."""
    model = eval_copy(model)
    parts: dict[str, list[np.ndarray]] = {site.value: [] for site in sites}
    wanted = {(model.get_submodule(site.module), site.call): site.value for site in sites}
    calls: Counter[nn.Module] = Counter()

    def record(module: nn.Module, inputs: object, output: Tensor) -> None:
        if (value := wanted.get((module, calls[module]))) is not None:
            parts[value].append((output > 0).numpy())
        calls[module] += 1

    for module in {module for module, _ in wanted}:
        module.register_forward_hook(record)
    model.register_forward_pre_hook(lambda module, inputs: calls.clear())
    _torch_logits(model, images, weights, seed, batch_size)
    return {value: np.concatenate(arrays) for value, arrays in parts.items()}


def _outline(net: PackedNet) -> tuple[object, ...]:
    """What two nets share when they come from the same model: operations, shapes and kinds, not what arrays hold."""
    return net.input.coding, [(op_name(node), node.inputs, node.output) for node in net.nodes], infer(net), net.output


def _part(net: PackedNet, value: str) -> PackedNet:
    """The packed net that ends with an inner value."""
    wanted, nodes = {value}, []
    for node in reversed(net.nodes):
        if node.output in wanted:
            wanted.update(node.inputs)
            nodes.append(node)
    return replace(net, nodes=tuple(reversed(nodes)), output=value, classes=None, certificate=None)
