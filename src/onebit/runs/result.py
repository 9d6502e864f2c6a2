"""result.json of a run folder: what a finished training found. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from onebit.common.fields import NotNegative, read
from onebit.common.files import json_text, read_json, write_atomic
from onebit.common.text import NetSize
from onebit.errors import FormatError, UsageError, first_line
from onebit.train.history import MOST_RESULT, RESULT_FILE

_SIZES = "binary_weights", "weights", "packed_bytes"
_TYPES: dict[str, Any] = dict.fromkeys(("parameters", "seed", *_SIZES), int | None)
_TYPES |= {"seconds": NotNegative | None, "note": str | None, "sha256": str | None, "test": dict[str, object] | None}
_SCORE: dict[str, Any] = dict.fromkeys(("accuracy", "mean_iou", "dice"), NotNegative | None)
_SCORE |= {"correct": int | None, "count": int | None, "bn": str | None}


@dataclass(frozen=True)
class RunResult:
    """The content of a result.json; what it lacks is None.

    values: all of it. seconds: of the whole training. sha256: of the weight file that the scores are about.
    test: test mode -> its scores, as `Score.as_dict`. size: how much of the net is binary.
    """

    values: dict[str, Any]

    def __post_init__(self) -> None:
        for name, kind in _TYPES.items():
            read(self.values.get(name), kind, name=name)
        for (name, kind), score in product(_SCORE.items(), self.test.values()):
            read(score.get(name), kind, name=name)

    @property
    def seconds(self) -> float | None:
        return self.values.get("seconds")

    @property
    def sha256(self) -> str | None:
        return self.values.get("sha256")

    @property
    def test(self) -> dict[str, dict[str, Any]]:
        return self.values.get("test", {})

    @property
    def size(self) -> NetSize | None:
        sizes = [self.values.get(key) for key in _SIZES]
        return None if None in sizes else NetSize(*sizes)  # type: ignore[arg-type]

    def is_about(self, sha256: str) -> bool:
        """Whether the scores are those of a weight file, as far as the result says so."""
        return self.sha256 in (None, sha256)

    @classmethod
    def read(cls, folder: Path) -> RunResult | None:
        """The result of a run, None before it is finished; FormatError for a damaged file."""
        path = folder / RESULT_FILE
        if not path.exists():
            return None
        try:
            return cls(dict(read_json(path, largest=MOST_RESULT)))
        except (OSError, UsageError, ValueError, TypeError, AttributeError) as error:
            raise FormatError(f"{path}: damaged ({first_line(error)})") from None

    def write(self, folder: Path) -> None:
        write_atomic(folder / RESULT_FILE, (json_text(self.values, indent=2) + "\n").encode())
