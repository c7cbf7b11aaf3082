# SPDX-License-Identifier: Apache-2.0
"""`/healthz`, `/readyz` and `/metrics` over HTTP, in threads beside what they tell of.

`/healthz` is 200 while the process does its work and 503 when it hangs; `/readyz` is 200 while it
does so with all that it needs, else 503 with the reason; `/metrics` is for Prometheus. The threads
may run on every core that the process may use, also when the one that works is pinned to one.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from mesh.control.metrics import families
from mesh.errors import MeshError, SpecError

__all__ = ["HealthServer"]

Check = Callable[[], str]
"""Returns what is wrong, "" when nothing is."""
TIMEOUT_S = 5.0
MOST = 32
"""Connections at a time: who says nothing, or says it slowly, keeps no prober away."""
_FAMILY_OF_BOTH = socket.AF_INET6
_TEXT = "text/plain; charset=utf-8"


class _Status(Collector):
    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        return families(self._status())


class _Server(ThreadingHTTPServer):
    """A thread per connection, and not more than MOST: the oldest gives way to who comes."""

    daemon_threads = True
    request_queue_size = MOST
    health: HealthServer

    def __init__(self, port: int) -> None:
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self.address_family = _FAMILY_OF_BOTH if socket.has_dualstack_ipv6() else socket.AF_INET
        super().__init__(("", port), _Handler)

    def server_bind(self) -> None:
        """Takes the port, of both families where there are two; asks no resolver for names."""
        if self.address_family == _FAMILY_OF_BOTH:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "", int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begins a thread for a connection."""
        with self._lock:
            if len(self._open) >= MOST:
                with suppress(OSError):
                    self._open.pop(0).shutdown(socket.SHUT_RDWR)  # its thread reads the end
            self._open.append(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Ends a connection."""
        with self._lock:
            if request in self._open:
                self._open.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A prober that hangs up in the middle is nobody's error."""


class _Handler(BaseHTTPRequestHandler):
    timeout = TIMEOUT_S
    server: _Server

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds: nothing to write down."""

    def _answer(self, *, with_body: bool) -> None:
        status, kind, body = self.server.health.answer(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)


class HealthServer:
    """Serves until it is closed.

    Args:
        port: on all addresses; 0 takes a free one.
        alive: what is wrong so that the process should be started again.
        ready: what is missing so that nobody should count on it.
        status: numbers in the form of a mesh's status, or a collector of others.
        cores: where its threads may run; empty: where this one may.

    Raises:
        SpecError: the port is taken.
    """

    def __init__(
        self,
        port: int,
        alive: Check,
        ready: Check,
        status: Callable[[], Mapping[str, Any]] | Collector,
        cores: Collection[int] = (),
    ) -> None:
        self._checks = {"/healthz": alive, "/livez": alive, "/readyz": ready}
        self._cores = tuple(cores)
        self._registry = CollectorRegistry(auto_describe=False)
        try:
            self._server = _Server(port)
        except (OSError, OverflowError) as error:
            raise SpecError("--health-port", f"{port}: {error}") from error
        self._server.health = self
        self.port = int(self._server.server_address[1])
        self._registry.register(_Status(status) if callable(status) else status)
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)
        self._thread.start()

    def answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Returns status, content type and body of a path."""
        if path == "/metrics":
            return self._metrics()
        check = self._checks.get(path)
        if check is None:
            known = ", ".join([*self._checks, "/metrics"])
            return HTTPStatus.NOT_FOUND, _TEXT, f"there are {known}\n".encode()
        try:
            wrong = check()
        except MeshError as error:
            wrong = str(error)
        status = HTTPStatus.SERVICE_UNAVAILABLE if wrong else HTTPStatus.OK
        return status, _TEXT, f"{wrong or 'ok'}\n".encode()

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _metrics(self) -> tuple[HTTPStatus, str, bytes]:
        try:
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self._registry)
        except MeshError as error:
            return HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, f"{error}\n".encode()

    def _run(self) -> None:
        if self._cores:
            os.sched_setaffinity(0, self._cores)  # of this thread and those that it starts
        self._server.serve_forever(poll_interval=0.5)
