"""`onebit VERB …`. `--help` is printed without the modules of a verb."""

from __future__ import annotations

import os
import sys

from onebit.cli.verbs import VERBS


def overview() -> str:
    """The text of `onebit --help`."""
    lines = [
        "usage: onebit VERB …        onebit help VERB (or onebit VERB --help) for the options of a verb",
        "",
        "Binary neural networks: train them, prove they are binary, pack them to one bit per weight, run them.",
        "",
        *(f"  {verb:<11}{text}" for verb, text in VERBS.items()),
        "",
        "start here:  onebit train mnist-fast      onebit verify runs/mnist-fast",
        "environment: ONEBIT_DATA (data folders), ONEBIT_CACHE, ONEBIT_THREADS, ONEBIT_DEBUG=1 (tracebacks)",
    ]
    return "\n".join(lines)


def _about(arguments: list[str]) -> int:
    """Print the version, or what verbs there are."""
    from onebit.common import __version__
    from onebit.common.progress import print_answer

    print_answer(f"onebit {__version__}" if arguments[:1] in (["-V"], ["--version"]) else overview())
    return 0 if arguments else 2


def main(argv: list[str] | None = None) -> int:
    """Run one command line. Exit status: 0 done and true, 1 a claim does not hold, 2 wrong usage or input."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    from onebit.cli.main import run_program, run_verb

    if not arguments or arguments[0] in ("-h", "--help", "-V", "--version"):
        return run_program(_about, arguments, name="onebit")
    return run_verb(arguments[0], arguments[1:], VERBS)


if __name__ == "__main__":
    status = main()
    if "WORLD_SIZE" in os.environ:  # under torchrun, torch's threads abort a process now and then as Python shuts down
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
