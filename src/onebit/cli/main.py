"""Find the verb, run it, and turn every error into one line and an exit status."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping

from onebit.common.progress import discard, print_note
from onebit.common.tables import resolve
from onebit.errors import OnebitError, one_line

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells expect it."""
EXTRAS = {"onnx": "export", "tensorboard": "log", "wandb": "wandb", "tokenizers": "language", "jinja2": "language"}
"""Module of another project -> the extra of onebit that installs it; `train` for others."""


def run_verb(verb: str, argv: list[str], verbs: Mapping[str, str]) -> int:
    """Run `onebit VERB argv`; returns the exit status."""

    def run(argv: list[str]) -> int:
        resolve(verbs, verb, kind="verb")
        return importlib.import_module(f"onebit.cli.{verb}_verb").main(argv)

    return run_program(run, argv, name=f"onebit {verb}")


def run_program(run: Callable[[list[str]], int], argv: list[str], *, name: str) -> int:
    """Call `run(argv)`; an error becomes one line on stderr, after its traceback with ONEBIT_DEBUG=1.

    Returns the exit status.
    """
    if hasattr(sys.stdout, "reconfigure"):  # answers are printed in any encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        # without the source line that raised it
        warnings.showwarning = lambda message, *where: print_note(f"onebit: {one_line(f'note: {message}')}")
        try:
            status, message = run(argv), ""
        except KeyboardInterrupt as error:
            status, message = INTERRUPTED, str(error) or "interrupted"
        except Exception as error:
            if os.environ.get("ONEBIT_DEBUG", "0") != "0":
                traceback.print_exc()
            status, message = OnebitError.exit_status, _message(error, name)
    if message:
        print_note(f"onebit: {one_line(message)}")
    if sys.stderr is not None:  # as after `2>&-`, and under pythonw
        try:
            sys.stderr.flush()
        except OSError:
            discard(sys.stderr)  # else Python would exit with status 120
    return status


def _message(error: Exception, name: str) -> str:
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(map(str, filter(None, (error.filename, error.strerror))))
    if isinstance(error, (OnebitError, OSError)):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("onebit"):
        return f"`{name}` needs {error.name}: pip install 'onebit[{EXTRAS.get(error.name or '', 'train')}]'"
    return f"{type(error).__name__}: {error} (ONEBIT_DEBUG=1 shows where)"
