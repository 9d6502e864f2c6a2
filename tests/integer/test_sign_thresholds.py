"""Signs of affine maps of integers become thresholds: exactly the integers with scale · integer + shift >= 0."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onebit.integer.form import Form
from onebit.integer.operations import CONVERSIONS
from onebit.packed import Sign


@pytest.mark.parametrize("turn", [1, -1])
def test_a_threshold_is_right_where_the_quotient_is_rounded(turn: int) -> None:
    """Next to an integer, where a division alone would be one off in some of the channels."""
    rng = np.random.default_rng(0)
    integers, scale = rng.integers(1, 2**20, 1000).astype(np.float64), turn * rng.uniform(0.001, 1, 1000)
    shift = -scale * integers
    shift[::2] = np.nextafter(shift[::2], -np.inf)
    emitted: dict[str, Any] = {}

    def emit(kind: type, name: str, value: str, **fields: Any) -> str:
        emitted.update(fields)
        return name

    net: Any = SimpleNamespace(values={"sum": SimpleNamespace(exact=True)}, emit=emit)
    CONVERSIONS[Sign].convert(net, Sign(inputs=("x",), output="y"), Form({"sum": scale}, shift))
    threshold, direction = emitted["threshold"].astype(np.float64), emitted["direction"]
    assert (direction == turn).all()
    alone = turn * np.ceil(turn * (-shift / scale))
    assert (alone < threshold).any()
    assert (alone > threshold).any()
    assert (scale * threshold >= -shift).all()
    assert (scale * (threshold - direction) < -shift).all()
