"""`onebit generate`: text from a language model in a GGUF file. Loads no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from onebit.cli.output import answer_either
from onebit.cli.parsing import Parser, whole_number
from onebit.common.progress import discard
from onebit.errors import UsageError, escaped

Option = tuple[Any, Any, str, str]
_SAMPLING: dict[str, Option] = {
    "--tokens": (whole_number(1), None, "N", "most tokens of an answer (default: the context)"),
    "--top-k": (whole_number(0), 0, "K", "of the K most probable tokens; 0: of all (0)"),
    "--top-p": (float, 1.0, "P", "of the most probable tokens with this probability (1)"),
    "--min-p": (float, 0.0, "P", "of the tokens with this share of the largest probability (0)"),
    "--repetition-penalty": (float, 1.0, "X", "divides the logits of tokens of the text (1)"),
}
"""Option -> type, default, name of its value, help."""


def language_parser(verb: str, description: str, *shared: str, temperature: float) -> Parser:
    """A parser with the options of a language model and of sampling."""
    made = Parser(verb, description, "seed", "threads", *shared)
    made.add_argument("model", metavar="FILE.gguf", help="GGUF file of a llama, qwen2 or qwen3, such as a 1-bit one")
    most = "most tokens of a text (default: those of the training, up to 4096)"
    made.add_argument("--context", type=whole_number(1), metavar="N", help=most)
    made.add_argument("--kv", choices=("float16", "int8"), default="float16", help="form of keys and values (float16)")
    made.add_argument("--exact", action="store_true", help="multiply float32 inputs: slower, for comparisons")
    options = {"--temperature": (float, temperature, "X", f"0: the most probable token ({temperature})")} | _SAMPLING
    for name, (kind, default, value, text) in options.items():
        made.add_argument(name, type=kind, default=default, metavar=value, help=text)
    made.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends the answer; may be repeated")
    return made


def parser() -> Parser:
    made = language_parser("generate", "Continue a text with a language model.", "json", temperature=0.0)
    made.add_argument("prompt", metavar="TEXT", help="the beginning, or - for standard input")
    made.add_argument("--ids", action="store_true", help="TEXT and the answer are ids of tokens")
    return made


def open_model(args: Any) -> Any:
    from onebit.language import load_language_model

    return load_language_model(args.model, context=args.context, kv=args.kv, exact=args.exact)


def sampling_of(args: Any) -> Any:
    from onebit.language import Sampling

    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    return Sampling(**{name: getattr(args, name) for name in names})


def printed(pieces: Iterable[str]) -> Iterator[str]:
    """Print text as it comes, with control characters escaped but ends of lines and tabs; pass it on."""
    for piece in pieces:
        text = "".join(letter if letter in "\n\t" else escaped(letter) for letter in piece)
        try:
            print(text, end="", flush=True)
        except BrokenPipeError:  # as in `onebit generate … | head`
            discard(sys.stdout)
            return
        yield piece


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    sampling, model = sampling_of(args), open_model(args)
    prompt: Any = sys.stdin.read() if args.prompt == "-" else args.prompt
    if args.ids:
        if not all(word.isdecimal() for word in prompt.split()):
            raise UsageError("--ids takes numbers with spaces between them")
        prompt = [int(word) for word in prompt.split()]
        pieces: Any = (f"{token} " for token in model.tokens(prompt, sampling, args.tokens))
    else:
        pieces = model.generate(prompt, max_tokens=args.tokens, stop=args.stop, sampling=sampling)
    if args.json:
        answer_either({"model": args.model, "prompt": prompt, "text": "".join(pieces)}, "", as_json=True)
        return 0
    try:
        for _ in printed(pieces):
            pass
    finally:
        print(flush=True)
    return 0
