"""Scores of the validation split after an epoch, and the BatchNorm statistics of the weights that are saved."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from onebit.data import Split
from onebit.evaluation.batches import in_tiles, kept_buffers, model_device, outputs_of
from onebit.evaluation.losses import Loss
from onebit.evaluation.metrics import Metric, score_outputs
from onebit.evaluation.modes import fixed_weights, reestimate_batch_norm_, stated_mode, trained_norms
from onebit.evaluation.precision import autocast
from onebit.evaluation.scores import Score, whole_score
from onebit.evaluation.sources import LoaderSamples, Samples, as_samples
from onebit.layers import batch_norms
from onebit.train.fit_data import FitData
from onebit.train.job import Job
from onebit.train.ranks import ALONE, Ranks


def validate(
    model: nn.Module,
    data: FitData,
    *,
    loss: Loss,
    precision: str,
    reestimate: bool,
    ranks: Ranks = ALONE,
    metrics: Mapping[str, Metric] | None = None,
) -> Score:
    """Score on the validation data with the weights that are saved, in the precision of training.

    BatchNorm statistics are left as training had them. Each rank evaluates its share, the first one a whole loader; the
    counts are summed.
    """
    device = model_device(model)
    weights, _ = stated_mode(model, "binary")
    bn = "reestimate" if reestimate else "trained"
    mine = _share(model, data.validation, ranks)
    with fixed_weights(model, weights), kept_buffers(batch_norms(model)), autocast(precision, device):
        if reestimate:
            _reestimate_(model, data, ranks)
        score = None
        if mine is not None:
            outputs, targets = outputs_of(model, mine)
            score = score_outputs(outputs, targets, loss=loss, metrics=metrics or {}, weights=weights, bn=bn)
    return whole_score(ranks.gather(score))


def _share(model: nn.Module, data: Split | Samples | None, ranks: Ranks) -> Samples | None:
    """The validation samples of this rank; None for none."""
    if isinstance(data, LoaderSamples):
        return data if ranks.writes else None
    assert data is not None
    part = data[ranks.part(len(data))]
    if not len(part):
        return None
    return as_samples(in_tiles(model, part) if isinstance(part, Split) else part, name="validation")


def statistics_of_saved_(job: Job) -> None:
    """Give BatchNorm the statistics of the weights that are saved, which the model holds: `Job.other_statistics`."""
    weights, _ = stated_mode(job.model, "binary")
    with fixed_weights(job.model, weights), autocast(job.precision, job.device):
        _reestimate_(job.model, job.data, job.ranks)


def _reestimate_(model: nn.Module, data: FitData, ranks: Ranks) -> None:
    """Re-estimate the BatchNorm statistics that training changes, from the inputs of the first rank."""
    norms = trained_norms(model)
    reestimate_batch_norm_(model, data.train, norms=norms)
    ranks.same_([buffer for norm in norms for buffer in norm.buffers()])
