"""Scores of the validation split after an epoch, and the BatchNorm statistics of the weights that are saved."""

from __future__ import annotations

from torch import nn

from onebit.data import Split
from onebit.evaluation.batches import in_tiles, kept_buffers, outputs_of
from onebit.evaluation.metrics import score_outputs
from onebit.evaluation.modes import fixed_weights, reestimate_batch_norm_, stated_mode, trained_norms
from onebit.evaluation.precision import autocast
from onebit.evaluation.scores import Score, whole_score
from onebit.evaluation.sources import LoaderSamples, Samples, as_samples
from onebit.layers import batch_norms
from onebit.train.job import Job
from onebit.train.ranks import Ranks


def validate(job: Job) -> Score | None:
    """Score on the validation data with the weights that are saved, which the model holds; None without such data.

    BatchNorm statistics are left as training had them. Each rank evaluates its share, the first one a whole loader; the
    counts are summed.
    """
    if job.data.validation is None:
        return None
    model, score = job.model, None
    weights, _ = stated_mode(model, "binary")
    mine = _share(model, job.data.validation, job.ranks)
    with kept_buffers(batch_norms(model)):
        statistics_of_saved_(job)
        if mine is not None:
            with fixed_weights(model, weights), autocast(job.precision, job.device):
                outputs, targets = outputs_of(model, mine)
            bn = "reestimate" if job.other_statistics else "trained"
            score = score_outputs(outputs, targets, loss=job.loss, metrics=job.metrics, weights=weights, bn=bn)
    return whole_score(job.ranks.gather(score))


def _share(model: nn.Module, data: Split | Samples, ranks: Ranks) -> Samples | None:
    """The validation samples of this rank; None for none."""
    if isinstance(data, LoaderSamples):
        return data if ranks.writes else None
    part = data[ranks.part(len(data))]
    if not len(part):
        return None
    return as_samples(in_tiles(model, part) if isinstance(part, Split) else part, name="validation")


def statistics_of_saved_(job: Job) -> None:
    """Give BatchNorm the statistics of the weights that are saved, which the model holds, if they are others.

    Those that training changes are re-estimated, from the inputs of the first rank.
    """
    if not job.other_statistics:
        return
    model, norms = job.model, trained_norms(job.model)
    weights, _ = stated_mode(model, "binary")
    with fixed_weights(model, weights), autocast(job.precision, job.device):
        reestimate_batch_norm_(model, job.data.train, norms=norms)
    job.ranks.same_([buffer for norm in norms for buffer in norm.buffers()])
