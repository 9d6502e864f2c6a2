"""Ctrl-C while modules are imported, which the imports of NumPy turn into errors of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any, NoReturn

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells expect it."""


def _end(*signal_and_frame: Any) -> NoReturn:
    os.write(2, b"onebit: interrupted\n")
    os._exit(INTERRUPTED)


@contextmanager
def interrupts_end() -> Iterator[None]:
    """Ctrl-C ends the process at once: nothing has begun yet. An ignored Ctrl-C stays ignored, as under nohup."""
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
