"""The tokenizer of a GGUF file, from the `tokenizer.json` of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onebit.common.files import read_json
from onebit.errors import FormatError, UsageError
from onebit.packed.gguf_file import gguf_package

FILE, LARGEST = "tokenizer.json", 200_000_000
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE: dict[tuple[Any, ...], str] = {
    ("", False, ""): "gpt-2",
    (_WORDS % r"\p{N}{1,3}", True, ""): "llama-bpe",
    (_WORDS % r"\p{N}", False, ""): "qwen2",
    (_WORDS % r"\p{N}", False, "NFC"): "qwen2",
}
"""(regular expression that splits words, whether whole words skip the merges, normalizer) -> llama.cpp's name of it."""


def add_tokenizer(writer: Any, folder: Path | None, config: Mapping[str, Any], pre: str | None) -> None:
    """Write a byte-level BPE tokenizer; without a folder, the net takes ids of tokens only.

    Args:
        pre: llama.cpp's name of how text is split into words; None to recognize it.
    """
    try:
        if folder is None:
            writer.add_tokenizer_model("none")
        else:
            _add(writer, folder, config, pre)
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise FormatError(f"{folder}: {FILE}: {error!r}") from None


def _add(writer: Any, folder: Path, config: Mapping[str, Any], pre: str | None) -> None:
    gguf, size, found = gguf_package(), config["vocab_size"], read_json(folder / FILE, largest=LARGEST)
    model, normalizer, kinds = found["model"], found["normalizer"] or {}, gguf.TokenType
    pre = pre or PRE.get((_regex(found), bool(model.get("ignore_merges")), normalizer.get("type", "")))
    if pre is None or model["type"] != "BPE":
        raise UsageError(f"{folder}: no known byte-level BPE; name how llama.cpp splits the words of a BPE with pre")
    tokens = {number: (text, kinds.NORMAL) for text, number in model["vocab"].items()}
    for added in found["added_tokens"]:
        tokens[added["id"]] = added["content"], kinds.CONTROL if added["special"] else kinds.USER_DEFINED
    if max(tokens) >= size:
        raise UsageError(f"{folder}: {max(tokens) + 1:,} tokens, but the net has {size:,}")
    texts, types = zip(*(tokens.get(n, (f"[PAD{n}]", kinds.UNUSED)) for n in range(size)), strict=True)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(texts)
    writer.add_token_types(types)
    special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=size)
    for name in ("bos", "eos"):
        number = config.get(f"{name}_token_id")
        if number is not None:
            special.special_token_ids.setdefault(name, number[0] if isinstance(number, list) else number)
    special.add_special_token.setdefault("bos", False)
    special.add_to_gguf(writer, quiet=True)


def _regex(found: Mapping[str, Any]) -> str | None:
    """The regular expression that splits words, "" for GPT-2's own; None for tokenizers of another form."""
    before = found["pre_tokenizer"] or {}
    *splits, last = before.get("pretokenizers", [before])
    if last.get("type") != "ByteLevel" or last["add_prefix_space"] or last["use_regex"] is bool(splits):
        return None
    return "" if not splits else splits[0]["pattern"].get("Regex") if len(splits) == 1 else None
