# SPDX-License-Identifier: Apache-2.0
"""Signals for a loop that waits for descriptors."""

from __future__ import annotations

import os
import selectors
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["signals_as_calls"]

ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_as_calls(selector: selectors.BaseSelector, stop: Callable[[], None]) -> Iterator[None]:
    """Has SIGINT and SIGTERM call `stop` from the loop of `selector`; only the main thread may.

    The loop finds a callable in the data of what is ready, and calls it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    out, into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.signal(number, lambda *_: None) for number in ENDING}
    wakeup = signal.set_wakeup_fd(into, warn_on_full_buffer=False)

    def read() -> None:
        for number in os.read(out, 64):
            if number in ENDING:
                stop()

    selector.register(out, selectors.EVENT_READ, read)
    try:
        yield
    finally:
        selector.unregister(out)
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(out)
        os.close(into)
