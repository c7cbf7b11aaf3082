# SPDX-License-Identifier: Apache-2.0
"""Drops packets that come faster than their limits allow; the buckets are C (rate_limiter.c)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cffi import FFI
from pydantic import Field

from mesh import NF, Catalogue, Context, NativeCode, on
from mesh._ffi import check, native
from mesh.columns import address_text, endpoint
from mesh.errors import StateError
from mesh.native_events import core_events
from mesh.native_filter import NativeFilter
from mesh.native_nf import library_path
from nfs.rate_limiter.limits import Each, Limit, parse

HERE = Path(__file__).parent


class RateLimiter(NF):
    """Drops packets that come faster than their limits allow.

    Args:
        limits: each as `name: each source/24 100 packets/s burst 50 packets where udp port 53`.
        max_buckets: sources and flows remembered; the longest idle makes room.
        worst: offenders named in the results.
    """

    subscribes = (on("packet", mode="inline"),)
    native = NativeCode(
        "rate_limiter", "rate_limiter_process", "rate_limiter_open", "rate_limiter_close"
    )

    def __init__(
        self,
        limits: tuple[str, ...] | str,
        max_buckets: Annotated[int, Field(ge=64, le=1 << 24)] = 65536,
        worst: Annotated[int, Field(ge=0, le=1000)] = 10,
    ) -> None:
        self._fields = Catalogue(core_events()).fields("packet")
        texts = limits.split(";") if isinstance(limits, str) else limits
        self.limits: tuple[Limit, ...] = parse(texts, self._fields)
        self.max_buckets, self.worst = max_buckets, worst
        self._filters: list[NativeFilter] = []
        self._ffi = FFI()
        self._lib: Any = None
        self._limiter: Any = None
        self._results: dict[str, Any] = {}

    def start(self, ctx: Context) -> None:
        """Gives the native half its limits."""
        if self.native_handle is None:
            raise StateError("rate_limiter without its native half limits nothing")
        ffi = self._ffi
        ffi.cdef((HERE / "rate_limiter.cdef").read_text(encoding="utf-8"))
        self._lib = ffi.dlopen(str(library_path(type(self), type(self).native)))
        self._limiter = ffi.cast("rate_limiter *", self.native_handle.state)
        rows = ffi.new("rate_limiter_limit[]", len(self.limits))
        for row, limit in zip(rows, self.limits, strict=True):
            self._fill(row, limit)
        rc = self._lib.rate_limiter_load(
            self._limiter, rows, len(rows), self.max_buckets, secrets.randbits(64)
        )
        check(rc, "rate_limiter")

    def _fill(self, row: Any, limit: Limit) -> None:
        row.packets_per_s, row.bits_per_s = limit.packets_per_s, limit.bits_per_s
        row.burst_packets, row.burst_bytes = limit.burst_packets, limit.burst_bytes
        row.each, row.prefix4, row.prefix6 = limit.each, limit.prefix4, limit.prefix6
        if limit.where is not None:
            made = NativeFilter(limit.where, self._fields)
            self._filters.append(made)
            address = int(native().ffi.cast("uintptr_t", made.pointer))
            row.filter = self._ffi.cast("const void *", address)

    def stop(self) -> None:
        """Takes down what the native half counted."""
        if self._limiter is None:
            return
        stats = self._ffi.new("rate_limiter_stats *")
        self._lib.rate_limiter_stats_get(self._limiter, stats)
        self._results = {
            "limits": [self._counts(number) for number in range(len(self.limits))],
            "worst": self._offenders(),
            **_numbers(self._ffi, stats),
        }
        self._limiter = None

    def _counts(self, number: int) -> dict[str, Any]:
        counts = self._ffi.new("rate_limiter_counts *")
        self._lib.rate_limiter_counts_get(self._limiter, number, counts)
        return {"limit": self.limits[number].name, **_numbers(self._ffi, counts)}

    def _offenders(self) -> list[dict[str, Any]]:
        found = self._ffi.new("rate_limiter_offender[]", max(1, self.worst))
        n = self._lib.rate_limiter_worst(self._limiter, found, self.worst)
        return [
            {
                "limit": self.limits[row.limit].name,
                "who": self._who(row),
                "dropped_packets": row.dropped_packets,
                "dropped_bytes": row.dropped_bytes,
            }
            for row in found[0:n]
        ]

    def _who(self, row: Any) -> str:
        limit = self.limits[row.limit]
        texts = [address_text(bytes(row.addr[side]), row.ip_version) for side in (0, 1)]
        if limit.each is Each.FLOW:
            ends = [endpoint(texts[side], row.port[side]) for side in (0, 1)]
            return f"{ends[0]} {ends[1]} {row.proto}"
        bits, whole = (limit.prefix4, 32) if row.ip_version == 4 else (limit.prefix6, 128)
        return texts[0] if bits == whole else f"{texts[0]}/{bits}"

    def results(self) -> Mapping[str, Any]:
        """Returns the counters of each limit and of all, and who lost most packets."""
        return self._results


def _numbers(ffi: FFI, row: Any) -> dict[str, int]:
    """Turns a C struct of counters into a mapping."""
    names = [name for name, _ in ffi.typeof(row).item.fields]
    return {name: int(getattr(row, name)) for name in names}
