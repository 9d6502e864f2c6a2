"""Accuracy in a test mode: which weights, and which BatchNorm statistics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from onebit.common.arguments import check_number, need
from onebit.data import Images, Split, StreamedImages, check_split
from onebit.errors import UsageError
from onebit.evaluation.batches import OnImages, image_batches, images_done, in_tiles, predict_logits
from onebit.evaluation.losses import Loss
from onebit.evaluation.model_inputs import check_own_shape, explained, kept_training, model_device
from onebit.evaluation.scores import Score, score_logits
from onebit.layers import LatentWeight, binary_layers, check_model
from onebit.runtime.torch_module import PackedModule

BN_IMAGES = 10_000
"""Number of training images that re-estimate BatchNorm statistics."""
MOST_DRAWS = 1_000_000
"""Largest N of "ensemble:N"."""
WITHOUT_BINARY_LAYERS = ("real", "packed")
"""Test modes of nets without binary layers."""


def is_trained_mode(model: nn.Module, weights: str) -> bool:
    """Whether the BatchNorm statistics after `fit` belong to the weights of this test mode.

    They belong to the binary weights: for a net trained on random draws, `fit` re-estimates them at the end.
    """
    # fixed_weights refuses "real" and "packed" for a net with binary layers
    return weights in ("binary", *WITHOUT_BINARY_LAYERS) or not any(True for _ in binary_layers(model))


@contextmanager
def fixed_weights(model: nn.Module, weights: str, *, generator: torch.Generator | None = None) -> Iterator[None]:
    """Within the context every binary layer uses the weights of one test mode.

    Args:
        weights: "latent", "binary", "mean" (of the distribution that a Bayesian net learned) or "sample" (one draw);
            a net without binary layers accepts any mode.

    Raises:
        UsageError: unknown mode, or a quantizer without a random draw or a mean.
    """
    layers = list(binary_layers(model))
    try:
        for name, layer in layers:
            layer.fixed_weight = _mode_weight(layer, weights, generator)
            if layer.fixed_weight is None:
                lacking = "random draw" if weights == "sample" else "mean weights: only Bayesian nets have them"
                quantizer = type(layer.weight_quantizer).__name__
                raise UsageError(f"layer {name!r}: {quantizer} has no {lacking}; use --weights binary")
        yield
    finally:
        for _, layer in layers:
            layer.fixed_weight = None


def _mode_weight(layer: LatentWeight, weights: str, generator: torch.Generator | None) -> Tensor | None:
    """The weight of a layer in a test mode; None if its quantizer does not define it."""
    if weights == "latent":
        return layer.weight.detach()
    if weights == "mean":
        mean = getattr(layer.weight_quantizer, "mean", None)
        return None if mean is None else layer.own_layout(mean(layer.outputs_first(layer.weight.detach())))
    if weights not in ("binary", "sample"):
        raise _no_mode(weights)
    parts = layer.binary_weight() if weights == "binary" else layer.sample_weight(generator=generator)
    return None if parts is None else layer.dense(parts)


def _batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    kind = nn.modules.batchnorm._BatchNorm
    return [m for m in model.modules() if isinstance(m, kind) and m.track_running_stats]


@torch.no_grad()
def reestimate_batch_norm_(
    model: nn.Module,
    images: Images | StreamedImages | Tensor,
    *,
    batch_size: int | None = None,
    autocast: AbstractContextManager | None = None,
) -> None:
    """Replace the BatchNorm statistics by the mean of the batch statistics of `images` with the current weights.

    Images are often sorted by class, and a batch of one class lacks the variance between classes. Each batch is
    therefore drawn from all of `images`, with a fixed seed.

    Args:
        images: uint8 (N, C, H, W).
        batch_size: `fitting_batch` by default.
        autocast: precision context of the forward passes.
    """
    norms = _batch_norms(model)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    if isinstance(images, np.ndarray):
        images = in_tiles(model, Split(images, np.zeros((len(images), *images.shape[2:]), np.uint8))).images
    with kept_training(model):
        model.eval()
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch then takes the plain mean over batches
                norm.train()
            with autocast or nullcontext():
                for batch in image_batches(model, images, batch_size, mixed=True):
                    model(batch)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


@contextmanager
def kept_batch_norm(model: nn.Module) -> Iterator[None]:
    """Restore the BatchNorm statistics at the end of the context."""
    kept = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in _batch_norms(model)]
    try:
        yield
    finally:
        for norm, buffers in zip(_batch_norms(model), kept, strict=True):
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])


def bn_images(train: Split) -> Images | StreamedImages:
    """BN_IMAGES training images that re-estimate BatchNorm, evenly spread over the split."""
    return train.spread(BN_IMAGES).images


def parse_weights(weights: str) -> tuple[str, int]:
    """("sample", N) for "ensemble:N", (weights, 1) for the other test modes.

    Raises:
        UsageError: not a test mode.
    """
    match = re.fullmatch(r"ensemble:(\d{1,7})", weights) if isinstance(weights, str) else None
    if match and 0 < int(match[1]) <= MOST_DRAWS:
        return "sample", int(match[1])
    if weights not in ("latent", "binary", "mean", "sample", *WITHOUT_BINARY_LAYERS):
        raise _no_mode(weights)
    return weights, 1


def _no_mode(weights: str) -> UsageError:
    modes = f"latent, binary, mean, sample or ensemble:N with N up to {MOST_DRAWS:,}"
    return UsageError(f"weights must be {modes}, got {weights!r}")


def stated_mode(model: nn.Module, weights: str, bn: str = "auto") -> tuple[str, str]:
    """The test mode and the BatchNorm statistics to use.

    Without binary layers, the mode is "packed" for a `PackedModule` and "real" for any other net.

    Args:
        bn: "auto" means "reestimate" for modes that the net was not trained in.

    Raises:
        UsageError: not a test mode, or unknown `bn`.
    """
    parse_weights(weights)
    if not any(True for _ in binary_layers(model)):
        packed = any(isinstance(module, PackedModule) for module in model.modules())
        weights = "packed" if packed else "real"
    need("bn", bn, bn in ("auto", "trained", "reestimate"), "auto, trained or reestimate")
    if bn == "auto":
        bn = "trained" if is_trained_mode(model, weights) else "reestimate"
    return weights, bn


@torch.no_grad()
def mode_logits(
    model: nn.Module,
    images: Images | StreamedImages | Tensor,
    *,
    weights: str = "binary",
    train: Split | None = None,
    bn: str = "auto",
    seed: int = 0,
    batch_size: int | None = None,
    on_images: OnImages | None = None,
) -> Tensor:
    """Logits (N, classes) in a test mode; for an ensemble, the logarithms of its mean probabilities.

    Args:
        images: uint8 (N, C, H, W).
        Remaining arguments: see `evaluate`.

    Raises:
        UsageError: unknown mode, a quantizer without a draw or a mean, or `reestimate` without `train`.
    """
    weights, bn = stated_mode(model, weights, bn)
    mode, draws = parse_weights(weights)
    if bn == "reestimate" and train is None:
        raise UsageError(
            f"re-estimating BatchNorm for {weights} weights needs the training images: "
            "pass train=data.train, or bn='trained' to keep the statistics"
        )
    generator = torch.Generator(model_device(model)).manual_seed(seed)
    mean = torch.zeros(())
    for draw in range(draws):

        def done(count: int, _: int, before: int = draw * len(images)) -> None:
            if on_images is not None:
                on_images(before + count, draws * len(images))

        with fixed_weights(model, mode, generator=generator), kept_batch_norm(model):
            if bn == "reestimate" and train is not None:
                reestimate_batch_norm_(model, bn_images(train), batch_size=batch_size)
            logits = predict_logits(model, images, batch_size=batch_size, on_images=done)
        if draws == 1:
            return logits
        mean = mean + logits.double().softmax(dim=1) / draws
    return mean.log().float()


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    *,
    weights: str = "binary",
    train: Split | None = None,
    bn: str = "auto",
    loss: str | Loss = "cross_entropy",
    seed: int = 0,
    batch_size: int | None = None,
    on_images: OnImages | None = None,
    verbose: bool | None = None,
) -> Score:
    """Accuracy, error, loss, predictive entropy and calibration on a split in a test mode, in float32.

    Args:
        weights: "latent", "binary", "mean" (of the distribution that a Bayesian net learned), "sample" (one draw),
            "ensemble:N" (mean softmax of N draws); without binary layers, the score says "real", or "packed" for a
            `PackedModule`.
        train: training split, needed to re-estimate BatchNorm statistics.
        bn: "trained", "reestimate", or "auto": re-estimate for modes that the net was not trained in.
        seed: of the random draws.
        on_images: called with (images done, images), over all draws.
        verbose: whether to show a progress bar on a terminal; by default it is shown unless `on_images` is given.

    Raises:
        UsageError: unknown mode, empty split, a quantizer without a draw or a mean, `reestimate` without `train`, or
            images that the model does not take; WrongTypeError: not a model or not a split.

    Example:
        >>> evaluate(model, data.test, weights="binary").accuracy  # doctest: +SKIP
        0.9783
    """
    check_model(model)
    check_split(split)
    if len(split) == 0:
        raise UsageError("the split is empty: there are no images to evaluate")
    split = in_tiles(model, split)
    check_own_shape(model, split.images.shape[1:])
    check_number("seed", seed, whole=True, least=0)
    weights, bn = stated_mode(model, weights, bn)
    with images_done(verbose, on_images) as done, explained(model, split.images.shape[1:]):
        logits = mode_logits(
            model, split.images, weights=weights, train=train, bn=bn, seed=seed, batch_size=batch_size, on_images=done
        )
    # a mean of probabilities has no margins: its loss is the cross-entropy, whatever the training loss
    loss = "cross_entropy" if parse_weights(weights)[1] > 1 else loss
    labels = torch.from_numpy(split.labels).to(logits.device)
    return score_logits(logits, labels, loss=loss, weights=weights, bn=bn)
