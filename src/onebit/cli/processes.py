"""Under torchrun, rank 0 prints, and exactly one rank reports an error; torchrun ends the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
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
            nothing = quiet.enter_context(open(os.devnull, "w", encoding="utf-8"))
            quiet.enter_context(redirect_stdout(nothing))
            quiet.enter_context(redirect_stderr(nothing))
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
