"""`onebit chat`: a conversation with a language model in a GGUF file. Loads no torch."""

from __future__ import annotations

import sys

from onebit.cli.generate_verb import language_parser, open_model, printed, sampling_of
from onebit.cli.output import say
from onebit.cli.parsing import Parser


def parser() -> Parser:
    text = (
        "Talk with a language model by the chat template of its file. An empty line or Ctrl-D ends, Ctrl-C stops an "
        "answer."
    )
    made = language_parser("chat", text, temperature=0.7)
    made.add_argument("--system", metavar="TEXT", help="what the model is told first")
    made.add_argument("--no-thinking", action="store_true", help="enable_thinking=False, for templates that know it")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    sampling, model = sampling_of(args), open_model(args)
    messages = [{"role": "system", "content": args.system}] if args.system else []
    values = {"enable_thinking": False} if args.no_thinking else {}
    model.prompt([*messages, {"role": "user", "content": ""}], **values)  # refused before anything is typed
    say("An empty line ends.")
    while line := _typed():
        messages.append({"role": "user", "content": line})
        parts: list[str] = []
        try:
            prompt = model.prompt(messages, **values)
            parts.extend(printed(model.generate(prompt, max_tokens=args.tokens, stop=args.stop, sampling=sampling)))
        except KeyboardInterrupt:
            say("")
        print(flush=True)
        messages.append({"role": "assistant", "content": "".join(parts)})
    return 0


def _typed() -> str:
    """A line of the user; "" at the end."""
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    return sys.stdin.readline().strip()
