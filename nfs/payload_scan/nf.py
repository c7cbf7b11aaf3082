# SPDX-License-Identifier: Apache-2.0
"""Searches TCP streams for many patterns; the search itself is C (payload_scan.c)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cffi import FFI
from pydantic import Field

from mesh import NF, Context, Event, EventBatch, NativeCode, on
from mesh.bounds import MemoryMb
from mesh.errors import NFMissing, SpecError
from mesh.native_nf import library_path
from nfs.payload_scan.patterns import Pattern, load

HERE = Path(__file__).parent
TAKE = 1024
"""Matches fetched from C at a time."""


class Match(Event, name="payload_scan.match"):
    """A pattern was found in a TCP stream."""

    pattern: str
    stream_offset: int


class PayloadScan(NF):
    """Finds words in TCP streams, also where they are cut between segments.

    Args:
        patterns: pattern file; "" is the set that ships with this NF.
        memory_mb: bound on the memory of all streams together.
        max_matches: matches kept per batch; more are counted only.
    """

    publishes = (Match,)
    native = NativeCode("payload_scan", "payload_scan_process")

    def __init__(
        self,
        patterns: str = "",
        memory_mb: MemoryMb = 64,
        max_matches: Annotated[int, Field(ge=1, le=1 << 24)] = 65536,
    ) -> None:
        self.patterns: tuple[Pattern, ...] = load(Path(patterns or HERE / "patterns.txt"))
        self.memory_mb, self.max_matches = memory_mb, max_matches
        self.found: Counter[str] = Counter()
        self._ffi = FFI()
        self._lib: Any = None
        self._scan: Any = None
        self._stats: dict[str, int] = {}

    def start(self, ctx: Context) -> None:
        """Compiles the patterns."""
        self._ffi.cdef((HERE / "payload_scan.cdef").read_text(encoding="utf-8"))
        self._lib = self._ffi.dlopen(str(_library()))
        opened = self._lib.payload_scan_open(self._ffi.NULL)
        if opened == self._ffi.NULL:
            raise MemoryError("no memory for payload_scan")
        self._scan = self._ffi.gc(
            self._ffi.cast("payload_scan *", opened), self._lib.payload_scan_close
        )
        self._compile()

    def _compile(self) -> None:
        ffi = self._ffi
        texts = [ffi.new("char[]", p.expression.encode()) for p in self.patterns]
        expressions = ffi.new("const char *[]", texts)
        flags = ffi.new("uint32_t[]", [p.flags for p in self.patterns])
        config = ffi.new("payload_scan_config *")
        config.expressions, config.flags, config.n_patterns = expressions, flags, len(texts)
        config.max_matches, config.stream_memory = self.max_matches, self.memory_mb << 20
        text, blamed = ffi.new("char[256]"), ffi.new("int32_t *")
        if self._lib.payload_scan_load(self._scan, config, text, len(text), blamed) < 0:
            place = self.patterns[blamed[0]].place if blamed[0] >= 0 else "patterns"
            raise SpecError(place, ffi.string(text).decode("utf-8", "replace"))

    @on("tcp.data", "flow.end")
    def search(self, batch: EventBatch) -> None:
        """Scans a batch in C, and publishes its matches about the data that completed them."""
        address = self._ffi.cast("void *", batch.address)
        self._lib.payload_scan_process(self._scan, address)
        matches = self._ffi.new("payload_scan_match[]", TAKE)
        while n := int(self._lib.payload_scan_take(self._scan, matches, TAKE)):
            flows, ends = batch.flow, batch.has("flow.end")
            for match in matches[0:n]:
                self._publish(batch, match, np.flatnonzero(flows == match.flow), ends)

    def _publish(self, batch: EventBatch, match: Any, rows: Any, ends: Any) -> None:
        name = self.patterns[match.pattern].name
        self.found[name] += 1
        about = None
        for row in rows.tolist():
            about = batch[row]
            if not ends[row] and about.side == match.side:
                begin = about.stream_off
                if begin < match.stream_off <= begin + about.data_len:
                    break
        self.publish(Match(pattern=name, stream_offset=match.stream_off), about)

    def stop(self) -> None:
        """Takes down the counters, and frees the matcher."""
        if self._scan is None:
            return
        stats = self._ffi.new("payload_scan_stats *")
        self._lib.payload_scan_stats_get(self._scan, stats)
        names = [name for name, _ in self._ffi.typeof("payload_scan_stats").fields]
        self._stats = {name: int(getattr(stats, name)) for name in names}
        self._ffi.release(self._scan)
        self._scan = None

    def results(self) -> Mapping[str, Any]:
        """Returns the matches by pattern, and what the matcher counted."""
        rows = [{"pattern": name, "matches": n} for name, n in self.found.most_common()]
        return {"patterns": rows, **self._stats}


def _library() -> Path:
    try:
        return library_path(PayloadScan, PayloadScan.native)
    except NFMissing as error:
        text = "payload_scan.so was not built: install libvectorscan-dev, then run make setup"
        raise NFMissing(text, nf=PayloadScan.name) from error
