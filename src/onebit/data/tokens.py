"""Files of tokens to train language models on: texts as rows of one length, which stay on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onebit.common.files import AnyPath, atomic_path
from onebit.errors import DataError

_PIECE = 1 << 20
"""Characters of a text file that are encoded at once; it is cut at ends of lines."""


def write_tokens(
    texts: Path | Iterable[str | Path | Mapping[str, Any]],
    tokenizer: Any,
    path: AnyPath,
    *,
    length: int,
    end: int | None = None,
    column: str = "text",
) -> np.ndarray:
    """Write the tokens of texts, one text after the other, as a `.npy` file of rows, which `onebit.fit` trains on.

    Neither texts nor tokens are held in memory. What is left of the last row is dropped.

    Args:
        texts: texts, or text files as `Path`, or rows with a column of texts, as a data set of `datasets` has.
        tokenizer: of transformers or tokenizers; its `encode` and `get_vocab` are called.
        length: tokens of a row.
        end: the token after each text; by default `tokenizer.eos_token_id`, if there is one.
        column: of rows.

    Returns:
        The tokens (N, length), uint16 or uint32, memory-mapped as by `numpy.load(path, mmap_mode="r")`.

    Raises:
        DataError: the texts have fewer than `length` tokens; nothing is written.

    Example:
        >>> stories = datasets.load_dataset("roneneldan/TinyStories", split="train")
        >>> tokens = write_tokens(stories, tokenizer, "tokens.npy", length=512)
        >>> onebit.fit(model, tokens, optimizer, steps=20_000, steps_per_epoch=1000, loss="next_token", folder="run")
    """
    kind = np.dtype(np.uint16 if len(tokenizer.get_vocab()) <= 1 << 16 else np.uint32)
    after = [x for x in (getattr(tokenizer, "eos_token_id", None) if end is None else end,) if x is not None]
    count, left = 0, list[int]()
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        _write_header(file, kind, (0, length))
        for text, ends in _pieces([texts] if isinstance(texts, Path) else texts, column):
            encoded = tokenizer.encode(text, add_special_tokens=False)
            left += [*getattr(encoded, "ids", encoded), *(after if ends else [])]
            if rows := len(left) // length:
                file.write(np.array(left[: rows * length], kind).data)
                count, left = count + rows, left[rows * length :]
        if not count:
            raise DataError(f"{path}: the texts have {len(left):,} tokens, expected at least {length:,}")
        file.seek(0)
        _write_header(file, kind, (count, length))
    found: np.ndarray = np.load(path, mmap_mode="r")
    return found


def _write_header(file: Any, kind: np.dtype[Any], shape: tuple[int, int]) -> None:
    """Numpy leaves room for a first size of any number of digits."""
    descr = np.lib.format.dtype_to_descr(kind)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})


def _pieces(texts: Iterable[str | Path | Mapping[str, Any]], column: str) -> Iterator[tuple[str, bool]]:
    """(piece of a text, whether the text ends there)."""
    for text in texts:
        if isinstance(text, Path):
            with open(text, encoding="utf-8") as file:
                while lines := file.readlines(_PIECE):
                    yield "".join(lines), False
            yield "", True
        else:
            yield (text[column] if isinstance(text, Mapping) else text), True
