# SPDX-License-Identifier: Apache-2.0
"""Finds port and address scans: sources that open many connections and finish few."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from mesh import NF, Context, Event, EventBatch, EventView, on
from mesh.bounds import Seconds, Share
from mesh.columns import enumeration

REFUSED = frozenset({"S0", "REJ", "RSTOS0", "RSTRH", "SH", "SHR"})
"""Connection states of an attempt that never became a connection."""
MAX_TARGETS = 4096
"""Different targets remembered per source; more are not told apart."""


class PortScan(Event, name="syn_scan.port_scan"):
    """One source opened many connections and finished few."""

    source: IPv4Address | IPv6Address
    attempts: int
    finished: int
    targets: int


@dataclass(slots=True)
class Source:
    """What one address did in the current window; an attempt waits until it is answered or old."""

    since_ns: int
    interval: int = 0
    attempts: int = 0
    finished: int = 0
    waiting: int = 0  # opened in this interval, not answered
    waited: int = 0  # opened in the one before
    targets: set[tuple[str, int]] = field(default_factory=set)
    reported: bool = False

    def move_to(self, interval: int) -> None:
        """Lets attempts grow old: after two intervals without an answer they have failed.

        On live ports another worker's packets may be a little older than those before.
        """
        if interval > self.interval:
            self.waited = self.waiting if interval == self.interval + 1 else 0
            self.waiting, self.interval = 0, interval

    def open(self, target: tuple[str, int]) -> None:
        """Counts a new attempt."""
        self.attempts += 1
        self.waiting += 1
        if len(self.targets) < MAX_TARGETS:
            self.targets.add(target)

    def answered(self) -> None:
        """Takes one attempt out of those that wait."""
        if self.waiting:
            self.waiting -= 1
        elif self.waited:
            self.waited -= 1

    @property
    def failed(self) -> int:
        """Attempts that were refused, or got no answer in time."""
        return self.attempts - self.finished - self.waiting - self.waited


class SynScan(NF):
    """Reports sources that open many connections and finish few.

    Args:
        limit: failed attempts of one source in a window that make a scan.
        ratio: a source that finished more than this share of its attempts is busy, not scanning.
        window_s: seconds of event time after which a source starts afresh.
        patience_s: seconds that an attempt may go without an answer, at least; at most twice that.
        max_sources: sources remembered; the longest known makes room.
    """

    publishes = (PortScan,)
    needs_order = True  # what an attempt counts for depends on what its source did before

    def __init__(
        self,
        limit: Annotated[int, Field(ge=1, le=1_000_000_000)] = 20,
        ratio: Share = 0.2,
        window_s: Seconds = 60.0,
        patience_s: Seconds = 3.0,
        max_sources: Annotated[int, Field(ge=1, le=1 << 20)] = 65536,
    ) -> None:
        self.limit, self.ratio, self.max_sources = limit, ratio, max_sources
        self._window_ns, self._patience_ns = int(window_s * 1e9), int(patience_s * 1e9)
        self._sources: dict[str, Source] = {}
        self.scans: dict[str, PortScan] = {}
        self.forgotten = 0
        self._refused: list[int] = []

    def start(self, ctx: Context) -> None:
        """Looks up the numbers of the connection states."""
        words = enumeration("conn_state") or ()
        self._refused = [number for number, word in enumerate(words) if word in REFUSED]

    @on("tcp.handshake", "tcp.end.reset", "flow.end", where="proto == 6")
    def watch(self, batch: EventBatch) -> None:
        """Follows each attempt from its SYN to its answer."""
        opened, finished = batch.has("tcp.handshake.syn"), batch.has("tcp.handshake.established")
        refused = np.isin(batch.conn_state, self._refused) & ~opened
        for row in np.flatnonzero(opened | finished | refused).tolist():
            event = batch[row]
            source = self._source(event.client_ip, event.ts, bool(opened[row]))
            if source is None:
                continue
            if opened[row]:
                source.open((event.server_ip, event.server_port))
            else:
                source.answered()
                source.finished += bool(finished[row])
            self._judge(source, event)

    def _source(self, address: str, now_ns: int, opens: bool) -> Source | None:
        """Returns what is known of a source in this window; only a SYN makes it known."""
        source = self._sources.get(address)
        if source is not None and now_ns - source.since_ns > self._window_ns:
            del self._sources[address]
            source = None
        if source is None:
            if not opens:
                return None
            if len(self._sources) >= self.max_sources:
                del self._sources[next(iter(self._sources))]
                self.forgotten += 1
            source = self._sources[address] = Source(now_ns)
        source.move_to(now_ns // self._patience_ns)
        return source

    def _judge(self, source: Source, event: EventView) -> None:
        few = source.finished <= self.ratio * source.attempts
        if source.failed < self.limit or not few:
            return
        scan = PortScan(
            source=ip_address(event.client_ip),
            attempts=source.attempts,
            finished=source.finished,
            targets=len(source.targets),
        )
        if event.client_ip in self.scans or len(self.scans) < self.max_sources:
            self.scans[event.client_ip] = scan
        if not source.reported:
            source.reported = True
            self.publish(scan, event)

    def results(self) -> Mapping[str, Any]:
        """Returns the scans found: the last count of each source."""
        rows = [
            {
                "source": source,
                "attempts": scan.attempts,
                "finished": scan.finished,
                "targets": scan.targets,
            }
            for source, scan in self.scans.items()
        ]
        return {"scans": rows, "sources_forgotten": self.forgotten}
