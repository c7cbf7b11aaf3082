# SPDX-License-Identifier: Apache-2.0
"""The controller's side of every process: a DEALER in a thread of its own.

Theory of operation: the thread owns the socket. `send` and `poll` only touch queues, so they may
be called from any thread and never wait for the controller. What is said, and said again, is
talk.py's; the thread sends a heartbeat every HEARTBEAT_S. When the controller has answered nothing
for SILENCE_S, the thread makes a new socket (what waits in the old one grows stale) and registers
over it, each time with twice the patience: a controller that is merely slow would answer over
connections that are gone already, and have more work with each of them.

Rules of this file. Nothing here raises because of the controller or of what it sends. Every queue
is bounded: when the controller is away for long, the oldest `published` messages go first.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from mesh.control import messages as m
from mesh.control.seal import Opener, Refused, Sealer
from mesh.control.stats import Stats
from mesh.control.talk import MAX_WAITING, Talk
from mesh.room import check_room

__all__ = ["CONTROLLER", "Control", "Settings"]

log = logging.getLogger("nfmesh.control")

CONTROLLER = "controller"
HEARTBEAT_S = 0.5
SILENCE_S = 1.5
FIRST_SILENCE_S = 0.2
"""Before the first answer: the controller may not have this process' key yet."""
LONGEST_SILENCE_S = 30.0
DESCRIPTORS = 12
"""That a context with its sockets takes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Who a process is to the controller.

    Attributes:
        address: of the ROUTER: `ipc:///run/nfmesh/x/control`.
        name: the process'.
        key: its token.
        register: what it registers as; `revision` is kept up to date from its `ready`.
        stats: makes a heartbeat's statistics, called in the control thread; None sends none.
        clock: monotonic seconds.
    """

    address: str
    name: str
    key: bytes = field(repr=False)
    register: m.Register
    stats: Callable[[], Stats | None] | None = None
    heartbeat_s: float = HEARTBEAT_S
    silence_s: float = SILENCE_S
    clock: Callable[[], float] = time.monotonic


class Control:
    """One process' line to the controller. Closed with `close`, or use it in a `with`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._sealer = Sealer(settings.name)
        self._opener = Opener(lambda name: settings.key if name == CONTROLLER else None)
        self._inbox: queue.Queue[m.Body] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._talk = Talk(settings.register)
        self._dropped = 0
        self._closing = threading.Event()
        self._line = _Line(settings)
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def session(self) -> int:
        """Number of this process' session."""
        return self._sealer.session

    def send(self, message: m.Body) -> None:
        """Sends a message some time soon; never waits."""
        with self._lock:
            self._talk.say(message)
        self._line.wake()

    def poll(self, timeout: float = 0.0) -> m.Body | None:
        """Takes the next message of the controller.

        Args:
            timeout: seconds to wait for one; 0 does not wait.

        Returns:
            plan, go, drain, leave, watch, finished, ok or error; None when none came.
        """
        try:
            return self._inbox.get(timeout > 0, timeout or None)
        except queue.Empty:
            return None

    def statistics(self) -> dict[str, int]:
        """Returns counters: messages dropped unsent, registrations, refusals by reason."""
        refused = {f"refused.{reason}": n for reason, n in self._opener.refused.items()}
        dropped = self._dropped + self._talk.dropped
        return {"dropped": dropped, "registrations": self._line.registrations, **refused}

    def close(self, linger_s: float = 0.5) -> None:
        """Sends what waits, within `linger_s` seconds, and ends the thread."""
        self._closing.set()
        self._line.linger_ms = int(linger_s * 1000)
        self._line.wake()
        if self._thread is not threading.current_thread():
            self._thread.join(linger_s + 5.0)

    # ---- the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        line = self._line
        try:
            self._register()
            while not self._closing.is_set():
                line.wait()
                self._receive()
                self._keep_alive()
                self._flush()
            self._talk.is_known = True  # last words go behind a registration that is under way
            self._flush()
        except Exception:
            log.exception("control thread of %s ended", self.settings.name)
        finally:
            line.close()

    def _receive(self) -> None:
        for frames in self._line.take():
            try:
                message = self._opener.open(frames)
            except Refused as error:
                log.warning("%s", error)
                continue
            self._line.heard()
            with self._lock:
                self._talk.heard(message.body)
            if isinstance(message.body, m.Who):
                self._register()
            elif isinstance(message.body, m.StatsRequest):
                self._heartbeat()
            elif not isinstance(message.body, m.Seen | m.Piece):
                self._deliver(message.body)

    def _deliver(self, message: m.Body) -> None:
        try:
            self._inbox.put_nowait(message)
        except queue.Full:
            self._dropped += 1

    def _keep_alive(self) -> None:
        line = self._line
        if line.is_silent():
            line.reopen()
            with self._lock:
                self._talk.is_known = False
            self._register()
        elif line.is_heartbeat_due():
            self._heartbeat()

    def _heartbeat(self) -> None:
        self._line.beaten()
        stats = None
        if self.settings.stats is not None:
            try:
                stats = self.settings.stats()
            except Exception:
                log.exception("statistics of %s", self.settings.name)
        with self._lock:
            revision = self._talk.revision
        self._put(m.Heartbeat(revision=revision, stats=stats))

    def _register(self) -> None:
        self._line.registering()
        with self._lock:
            message = self._talk.register()
        self._put(message)

    def _flush(self) -> None:
        while True:
            with self._lock:
                message = self._talk.next()
            if message is None:
                return
            self._put(message)

    def _put(self, message: m.Body) -> None:
        try:
            sealed = self._sealer.seal(message, self.settings.key)
        except Refused as error:
            log.warning("%s", error)
            self._dropped += 1
            if isinstance(message, m.Result) and message.report.get("results") is not None:
                self._put(_without_results(message, str(error)))
            return
        for frames in sealed:
            if not self._line.put(frames):
                self._dropped += 1


def _without_results(message: m.Result, why: str) -> m.Result:
    """A report whose results cannot be sent says so; the rest of it counts."""
    text = f"NF {message.report.get('name', '')!r}: its results cannot be sent: {why}"
    errors = [*message.report.get("errors", ()), text]
    changes = {"results": None, "errors": errors, "failures": len(errors)}
    return message.model_copy(update={"report": {**message.report, **changes}})


class _Line:
    """The socket, the pipe that wakes its thread, and when who was heard of."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        check_room(DESCRIPTORS)  # else ZeroMQ ends the process
        self._context = zmq.Context()
        self._wake_in = self._context.socket(zmq.PAIR)
        self._wake_out = self._context.socket(zmq.PAIR)
        self._wake_in.bind("inproc://wake")
        self._wake_out.connect("inproc://wake")
        self._wake_lock = threading.Lock()
        self._socket = self._open()
        self._heard_at = self._beaten_at = settings.clock()
        self._patience_s = FIRST_SILENCE_S
        self.linger_ms = 0
        self.registrations = 0

    def _open(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, MAX_WAITING)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 100)
        socket.connect(self._settings.address)
        return socket

    def wake(self) -> None:
        with self._wake_lock:
            if not self._wake_out.closed:
                with contextlib.suppress(zmq.Again):
                    self._wake_out.send(b"", zmq.NOBLOCK)

    def wait(self) -> None:
        """Waits for a message, a wake-up, or the next heartbeat."""
        now = self._settings.clock()
        beat = self._beaten_at + self._settings.heartbeat_s - now
        due = min(beat, self._heard_at + self._patience_s - now)
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_in, zmq.POLLIN)
        poller.poll(max(0, int(due * 1000) + 1))
        while self._wake_in.poll(0):
            self._wake_in.recv()

    def take(self) -> list[list[bytes]]:
        found: list[list[bytes]] = []
        while len(found) < MAX_WAITING and self._socket.poll(0):
            found.append(self._socket.recv_multipart())
        return found

    def put(self, frames: list[bytes]) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def heard(self) -> None:
        self._heard_at, self._patience_s = self._settings.clock(), self._settings.silence_s

    def is_silent(self) -> bool:
        return self._settings.clock() - self._heard_at > self._patience_s

    def is_heartbeat_due(self) -> bool:
        return self._settings.clock() - self._beaten_at >= self._settings.heartbeat_s

    def beaten(self) -> None:
        self._beaten_at = self._settings.clock()

    def registering(self) -> None:
        self.registrations += 1
        self._heard_at = self._beaten_at = self._settings.clock()

    def reopen(self) -> None:
        self._patience_s = max(self._patience_s, min(2 * self._patience_s, LONGEST_SILENCE_S))
        self._socket.close(0)
        self._socket = self._open()

    def close(self) -> None:
        with self._wake_lock:
            self._wake_out.close(0)
        self._wake_in.close(0)
        self._socket.close(self.linger_ms)
        self._context.term()
