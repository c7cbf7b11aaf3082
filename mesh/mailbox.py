# SPDX-License-Identifier: Apache-2.0
"""Messages of the controller for a loop that waits for descriptors."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator

from mesh.control import messages as m
from mesh.control.client import Control

__all__ = ["Mailbox"]


class Mailbox:
    """Messages of the controller, with a descriptor that says when there are some."""

    def __init__(self, control: Control) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._control, self._queue = control, queue.SimpleQueue[m.Body]()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="mail", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_closing:
            message = self._control.poll(0.2)
            if message is not None:
                self._queue.put(message)
                os.eventfd_write(self.fd, 1)

    def take(self) -> Iterator[m.Body]:
        """Yields what has come."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return
        while not self._queue.empty():
            yield self._queue.get_nowait()

    def close(self) -> None:
        """Ends the thread."""
        self._is_closing = True
        self._thread.join()
        os.close(self.fd)
