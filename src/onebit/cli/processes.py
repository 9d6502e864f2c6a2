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
    # before torch is imported, which takes seconds: torchrun stops all processes when one of them ends
    signals = None if os.environ.get("WORLD_SIZE") == "1" or "RANK" not in os.environ else Signals()
    from onebit.train.ranks import ALONE, is_lost, join, launched_ranks, leave, meet

    if signals is None:
        return verb(ALONE)
    speaker = ALONE  # who stands alone speaks
    with ExitStack() as quiet:
        try:
            ranks = launched_ranks()
            if not ranks.writes:
                quiet.enter_context(redirect_stdout(quiet.enter_context(open(os.devnull, "w", encoding="utf-8"))))
                warnings.simplefilter("ignore")  # each would be said by rank 0 as well
            speaker = ranks = meet(ranks)
            signals.obey(ranks)
            ranks = join(ranks)
            status = verb(ranks)
            leave(ranks)
            return status
        except (OnebitError, OSError, MemoryError, KeyboardInterrupt) as error:
            if speaker.is_first_to("speak"):
                raise
            return INTERRUPTED if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_status", 2)
        except RuntimeError as error:
            if not is_lost(error):
                raise
            if speaker.is_first_to("speak"):
                raise TrainingError("another process of this training stopped") from None
            return TrainingError.exit_status
        finally:
            if speaker is ALONE:
                signals.withdraw()
            else:
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
            _ignore_signals()  # torchrun's SIGTERM would take the place of this line on its way out
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


class Signals:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt, once: from `obey` on, which raises the one that came before.

    Until then the process does not know whether another one speaks.

    Python code cannot run while the GPU, or another process, is waited for, and a GPU waits forever for a process that
    has gone. So a thread hears the signal too, and ends the process when Python code has not done it in time.
    """

    def __init__(self) -> None:
        self.ranks: Ranks | None = None
        self.came: int | None = None
        self._heard, self._ear = socket.socketpair()
        self._ear.setblocking(False)
        signal.set_wakeup_fd(self._ear.fileno(), warn_on_full_buffer=False)
        self._before = {each: signal.signal(each, self._stop) for each in SIGNALS}
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def obey(self, ranks: Ranks) -> None:
        """From now on a signal stops this process; `ranks` know who speaks."""
        self.ranks = ranks
        if self.came is not None:
            self._raise(self.came)

    def withdraw(self) -> None:
        """Signals do again what they did before."""
        signal.set_wakeup_fd(-1)
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._ear.close()
        self._watching.join()
        self._heard.close()

    def _stop(self, number: int, frame: Any) -> None:
        self.came = number
        if self.ranks is not None:
            self._raise(number)

    def _raise(self, number: int) -> None:
        _ignore_signals()  # the way out is not interrupted again
        raise KeyboardInterrupt("interrupted" if number == signal.SIGINT else TOLD_TO_STOP)

    def _watch(self) -> None:
        while (heard := self._heard.recv(1)) and heard[0] not in SIGNALS:
            pass
        if not heard:  # withdrawn
            return
        time.sleep(GRACE)
        if self.ranks is None or self.ranks.is_first_to("speak"):
            say(f"onebit: {TOLD_TO_STOP}; go on from the last checkpoint with --resume")
        os._exit(INTERRUPTED)
