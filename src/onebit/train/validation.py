"""Scores of the validation split after an epoch, and the BatchNorm statistics of the weights that are saved."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from onebit.data import Dataset
from onebit.evaluation.batches import in_tiles, predict_logits
from onebit.evaluation.losses import Loss
from onebit.evaluation.model_inputs import model_device
from onebit.evaluation.modes import bn_images, fixed_weights, kept_batch_norm, reestimate_batch_norm_
from onebit.evaluation.precision import autocast
from onebit.evaluation.scores import Score, score_logits, whole_score
from onebit.layers import binary_layers
from onebit.train.batch_log import top5_correct
from onebit.train.job import Job
from onebit.train.ranks import ALONE, Ranks


def validate(
    model: nn.Module,
    data: Dataset,
    *,
    loss: Loss,
    precision: str,
    reestimate: bool,
    ranks: Ranks = ALONE,
    top5: bool = False,
) -> Score:
    """Score on the validation split with the weights that are saved, in the precision of training.

    BatchNorm statistics are left as training had them. Each rank evaluates its share; the counts are summed.
    """
    device = model_device(model)
    weights = "binary" if any(True for _ in binary_layers(model)) else "real"
    bn = "reestimate" if reestimate else "trained"
    mine = in_tiles(model, data.validation[ranks.part(len(data.validation))])
    with fixed_weights(model, weights), kept_batch_norm(model), autocast(precision, device):
        if reestimate:
            reestimate_batch_norm_(model, bn_images(data.train))
        score = None
        if len(mine):
            logits = predict_logits(model, mine.images)
            labels = torch.from_numpy(mine.labels).to(device)
            score = score_logits(logits, labels, loss=loss, weights=weights, bn=bn)
            if top5:
                score = replace(score, top5=int(top5_correct(logits, labels)))
    return whole_score(ranks.gather(score))


def statistics_of_signs_(job: Job) -> None:
    """Give BatchNorm the statistics of the signs that are saved: those of training belong to random draws."""
    context = autocast(job.execution.precision, job.device)
    with fixed_weights(job.model, "binary"):
        reestimate_batch_norm_(job.model, bn_images(job.data.train), autocast=context)
