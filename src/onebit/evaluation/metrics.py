"""Metrics of an evaluation: sums over samples, added over batches and processes, then divided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from onebit.common.tables import resolve
from onebit.errors import DataError, UsageError
from onebit.evaluation.losses import LOSSES, Loss, check_labels, ignored_label, paired, per_sample
from onebit.evaluation.scores import Score, score_logits
from onebit.evaluation.trees import leaves, size_of


class Metric(NamedTuple):
    """A metric.

    Args:
        task: the targets that it takes, see `onebit.evaluation.loss_table`.
        sums: (outputs, targets) -> (S,) float64 sums over the samples, see `onebit.evaluation.scores.values_of`.
    """

    task: str
    sums: Callable[[Any, Any], Tensor]


def _mean(values: Tensor) -> Tensor:
    """The sums of a mean."""
    values = values.double()
    return torch.stack([values.sum(), values.new_tensor(values.numel())])


def _accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    logits, labels = per_sample(outputs, targets)
    return _mean(logits.argmax(dim=1) == labels)


def _errors(outputs: Tensor, targets: Tensor) -> Tensor:
    outputs, targets = paired(outputs, targets)
    return outputs.double() - targets.double()


def _cost_sums(costs: Tensor, tokens: Tensor) -> Tensor:
    return _mean(costs)


def _r2_sums(outputs: Tensor, targets: Tensor) -> Tensor:
    """Σ(y − t)², Σt², Σt for each column, and the number of samples."""
    outputs, targets = (value.double().reshape(len(value), -1) for value in paired(outputs, targets))
    columns = [(outputs - targets).square().sum(0), targets.square().sum(0), targets.sum(0)]
    return torch.cat([*columns, targets.new_tensor([len(targets)])])


def _labels(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted and true labels (N, K): a label is predicted where its probability is above one half."""
    outputs, targets = (value.reshape(len(value), -1) for value in paired(outputs, targets))
    return outputs > 0, targets > 0.5


def _right_labels(outputs: Tensor, targets: Tensor) -> Tensor:
    found, true = _labels(outputs, targets)
    return found == true


def _f1_sums(outputs: Tensor, targets: Tensor) -> Tensor:
    """2·true positives, and predicted plus true labels."""
    found, true = _labels(outputs, targets)
    return torch.stack([2 * (found & true).sum(), found.sum() + true.sum()]).double()


METRICS: dict[str, Metric] = {
    "accuracy": Metric("classification", _accuracy),
    "exact_match": Metric("multi-label", lambda y, t: _mean(_right_labels(y, t).all(dim=1))),
    "f1": Metric("multi-label", _f1_sums),
    "label_accuracy": Metric("multi-label", lambda y, t: _mean(_right_labels(y, t))),
    "mae": Metric("regression", lambda y, t: _mean(_errors(y, t).abs())),
    "mse": Metric("regression", lambda y, t: _mean(_errors(y, t).square())),
    "perplexity": Metric("language", _cost_sums),
    "r2": Metric("regression", _r2_sums),
}
"""Name -> metric. f1 is micro-averaged over labels; exact_match (scikit-learn's accuracy of several labels) counts the
samples with all labels right, label_accuracy the labels; perplexity is exp of the mean cost of a token; r2 is
scikit-learn's r2_score. For a language model a metric gets `token_costs` instead of outputs and targets."""
DEFAULT_METRICS = {"regression": ("r2", "mae"), "multi-label": ("f1", "exact_match"), "language": ("perplexity",)}
"""Task -> its default metrics; a classification counts correct predictions in any case."""


def task_of(loss: Any) -> str | None:
    """The task of a loss in the table, by name or function; None for a function of the user."""
    if isinstance(loss, str):
        resolve(LOSSES, loss, kind="loss")
        return LOSSES.entry(loss).task
    whole = getattr(loss, "func", loss)  # of a functools.partial
    return next((LOSSES.entry(name).task for name in LOSSES if LOSSES[name] is whole), None)


def labels_per_sample(targets: Any, task: str | None) -> int:
    """Number of targets per sample over which the loss is a mean: pixels, tokens, labels or numbers.

    Args:
        targets: (N, …), or tuples or dicts of them, whose first one counts; None counts as one.
        task: see `task_of`; a classification with real targets has probabilities of classes, (N, C, …).
    """
    if targets is None:
        return 1
    target = next(leaves(targets))
    classes = target.shape[1] if task == "classification" and target.is_floating_point() and target.dim() > 1 else 1
    return max(1, target.numel() // (len(target) * classes))


def is_classification(task: str | None, outputs: Any, targets: Any) -> bool:
    """Whether correct predictions can be counted; for a loss of the user, whether logits have integer targets."""
    if task is not None:
        return task == "classification"
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return False
    integers = not targets.is_floating_point() and targets.dtype is not torch.bool
    sequence = targets.dim() == 2  # logits (N, T, V) have another axis of classes
    fits = outputs.dim() == targets.dim() + 1 and (not sequence or outputs.shape[2:] == targets.shape[1:])
    return integers and fits and targets.dim() in (1, 2, 3)


def chosen_metrics(metric: Any, task: str | None) -> dict[str, Metric]:
    """The metrics of an evaluation by name.

    Args:
        metric: a name in METRICS, a function (outputs, targets) -> float, the mean over these samples, or several; None
            for those of the task. Functions with the same name are numbered.
    """
    if metric is None:
        return {name: METRICS[name] for name in DEFAULT_METRICS.get(task or "", ())}
    chosen: dict[str, Metric] = {}
    for one in metric if isinstance(metric, (tuple, list)) else [metric]:
        if isinstance(one, str):
            chosen[one] = resolve(METRICS, one, kind="metric")
            if task is not None and chosen[one].task != task:
                raise UsageError(f"metric {one!r} is for {chosen[one].task}, but the loss is for {task}")
        else:
            name = getattr(one, "__name__", type(one).__name__)
            name = f"own {name}" if name in METRICS else name
            others = sum(known == name or known.startswith(f"{name} ") for known in chosen)
            chosen[f"{name} {others + 1}" if others else name] = Metric("", partial(_sums_of, one))
    return chosen


def _sums_of(function: Callable[[Any, Any], Any], outputs: Any, targets: Any) -> Tensor:
    """The sums of a user's function."""
    count = size_of(outputs if targets is None else targets)
    return torch.tensor([float(function(outputs, targets)) * count, count], dtype=torch.float64)


def score_outputs(
    outputs: Any,
    targets: Any,
    *,
    loss: str | Loss,
    metrics: Mapping[str, Metric],
    weights: str,
    bn: str,
) -> Score:
    """The score of outputs of any task, as the loss and the metrics take them; of a language model `token_costs`."""
    function = resolve(LOSSES, loss, kind="loss")
    task = task_of(loss)
    if task == "multi-label" and not 0 <= float(targets.min()) <= float(targets.max()) <= 1:
        raise DataError("multi-label: got targets outside of 0 to 1")
    if is_classification(task, outputs, targets):
        logits, labels = per_sample(outputs, targets, ignored_label(loss))
        check_labels(labels, logits.shape[1])
        masked = targets.dim() == 3
        mean = float(function(logits, targets if targets.is_floating_point() else labels))
        arrays = logits.float().cpu().numpy(), labels.cpu().numpy()
        score = score_logits(*arrays, loss=mean, masked=masked, weights=weights, bn=bn)
        if ignored_label(loss) is not None:
            outputs, targets = logits, labels
    else:
        value = outputs.mean() if task == "language" else function(outputs, targets)
        unit = "tokens" if task == "language" else "samples"
        score = Score(weights, bn, None, size_of(targets), float(value), unit=unit)
    sums = {name: tuple(metric.sums(outputs, targets).tolist()) for name, metric in metrics.items()}
    return replace(score, sums=sums) if sums else score
