"""The processes of torchrun as one: whatever stops them, one of them reports it, in one line."""

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
from onebit.common.signals import SIGNALS
from onebit.errors import OnebitError, TrainingError

if TYPE_CHECKING:
    from onebit.train.ranks import Ranks

GRACE = 10.0
"""Seconds within which Python code must end after a signal; torchrun kills after 30."""
TERMINATED = "terminated by SIGTERM: another process ended, or the machine is needed"


def together(verb: Callable[[Ranks], int]) -> int:
    """Run a verb as one of the processes of torchrun; returns the exit status.

    Rank 0 prints. The rank on which an error occurs first raises it; the others exit silently.
    """
    # before torch is imported, which takes seconds: torchrun stops all processes when one of them ends
    signals = None if os.environ.get("WORLD_SIZE") == "1" or "RANK" not in os.environ else Signals()
    from onebit.train.ranks import ALONE, is_lost, join, launched_ranks, leave, meet

    if signals is None:
        return verb(ALONE)
    reporter = ALONE  # a single process always prints
    with ExitStack() as quiet:
        try:
            try:
                ranks = launched_ranks()
                if not ranks.writes:
                    quiet.enter_context(redirect_stdout(quiet.enter_context(open(os.devnull, "w", encoding="utf-8"))))
                    warnings.simplefilter("ignore")  # rank 0 prints them
                reporter = ranks = meet(ranks)
                signals.obey(ranks)
                ranks = join(ranks)
                status = verb(ranks)
                leave(ranks)
                return status
            finally:  # no call, within which Python would raise what a signal left behind
                signals.ending = True
        except (OnebitError, OSError, MemoryError, KeyboardInterrupt) as error:
            if signals.reports(reporter):
                raise
            return INTERRUPTED if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_status", 2)
        except RuntimeError as error:
            if not is_lost(error):
                raise
            if signals.reports(reporter):
                raise TrainingError("another process of this training stopped") from None
            return TrainingError.exit_status
        finally:
            if reporter is ALONE:
                signals.withdraw()
            else:
                _ignore_signals()


@contextmanager
def resumable(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Within the context, an interrupted training ends in a line with the command that goes on."""
    from onebit.train.ranks import is_lost

    try:
        try:
            yield
        except RuntimeError as error:
            if ranks.world == 1 or not is_lost(error):
                raise
            _ignore_signals()  # torchrun's SIGTERM would replace this message
            raise TrainingError(f"another process of this training stopped; {way_on(folder, ranks)}") from None
    except KeyboardInterrupt as stop:  # torchrun may send a signal while a lost process is reported
        raise KeyboardInterrupt(f"{str(stop) or 'interrupted'}; {way_on(folder, ranks)}") from None


def way_on(folder: Path, ranks: Ranks, *, options: str = "") -> str:
    """The command that goes on with an interrupted training."""
    start = "onebit" if ranks.world == 1 else "torchrun … -m onebit"
    return f"go on with: {start} train {options}--resume {folder}"


def _ignore_signals() -> None:
    for each in SIGNALS:  # SIG_IGN would make Python print a traceback for one that comes at this moment
        signal.signal(each, lambda *_: None)


class Signals:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt, once: from `obey` on, which raises an earlier one, until `ending`.

    Before, the process does not know which one reports; after, it reports, and torchrun may send it a signal.

    Python code cannot run while it waits for the GPU or another process, and a GPU waits forever for a process that
    has ended. So a thread receives the signal too, and ends the process when Python code has not done so in time.
    """

    def __init__(self) -> None:
        self.ranks: Ranks | None = None
        self.received: int | None = None
        self.ending = False
        self._asked = threading.Lock()
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._before = {each: signal.signal(each, self._stop) for each in SIGNALS}
        if hasattr(os, "register_at_fork"):  # what a child receives would arrive here, too
            os.register_at_fork(after_in_child=self._forget)
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def obey(self, ranks: Ranks) -> None:
        """From now on a signal stops this process; `ranks` know which one reports."""
        self.ranks = ranks
        if self.received is not None:
            self._raise(self.received)

    def reports(self, ranks: Ranks | None, *, timeout: float = -1) -> bool:
        """Whether this process reports; None asks no other. The thread that asks first ends the process, and no other
        gets an answer before: after `timeout` seconds it is False.
        """
        return self._asked.acquire(timeout=timeout) and (ranks is None or ranks.is_first_to_report())

    def withdraw(self) -> None:
        """Restore the former signal handlers."""
        self._forget()
        self._sender.close()
        self._watching.join()
        self._receiver.close()

    def _forget(self) -> None:
        if signal.getsignal(signal.SIGTERM) == self._stop:
            signal.set_wakeup_fd(-1)
            for each, handler in self._before.items():
                signal.signal(each, handler)

    def _stop(self, number: int, frame: Any) -> None:
        self.received = number
        if self.ranks is not None and not self.ending:
            self._raise(number)

    def _raise(self, number: int) -> None:
        _ignore_signals()  # the exit is not interrupted again
        raise KeyboardInterrupt("interrupted" if number == signal.SIGINT else TERMINATED)

    def _watch(self) -> None:
        while (number := self._receiver.recv(1)) and number[0] not in SIGNALS:
            pass
        if not number:  # withdrawn
            return
        time.sleep(GRACE)
        try:
            if self.reports(self.ranks, timeout=GRACE):
                say(f"onebit: {TERMINATED}; go on from the last checkpoint with --resume")
        finally:
            os._exit(INTERRUPTED)
