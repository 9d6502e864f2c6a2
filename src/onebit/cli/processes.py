"""One voice for the processes that torchrun starts: whatever stops them, one of them says it, in one line."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onebit.cli.main import INTERRUPTED
from onebit.cli.output import say
from onebit.errors import OnebitError, TrainingError

if TYPE_CHECKING:
    from onebit.train.ranks import Ranks

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 10.0
"""Seconds that Python code has to end after a signal; torchrun kills after 30."""
TOLD_TO_STOP = "told to stop, as another process ended or the machine is wanted (SIGTERM)"


def together(verb: Callable[[Ranks], int]) -> int:
    """Run a verb as one of the processes of torchrun; returns the exit status.

    Rank 0 answers and talks. An error is raised by the rank that meets it first; the others leave without a word.
    """
    from onebit.train.ranks import is_lost, join, launched_ranks, leave

    ranks = join(launched_ranks())
    if ranks.world == 1:
        return verb(ranks)
    with ExitStack() as quiet:
        if not ranks.writes:
            quiet.enter_context(redirect_stdout(quiet.enter_context(open(os.devnull, "w", encoding="utf-8"))))
            warnings.simplefilter("ignore")  # each would be said by rank 0 as well
        _stop_on_signals(ranks)
        try:
            status = verb(ranks)
            leave(ranks)
            return status
        except (OnebitError, OSError, MemoryError, KeyboardInterrupt) as error:
            if ranks.is_first_to("speak"):
                raise
            return INTERRUPTED if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_status", 2)
        except RuntimeError as error:
            if not is_lost(error):
                raise
            if ranks.is_first_to("speak"):
                raise TrainingError("another process of this training stopped") from None
            return TrainingError.exit_status
        finally:
            _ignore_signals()  # torchrun may send one to a process that is leaving


@contextmanager
def resumable(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Within the context, what stops a training from outside ends in a line that says how to go on."""
    from onebit.train.ranks import is_lost

    try:
        try:
            yield
        except RuntimeError as error:
            if ranks.world == 1 or not is_lost(error):
                raise
            raise TrainingError(f"another process of this training stopped; {way_on(folder, ranks)}") from None
    except KeyboardInterrupt as stop:  # torchrun may send a signal while the loss of a process is told
        raise KeyboardInterrupt(f"{str(stop) or 'interrupted'}; {way_on(folder, ranks)}") from None


def way_on(folder: Path, ranks: Ranks, *, options: str = "") -> str:
    """The command that goes on with an interrupted training."""
    start = "onebit" if ranks.world == 1 else "torchrun … -m onebit"
    return f"go on with: {start} train {options}--resume {folder}"


def _ignore_signals() -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)


def _stop_on_signals(ranks: Ranks) -> None:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt, once.

    Python code cannot run while the GPU is waited for, and a GPU waits forever for a process that has gone. So a
    thread hears the signal too, and ends the process when Python code has not done it in time.
    """

    def stop(number: int, frame: Any) -> None:
        _ignore_signals()  # the way out is not interrupted again
        raise KeyboardInterrupt("interrupted" if number == signal.SIGINT else TOLD_TO_STOP)

    heard, ear = socket.socketpair()
    ear.setblocking(False)
    signal.set_wakeup_fd(ear.fileno(), warn_on_full_buffer=False)
    for each in SIGNALS:
        signal.signal(each, stop)

    def watch(_ear: socket.socket) -> None:
        while heard.recv(1)[0] not in SIGNALS:
            pass
        time.sleep(GRACE)
        if ranks.is_first_to("speak"):
            say(f"onebit: {TOLD_TO_STOP}; go on from the last checkpoint with --resume")
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, args=(ear,), daemon=True).start()
