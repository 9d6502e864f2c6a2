"""docs/quantizers.md names every quantizer, and pictures can be drawn again from the code and the tables."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onebit.cli import list_verb
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from test_layering import ORDER
from tools import pictures
from tools.sizes import arrows

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "quantizers.md"


def named(section: str) -> list[str]:
    """The first cells of the table in a section of the page."""
    [text] = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)


def test_every_quantizer_is_documented() -> None:
    assert named("Weights") == list(WEIGHT_QUANTIZERS)
    assert named("Inputs") == list(INPUT_QUANTIZERS)


@pytest.mark.parametrize("name", [name for name in pictures.PICTURES if name not in ("size-accuracy", "house")])
def test_pictures_are_those_of_the_code_and_of_the_tables(name: str, tmp_path: Path) -> None:
    """But for one that packs many nets, and one that every change of the code changes."""
    files = pictures.draw(name, tmp_path), pictures.IMAGES / f"{name}.png"
    new, kept = (np.asarray(Image.open(file).convert("L"), dtype=float) for file in files)
    assert new.shape == kept.shape
    # fonts and lines are drawn a little differently on other machines; a curve that moved covers more
    assert float((np.abs(new - kept) > 64).mean()) < 0.01


def test_the_house_has_every_room_above_what_it_imports(tmp_path: Path) -> None:
    assert pictures.draw("house", tmp_path).exists()
    pairs = {(above, under) for above, under in arrows() if not above.startswith("__")}
    rooms = pictures.floors(pairs)
    assert {*rooms} == {*ORDER} - {"__main__"}
    assert all(rooms.index(above) > rooms.index(under) for above, under in pairs)


def test_the_list_of_quantizers_has_a_line_with_the_source_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_verb.main(["quantizers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for table, names in (("weights", WEIGHT_QUANTIZERS), ("inputs", INPUT_QUANTIZERS)):
        for name in names:
            [line] = [line for line in lines if line.startswith(f"{table}: {name} ")]
            assert len(line.split(None, 2)[2]) > 20
