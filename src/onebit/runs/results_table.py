"""`results.csv` of a run, as BinaryNet.pytorch writes it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from onebit.common.files import read_regular, write_atomic
from onebit.runs.folders import RESULTS_TABLE
from onebit.train.history import MOST_METRICS

COLUMNS = {
    "epoch": "epoch",
    "train_loss": "train_loss",
    "val_loss": "validation_loss",
    "train_error1": "train_error",
    "val_error1": "validation_error",
    "train_error5": "train_error5",
    "val_error5": "validation_error5",
}
"""Column -> field of metrics.jsonl; errors are percentages there, and empty where nothing was counted."""


def write_results(folder: Path) -> None:
    """Write the epochs of metrics.jsonl, of which there may be none yet, as the table."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    metrics = folder / "metrics.jsonl"
    for line in read_regular(metrics, largest=MOST_METRICS).splitlines() if metrics.exists() else ():
        row = json.loads(line)
        values = {column: row.get(name) for column, name in COLUMNS.items()}
        percent = {
            column: None if value is None else 100 * value for column, value in values.items() if "error" in column
        }
        table.writerow((values | percent).values())
    write_atomic(folder / RESULTS_TABLE, text.getvalue().encode())
