# SPDX-License-Identifier: Apache-2.0
"""What tools (`nfmesh status`, ...) ask a running mesh: one request, one answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import zmq

from mesh.control import messages as m
from mesh.control.client import CONTROLLER
from mesh.control.seal import Opener, Refused, Sealer
from mesh.errors import ProcessError, SpecError

__all__ = ["TOOL_KEY", "ask", "watch_events"]

TOOL_KEY = "tool.key"
"""File in the run directory with the key of tools."""
ANSWER_S = 5.0
POLL_MS = 100


def ask(run: Path, request: m.Body, timeout: float = ANSWER_S) -> dict[str, Any]:
    """Sends a request to the controller of a mesh and returns the answer.

    Args:
        run: the run directory.
        request: a tool's message.
        timeout: seconds; changes take as long as an NF needs to come up.

    Raises:
        SpecError: the controller refuses; nothing has changed.
        ProcessError: no mesh runs there, or its controller does not answer.
    """
    sealer, opener = Sealer("tool"), None
    key = _key(run)
    opener = Opener(lambda name: key if name == CONTROLLER else None)
    context = zmq.Context()
    try:
        with context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(f"ipc://{run}/control")
            for frames in sealer.seal(request, key):
                socket.send_multipart(frames)
            return _answer(socket, opener, timeout, run)
    finally:
        context.term()


def _answer(socket: zmq.Socket[bytes], opener: Opener, timeout: float, run: Path) -> dict[str, Any]:
    until = time.monotonic() + timeout
    while (left := until - time.monotonic()) > 0:
        if not socket.poll(max(1, int(left * 1000))):
            continue
        try:
            body = opener.open(socket.recv_multipart()).body
        except Refused:
            continue
        if isinstance(body, m.Error):
            raise SpecError(body.path, body.text)
        if isinstance(body, m.Ok):
            return body.result
    raise ProcessError(f"the controller of {run.name!r} does not answer; packets flow without it")


def watch_events(
    run: Path, events: Sequence[str], until: float | None = None
) -> Iterator[dict[str, Any]]:
    """Yields published events as they happen.

    Args:
        run: the run directory.
        events: names; a node means everything below it, "" all.
        until: time.monotonic() at which to end; None: never.

    Yields:
        {nf, event, ts_ns, flow, fields}, or {nf, missed} for events that were too many;
        an empty one when nothing came for a while, so that the caller can look whether the mesh
        is there.
    """
    context = zmq.Context()
    try:
        with context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            for event in events:
                socket.subscribe(f"{event}." if event else "")
            socket.subscribe(".missed")
            socket.connect(f"ipc://{run}/events")
            while until is None or time.monotonic() < until:
                if not socket.poll(POLL_MS):
                    yield {}
                    continue
                _, payload = socket.recv_multipart()
                yield msgpack.unpackb(payload, raw=False, strict_map_key=False)
    finally:
        context.term()


def _key(run: Path) -> bytes:
    try:
        return (run / TOOL_KEY).read_bytes()
    except FileNotFoundError as error:
        raise ProcessError(f"no mesh runs in {run}") from error
    except OSError as error:
        raise ProcessError(f"{run / TOOL_KEY}: {error.strerror}; are you its user?") from error
