"""The tokenizer of a GGUF file, from the `tokenizer.json` of a folder, or from another GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onebit.common.files import read_json
from onebit.errors import FormatError, UsageError, short
from onebit.language.tokenizer import BYTES, PRE
from onebit.packed.gguf_file import gguf_package, read_gguf

FILE, MAX_BYTES = "tokenizer.json", 200_000_000


def add_tokenizer(writer: Any, folder: Path, config: Mapping[str, Any], pre: str | None) -> None:
    """Write a tokenizer; UsageError if it is no byte-level BPE that gives the same tokens in llama.cpp.

    Args:
        pre: llama.cpp's name of how text is split into words, which is trusted; None to recognize it.
    """
    try:
        _add(writer, folder, config, pre)
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise FormatError(f"{folder}: {FILE}: {error!r}") from None


def copy_tokenizer(writer: Any, path: Path, size: int) -> None:
    """Write the tokenizer of another GGUF file with `size` tokens."""
    kinds, file = gguf_package().GGUFValueType, read_gguf(path)
    tokens = file.arrays.get("tokenizer.ggml.tokens")
    if tokens is None or tokens.length != size:
        raise UsageError(f"{path}: has {0 if tokens is None else tokens.length:,} tokens, but the net has {size:,}")
    for key, value in file.facts.items():
        if key.startswith("tokenizer."):
            # llama.cpp takes ids as uint32 only
            writer.add_key_value(key, value, kinds.UINT32 if type(value) is int else kinds.get_type(value))
    for key, array in file.arrays.items():
        if key.startswith("tokenizer.") and array.length:
            writer.add_key_value(key, array.values(), kinds.ARRAY, kinds(array.kind))


def _add(writer: Any, folder: Path, config: Mapping[str, Any], pre: str | None) -> None:
    gguf, size, found = gguf_package(), config["vocab_size"], read_json(folder / FILE, largest=MAX_BYTES)
    model, kinds = found["model"], gguf.TokenType
    split = _regex(found), bool(model.get("ignore_merges"))
    pre = pre or next((name for name, known in PRE.items() if known == split), None)
    tokens = {number: (text, kinds.NORMAL) for text, number in model["vocab"].items()}
    for added in found["added_tokens"]:
        tokens[added["id"]] = added["content"], kinds.CONTROL if added["special"] else kinds.USER_DEFINED
    if max(tokens) >= size:
        raise UsageError(f"{folder}: {max(tokens) + 1:,} tokens, but the net has {size:,}")
    special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=size)
    for name in ("bos", "eos"):
        if (number := config.get(f"{name}_token_id")) is not None:
            special.special_token_ids.setdefault(name, number[0] if isinstance(number, list) else number)
    ids, (bos, eos) = _post_processed(found), ([special.special_token_ids.get(name)] for name in ("bos", "eos"))
    first, last = ids[0] is not None, ids[-1] is not None
    special.add_special_token.update(bos=first, eos=last)
    others = _others(found, pre) | {
        "ignore_merges": split[1] is not PRE.get(str(pre), split)[1] and str(split[1]),
        f"post_processor, of bos {bos} and eos {eos}": ids != bos * first + [None] + eos * last and ids,
    }
    if wrong := [f"{part}: {short(value)}" for part, value in others.items() if value]:
        raise UsageError(f"{folder}: expected a byte-level BPE as llama.cpp has it, got {'; '.join(wrong)}")
    if pre is None:
        raise UsageError(f"{folder}: it splits words in an unknown way; name that of llama.cpp with pre")
    texts, types = zip(*(tokens.get(n, (f"[PAD{n}]", kinds.UNUSED)) for n in range(size)), strict=True)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(texts)
    writer.add_token_types(types)
    special.add_to_gguf(writer, quiet=True)


def _others(found: Mapping[str, Any], pre: str | None) -> dict[str, Any]:
    """Part of a tokenizer -> what gives other tokens than llama.cpp, however that splits words; falsy if nothing."""
    model, steps, strips = found["model"], _steps(found, "pre_tokenizer"), ("lstrip", "rstrip", "single_word")
    known = {"pre_tokenizer": ("ByteLevel", "Digits", "Punctuation", "Split"), "decoder": ("ByteLevel",)}
    known |= {"post_processor": ("ByteLevel", "TemplateProcessing"), "normalizer": ("NFC",) if pre == "qwen2" else ()}
    byte_level = sum(step["type"] == "ByteLevel" for step in steps)
    return {
        **{part: [x["type"] for x in _steps(found, part) if x["type"] not in types] for part, types in known.items()},
        **{option: model.get(option) for option in ("end_of_word_suffix", "continuing_subword_prefix", "dropout")},
        "byte_fallback, as sentencepiece has it": model.get("byte_fallback"),
        "model": model.get("type", "BPE").removeprefix("BPE"),
        # with all of them, unk_token is never used
        "bytes without a token": sorted(BYTES.keys() - model["vocab"].keys()),
        "byte-level pre_tokenizers": byte_level != 1 and str(byte_level),
        "add_prefix_space": any(x.get("add_prefix_space") for x in steps),
        "removed text": [x for x in steps if x.get("behavior") == "Removed" and not x["invert"]],
        "lstrip, rstrip, single_word": [x["content"] for x in found["added_tokens"] if any(map(x.get, strips))],
    }


def _steps(found: Mapping[str, Any], part: str) -> list[Any]:
    step = found.get(part) or {}
    parts = ("pretokenizers", "processors", "normalizers", "decoders")
    return next((step[key] for key in parts if key in step), [step] if step else [])


def _regex(found: Mapping[str, Any]) -> str | None:
    """The regular expression that splits words, "" for GPT-2's own; None for other ways."""
    match _steps(found, "pre_tokenizer"):
        case [{"type": "ByteLevel", **options}] if options.get("use_regex", True):
            return ""
        case [{"pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}, {"use_regex": False}]:
            return str(regex)
    return None


def _post_processed(found: Mapping[str, Any]) -> list[Any]:
    """The ids of a text with the tokens around it; the text itself is None."""
    steps = [step for step in _steps(found, "post_processor") if step["type"] == "TemplateProcessing"]
    tokens = [step["special_tokens"].get(x.get("SpecialToken", {}).get("id")) for step in steps for x in step["single"]]
    return [number for token in tokens for number in (token["ids"] if token else [None])] or [None]
