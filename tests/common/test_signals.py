"""Ctrl-C and SIGTERM in a block that must come to its end."""

from __future__ import annotations

import signal

import pytest

from onebit.common.signals import uninterrupted


def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            done = True
        pytest.fail("the interrupt was lost")
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_in_the_block_comes_first_and_the_handler_is_put_back() -> None:
    with pytest.raises(ZeroDivisionError), uninterrupted():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_own_handlers_are_called_after_the_block() -> None:
    calls: list[str] = []
    before = signal.signal(signal.SIGINT, lambda *_: calls.append("handler"))
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            calls.append("block")
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == ["block", "handler"]
