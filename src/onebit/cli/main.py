"""Find the verb, run it, and turn every error a user can fix into one line and an exit status."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from onebit.cli.interrupts import INTERRUPTED, interrupts_end
from onebit.common.progress import discard, print_note
from onebit.common.tables import did_you_mean
from onebit.errors import OnebitError, UnknownNameError, one_line


def run_verb(verb: str, argv: list[str], verbs: Iterable[str]) -> int:
    """Run `onebit VERB argv`; returns the exit status."""

    def run(argv: list[str]) -> int:
        if verb not in verbs:
            from onebit.recipe.translations.scripts import refuse_script

            refuse_script(verb, argv)
            raise UnknownNameError(f"unknown verb {verb!r}{did_you_mean(verb, verbs)} (onebit --help)")
        with interrupts_end():
            module = importlib.import_module(f"onebit.cli.{verb}_verb")
        return module.main(argv)

    return run_program(run, argv, name=f"onebit {verb}")


def run_program(run: Callable[[list[str]], int], argv: list[str], *, name: str) -> int:
    """Call `run(argv)` and turn its errors into one line on stderr; returns the exit status."""
    if sys.stderr is None:  # as after `2>&-`, and under pythonw
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)
    if sys.stdout is None:  # as after `>&-`
        return _say("standard output is closed: > /dev/null throws it away", 2)
    if hasattr(sys.stdout, "reconfigure"):  # an answer is printed whatever the encoding of a console or file
        sys.stdout.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]  # takes the same five arguments
        status = _run_guarded(run, argv, name)
    _flush(sys.stderr, OSError)  # else Python would exit with status 120
    return status


def _run_guarded(run: Callable[[list[str]], int], argv: list[str], name: str) -> int:
    try:
        status = run(argv)
        _flush(sys.stdout, BrokenPipeError)
        return status
    except OnebitError as error:
        return _say(str(error), error.exit_status)
    except ModuleNotFoundError as error:
        # a part of an extra is missing; a missing module of our own is a defect and keeps its traceback
        if (error.name or "").partition(".")[0] == "onebit":
            raise
        return _say(f"`{name}` needs {error.name}: pip install 'onebit[train]'", 2)
    except MemoryError:
        return _say("out of memory: choose a smaller net, batch or padding", 2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}{error.strerror or error}", 2)
    except KeyboardInterrupt as error:
        return _say(str(error) or "interrupted", INTERRUPTED)


def _flush(stream: TextIO, error: type[OSError]) -> None:
    """Write what a stream still holds; it is dropped after an error of this type."""
    try:
        stream.flush()
    except error:
        discard(stream)


def _show_warning(message: Warning | str, category: type[Warning], *where: Any) -> None:
    """A warning as one line, without the source line that raised it."""
    _say(f"note: {message}", 0)


def _say(message: str, status: int) -> int:
    print_note(f"onebit: {one_line(message)}")
    return status
