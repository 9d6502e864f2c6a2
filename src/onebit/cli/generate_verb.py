"""`onebit generate`: text from a language model in a GGUF file. Loads no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from onebit.cli.output import answer_either
from onebit.cli.parsing import Parser, whole_number
from onebit.errors import UsageError, escaped

MODEL_HELP = "GGUF file of a llama, qwen2 or qwen3 with matrices in Q1_0, Q8_0, F16, BF16 or F32"


def add_model_options(made: Parser) -> None:
    made.add_argument("model", metavar="FILE.gguf", help=MODEL_HELP)
    made.add_argument(
        "--context", type=whole_number(1), metavar="N", help="most tokens (default: the net's, up to 4096)"
    )
    made.add_argument(
        "--kv", choices=("float16", "int8"), default="float16", help="how keys and values are kept (float16)"
    )
    made.add_argument("--exact", action="store_true", help="multiply float32 inputs: slower, for comparisons")


def add_sampling_options(made: Parser, *, temperature: float) -> None:
    made.add_argument(
        "--tokens", type=whole_number(1), metavar="N", help="most tokens of an answer (default: the context)"
    )
    made.add_argument(
        "--temperature", type=float, default=temperature, metavar="X", help="0: the most probable token (%(default)s)"
    )
    made.add_argument(
        "--top-k", type=whole_number(0), default=0, metavar="K", help="of the K most probable tokens; 0: of all (0)"
    )
    made.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="of the most probable ones with this probability (1)"
    )
    made.add_argument(
        "--min-p", type=float, default=0.0, metavar="P", help="of those with this share of the largest (0)"
    )
    made.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="X", help="divides logits of tokens of the text (1)"
    )
    made.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends the answer; may be repeated")


def parser() -> Parser:
    made = Parser("generate", "Continue a text with a language model, on this machine.", "seed", "threads", "json")
    add_model_options(made)
    made.add_argument("prompt", metavar="TEXT", help="the beginning, or - for standard input")
    made.add_argument(
        "--ids", action="store_true", help="TEXT is ids of tokens with spaces between them, also in the answer"
    )
    add_sampling_options(made, temperature=0.0)
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
        print(text, end="", flush=True)
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
