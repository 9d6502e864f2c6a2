"""Messages: one line of bounded length."""

from __future__ import annotations

import pytest

from onebit.errors import shortened


@pytest.mark.parametrize(
    ("text", "longest", "expected"),
    [("short", 5, "short"), ("a text of some length", 12, "a text o…gth"), ("0123456789", 9, "012345…89"), ("", 3, "")],
)
def test_the_middle_of_a_long_text_is_left_out(text: str, longest: int, expected: str) -> None:
    assert shortened(text, longest) == expected
    assert len(shortened(text, longest)) <= longest
