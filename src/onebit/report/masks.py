"""Mean IoU and Dice of runs that give a class to each pixel, over the seeds of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onebit.report.runs import Group, Run
from onebit.report.wording import MISSING, number_range, share


@dataclass(frozen=True)
class MaskRow:
    """What the runs of a group reached on one split in one test mode; `note` says in which epoch or how normalised.

    mean_iou, dice: one of each run; dice is empty for the validation, which does not count it.
    """

    label: str
    split: str
    weights: str
    note: str
    mean_iou: tuple[float, ...]
    dice: tuple[float, ...]

    @property
    def cells(self) -> list[str]:
        """Mean IoU and Dice as a reader sees them."""
        return [share(values) if values else MISSING for values in (self.mean_iou, self.dice)]


def mask_rows(groups: Sequence[Group[Run]]) -> list[MaskRow]:
    """A row for the validation of each group, and for each test mode; none for runs that classify whole images."""
    return [row for group in groups for row in [*_validation(group), *_tests(group)]]


def _validation(group: Group[Run]) -> list[MaskRow]:
    best = [run.history.best for run in group.runs if run.history.best.validation_mean_iou is not None]
    if not best:
        return []
    modes = " and ".join(sorted({row.validation_weights for row in best}))
    found = tuple(row.validation_mean_iou for row in best if row.validation_mean_iou is not None)
    epoch = f"epoch {number_range([row.epoch for row in best])}"
    return [MaskRow(group.label, "validation", modes, epoch, found, ())]


def _tests(group: Group[Run]) -> list[MaskRow]:
    rows = []
    for mode in dict.fromkeys(mode for run in group.runs for mode in run.tests):
        scores = [run.tests[mode] for run in group.runs if mode in run.tests]
        found = tuple(score.mean_iou for score in scores if score.mean_iou is not None)
        dice = tuple(score.dice for score in scores if score.dice is not None)
        note = "BatchNorm re-estimated" if any(score.bn == "reestimate" for score in scores) else ""
        if found:
            rows.append(MaskRow(group.label, "test", mode, note, found, dice))
    return rows
