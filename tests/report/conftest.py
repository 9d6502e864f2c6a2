"""What the tests of reports share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image


@pytest.fixture
def no_ink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are made of all their parts and left blank, for tests of the page: rendering is most of the time."""

    def save(figure: Figure, path: Path, **_: Any) -> None:
        Image.new("RGB", (3, 3), "white").save(path, "PNG")

    monkeypatch.setattr(Figure, "savefig", save)
