"""Mean IoU and Dice of segmentation runs, over the seeds of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onebit.report.run_folders import Group, RunResults, tests_by_mode
from onebit.report.wording import MISSING, number_range, share


@dataclass(frozen=True)
class MaskRow:
    """The results of a group on one split in one test mode; `note` says which epoch, or which BatchNorm statistics.

    mean_iou, dice: one value per run; dice is empty for the validation split, where it is not computed.
    """

    label: str
    split: str
    weights: str
    note: str
    mean_iou: tuple[float, ...]
    dice: tuple[float, ...]

    @property
    def cells(self) -> list[str]:
        """Mean IoU and Dice as text."""
        return [share(values) if values else MISSING for values in (self.mean_iou, self.dice)]


def mask_rows(groups: Sequence[Group[RunResults]]) -> list[MaskRow]:
    """For each group, a row for the validation and one for each test mode; none for runs that classify whole images."""
    rows = []
    for group in groups:
        if best := [run.history.best for run in group.runs if run.history.best.validation_mean_iou is not None]:
            modes = " and ".join(sorted({row.validation_weights for row in best}))
            mean_iou = tuple(row.validation_mean_iou for row in best if row.validation_mean_iou is not None)
            epoch = f"epoch {number_range([row.epoch for row in best])}"
            rows.append(MaskRow(group.label, "validation", modes, epoch, mean_iou, ()))
        for mode, scores in tests_by_mode(group.runs).items():
            note = "BatchNorm re-estimated" if any(score.bn == "reestimate" for score in scores) else ""
            if mean_iou := tuple(score.mean_iou for score in scores if score.mean_iou is not None):
                dice = tuple(score.dice for score in scores if score.dice is not None)
                rows.append(MaskRow(group.label, "test", mode, note, mean_iou, dice))
    return rows
