# SPDX-License-Identifier: Apache-2.0
"""Finds who sends most: sources, flows and server ports, by bytes and by packets, per window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mesh import NF, Event, EventBatch, on
from mesh.bounds import Seconds
from mesh.columns import address_text, endpoint
from mesh.errors import SpecError, did_you_mean
from nfs.heavy_hitter.summary import Summary

WIDTHS = {"source": 17, "flow": 38, "port": 3}
"""Bytes of a key: IP version and address; version, protocol, addresses, ports; protocol, port."""
UNITS = ("bytes", "packets")
BLOCK = 4096
"""Rows that are added to the summaries at a time."""

Rows = npt.NDArray[np.intp]


class Found(Event, name="heavy_hitter.found"):
    """Somebody had a large share of a window that has ended."""

    kind: str
    who: str
    unit: str
    at_least: int
    at_most: int
    total: int
    window_start: int


class HeavyHitter(NF):
    """Finds who sends most: sources, flows and server ports, by bytes and by packets.

    Args:
        window_s: seconds of event time that are looked at together.
        share: of a window's bytes or packets that makes a heavy hitter.
        top: the most that are reported of a kind, and shown in the results.
        counters: kept of each kind and unit; a sum is wrong by at most its (counters + 1)th part.
        kinds: what is looked for: source, flow, port.
    """

    publishes = (Found,)

    def __init__(
        self,
        window_s: Seconds = 10.0,
        share: Annotated[float, Field(ge=1e-6, le=1)] = 0.1,
        top: Annotated[int, Field(ge=1, le=1 << 16)] = 10,
        counters: Annotated[int, Field(ge=1, le=1 << 20)] = 1024,
        kinds: tuple[str, ...] = ("source", "flow", "port"),
    ) -> None:
        for kind in kinds:
            if kind not in WIDTHS:
                hint = did_you_mean(kind, WIDTHS)
                raise SpecError("kinds", f"{kind!r} is none of {', '.join(WIDTHS)}{hint}")
        if share * (counters + 1) < 1:
            raise SpecError("share", f"{share} is less than 1/(counters + 1); raise counters")
        self.share, self.top, self.counters = share, top, counters
        self._kinds = tuple(dict.fromkeys(kinds))
        self._window_ns = int(window_s * 1e9)
        self._window: int | None = None
        self._block: list[tuple[dict[str, npt.NDArray[np.uint8]], npt.NDArray[np.int64]]] = []
        self._rows = 0
        self._now = self._fresh()
        self._all = self._fresh()
        self.windows = self.without_flow = 0

    def _fresh(self) -> dict[tuple[str, str], Summary]:
        return {
            (kind, unit): Summary(self.counters, WIDTHS[kind])
            for kind in self._kinds
            for unit in UNITS
        }

    @on("packet")
    def count(self, batch: EventBatch) -> None:
        """Adds packets up by flow and sender, and these to the summaries, window by window."""
        has_flow = batch.flow != 0
        self.without_flow += len(batch) - int(has_flow.sum())
        windows = batch.ts // self._window_ns
        for window in np.unique(windows[has_flow]).tolist():
            if self._window is None:
                self._window = window
            if window > self._window:
                self._close()
                self._window = window
            self._add(batch, np.flatnonzero(has_flow & (windows == window)))

    def _add(self, batch: EventBatch, rows: Rows) -> None:
        sender = batch.flow[rows] << np.uint64(1) | batch.from_client[rows]
        _, first, group = np.unique(sender, return_index=True, return_inverse=True)
        weights = np.zeros((2, len(first)), np.int64)
        np.add.at(weights[0], group, batch.wire_len[rows])
        weights[1] = np.bincount(group)
        self._block.append((_keys(batch, rows[first], self._kinds), weights))
        self._rows += len(first)
        if self._rows >= BLOCK:
            self._sum_up()

    def _sum_up(self) -> None:
        if not self._block:
            return
        weights = np.concatenate([block[1] for block in self._block], axis=1)
        for kind in self._kinds:
            keys = np.concatenate([block[0][kind] for block in self._block])
            for row, unit in enumerate(UNITS):
                self._now[kind, unit].add(keys, weights[row])
        self._block.clear()
        self._rows = 0

    def _close(self) -> None:
        """Ends a window: reports what is heavy, and adds it to the whole."""
        self._sum_up()
        for (kind, unit), summary in self._now.items():
            for row in self._heavy(kind, unit, summary):
                start = (self._window or 0) * self._window_ns
                self.publish(Found(window_start=start, total=summary.total, **row))
            self._all[kind, unit].merge(summary)
        self.windows += 1
        self._now = self._fresh()

    def _heavy(self, kind: str, unit: str, summary: Summary) -> list[dict[str, Any]]:
        return [
            {
                "kind": kind,
                "who": _who(kind, key),
                "unit": unit,
                "at_least": sum_,
                "at_most": sum_ + summary.error,
            }
            for key, sum_ in summary.top(self.top)
            if sum_ + summary.error >= self.share * summary.total
        ]

    def stop(self) -> None:
        """Adds the window that has not ended to the whole."""
        self._sum_up()
        for what, summary in self._now.items():
            self._all[what].merge(summary)
        self._now = self._fresh()

    def results(self) -> Mapping[str, Any]:
        """Returns the heavy hitters of the whole run."""
        found = [row for what, summary in self._all.items() for row in self._heavy(*what, summary)]
        return {"found": found, "windows": self.windows, "without_flow": self.without_flow}


def _keys(
    batch: EventBatch, rows: Rows, kinds: tuple[str, ...]
) -> dict[str, npt.NDArray[np.uint8]]:
    """Writes the keys of some entries: u8[n, width] by kind."""
    version = batch.ip_version[rows, None]
    proto, port = batch.proto[rows, None], _bytes_of(batch.server_port[rows])
    found = {}
    if "source" in kinds:
        found["source"] = np.hstack((version, batch.column("src_ip")[rows]))
    if "flow" in kinds:
        ends = [batch.column(f"{side}_ip")[rows] for side in ("client", "server")]
        ports = (_bytes_of(batch.client_port[rows]), port)
        found["flow"] = np.hstack((version, proto, *ends, *ports))
    if "port" in kinds:
        found["port"] = np.hstack((proto, port))
    return found


def _bytes_of(ports: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    return ports.astype(">u2").view(np.uint8).reshape(-1, 2)


def _who(kind: str, key: bytes) -> str:
    """Writes a key as people do."""
    if kind == "source":
        return address_text(key[1:], key[0])
    if kind == "port":
        return f"{int.from_bytes(key[1:], 'big')}/{_protocol(key[0])}"
    ends = [address_text(key[at : at + 16], key[0]) for at in (2, 18)]
    ports = [int.from_bytes(key[at : at + 2], "big") for at in (34, 36)]
    texts = [endpoint(end, port) for end, port in zip(ends, ports, strict=True)]
    return f"{texts[0]} {texts[1]} {_protocol(key[1])}"


def _protocol(number: int) -> str:
    return {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}.get(number, str(number))
