"""Accuracy in a test mode: which weights, and which BatchNorm statistics."""

from __future__ import annotations

import math
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from onebit.common.fields import read
from onebit.common.progress import progress
from onebit.data import Dataset, Split, StreamedImages
from onebit.errors import DataError, UsageError
from onebit.evaluation.forward import OnImages, autocast, in_tiles, kept_buffers, outputs_of
from onebit.evaluation.losses import Loss, ignored_label, with_options
from onebit.evaluation.metrics import chosen_metrics, score_outputs, task_of
from onebit.evaluation.scores import Score
from onebit.evaluation.sources import Samples, as_samples, with_tokens
from onebit.evaluation.trees import called, leaves, to_device
from onebit.layers import BinaryLayer, LatentWeight, batch_norms, binary_layers, has_other_statistics
from onebit.layers.base import kept_training, model_device, skip_fused_path_
from onebit.layers.description import refuse_latents
from onebit.quantizers import BinaryWeight

BN_IMAGES = 10_000
"""Number of training images that re-estimate BatchNorm statistics."""
_ONE_AT_A_TIME = threading.RLock()
"""Held while a model has the weights of a test mode, which a second thread would take for its own."""


@contextmanager
def fixed_weights(model: nn.Module, weights: str, *, generator: torch.Generator | None = None) -> Iterator[None]:
    """Within the context every binary layer uses the weights of one test mode.

    Contexts nest. A copy of the model that is made within the context does not have the weights of the mode.

    Args:
        weights: "latent", "binary", "mean" (of the distribution that a Bayesian net learned) or "sample" (one draw).
    """
    layers = list(binary_layers(model))
    skip_fused_path_(model)
    before = [layer.fixed_weight for _, layer in layers]
    drawn: dict[tuple[int, int], Tensor | BinaryWeight | None] = {}  # a head may share the weight of an embedding
    for _, layer in layers:
        layer.fixed_used = False
    try:
        for name, layer in layers:
            shared = id(layer.weight), id(layer.weight_quantizer)
            if shared not in drawn:
                drawn[shared] = _mode_weight(layer, weights, generator)
            layer.fixed_weight = drawn[shared]
            if layer.fixed_weight is None:
                raise UsageError(f"layer {name!r}: {type(layer.weight_quantizer).__name__} has no {weights} weights")
        yield
    finally:
        for (_, layer), fixed in zip(layers, before, strict=True):
            layer.fixed_weight = fixed


def _mode_weight(layer: LatentWeight, weights: str, generator: torch.Generator | None) -> Tensor | BinaryWeight | None:
    """The weight of a layer in a test mode; None if its quantizer has none."""
    if weights == "latent":
        return layer.weight.detach()
    if weights == "mean":
        mean = getattr(layer.weight_quantizer, "mean", None)
        return None if mean is None else layer.own_layout(mean(layer.latent().detach()))
    if weights == "sample":
        parts = layer.sample_weight(generator=generator)
        return None if parts is None else _by_rows(layer, parts)
    if weights != "binary":
        return None
    binary = layer.binary_weight()
    if not layer.computes(binary):
        kind = type(layer.weight_quantizer).__name__
        warnings.warn(f"{kind}.forward computes other weights than decompose(), which are evaluated", stacklevel=3)
    return _by_rows(layer, binary)


def _by_rows(layer: LatentWeight, binary: BinaryWeight) -> Tensor | BinaryWeight:
    """`binary` if a layer multiplies sums by its scale, see `BinaryLayer.weight_by_rows`; else as one tensor."""
    return binary if isinstance(layer, BinaryLayer) and binary.by_rows else layer.dense(binary)


@torch.no_grad()
def reestimate_batch_norm_(
    model: nn.Module, data: Any, *, batch_size: int | None = None, norms: Sequence[Any] | None = None
) -> None:
    """Replace the BatchNorm statistics by the mean over batches of `data`, weighted by batch size.

    Each batch is drawn from all images with a fixed seed: images are often sorted by class, and a batch of one class
    lacks the variance between classes.

    Args:
        data: an array of inputs (N, …), which are all used; or training data of any form, see
            `onebit.evaluation.sources.as_samples`, of which `BN_IMAGES` samples are used.
        batch_size: `fitting_batch` by default; a loader has its own.
        norms: the layers whose statistics are replaced, if the model calls them; `trained_norms` by default.
    """
    norms = trained_norms(model) if norms is None else norms
    if not norms:
        return
    momenta, values = [norm.momentum for norm in norms], dict.fromkeys(norms, 0)

    def weigh(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        """Let torch take the mean over all batches so far, weighted by values per channel."""
        if not values[norm]:
            norm.reset_running_stats()
        count = inputs[0].numel() // inputs[0].shape[1]
        values[norm] += count
        norm.momentum = count / max(1, values[norm])

    data = data.train if isinstance(data, Dataset) else data
    data = data.spread(BN_IMAGES).images if isinstance(data, Split) else data
    if isinstance(data, np.ndarray) and hasattr(model, "output_shape"):
        data = in_tiles(model, Split(data, np.zeros((len(data), *data.shape[2:]), np.uint8))).images
    count = len(data) if isinstance(data, (np.ndarray, StreamedImages, Tensor)) else BN_IMAGES
    device = model_device(model)
    with kept_training(model), ExitStack() as hooks:
        model.eval()
        try:
            for norm in norms:
                hooks.enter_context(norm.register_forward_pre_hook(weigh))
                norm.train()
            for batch in as_samples(data).mixed(count, batch_size):
                called(model, to_device(batch, device))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
                if values[norm] and norm.num_batches_tracked is not None:
                    norm.num_batches_tracked.zero_()  # not the statistics of training batches


def trained_norms(model: nn.Module) -> list[Any]:
    """The BatchNorm layers whose statistics training changes; `train()` of a model may keep some in eval mode."""
    with kept_training(model):
        model.train()
        return [norm for norm in batch_norms(model) if norm.training and norm.momentum != 0]


def parse_weights(weights: str) -> tuple[str, int]:
    """("sample", N) for "ensemble:N", (weights, 1) for the other test modes."""
    if match := re.fullmatch(r"ensemble:([1-9]\d*)", weights):
        return "sample", int(match[1])
    if weights not in ("latent", "binary", "mean", "sample", "real", "packed"):
        raise UsageError(f"weights: got {weights!r}, expected latent, binary, mean, sample or ensemble:N")
    return weights, 1


def stated_mode(model: nn.Module, weights: str, bn: str = "auto") -> tuple[str, str]:
    """The test mode and the BatchNorm statistics to use.

    Without binary layers, the mode is "packed" for a `PackedModule` or a net with packed layers, "real" for others.

    Args:
        bn: "auto" means "reestimate" for modes that a net with BatchNorm was not trained in. Its statistics belong to
            the binary weights, unless a custom loop trained it with other weights.
    """
    parse_weights(weights)
    read(bn, Literal["auto", "trained", "reestimate"], name="bn")
    trained = weights == "binary" and not has_other_statistics(model)
    if not any(binary_layers(model)):
        packed = any(getattr(module, "holds_bits", False) for module in model.modules())
        weights, trained = "packed" if packed else "real", True
        if not packed:
            refuse_latents(model)
    if bn == "auto":
        bn = "trained" if trained or not batch_norms(model) else "reestimate"
    return weights, bn


@dataclass(frozen=True)
class Mode:
    """A test mode, and the training data for its BatchNorm statistics; see `evaluate`."""

    weights: str = "binary"
    bn: str = "auto"
    seed: int = 0
    train: Any = None


@torch.no_grad()
def mode_outputs(
    model: nn.Module,
    samples: Samples,
    mode: Mode,
    *,
    batch_size: int | None = None,
    on_images: OnImages | None = None,
    task: str | None = "classification",
) -> tuple[Any, Any]:
    """Outputs in a test mode, and the targets or None.

    The mean prediction of an ensemble is returned as outputs: log-probabilities of classes, logits of the mean
    probabilities of several labels, the mean outputs of a regression.

    Args:
        task: see `onebit.evaluation.loss_table`; None for a classification.
        batch_size, on_images: see `evaluate`.
    """
    train = mode.train
    weights, bn = stated_mode(model, mode.weights, mode.bn)
    drawn, draws = parse_weights(weights)
    if bn == "reestimate" and train is None:
        raise UsageError(f"BatchNorm statistics for {weights} weights need training data, or bn='trained'")
    generator = torch.Generator(model_device(model)).manual_seed(mode.seed)
    mean, targets, kind = torch.zeros(()), None, task or "classification"
    for draw in range(draws):

        def done(now: int, total: int, draw: int = draw) -> None:
            if on_images is not None:
                on_images(draw * total + now, draws * total)

        exact = autocast("fp32", model_device(model))  # also within an autocast of the caller
        norms = kept_buffers(batch_norms(model))
        with _ONE_AT_A_TIME, exact, norms, fixed_weights(model, drawn, generator=generator):
            if bn == "reestimate":
                whole = train if isinstance(train, (Dataset, Split)) else as_samples(train)
                reestimate_batch_norm_(model, whole, batch_size=batch_size)
            outputs, found = outputs_of(model, samples, batch_size=batch_size, on_images=done, task=task)
            unused = [name for name, layer in binary_layers(model) if not layer.fixed_used]
        if unused and draw == 0 and drawn != "latent":  # the model may have read the latents
            warnings.warn(f"{', '.join(unused)} not called: the score may be that of real weights", stacklevel=3)
        if draws == 1:
            return outputs, found
        if draw and found is not None and not all(map(torch.equal, leaves(targets), leaves(found))):
            raise DataError(f"{samples.name}: the order of samples changes between the draws of an ensemble")
        targets = found
        mean = mean + prediction_of(outputs.double(), kind) / draws
    return _outputs_of(mean, kind).float(), targets


def prediction_of(outputs: Tensor, task: str | None) -> Tensor:
    """Probabilities of the classes, of each label, or of each token from its cost; the outputs of other tasks."""
    if task == "classification":
        return outputs.softmax(dim=1)
    if task == "language":
        return (-outputs).exp()
    return outputs.sigmoid() if task == "multi-label" else outputs


def _outputs_of(prediction: Tensor, task: str) -> Tensor:
    """The outputs of a net with this prediction."""
    if task == "classification":
        return prediction.log()
    if task == "language":
        return -prediction.log()
    return prediction.logit(eps=1e-15) if task == "multi-label" else prediction


def scored_loss(weights: str, loss: str | Loss) -> str | Loss:
    """The loss to state for a test mode: mean probabilities have no margins."""
    averaged = parse_weights(weights)[1] > 1 and task_of(loss) in ("classification", None)
    return "cross_entropy" if averaged else loss


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Any,
    *,
    weights: str = "binary",
    train: Any = None,
    bn: str = "auto",
    loss: str | Loss = "cross_entropy",
    metric: Any = None,
    ignore_index: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    on_images: OnImages | None = None,
    verbose: bool | None = None,
) -> Score:
    """Loss and metrics in a test mode, in float32.

    A classification also has accuracy, entropy, calibration, and the accuracy, F1 and confusions of each class.

    Threads take turns; none may train the model meanwhile.

    Args:
        data: a DataLoader, a torch Dataset, a pair (inputs, targets) of arrays or tensors, a `Split`, or a `Dataset`,
            whose test split is evaluated. Samples are read in order, also those of a shuffling loader.
        weights: "latent", "binary", "mean" (of the distribution that a Bayesian net learned), "sample" (one draw),
            "ensemble:N" (mean prediction of N draws); without binary layers, the score has "real" or "packed".
        train: training data of any form, to re-estimate BatchNorm statistics; of a `Dataset` its training split.
        bn: "trained", "reestimate", or "auto": re-estimate for modes that the net was not trained in.
        loss: name or function (outputs, targets) -> scalar; the name decides the task, see
            `onebit.evaluation.loss_table`.
        metric: name, function (outputs, targets) -> float, or several; see `onebit.evaluation.metrics`.
        ignore_index: samples with this label do not count.
        seed: of the random draws.
        batch_size: of arrays and torch Datasets; a loader has its own.
        on_images: called with (images done, images), over all draws.
        verbose: whether to show a progress bar on a terminal; by default unless `on_images` is given.

    Raises:
        UsageError: unknown mode, no samples, a quantizer without a draw or a mean, `reestimate` without `train`, or
            targets that do not fit the loss; WrongTypeError: not a model.
        DataError: inputs or outputs that are not finite, or no targets.

    Example:
        >>> evaluate(model, data.test, weights="binary").accuracy  # doctest: +SKIP
        0.9783
    """
    data = data.test if isinstance(data, Dataset) else data
    data = in_tiles(model, data)
    task = task_of(loss)
    known = getattr(model, "class_names", None)
    samples = as_samples(with_tokens(data, task), batch_size=batch_size, classes=known)
    weights, bn = stated_mode(model, weights, bn)
    loss = with_options(loss, ignore_index=ignore_index)
    metrics = chosen_metrics(metric, task)
    with progress("evaluating", "rows" if task == "language" else "images", on_images, verbose=verbose) as bar:
        mode = Mode(weights, bn, seed, train)
        outputs, targets = mode_outputs(model, samples, mode, batch_size=batch_size, on_images=bar.update, task=task)
    if targets is None:
        raise DataError(f"{samples.name}: no targets")
    named = len(samples.classes)
    if named and (task not in ("classification", None) or named != outputs.shape[1]):
        of = f"outputs {tuple(outputs.shape)} of a {task or 'classification'}"
        raise UsageError(f"got the names of {named} classes as targets for {of}")
    loss = with_options(scored_loss(weights, loss), ignore_index=ignored_label(loss))
    score = score_outputs(outputs, targets, loss=loss, metrics=metrics, weights=weights, bn=bn)
    # in an ensemble, the log-probability of a class may be -inf
    if not math.isfinite(score.loss) and parse_weights(weights)[1] == 1:
        raise DataError(f"the loss is {score.loss}")
    return score
