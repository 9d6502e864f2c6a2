"""Language models of GGUF files with one-bit weights, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from onebit.common.fields import Count, read
from onebit.common.files import AnyPath
from onebit.errors import UsageError
from onebit.language.chat import render
from onebit.language.native_decoder import NativeDecoder
from onebit.language.net import Net, read_net
from onebit.language.reference import ReferenceDecoder
from onebit.language.sampling import Sampling
from onebit.language.tokenizer import Tokenizer
from onebit.native import instruction_set, thread_count

CONTEXT = 4096
_ALL_ROWS = 64
"""Tokens whose logits are in memory at once."""


def load_language_model(
    path: AnyPath,
    *,
    threads: int | None = None,
    context: int | None = None,
    kv: Literal["float16", "int8"] = "float16",
    exact: bool = False,
) -> LanguageModel:
    """A llama, qwen2 or qwen3 of a GGUF file, its matrices in Q1_0, Q8_0, F16, BF16 or F32.

    Inputs of Q1_0 matrices are rounded to 15 bits, see `onebit.language.reference`; all results have the same bits on
    every processor, for any number of threads, and token by token or many at once.

    Args:
        threads: by default ONEBIT_THREADS, or one per core.
        context: the most tokens of a text and its continuation; by default those of the training, up to 4,096.
        kv: how keys and values are kept. "int8" takes half the memory of "float16" and is less exact.
        exact: multiply float32 inputs, for comparisons: slower.

    Raises:
        FormatError: a damaged file, or a net that cannot be run, by what it has.
        UsageError: an unknown `kv`, or a number below 1.

    Example:
        >>> lm = load_language_model("model.gguf")  # doctest: +SKIP
        >>> "".join(lm.generate("Once upon a time", max_tokens=20))  # doctest: +SKIP
        ', there was a little girl named Lily. …'
    """
    net, file = read_net(path)
    kv = read(kv, Literal["float16", "int8"], name="kv")
    threads = thread_count(read(threads, Count | None, name="threads"))
    context = read(context, Count | None, name="context") or min(net.context, CONTEXT)
    isa = instruction_set()
    decoder: Any
    if isa is None or isa.run_decoder is None:
        decoder = ReferenceDecoder(net, context=context, kv=kv, exact=exact)
    else:
        decoder = NativeDecoder(net, isa, threads=threads, context=context, kv=kv, exact=exact)
    template = file.facts.get("tokenizer.chat_template")
    return LanguageModel(net, decoder, Tokenizer(file, net.vocabulary), context, template)


class LanguageModel:
    """A net, the keys and values of the tokens that it has read, and its tokenizer. Made by `load_language_model`."""

    def __init__(self, net: Net, decoder: Any, tokenizer: Tokenizer, context: int, template: str | None) -> None:
        self.net, self.decoder, self.tokenizer, self.context, self.template = net, decoder, tokenizer, context, template
        self._read: list[int] = []

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; see `Tokenizer.encode`."""
        return self.tokenizer.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; control tokens have none."""
        return self.tokenizer.decode(tokens)

    def log_probabilities(self, tokens: Sequence[int]) -> np.ndarray:
        """The log-probabilities of the token after each of `tokens`: (T, vocabulary) float32.

        Raises:
            UsageError: no tokens, more than the context, or one outside of the vocabulary.
        """
        return np.concatenate(list(self._log_probabilities(tokens)))

    def _log_probabilities(self, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        ids = self._checked(tokens)
        self._read = []
        for at in range(0, len(ids), _ALL_ROWS):
            logits = self.decoder.run(ids[at : at + _ALL_ROWS], at, all_rows=True)
            shifted = logits - logits.max(axis=1, keepdims=True)
            yield shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)

    def loss(self, tokens: Sequence[int]) -> tuple[float, int]:
        """The sum of -log p of the tokens that follow others, and their number; exp of its mean is the perplexity.

        Raises:
            UsageError: as `log_probabilities`.
        """
        total, following = 0.0, iter(tokens[1:])
        for rows in self._log_probabilities(tokens):
            some = [token for _, token in zip(range(len(rows)), following, strict=False)]
            total -= float(rows[np.arange(len(some)), some].sum(dtype=np.float64))
        return total, len(tokens) - 1

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """The text after a prompt, as it is made.

        It ends with a token that ends texts, before the first of `stop`, after `max_tokens`, or where the context is
        full. Keys and values of the beginning that the prompt shares with the last text are used again.

        Args:
            prompt: a text, or tokens.
            sampling: how tokens are drawn; `options` are those of `Sampling`. By default the most probable token.

        Raises:
            UsageError: a prompt without tokens, one longer than the context, an option out of bounds, or a text for a
                tokenizer that is not known.
        """
        sampling = Sampling(**options) if sampling is None else sampling
        return self.tokenizer.stream(self.tokens(prompt, sampling, max_tokens), stop)

    def tokens(self, prompt: str | Sequence[int], sampling: Sampling, max_tokens: int | None = None) -> Iterator[int]:
        """The tokens of `generate`, without those that end texts."""
        read = list(map(int, self._checked(self.encode(prompt) if isinstance(prompt, str) else prompt)))
        return self._tokens(read, sampling, max_tokens)

    def _tokens(self, read: list[int], sampling: Sampling, max_tokens: int | None) -> Iterator[int]:
        room = self.context - len(read)
        for _ in range(room if max_tokens is None else min(max_tokens, room)):
            token = sampling.choose(self._logits(read), read)
            if token in self.tokenizer.ends:
                return
            read.append(token)
            yield token

    def _logits(self, tokens: list[int]) -> np.ndarray:
        """(vocabulary,) after tokens, of which those with the same beginning as before are not read again."""
        pairs = zip(self._read, tokens[:-1], strict=False)
        shared = next((n for n, (old, new) in enumerate(pairs) if old != new), min(len(self._read), len(tokens) - 1))
        self._read = self._read[:shared]  # an interrupt leaves what was read before
        logits = self.decoder.run(np.array(tokens[shared:], np.int32), shared)
        self._read = list(tokens)
        return logits[0]

    def prompt(self, messages: Sequence[Mapping[str, str]], **values: Any) -> str:
        """The prompt of a chat by the template of the file.

        Args:
            messages: each with "role" ("system", "user", "assistant") and "content".
            values: further ones of the template, such as `enable_thinking=False`.

        Raises:
            UsageError: the file has no template. FormatError: it fails, or does not end.
        """
        if not isinstance(self.template, str):
            raise UsageError("the file has no chat template")
        names = {f"{what}_token": self.tokenizer.name(what) for what in ("bos", "eos")}
        text = render(self.template, messages, **names, **values)
        return text.removeprefix(names["bos_token"]) if self.tokenizer.first else text  # which `encode` adds

    def _checked(self, tokens: Sequence[int]) -> np.ndarray:
        ids = np.asarray(tokens)
        if not ids.size or ids.ndim != 1 or len(ids) > self.context or ids.dtype.kind not in "iu":
            raise UsageError(f"got tokens of shape {ids.shape}, expected 1 to {self.context:,} numbers of tokens")
        if ids.min() < 0 or ids.max() >= self.net.vocabulary:
            raise UsageError(f"got the token {ids.min() if ids.min() < 0 else ids.max()} of {self.net.vocabulary:,}")
        return ids.astype(np.int32)
