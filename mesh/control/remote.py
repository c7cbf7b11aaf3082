# SPDX-License-Identifier: Apache-2.0
"""A stack's controller over the network, for who orders it about from elsewhere.

    keys = ClientKeys.read(Path("/etc/nfmesh/control"))
    with Remote("tcp://10.0.0.7:7600", keys) as stack:
        stack.put_nf({"name": "scan", "use": "syn_scan"}, hashlib.sha256(token).hexdigest())

One connection that is made, and made again, by itself. An order that was not answered may have
been carried out: give it again, all of them bear that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import zmq

from mesh.control import messages as m
from mesh.control.client import CONTROLLER
from mesh.control.keys import REMOTE, ClientKeys, sealing_key
from mesh.control.seal import Opener, Refused, Sealer
from mesh.errors import ProcessError, SpecError
from mesh.room import check_room

__all__ = ["Remote"]

DESCRIPTORS = 12
HANDSHAKE_MS = 5000
HEARTBEAT_MS = 10_000
NO_TOKEN = "0" * 64


class Remote:
    """A stack's controller. Closed with `close`, or use it in a `with`.

    One order at a time: threads wait for each other.

    Args:
        address: `tcp://10.0.0.7:7600`.
        keys: of this side, and the stack's public one.
        timeout: seconds for an answer, unless an order says another.

    Raises:
        SpecError: the address is none.
    """

    def __init__(self, address: str, keys: ClientKeys, timeout: float = 5.0) -> None:
        check_room(DESCRIPTORS)  # else ZeroMQ ends the process
        self.address, self.timeout = address, timeout
        self._key = sealing_key(keys.server)
        self._sealer = Sealer(REMOTE)
        self._opener = Opener(lambda name: self._key if name == CONTROLLER else None)
        self._lock = threading.Lock()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
            (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
            (zmq.RECONNECT_IVL, 50),
            (zmq.RECONNECT_IVL_MAX, 2000),
            (zmq.IMMEDIATE, 1),
            (zmq.IPV6, address.startswith("tcp://[")),
        ):
            self._socket.setsockopt(option, value)
        self._socket.curve_secretkey, self._socket.curve_publickey = keys.secret, keys.public
        self._socket.curve_serverkey = keys.server
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            text = f"no address: {error.strerror}; write tcp://HOST:PORT"
            raise SpecError(address, text) from error

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close(0)
        self._context.term()

    def status(self, timeout: float | None = None) -> dict[str, Any]:
        """Returns all that is known of the stack, as `nfmesh status --json` prints it.

        Raises:
            ProcessError: no answer.
        """
        return self.ask(m.Status(), timeout)

    def put_nf(
        self, entry: Mapping[str, Any], token_sha256: str, timeout: float | None = None
    ) -> dict[str, Any]:
        """Adds an NF that will join, or changes the one of its name; equal ones are left alone.

        Args:
            entry: as in a spec's `nfs`; `place` and `token` are added.
            token_sha256: what its token's SHA-256 is, in hexadecimal.
            timeout: seconds.

        Returns:
            {revision} of the change, 0 when nothing changes; {effective_from} the first packet;
            {added, changed, replaced}: names of NFs.

        Raises:
            SpecError: refused; nothing has changed. The path names the place.
            ProcessError: no answer.
        """
        return self.ask(_put(entry, token_sha256), timeout)

    def check_nf(
        self, entry: Mapping[str, Any], token_sha256: str = "", timeout: float | None = None
    ) -> dict[str, Any]:
        """Says what `put_nf` would change, and changes nothing.

        The subscriptions of an NF whose class is of another image are looked at once it has been
        here.

        Raises:
            SpecError: it would be refused. The path names the place.
            ProcessError: no answer.
        """
        body = _put(entry, token_sha256 or NO_TOKEN)
        return self.ask(body.model_copy(update={"dry_run": True}), timeout)

    def remove_nf(self, name: str, timeout: float | None = None) -> dict[str, Any]:
        """Removes an NF, once it has handled what it was sent; one that is not there is removed.

        Returns:
            {nf, report}: what it found, None when it was away.

        Raises:
            SpecError: refused.
            ProcessError: no answer.
        """
        return self.ask(m.NfRemove(nf=name, missing_ok=True), timeout)

    def drain(self, timeout: float | None = None) -> dict[str, Any]:
        """Ends the stack in order: no more packets, NFs get their totals.

        Raises:
            ProcessError: no answer.
        """
        return self.ask(m.Stop(), timeout)

    def ask(self, request: m.Body, timeout: float | None = None) -> dict[str, Any]:
        """Sends a request and returns the answer.

        Raises:
            SpecError: refused.
            ProcessError: no answer: nobody is there, or this key is not let in.
        """
        until = time.monotonic() + (self.timeout if timeout is None else timeout)
        with self._lock:
            frames = self._sealer.seal(request, self._key)
            first = self._sealer.seq - len(frames) + 1
            for message in frames:
                self._send(message, until)
            return self._answer(range(first, self._sealer.seq + 1), until)

    def _send(self, frames: list[bytes], until: float) -> None:
        left = max(0, int((until - time.monotonic()) * 1000))
        if not self._socket.poll(left, zmq.POLLOUT):
            raise self._silence()
        self._socket.send_multipart(frames, zmq.NOBLOCK)

    def _answer(self, asked: range, until: float) -> dict[str, Any]:
        while (left := until - time.monotonic()) > 0:
            if not self._socket.poll(max(1, int(left * 1000))):
                continue
            try:
                body = self._opener.open(self._socket.recv_multipart()).body
            except Refused:
                continue
            if isinstance(body, m.Ok | m.Error) and body.request not in asked:
                continue  # to an order that was given up
            if isinstance(body, m.Error):
                raise SpecError(body.path, body.text)
            if isinstance(body, m.Ok):
                return body.result
        raise self._silence()

    def _silence(self) -> ProcessError:
        text = f"no answer from {self.address}: nobody is there, or this key is not let in"
        return ProcessError(text)


def _put(entry: Mapping[str, Any], token_sha256: str) -> m.NfPut:
    return m.NfPut(entries=[{**entry, "place": "pod", "token": token_sha256}])
