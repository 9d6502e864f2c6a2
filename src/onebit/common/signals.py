"""Delay Ctrl-C and SIGTERM until a step is complete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """The context that delays Ctrl-C and SIGTERM to its end, so that a write or a clean-up is never cut in half."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # others raise nothing, or were not installed by Python and cannot be restored
    handlers = {number: found for number in SIGNALS if callable(found := signal.getsignal(number))}
    pending: list[tuple[Any, ...]] = []
    for number in handlers:
        signal.signal(number, lambda *args: pending.append(args))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if pending:
        handlers[pending[0][0]](*pending[0])
