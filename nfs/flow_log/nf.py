# SPDX-License-Identifier: Apache-2.0
"""Connection records: who talked to whom, how it ended, how much, and a hash of each stream."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from mesh import NF, Context, EventBatch, on
from nfs.flow_log.records import Rows, as_dicts, kinds_of, rows_of
from nfs.flow_log.sinks import Format, Sink, format_of, open_sink

Order = Literal["end", "start"]
CHUNK = 4096
"""Records turned into text at a time."""


class FlowLog(NF):
    """Writes a record per connection, of every protocol.

    Args:
        path: file to write, relative to the folder for output; "" writes none, "-" standard output.
        format: json (an object per line), csv or parquet (needs pyarrow); default: as path ends.
        order: "end" writes records as flows end; "start" keeps them, in order of first packet.
    """

    writes = ("path",)

    def __init__(self, path: str = "", format: Format | None = None, order: Order = "end") -> None:
        self.path, self.format, self.order = path, format or format_of(path), order
        self._hashes: dict[tuple[int, int], Any] = {}
        self._first: dict[int, int] = {}
        self._kept: list[Rows] = []
        self._sink: Sink | None = None
        self.kinds: Counter[str] = Counter()

    def start(self, ctx: Context) -> None:
        """Opens the file."""
        if self.path:
            mode: Literal["w", "wb"] = "wb" if self.format == "parquet" else "w"
            file = None if self.path == "-" else ctx.open(self.path, mode)
            self._sink = open_sink(file, self.format)

    @on("flow.start", "tcp.data", "flow.end")
    def follow(self, batch: EventBatch) -> None:
        """Hashes stream bytes as they come, and makes a row when the flow is over."""
        starts = batch.of("flow.start")
        self._first.update(zip(starts.flow.tolist(), starts.packet.tolist(), strict=True))
        self._hash(batch.of("tcp.data"))
        ends = batch.of("flow.end")
        if len(ends):
            self._finish(ends)

    def _hash(self, data: EventBatch) -> None:
        hashes = self._hashes
        keys = zip(data.flow.tolist(), data.side.tolist(), strict=True)
        for key, piece in zip(keys, data.views("data"), strict=True):
            state = hashes.get(key)
            if state is None:
                state = hashes[key] = hashlib.sha256()
            state.update(piece)

    def _finish(self, ends: EventBatch) -> None:
        rows = rows_of(ends)
        # flow.end is a record of side 0: that side is the server when the sender is not the client.
        clients = np.where(ends.from_client, ends.side, 1 - ends.side).tolist()
        flows = ends.flow.tolist()
        rows["first_packet"] = [self._first.pop(flow, 0) for flow in flows]
        for row, (flow, client) in enumerate(zip(flows, clients, strict=True)):
            for way, side in (("c2s", client), ("s2c", 1 - client)):
                state = self._hashes.pop((flow, side), None)
                if state is not None:
                    rows[way]["sha256"][row] = np.void(state.digest())
        self.kinds.update(kinds_of(rows))
        if self.order == "start":
            self._kept.append(rows)
        elif self._sink is not None:
            self._sink.write(as_dicts(rows))

    def records(self) -> Iterator[dict[str, Any]]:
        """Yields what was kept (order "start"), sorted by the first packet."""
        if self._kept:
            self._kept = [np.concatenate(self._kept)]
            rows = self._kept[0]
            order = np.argsort(rows["first_packet"], kind="stable")
            for at in range(0, len(order), CHUNK):
                yield from as_dicts(rows[order[at : at + CHUNK]])

    def stop(self) -> None:
        """Writes what was kept, and completes the file."""
        if self._sink is not None:
            self._sink.write(self.records())
            self._sink.close()
            self._sink = None

    def results(self) -> Mapping[str, Any]:
        """Returns how many connections there were of which kind, and where they are."""
        kinds = [{"kind": kind, "connections": n} for kind, n in self.kinds.most_common()]
        return {"kinds": kinds, "connections": self.kinds.total(), "path": self.path or None}
