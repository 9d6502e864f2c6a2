"""The tokenizer of a GGUF file: a byte-level BPE, as llama.cpp has it."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from onebit.errors import FormatError, UsageError, short
from onebit.packed.gguf_file import GgufFile

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE = {"gpt-2": ("", False), "llama-bpe": (_WORDS % r"\p{N}{1,3}", True), "qwen2": (_WORDS % r"\p{N}", False)}
"""llama.cpp's name -> (regular expression that splits words, "" for GPT-2's own; whether words skip the merges)."""
_CONTROL, _USER_DEFINED = 3, 4
_END_NAMES = ("eos_token_id", "eot_token_id", "eom_token_id")
_END_TEXTS = {"<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>"}


def _bytes() -> dict[str, int]:
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTES = _bytes()
"""Character of the alphabet of a byte-level BPE -> byte."""


class Tokenizer:
    """Text to tokens and back.

    Args:
        file: whose arrays are not longer than the vocabulary.
    """

    def __init__(self, file: GgufFile, vocabulary: int) -> None:
        self._file, self.size = file, vocabulary
        self._array("tokens")

    def _fact(self, name: str, default: Any = None) -> Any:
        return self._file.facts.get(f"tokenizer.ggml.{name}", default)

    def _array(self, name: str) -> Any:
        array = self._file.arrays.get(f"tokenizer.ggml.{name}")
        if array is not None and array.length > self.size:
            raise FormatError(f"tokenizer.ggml.{name} has {array.length:,} entries, the net {self.size:,} tokens")
        return array

    @cached_property
    def texts(self) -> list[str]:
        """The tokens, byte by byte in the alphabet of GPT-2; none if the file has none."""
        array = self._array("tokens")
        return [] if array is None else array.values()

    @cached_property
    def types(self) -> list[int]:
        array = self._array("token_type")
        return [1] * len(self.texts) if array is None else array.values()

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end a text."""
        found = {self._fact(name) for name in _END_NAMES}
        found |= {n for n, (text, kind) in enumerate(zip(self.texts, self.types, strict=True))
                  if kind == _CONTROL and text in _END_TEXTS}  # fmt: skip
        return frozenset(n for n in found if n is not None)

    @property
    def first(self) -> list[int]:
        """The tokens before a text."""
        bos, pre = self._fact("bos_token_id"), self._fact("pre")
        return [bos] if self._fact("add_bos_token", pre == "llama-bpe") and bos is not None else []

    def name(self, what: str) -> str:
        """The text of the token "bos" or "eos"; "" for none."""
        number = self._fact(f"{what}_token_id")
        return self.texts[number] if type(number) is int and 0 <= number < len(self.texts) else ""

    @cached_property
    def _encoder(self) -> Any:
        from tokenizers import AddedToken, Regex, Tokenizer as Encoder, models, pre_tokenizers

        model, pre, merges = self._fact("model"), self._fact("pre"), self._array("merges")
        if model != "gpt2" or pre not in PRE or merges is None or not self.texts:
            known = ", ".join(PRE)
            raise UsageError(
                f"the tokenizer {short(model)} with pre {short(pre)} is unknown, expected a byte-level BPE with "
                f"{known}: give ids of tokens instead of text"
            )
        regex, skips = PRE[pre]
        special = [n for n, kind in enumerate(self.types) if kind in (_CONTROL, _USER_DEFINED)]
        # of two equal texts the first, as in llama.cpp
        vocabulary = {text: len(self.texts) - n for n, text in enumerate(reversed(self.texts), start=1)}
        pairs = [tuple(merge.split(" ", 1)) for merge in merges.values()]
        made = Encoder(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=skips))
        splits = [pre_tokenizers.Split(Regex(regex), "isolated")] if regex else []
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not regex)
        made.pre_tokenizer = pre_tokenizers.Sequence([*splits, whole])
        made.add_tokens([AddedToken(self.texts[n], normalized=False) for n in special])
        return made

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, in which texts of control tokens stand for them.

        Raises:
            UsageError: the file has another tokenizer. ModuleNotFoundError: without the package `tokenizers`.
        """
        return self.first + list(self._encoder.encode(text, add_special_tokens=False).ids)

    def bytes_of(self, token: int) -> bytes:
        """The bytes of a token in a text; none of a control token."""
        if not self.texts:
            return b"%d " % token
        if not 0 <= token < len(self.texts) or self.types[token] == _CONTROL:
            return b""
        text = self.texts[token]
        if self.types[token] != _USER_DEFINED and all(letter in BYTES for letter in text):
            return bytes(map(BYTES.__getitem__, text))
        return text.encode()

    def decode(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self.bytes_of, tokens)).decode("utf-8", "replace")

    def stream(self, tokens: Iterator[int], stops: Sequence[str] = ()) -> Iterator[str]:
        """The text of tokens as they come, up to the first of `stops`.

        A character is held back until it is complete, and a text that may become a stop until it is one or not.
        """
        decoder, held = getincrementaldecoder("utf-8")("replace"), ""
        for token in tokens:
            held += decoder.decode(self.bytes_of(token))
            if (found := min((at for stop in stops if (at := held.find(stop)) >= 0), default=-1)) >= 0:
                held = held[:found]
                break
            kept = max((n for stop in stops for n in range(1, len(stop)) if held.endswith(stop[:n])), default=0)
            if ready := held[: len(held) - kept]:
                yield ready
            held = held[len(held) - kept :]
        else:
            held += decoder.decode(b"", final=True)
        if held:
            yield held
