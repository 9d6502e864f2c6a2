"""Accuracy in a stated test mode: which weights, and whose BatchNorm statistics."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onebit.common.arguments import check_number
from onebit.common.progress import progress, shows_progress
from onebit.data import Images, Split, StreamedImages, check_split, fitted, read_batches
from onebit.errors import UsageError
from onebit.evaluation.losses import Loss
from onebit.evaluation.model_inputs import check_own_shape, explained, model_device
from onebit.evaluation.scores import Score, score_logits
from onebit.layers import binary_layers, check_model
from onebit.runtime.torch_module import PackedModule

OnImages = Callable[[int, int], None]

BN_IMAGES = 10_000
"""How many training images re-estimate the BatchNorm statistics."""


def batch_bounds(count: int, batch_size: int, *, least: int = 2) -> list[tuple[int, int]]:
    """(start, stop) of every batch; all samples are used, and a last batch below `least` joins the batch before it.

    BatchNorm cannot train on a single sample.

    Raises:
        UsageError: a batch size below 1.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size must be 1 or more, got {batch_size}")
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] < least:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=False))  # without samples there is no batch


def is_trained_mode(model: nn.Module, weights: str) -> bool:
    """Whether the BatchNorm statistics that `fit` leaves belong to the weights of this test mode.

    They belong to the signs that ship: at its end `fit` re-estimates those of a net that was trained on random draws.
    """
    # "real" of a net with binary layers is refused by fixed_weights
    return weights in ("binary", "real") or not any(True for _ in binary_layers(model))


@contextmanager
def fixed_weights(model: nn.Module, weights: str, *, generator: torch.Generator | None = None) -> Iterator[None]:
    """Within the context every binary layer multiplies with the weights of one test mode.

    Args:
        weights: "latent", "binary", "mean" (of the distribution that a Bayesian net has learnt), "sample" (one draw),
            or "real" for a net without binary layers.

    Raises:
        UsageError: unknown mode, "real" for a net with binary layers, or a quantizer that defines no random draw or no
            mean.
    """
    layers = list(binary_layers(model))
    try:
        for name, layer in layers:
            if weights == "latent":
                layer.fixed_weight = layer.weight.detach()
            elif weights == "binary":
                layer.fixed_weight = layer.dense(layer.binary_weight())
            elif weights == "mean":
                mean = getattr(layer.weight_quantizer, "mean", None)
                if mean is None:
                    raise UsageError(
                        f"layer {name!r}: {type(layer.weight_quantizer).__name__} has no mean weights, which are those "
                        "of a Bayesian net; use --weights binary"
                    )
                layer.fixed_weight = layer.own_layout(mean(layer.outputs_first(layer.weight.detach())))
            elif weights == "sample":
                draw = layer.sample_weight(generator=generator)
                if draw is None:
                    raise UsageError(
                        f"layer {name!r}: {type(layer.weight_quantizer).__name__} defines no random draw; "
                        "use --weights binary"
                    )
                layer.fixed_weight = layer.dense(draw)
            else:
                raise _no_mode(weights)
        yield
    finally:
        for _, layer in layers:
            layer.fixed_weight = None


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
    """Replace the BatchNorm statistics by the mean of the batch statistics of `images` with the present weights.

    Images are often sorted by class, and a batch of one class lacks the variance between classes: each batch is drawn
    from all of `images`, always the same ones.

    Args:
        images: uint8 (N, C, H, W).
        batch_size: images at a time; `fitting_batch` when None.
        autocast: precision context of the forward passes.
    """
    norms, momenta = _batch_norms(model), [norm.momentum for norm in _batch_norms(model)]
    was_training = model.training
    if isinstance(images, np.ndarray):
        images = in_tiles(model, Split(images, np.zeros((len(images), *images.shape[2:]), np.uint8))).images
    model.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's way to ask for a plain mean over batches
            norm.train()
        with autocast or nullcontext():
            for batch in image_batches(model, images, batch_size, mixed=True) if norms else []:
                model(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(was_training)


@contextmanager
def kept_batch_norm(model: nn.Module) -> Iterator[None]:
    """On leaving, BatchNorm statistics are what they were on entering."""
    kept = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in _batch_norms(model)]
    try:
        yield
    finally:
        for norm, buffers in zip(_batch_norms(model), kept, strict=True):
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])


def bn_images(train: Split) -> Images | StreamedImages:
    """The training images that re-estimate BatchNorm: BN_IMAGES of them, evenly spread over the split."""
    return train.spread(BN_IMAGES).images


def fitting_batch(shape: Sequence[int]) -> int:
    """How many images (C, H, W) a net is given at a time when nothing is learnt: 1,000 of 3×32×32, 20 of 3×224×224."""
    return min(1000, max(1, 1000 * 3 * 32 * 32 // math.prod(shape)))


def image_batches(
    model: nn.Module,
    images: Images | StreamedImages | Tensor,
    batch_size: int | None = None,
    *,
    mixed: bool = False,
) -> Iterator[Tensor]:
    """uint8 batches on the device of the model; `fitting_batch` images each when no size is given.

    Args:
        mixed: each batch is drawn from all images, with a fixed seed, instead of those that follow each other.
    """
    device = model_device(model)
    size = fitting_batch(images.shape[1:]) if batch_size is None else batch_size
    bounds = batch_bounds(len(images), size)
    indices: list[Any] = [slice(start, stop) for start, stop in bounds]
    if mixed:
        order = np.random.default_rng(0).permutation(len(images))
        indices = [np.sort(order[index]) for index in indices]  # sorted: a file is read from front to back
    if isinstance(images, Tensor):
        yield from (images[index].to(device) for index in indices)
    else:
        for batch in read_batches(images, indices):
            yield torch.from_numpy(np.ascontiguousarray(batch)).to(device)


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    images: Images | StreamedImages | Tensor,
    *,
    batch_size: int | None = None,
    on_images: OnImages | None = None,
) -> Tensor:
    """Logits (N, classes) in float32 in eval mode.

    Args:
        images: uint8 (N, C, H, W).
        batch_size: images at a time; `fitting_batch` when None.
        on_images: called with (images done, images).
    """
    was_training = model.training
    model.eval()
    parts: list[Tensor] = []
    done = 0
    for batch in image_batches(model, images, batch_size):
        parts.append(model(batch).float())
        done += len(batch)
        if on_images is not None:
            on_images(done, len(images))
    model.train(was_training)
    return torch.cat(parts)


def in_tiles(model: nn.Module, split: Split) -> Split:
    """A split of images with masks in tiles that the model takes, see `onebit.data.fitted`; any other split itself."""
    taken, made = (getattr(model, name, None) for name in ("input_shape", "output_shape"))
    return split if split.labels.ndim == 1 or taken is None or made is None else fitted(split, taken, made)


MOST_DRAWS = 1_000_000
"""Of an ensemble."""


def parse_weights(weights: str) -> tuple[str, int]:
    """("sample", N) for "ensemble:N", (weights, 1) for the other test modes.

    Raises:
        UsageError: not a test mode.
    """
    match = re.fullmatch(r"ensemble:(\d{1,7})", weights) if isinstance(weights, str) else None
    if match and 0 < int(match[1]) <= MOST_DRAWS:
        return "sample", int(match[1])
    if weights not in ("latent", "binary", "mean", "sample", "real"):
        raise _no_mode(weights)
    return weights, 1


def _no_mode(weights: str) -> UsageError:
    modes = f"latent, binary, mean, sample or ensemble:N with N up to {MOST_DRAWS:,}"
    return UsageError(f"weights must be {modes}, got {weights!r}")


def stated_mode(model: nn.Module, weights: str, bn: str = "auto") -> tuple[str, str]:
    """The test mode and whose BatchNorm statistics go with it: a net without binary layers is evaluated as "real".

    Args:
        bn: "auto" is "reestimate" for modes that were not trained in.

    Raises:
        UsageError: not a test mode, or another `bn`.
    """
    parse_weights(weights)
    if not any(True for _ in binary_layers(model)):
        weights = "real"
    if bn not in ("auto", "trained", "reestimate"):
        raise UsageError(f"bn must be auto, trained or reestimate, got {bn!r}")
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
    """Logits (N, classes) in a stated test mode; those of an ensemble are the logarithms of its mean probabilities.

    Args:
        images: uint8 (N, C, H, W). The rest as `evaluate`, which see.

    Raises:
        UsageError: unknown mode, a quantizer without a draw or a mean, or `reestimate` without `train`.
    """
    weights, bn = stated_mode(model, weights, bn)
    mode, draws = parse_weights(weights)
    if bn == "reestimate" and train is None:
        raise UsageError(
            f"BatchNorm of {weights} weights is re-estimated, which needs the training images: "
            "pass train=data.train, or bn='trained' for the statistics as they are"
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


@contextmanager
def images_done(verbose: bool | None, on_images: OnImages | None) -> Iterator[OnImages | None]:
    """What is to be called with (images done, images): a bar, where one should be shown, and `on_images`."""
    if not shows_progress(verbose, on_images):
        yield on_images
        return
    with progress("evaluating", "images") as bar:

        def done(count: int, total: int) -> None:
            bar.update(count, total)
            if on_images is not None:
                on_images(count, total)

        yield done


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
    """Accuracy, error, loss, predictive entropy and calibration on a split in a stated test mode, in float32.

    Args:
        weights: "latent", "binary", "mean" (of the distribution that a Bayesian net has learnt), "sample" (one draw),
            "ensemble:N" (mean softmax of N draws). A `PackedModule` is evaluated as "packed", any other net without
            binary layers as "real".
        train: training split, needed where BatchNorm statistics are re-estimated.
        bn: "trained", "reestimate", or "auto": re-estimate for modes that were not trained in.
        seed: of the draws.
        on_images: called with (images done, images), over all draws.
        verbose: whether to show a bar on a terminal; by default unless `on_images` is given.

    Raises:
        UsageError: unknown mode, empty split, a quantizer without a draw or a mean, `reestimate` without `train`, or
            images that the model does not take; WrongTypeError for a model or a split of another type.

    Example:
        >>> evaluate(model, data.test, weights="binary").accuracy  # doctest: +SKIP
        0.9783
    """
    check_model(model)
    check_split(split)
    if len(split) == 0:
        raise UsageError("there are no images to evaluate: the split is empty")
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
    if weights == "real" and any(isinstance(module, PackedModule) for module in model.modules()):
        weights = "packed"
    return score_logits(logits, labels, loss=loss, weights=weights, bn=bn)
