# SPDX-License-Identifier: Apache-2.0
"""One record per HTTP request and its response, pipelining included."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from mesh import NF, Context, EventBatch, EventView, on
from mesh.bounds import Kept
from mesh.columns import endpoint
from mesh.records import Records

EVENTS = ("http.request", "http.response", "http.message_end", "flow.end")
INTERIM = frozenset({100, 102, 103})
"""Responses that another one follows (RFC 9110 section 15.2; 101 ends the HTTP of a connection)."""


@dataclass(slots=True)
class Connection:
    """What is open on one connection: requests without response, the response under way."""

    waiting: deque[dict[str, Any]] = field(default_factory=deque)
    answering: dict[str, Any] | None = None
    answer: int = -1  # ordinal of that response on its side


class HttpLog(NF):
    """Writes one record per request and response.

    Args:
        path: file for JSON lines, relative to the folder for output; "" writes none,
            "-" standard output, a container's log.
        keep: records that results() shows, the first ones.
        max_waiting: requests without response remembered per connection; more are counted only.
    """

    writes = ("path",)

    def __init__(
        self,
        path: str = "",
        keep: Kept = 1000,
        max_waiting: Annotated[int, Field(ge=1, le=1 << 16)] = 256,
    ) -> None:
        self.records, self.max_waiting = Records(path, keep), max_waiting
        self.requests = self.responses = self.not_remembered = 0
        self._open: dict[int, Connection] = {}

    def start(self, ctx: Context) -> None:
        """Opens the file."""
        self.records.open(ctx)

    @on(*EVENTS)
    def follow(self, batch: EventBatch) -> None:
        """Pairs requests with responses, in the order of the packets."""
        handlers = (self._request, self._response, self._message_end, self._flow_end)
        by_name = dict(zip(EVENTS, handlers, strict=True))
        for name, event in batch.each(*EVENTS):
            by_name[name](event)

    def _request(self, event: EventView) -> None:
        self.requests += 1
        connection = self._open.setdefault(event.flow, Connection())
        if len(connection.waiting) >= self.max_waiting:
            self.not_remembered += 1
            return
        row = new_row(event)
        row |= {"method": event.method, "host": event.host, "target": event.target}
        row |= {"user_agent": event.user_agent, "request": event.message}
        connection.waiting.append(row)

    def _response(self, event: EventView) -> None:
        if event.status in INTERIM:
            return
        self.responses += 1
        connection = self._open.setdefault(event.flow, Connection())
        self._write(connection.answering)
        row = connection.waiting.popleft() if connection.waiting else new_row(event)
        row |= {"status": event.status, "content_type": event.content_type}
        row["latency_ms"] = event.latency_us / 1000 or None
        connection.answering, connection.answer = row, event.message

    def _message_end(self, event: EventView) -> None:
        connection = self._open.get(event.flow)
        if connection is None:
            return
        if not event.is_response:
            rows = [*connection.waiting, *filter(None, [connection.answering])]
            for row in rows:
                if row["request"] == event.message:
                    row["request_bytes"] = event.body_bytes
        elif connection.answer == event.message:
            if connection.answering is not None:
                connection.answering["response_bytes"] = event.body_bytes
            self._write(connection.answering)
            connection.answering = None

    def _flow_end(self, event: EventView) -> None:
        connection = self._open.pop(event.flow, None)
        if connection is not None:
            self._write(connection.answering)
            for row in connection.waiting:
                self._write(row)

    def _write(self, row: dict[str, Any] | None) -> None:
        if row is None:
            return
        del row["request"]
        self.records.write(row)

    def stop(self) -> None:
        """Writes what is still open, and closes the file."""
        for connection in self._open.values():
            for row in (connection.answering, *connection.waiting):
                self._write(row)
        self._open.clear()
        self.records.close()

    def results(self) -> Mapping[str, Any]:
        """Returns the counts and the first records."""
        return {
            "requests": self.requests,
            "responses": self.responses,
            "not_remembered": self.not_remembered,
            "records": self.records.kept,
        }


def new_row(event: EventView) -> dict[str, Any]:
    """Returns a record of which only the connection is known; None stands for: not seen."""
    return {
        "time": event.ts / 1e9,
        "client": endpoint(event.client_ip, event.client_port),
        "method": None,
        "host": None,
        "target": None,
        "status": None,
        "response_bytes": None,
        "server": endpoint(event.server_ip, event.server_port),
        "content_type": None,
        "latency_ms": None,
        "user_agent": None,
        "request_bytes": None,
        "request": None,
    }
