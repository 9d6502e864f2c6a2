"""Losses by name. Loads no torch."""

from __future__ import annotations

from onebit.common.entries import Entry, Table

LOSSES = Table(
    Entry,
    {
        "cross_entropy": "onebit.evaluation.losses:cross_entropy",
        "hinge": "onebit.evaluation.losses:hinge",
        "iou": "onebit.evaluation.losses:iou",
        "squared_hinge": "onebit.evaluation.losses:squared_hinge",
    },
)
