# SPDX-License-Identifier: Apache-2.0
"""One record per DNS query and its response, over UDP and TCP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from mesh import NF, Context, EventBatch, EventView, on
from mesh.bounds import Kept
from mesh.columns import endpoint
from mesh.records import Records

EVENTS = ("dns.query", "dns.response", "flow.end")
Question = tuple[int, str, int]
"""Transaction id, name and type: what a response repeats."""


class DnsLog(NF):
    """Writes one record per DNS query and response.

    Args:
        path: file for JSON lines, relative to the folder for output; "" writes none,
            "-" standard output, a container's log.
        keep: records that results() shows, the first ones.
        max_waiting: queries without response remembered per flow; more are counted only.
    """

    writes = ("path",)

    def __init__(
        self,
        path: str = "",
        keep: Kept = 1000,
        max_waiting: Annotated[int, Field(ge=1, le=1 << 16)] = 256,
    ) -> None:
        self.records, self.max_waiting = Records(path, keep), max_waiting
        self.codes: Counter[str] = Counter()
        self.queries = self.not_remembered = 0
        self._waiting: dict[int, dict[Question, dict[str, Any]]] = {}

    def start(self, ctx: Context) -> None:
        """Opens the file."""
        self.records.open(ctx)

    @on(*EVENTS)
    def follow(self, batch: EventBatch) -> None:
        """Pairs queries with responses, in the order of the packets."""
        handlers = dict(zip(EVENTS, (self._query, self._response, self._flow_end), strict=True))
        for name, event in batch.each(*EVENTS):
            handlers[name](event)

    def _query(self, event: EventView) -> None:
        self.queries += 1
        waiting = self._waiting.setdefault(event.flow, {})
        row = waiting.get(question_of(event))
        if row is not None:
            row["sent"] += 1
        elif len(waiting) >= self.max_waiting:
            self.not_remembered += 1
        else:
            waiting[question_of(event)] = new_row(event, sent=1)

    def _response(self, event: EventView) -> None:
        row = self._waiting.get(event.flow, {}).pop(question_of(event), None)
        row = row or new_row(event, sent=0)
        row["rcode"] = event.rcode_name
        row["answers"] = [answer for answer in event.answers.split(";") if answer]
        row["truncated"] = event.tc
        row["latency_ms"] = event.latency_us / 1000 if event.latency_us >= 0 else None
        self._write(row)

    def _flow_end(self, event: EventView) -> None:
        for row in self._waiting.pop(event.flow, {}).values():
            self._write(row)

    def _write(self, row: dict[str, Any]) -> None:
        self.codes[row["rcode"] or "no response"] += 1
        self.records.write(row)

    def stop(self) -> None:
        """Writes queries that still wait, and closes the file."""
        for waiting in self._waiting.values():
            for row in waiting.values():
                self._write(row)
        self._waiting.clear()
        self.records.close()

    def results(self) -> Mapping[str, Any]:
        """Returns the counts by response code and the first records."""
        codes = dict(self.codes.most_common())
        return {
            "queries": self.queries,
            "not_remembered": self.not_remembered,
            "by_code": codes,
            "records": self.records.kept,
        }


def question_of(event: EventView) -> Question:
    """Returns what pairs a response with its query; names differ in case on purpose (0x20)."""
    return event.id, event.qname.lower(), event.qtype


def new_row(event: EventView, sent: int) -> dict[str, Any]:
    """Returns a record without response; sent is how often the query was seen."""
    return {
        "time": event.ts / 1e9,
        "client": endpoint(event.client_ip, event.client_port),
        "qname": event.qname,
        "qtype": event.qtype_name,
        "rcode": None,
        "answers": None,
        "server": endpoint(event.server_ip, event.server_port),
        "transport": "tcp" if event.proto == 6 else "udp",
        "sent": sent,
        "truncated": None,
        "latency_ms": None,
    }
