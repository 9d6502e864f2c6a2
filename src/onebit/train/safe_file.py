"""Opening safetensors files of strangers: regular ones, with a header that is bounded before it is parsed."""

from __future__ import annotations

import json
import os
from typing import Any

from onebit.common.files import open_regular

MOST_HEADER = 8_000_000
"""Bytes of the header, which holds the names of the tensors and the facts; parsed JSON takes 40 times its text."""


def open_safetensors(path: str | os.PathLike[str], framework: str) -> tuple[Any, dict[str, Any]]:
    """(the opened file, to be used as a context; the facts that onebit wrote into it, {} in a file of others).

    Args:
        framework: of the tensors that it gives: pt or numpy.

    Raises:
        OSError, ValueError, RecursionError, TypeError, safetensors.SafetensorError: it cannot be read, or is damaged.
    """
    import safetensors

    with open_regular(path) as stream:
        if int.from_bytes(stream.read(8), "little") > MOST_HEADER:
            raise ValueError(f"its header has more than {MOST_HEADER:,} bytes")
    file = safetensors.safe_open(path, framework=framework)
    facts = json.loads((file.metadata() or {}).get("onebit", "{}"))
    if not isinstance(facts, dict):
        raise TypeError("its facts are no mapping")
    return file, facts
