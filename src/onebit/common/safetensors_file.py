"""Opening untrusted safetensors files: regular files, whose header is bounded before it is parsed."""

from __future__ import annotations

import json
from typing import Any

from onebit.common.files import AnyPath, open_regular

MAX_HEADER = 8_000_000
"""Bytes of the header; parsed JSON takes 40 times as much memory."""


def facts_of(content: bytes) -> dict[str, Any]:
    """The facts that onebit wrote into a safetensors file, {} for other files, from (the start of) its content."""
    size = int.from_bytes(content[:8], "little")
    if size > MAX_HEADER:
        raise ValueError(f"its header has more than {MAX_HEADER:,} bytes")
    metadata = json.loads(content[8 : 8 + size]).get("__metadata__") or {}
    facts = json.loads(metadata.get("onebit", "{}"))
    if not isinstance(facts, dict):
        raise TypeError("its facts are not a mapping")
    return facts


def open_safetensors(path: AnyPath, framework: str = "numpy") -> tuple[Any, dict[str, Any]]:
    """(the open file, a context manager whose tensors are those of `framework`; the facts in it, see `facts_of`)."""
    import safetensors

    with open_regular(path) as stream:
        facts = facts_of(stream.read(8 + MAX_HEADER))
    return safetensors.safe_open(path, framework=framework), facts
