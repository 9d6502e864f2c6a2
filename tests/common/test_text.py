"""Tables that fit a terminal, and sizes and shares as a reader sees them."""

from __future__ import annotations

import pytest

from onebit.common.text import NetSize, size, table

HEAD = ["layer", "kind", "binary weights", "bytes", ""]
ROWS = [
    ["encoder.layers.0.self_attention.projection", "Linear", "1,048,576", "131.1 kB", "binary: sign"],
    ["head", "Linear", "0", "4.1 kB", "real: it was not chosen, and there is more to say about this layer"],
]


def words(text: str) -> set[str]:
    return set(text.split())


@pytest.mark.parametrize("width", [200, 80, 40])
def test_a_table_fits_and_keeps_every_word(width: int) -> None:
    text = table([HEAD, *ROWS], right=(2, 3), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert {"1,048,576", "kB", "head", "not", "layer", "more"} <= words(text)
    assert "131.1 kB" in text, "a number keeps its unit"
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_table_with_room_has_a_line_for_each_row() -> None:
    text = table([["a", "count"], ["long name", "1"], ["b", "1,000"]], right=(1,), width=80)
    assert table([["a", "count"]], right=(1,)) == "a  count"
    assert text == "a          count\nlong name      1\nb          1,000"


def test_cells_break_at_words_before_names_do() -> None:
    text = table([ROWS[0][:2], ["x", "a sentence of several words, that is long"]], width=60)
    assert ROWS[0][0] in text
    narrow = table([ROWS[0][:2], ["x", "a sentence"]], width=36)
    assert "encoder.layers.0." in narrow
    assert "projection" in narrow


def test_headings_stand_on_the_first_row() -> None:
    lines = table([["net", "test accuracy, binary"], ["mlp", "98.69 %"]], right=(1,), width=18).splitlines()
    assert lines[-2].split() == ["net", "binary"]
    assert lines[-1].split() == ["mlp", "98.69", "%"]


def test_what_does_not_fit_is_a_second_table_with_the_names() -> None:
    heads = ["name", *(f"column{i}" for i in range(9))]
    text = table([heads, ["net", *("1,234,567" for _ in range(9))]], right=range(1, 10), width=40)
    parts = text.split("\n\n")
    assert len(parts) > 2
    assert all(part.split()[0] == "name" and "net" in part for part in parts)
    assert text.count("1,234,567") == 9


def test_the_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    row = [["name", "a text of words " * 6]]
    for width in (60, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        assert max(map(len, table(row).splitlines())) <= width
    assert "\n" not in table(row)
    monkeypatch.delenv("COLUMNS")
    assert max(map(len, table(row).splitlines())) <= 80


def test_what_does_not_print_is_escaped() -> None:
    assert table([["a\x1b[2J", "b\nc"]]) == r"a\x1b[2J  b\nc"


@pytest.mark.parametrize(
    ("binary", "weights", "share"),
    [(100, 100, "100.0 %"), (99_999, 100_000, "99.9 %"), (22, 100, "22.0 %"), (0, 100, "0.0 %"), (0, 0, "0.0 %")],
)
def test_a_share_is_whole_only_for_all(binary: int, weights: int, share: str) -> None:
    assert NetSize(binary, weights, 10).share == share


def test_a_size_in_words() -> None:
    assert str(NetSize(22, 100, 1234)) == "22.0 % of the weights binary, 1.2 kB of packed parameters"
    assert str(NetSize(0, 100, 1234)) == "no binary weights"
    assert [size(count) for count in (999, 93_808, 2.7e6, 5e9)] == ["999 B", "93.8 kB", "2.7 MB", "5.0 GB"]
