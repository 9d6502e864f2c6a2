"""Losses by name, each with the task that it is for. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

from onebit.common.entries import Entry, Table


@dataclass(frozen=True, eq=False)
class LossEntry(Entry):
    """A loss; `task` decides which targets it takes and which scores an evaluation has.

    classification: integer labels (N,), or masks (N, H, W). regression: float targets of the shape of the outputs.
    multi-label: float targets (N, K), 1 for each label that a sample has and 0 for the others.
    language: tokens (N, T), which are also the inputs.
    """

    task: str = "classification"


LOSSES = Table(
    LossEntry,
    {
        "bce": LossEntry("onebit.evaluation.losses:bce", task="multi-label"),
        "cross_entropy": "onebit.evaluation.losses:cross_entropy",
        "hinge": "onebit.evaluation.losses:hinge",
        "huber": LossEntry("onebit.evaluation.losses:huber", task="regression"),
        "iou": "onebit.evaluation.losses:iou",
        "mae": LossEntry("onebit.evaluation.losses:mae", task="regression"),
        "mse": LossEntry("onebit.evaluation.losses:mse", task="regression"),
        "next_token": LossEntry("onebit.evaluation.losses:next_token", task="language"),
        "squared_hinge": "onebit.evaluation.losses:squared_hinge",
    },
)
