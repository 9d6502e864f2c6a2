"""Opening untrusted safetensors files: regular files, whose header is bounded before it is parsed."""

from __future__ import annotations

import json
import os
from typing import Any

from onebit.common.files import open_regular

MOST_HEADER = 8_000_000
"""Bytes of the header with the names of the tensors and the facts; parsed JSON takes 40 times as much memory."""


def facts_of(content: bytes) -> dict[str, Any]:
    """The facts that onebit wrote into the content of a safetensors file, {} in other files."""
    size = int.from_bytes(content[:8], "little")
    _check_header(size)
    return _facts(json.loads(content[8 : 8 + size]).get("__metadata__"))


def open_safetensors(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """(the open file, a context manager; the facts that onebit wrote into it, {} in other files).

    Its tensors are arrays of numpy.
    """
    import safetensors

    with open_regular(path) as stream:
        _check_header(int.from_bytes(stream.read(8), "little"))
    file = safetensors.safe_open(path, framework="numpy")
    return file, _facts(file.metadata())


def _check_header(size: int) -> None:
    """Raises ValueError: a header of too many bytes."""
    if size > MOST_HEADER:
        raise ValueError(f"its header has more than {MOST_HEADER:,} bytes")


def _facts(metadata: Any) -> dict[str, Any]:
    """The facts in the metadata of a file; ValueError, RecursionError, TypeError for damaged ones."""
    facts = json.loads((metadata or {}).get("onebit", "{}"))
    if not isinstance(facts, dict):
        raise TypeError("its facts are not a mapping")
    return facts
