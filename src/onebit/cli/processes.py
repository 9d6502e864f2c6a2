"""Under torchrun, rank 0 prints, and exactly one rank reports an error; torchrun ends the others."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from onebit.cli.main import INTERRUPTED
from onebit.errors import OnebitError

if TYPE_CHECKING:
    from onebit.train.ranks import Ranks


def together(verb: Callable[[Ranks], int]) -> int:
    """Run a verb as one of the processes of torchrun; returns the exit status."""
    from onebit.train.ranks import join, launched_ranks, leave, meet

    ranks = launched_ranks()
    if ranks.world == 1:
        return verb(ranks)
    with ExitStack() as quiet:
        if not ranks.writes:
            quiet.enter_context(redirect_stdout(quiet.enter_context(open(os.devnull, "w", encoding="utf-8"))))
            warnings.simplefilter("ignore")  # rank 0 prints them
        try:
            ranks = meet(ranks)
            join(ranks)
            status = verb(ranks)
            leave(ranks)
            return status
        except (Exception, KeyboardInterrupt) as error:
            reports = ranks.is_first_to_report()
            ranks.end()
            if reports:
                raise
            return INTERRUPTED if isinstance(error, KeyboardInterrupt) else OnebitError.exit_status


@contextmanager
def resumable(folder: Path, ranks: Ranks, *, options: str) -> Iterator[None]:
    """Within the context, Ctrl-C ends a training in a line with the command that resumes it.

    Args:
        options: of that command, beside `--resume`.
    """
    try:
        yield
    except KeyboardInterrupt:
        start = "onebit" if ranks.world == 1 else "torchrun … -m onebit"
        command = f"{start} train {options}--resume {shlex.quote(str(folder))}"
        raise KeyboardInterrupt(f"interrupted; go on with: {command}") from None
