# SPDX-License-Identifier: Apache-2.0
"""Names of Services for the pods of a node that has no cluster DNS."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from ipaddress import ip_address

DOMAIN = "svc.cluster.local"
HEADER = struct.Struct("!6H")
ANSWER, NO_SUCH_NAME = 0x8400, 0x8403
"""Flags of a response with authority."""
A, IN, TTL_S = 1, 1, 0


class NameServer:
    """Answers for `service.namespace.svc.cluster.local` with the addresses of its pods.

    There is no proxy that would stand for a Service, so its name leads to its pods; ports of
    Services have the numbers that their pods listen at.

    Args:
        address: of this machine, where pods ask, at port 53.
        addresses: namespace and service → addresses, none when there is no such Service.
    """

    def __init__(self, address: str, addresses: Callable[[str, str], list[str]]) -> None:
        self._address, self._addresses = address, addresses

    def __enter__(self) -> NameServer:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((self._address, 53))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, sender = self._socket.recvfrom(512)
            if not query:  # of __exit__
                return
            self._socket.sendto(self.answer(query), sender)

    def answer(self, query: bytes) -> bytes:
        """Returns the response to a query with one question."""
        number = HEADER.unpack_from(query)[0]
        name, end = _name(query, HEADER.size)
        question = query[HEADER.size : end + 4]
        kind = struct.unpack_from("!H", query, end)[0]
        service, _, rest = name.partition(".")
        namespace, _, domain = rest.partition(".")
        found = self._addresses(namespace, service) if domain == DOMAIN else []
        rows = [
            struct.pack("!3HIH", 0xC00C, A, IN, TTL_S, 4) + ip_address(each).packed
            for each in (found if kind == A else ())
        ]
        flags = ANSWER if found else NO_SUCH_NAME
        return HEADER.pack(number, flags, 1, len(rows), 0, 0) + question + b"".join(rows)


def _name(message: bytes, at: int) -> tuple[str, int]:
    """Reads a name; returns it and where it ends."""
    labels = []
    while size := message[at]:
        labels.append(message[at + 1 : at + 1 + size].decode("ascii", "replace").lower())
        at += 1 + size
    return ".".join(labels), at + 1
