# SPDX-License-Identifier: Apache-2.0
"""The controller's door to the network: a ROUTER under CURVE, for those on a list.

Theory of operation: the keys are files that may come later and may change (they are a Secret that
somebody else makes), so the folder is looked at now and then; the door opens when both files are
right, and opens anew when they are others. Who connects proves its key in the handshake; whose
key is not listed is refused there, and so is whoever speaks no CURVE: nothing of theirs reaches
the controller, and each is counted. Inside, messages are sealed and numbered as on the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
import zmq.auth.asyncio
from zmq.utils.monitor import parse_monitor_message

from mesh.control.keys import ServerKeys, sealing_key
from mesh.control.seal import MAX_BYTES
from mesh.errors import SpecError

__all__ = ["Network"]

log = logging.getLogger("nfmesh.network")

DOMAIN = "nfmesh"
LOOK_S = 1.0
"""How often the folder with the keys is looked at."""
HANDSHAKE_MS = 5000
HEARTBEAT_MS = 10_000
BACKLOG = 64
_FAILED: dict[zmq.Event, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "network.handshake",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "network.handshake",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "network.unauthorised",
}


class _Allowed:
    """Whose keys are let in."""

    def __init__(self) -> None:
        self.keys: frozenset[bytes] = frozenset()

    def callback(self, domain: str, key: bytes) -> bool:
        """Answers the authenticator."""
        return domain == DOMAIN and key in self.keys


class Network:
    """Listens for orders.

    Args:
        address: `tcp://0.0.0.0:7600`, `tcp://*:7600` for IPv6, too; a port `*` is any.
        folder: with the keys.
        refused: where refusals are counted by reason.
        heard: takes the frames of each message, identity first.

    Attributes:
        state: "listening on …", or why not.
        key: that messages are sealed with; empty while nobody can come.
    """

    def __init__(
        self,
        address: str,
        folder: Path,
        refused: Counter[str],
        heard: Callable[[list[bytes]], Awaitable[None]],
    ) -> None:
        self._address, self._folder = address, folder
        self._refused, self._heard = refused, heard
        self._allowed = _Allowed()
        self._keys: ServerKeys | None = None
        self._context = zmq.asyncio.Context()
        self._authenticator = zmq.auth.asyncio.AsyncioAuthenticator(
            self._context, log=logging.getLogger("nfmesh.network.zap")
        )
        self._socket: zmq.asyncio.Socket | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.state = "starting"
        self.key = b""

    async def run(self) -> None:
        """Listens whenever there are keys; cancelling ends it."""
        logging.getLogger("nfmesh.network.zap").setLevel(logging.CRITICAL)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(DOMAIN, self._allowed)
        try:
            while True:
                self._look()
                await asyncio.sleep(LOOK_S)
        finally:
            self._close()
            self._authenticator.stop()
            self._context.destroy(0)

    def statistics(self) -> dict[str, Any]:
        """Returns where it listens, and whether it does."""
        return {"address": self._address, "is_open": self._socket is not None, "state": self.state}

    async def send(self, frames: list[bytes]) -> None:
        """Sends to a connection; one that is gone gets nothing."""
        if self._socket is not None:
            with contextlib.suppress(zmq.ZMQError):
                await self._socket.send_multipart(frames, zmq.NOBLOCK)

    def _look(self) -> None:
        """Opens the door, shuts it, or opens it anew, as the keys say."""
        try:
            keys = ServerKeys.read(self._folder)
        except SpecError as error:
            if self._socket is None:
                self.state = f"waits for keys: {error}"
            return  # a door that is open stays so while files are being replaced
        self._allowed.keys = keys.clients
        if self._keys is not None and self._keys.secret == keys.secret and self._socket is not None:
            return
        self._close()
        try:
            self._open(keys)
        except zmq.ZMQError as error:
            self._close()
            self.state = f"cannot listen on {self._address}: {error.strerror or error}"
            log.warning("%s", self.state)

    def _open(self, keys: ServerKeys) -> None:
        socket = self._context.socket(zmq.ROUTER)
        self._socket, self._keys, self.key = socket, keys, sealing_key(keys.public)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.MAXMSGSIZE, 4 * MAX_BYTES),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
            (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
            (zmq.BACKLOG, BACKLOG),
            (zmq.CURVE_SERVER, 1),
            (zmq.IPV6, self._address.startswith(("tcp://*:", "tcp://["))),
        ):
            socket.setsockopt(option, value)
        socket.curve_secretkey, socket.curve_publickey = keys.secret, keys.public
        socket.zap_domain = DOMAIN.encode()
        monitor = socket.get_monitor_socket(sum(_FAILED))
        socket.bind(self._address)
        self.state = f"listening on {socket.getsockopt_string(zmq.LAST_ENDPOINT)}"
        self._tasks = [
            asyncio.ensure_future(self._receive(socket)),
            asyncio.ensure_future(self._count(monitor)),
        ]

    def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        if self._socket is not None:
            self._socket.disable_monitor()
            self._socket.close(0)
        self._socket, self.key = None, b""

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            await self._heard(await socket.recv_multipart())

    async def _count(self, monitor: zmq.asyncio.Socket) -> None:
        """Counts those who were not let in."""
        while True:
            event = parse_monitor_message(await monitor.recv_multipart())
            reason = _FAILED.get(zmq.Event(event["event"]))
            if reason is not None:
                self._refused[reason] += 1
