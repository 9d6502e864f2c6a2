"""Losses: (outputs, targets) -> scalar mean.

A classification takes logits (N, classes) and integer labels (N,), or masks, with the mean over all pixels; regression
and several labels per sample take float targets of the shape of the outputs.

A language model takes logits (N, T, V) and its own inputs as targets, see `token_costs`.

Every loss of a classification has two more arguments, which `functools.partial` binds. `class_weights`, a number w for
each class, multiplies what its samples cost: the loss is Σ w·ℓ/N, so that the parts of a batch add up to the batch;
torch divides by Σ w. Samples with the label `ignore_index` do not count, nor do they as correct or wrong predictions,
and neither do pixels of the label 255 and tokens (N, T) of the label −100.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onebit.common.tables import resolve
from onebit.data import VOID
from onebit.data.mask_scores import check_mask_classes
from onebit.errors import UsageError
from onebit.evaluation.loss_table import LOSSES as LOSSES

PADDING = -100
"""The label of a token that does not count, as in torch and transformers."""
_NEVER = {2: PADDING, 3: VOID}
"""Axes of labels -> the label that never counts."""
Loss = Callable[[Any, Any], Tensor]
"""(outputs, targets) -> scalar mean over samples; both are tensors, or tuples or dicts of tensors."""


def _of_known(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The mean of a loss over the samples of `per_sample`; without samples (a crop of `VOID` pixels) it is 0."""

    @functools.wraps(loss)
    def of_known(
        logits: Tensor,
        labels: Tensor,
        *,
        class_weights: Sequence[float] | None = None,
        ignore_index: int | None = None,
        **options: float,
    ) -> Tensor:
        soft = labels if labels.is_floating_point() else None
        logits, labels = per_sample(logits, labels, ignore_index)
        if class_weights is not None and len(class_weights) != logits.shape[1]:
            raise UsageError(f"class_weights: got {len(class_weights)} numbers for {logits.shape[1]} classes")
        weights = None if class_weights is None else logits.new_tensor(class_weights)
        if not len(labels):
            return logits.sum()
        return loss(logits, labels if soft is None else soft.to(logits.dtype), weights, **options).mean()

    del of_known.__wrapped__  # whose arguments differ
    return of_known


def with_options(loss: str | Loss, **options: Any) -> Loss:
    """A loss by name or function, with these options unless they are None."""
    found: Loss = resolve(LOSSES, loss, kind="loss")
    given = {name: value for name, value in options.items() if value is not None}
    return functools.partial(found, **given) if given else found


def ignored_label(loss: Any) -> int | None:
    """The `ignore_index` of a loss from `with_options`."""
    return getattr(loss, "keywords", {}).get("ignore_index")


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """max(0, 1 − t·y) with t = ±1 one-hot, (M, classes)."""
    if labels.is_floating_point():
        raise UsageError("a hinge loss takes labels, not probabilities of classes")
    targets = torch.full_like(logits, -1.0).scatter_(1, labels.unsqueeze(1), 1.0)
    return F.relu(1 - targets * logits)


def _weighted(costs: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    return costs if weights is None else costs * weights[labels].unsqueeze(1)


@_of_known
def squared_hinge(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """mean(max(0, 1 − t·y)²) over samples and classes, t = ±1 one-hot (BinaryConnect, arXiv:1511.00363, section 3.1).

    Args:
        logits: (N, classes); labels: (N,) integers.
    """
    return _weighted(_margins(logits, labels).square(), labels, weights)


@_of_known
def hinge(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """mean(max(0, 1 − t·y)), otherwise as `squared_hinge`."""
    return _weighted(_margins(logits, labels), labels, weights)


@_of_known
def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean negative log-likelihood of softmax(logits).

    Args:
        logits: (N, classes); labels: (N,) integers, or probabilities of the classes (N, classes).
        label_smoothing: share of the target that is divided evenly among the classes.
    """
    how = "mean" if weights is None else "none"  # torch would divide by the sum of weights
    return F.cross_entropy(logits, labels, weights, reduction=how, label_smoothing=label_smoothing)


@_of_known
def iou(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """1 − mean over classes of the soft Jaccard index Σp·t / Σ(p + t − p·t), p = softmax(logits), t one-hot.

    The sums are over all samples (usually pixels), so rare and frequent classes weigh the same; the mean is weighted
    by `class_weights`.

    Args:
        logits: (N, classes); labels: (N,) integers.

    Source: Rahman and Wang 2016 (doi:10.1007/978-3-319-50835-1_22), section 3, for one class.
    """
    probabilities = logits.softmax(dim=1)
    targets = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1]).to(probabilities.dtype)
    both = (probabilities * targets).sum(dim=0)
    either = probabilities.sum(dim=0) + targets.sum(dim=0) - both
    index = both / either
    return 1 - (index.mean() if weights is None else (weights * index).sum() / weights.sum())


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """mean((y − t)²).

    Args:
        outputs, targets: of one shape, (N, …); (N,) and (N, 1) are the same.
    """
    return F.mse_loss(*paired(outputs, targets))


def mae(outputs: Tensor, targets: Tensor) -> Tensor:
    """mean(|y − t|); the shapes of `mse`."""
    return F.l1_loss(*paired(outputs, targets))


def huber(outputs: Tensor, targets: Tensor, *, delta: float = 1.0) -> Tensor:
    """Mean of e²/2 where |e| ≤ delta and delta·(|e| − delta/2) elsewhere, e = y − t; the shapes of `mse`.

    Source: Huber 1964 (doi:10.1214/aoms/1177703732).
    """
    return F.huber_loss(*paired(outputs, targets), delta=delta)


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoid(logits), mean over samples and labels.

    Args:
        logits, targets: (N, K); targets in [0, 1].
    """
    return F.binary_cross_entropy_with_logits(*paired(logits, targets))


def next_token(outputs: Any, tokens: Tensor) -> Tensor:
    """Mean of −ln p(token | tokens before it), see `token_costs`."""
    return mean_cost(token_costs(outputs, tokens)[0])


def mean_cost(costs: Tensor) -> Tensor:
    """The mean of costs (M,); without tokens that count it is 0, as of a loss without samples."""
    return costs.sum() / max(1, len(costs))


def token_costs(outputs: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """−ln p(token | tokens before it) of a language model, for all tokens but the first of each row.

    Args:
        outputs: logits (N, T, V), or a dict that holds them as "logits"; those at t are for the token at t + 1.
        tokens: (N, T) integers, the inputs; negative ones (transformers has −100) do not count.

    Returns:
        The costs (M,) and the tokens (M,) that count.
    """
    logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs
    if tokens.dim() != 2 or logits.shape[:-1] != tokens.shape or tokens.is_floating_point():
        got = f"outputs {tuple(logits.shape)} and {tokens.dtype} tokens {tuple(tokens.shape)}"
        raise UsageError(f"next_token: got {got}, expected (N, T, V) and integers (N, T)")
    following = _following(tokens)
    known = following >= 0
    costs = F.cross_entropy(logits.flatten(0, 1), following.clamp(min=0), reduction="none")
    return costs[known], following[known]


def _following(tokens: Tensor) -> Tensor:
    """The token that follows each of (N, T), -1 at the end of a row: (N·T,).

    It shifts the tokens, as a copy of logits is large.
    """
    return F.pad(tokens[:, 1:], (0, 1), value=-1).flatten()


def distillation(logits: Tensor, taught: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T²·mean over samples of KL(q ‖ p), q = softmax(taught/T), p = softmax(logits/T); ReActNet's loss at T = 1.

    T² keeps the size of the gradient (Hinton, Vinyals and Dean, arXiv:1503.02531, section 2).

    Args:
        logits: of the student, (N, classes), or (N, classes, H, W) for masks.
        taught: of its teacher, the same shape.
        temperature: T.

    Raises:
        UsageError: other shapes, which torch might broadcast.

    Source: the distributional loss of ReActNet, arXiv:2003.03488.
    """
    return _divergences(logits, taught, temperature).mean()


def token_distillation(logits: Tensor, taught: Tensor, tokens: Tensor, *, temperature: float = 1.0) -> Tensor:
    """`distillation` of a language model: the mean over the tokens that count in `token_costs`.

    Args:
        logits, taught: (N, T, V). tokens: (N, T), the inputs.
    """
    divergences = _divergences(logits.flatten(0, 1), taught.flatten(0, 1), temperature)
    return mean_cost(divergences[_following(tokens) >= 0])


def _divergences(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T²·KL(q ‖ p) of each sample."""
    if logits.shape != taught.shape:
        raise UsageError(f"teacher: got predictions {tuple(taught.shape)}, expected {tuple(logits.shape)}")
    log_p, log_q = ((x / temperature).log_softmax(dim=1) for x in (logits, taught))
    return temperature**2 * (log_q.exp() * (log_q - log_p)).sum(dim=1)


def per_sample(logits: Tensor, labels: Tensor, ignore_index: int | None = None) -> tuple[Tensor, Tensor]:
    """Logits and labels as every loss takes them; for masks, each pixel is a sample.

    Args:
        logits: (N, classes), or (N, classes, h, w), or (N, classes, T) for a sequence.
        labels: (N,), or masks (N, H, W), which are cropped to the center h×w and lose their `VOID` pixels, or (N, T),
            which lose their `PADDING`; or probabilities of the classes (N, classes), of which the largest counts.
        ignore_index: samples with this label are left out.

    Returns:
        (M, classes) and (M,) int64.
    """
    if labels.is_floating_point() and labels.dim() == 2 and labels.shape == logits.shape:
        if not bool(((labels.sum(dim=1) - 1).abs() < 1e-2).all()):  # such as several labels per sample
            raise UsageError("classification: got targets that are no probabilities of classes: they do not sum to 1")
        return logits, labels.argmax(dim=1)
    if labels.is_floating_point() or labels.dim() not in (1, 2, 3) or logits.dim() != labels.dim() + 1:
        got = f"outputs {tuple(logits.shape)} and {labels.dtype} targets {tuple(labels.shape)}"
        raise UsageError(f"classification: got {got}, expected logits (N, classes) and labels (N,), or masks (N, H, W)")
    if labels.dim() == 3:
        check_mask_classes(logits.shape[1])
        labels = _center(labels, logits)
    logits, known = logits.movedim(1, -1).flatten(0, -2), known_of(labels, ignore_index)
    labels = labels.flatten()
    if known is not None and not bool(known.all()):
        logits, labels = logits[known], labels[known]
    return logits, labels.long()


def known_of(labels: Tensor, ignore_index: int | None) -> Tensor | None:
    """Which of the labels (N,), (N, T) or (N, H, W) count, (M,); None for all."""
    ignored = [label for label in (_NEVER.get(labels.dim()), ignore_index) if label is not None]
    return torch.stack([labels.flatten() != label for label in ignored]).all(dim=0) if ignored else None


def check_labels(labels: Tensor, classes: int, ignore_index: int | None = None) -> None:
    """Refuse labels that are no class: torch has an IndexError for them, and on a GPU the process ends."""
    if labels.is_floating_point() or labels.dtype is torch.bool:
        return
    known = known_of(labels, ignore_index)
    labels = labels.flatten() if known is None else labels.flatten()[known]
    if not len(labels):
        return
    low, high = map(int, (labels if labels.dtype is torch.uint8 else labels.long()).aminmax())
    if low < 0 or high >= classes:
        raise UsageError(f"got labels from {low} to {high}, expected 0 to {classes - 1}, or ignore_index")


def known_samples(logits: Tensor, labels: Tensor, ignore_index: int | None = None) -> int:
    """The number of samples that `per_sample` makes of these labels."""
    if labels.is_floating_point():
        return len(labels)
    known = known_of(_center(labels, logits) if labels.dim() == 3 else labels, ignore_index)
    return labels.numel() if known is None else int(known.sum())


def _center(masks: Tensor, logits: Tensor) -> Tensor:
    """The center of masks (N, H, W) that logits (·, classes, h, w) predict."""
    height, width = logits.shape[2:]
    top, left = (masks.shape[1] - height) // 2, (masks.shape[2] - width) // 2
    return masks[:, top : top + height, left : left + width]


def paired(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets of one shape; torch would broadcast others."""
    if len(outputs) != len(targets) or [n for n in outputs.shape if n > 1] != [n for n in targets.shape if n > 1]:
        raise UsageError(f"got outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}, expected one shape")
    return outputs, targets.reshape(outputs.shape)
