# SPDX-License-Identifier: Apache-2.0
"""Events that NFs publish, laid out like the worker's own records.

Theory of operation: a published event becomes a record, a copy of its flow's facts and a field
record, in memory of this process. An `EventBatch` over it is an ordinary one: the same gathering,
filters and views. What the event is about is copied when the handler returns, because the worker
may reuse that record afterwards; its packet's bytes are not part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mesh._ffi import native
from mesh.batch import EventBatch, EventView
from mesh.columns import APP, DESC, Schema
from mesh.declare import Event, Origin
from mesh.events import Catalogue
from mesh.field_record import fields_of
from mesh.memory import Memory

__all__ = ["Block", "Published", "Row", "encode"]

_NO_FLOW = 0xFFFFFFFF
_ALL = 0xFFFFFFFF
"""As nfm_batch.handler: descriptors carry it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One published event, independent of the batch that it is about."""

    name: str
    type: int
    record: bytes
    flow: bytes | None
    fields: bytes


def encode(
    catalogue: Catalogue, event: Event, about: EventView | Origin | None, now_ns: int
) -> Row:
    """Takes down a published event.

    Args:
        catalogue: knows the event's type.
        event: what was published.
        about: the event that caused it, of a batch that is still valid, or copied; or None.
        now_ns: event time when there is no such event.

    Raises:
        StateError: the event inherits fields that `about` does not have.
    """
    name = event.event_name
    record, flow = (_blank(now_ns), None) if about is None else _copied(about)
    return Row(name, catalogue[name].id, record, flow, fields_of(catalogue, event, about))


def _blank(now_ns: int) -> bytes:
    ffi = native().ffi
    record = ffi.new("nfm_record *")
    record.ts_ns = now_ns
    return bytes(ffi.buffer(record))


def _copied(about: EventView | Origin) -> tuple[bytes, bytes | None]:
    ffi = native().ffi
    if isinstance(about, Origin):
        return about.record, about.flow
    batch = about._batch
    mem, desc = batch._memory.mem, batch._pointer()[about._index]
    record = bytes(ffi.buffer(mem.records + desc.record, ffi.sizeof("nfm_record")))
    if desc.flow == _NO_FLOW:
        return record, None
    return record, bytes(ffi.buffer(mem.flows + desc.flow, ffi.sizeof("nfm_flow_info")))


class Block:
    """Application events side by side, readable as batches.

    Args:
        memory: what the events lie in.
        desc: `nfm_desc *`, kept alive by the block or by `memory`.
        n: how many.
    """

    def __init__(self, memory: Memory, desc: Any, n: int) -> None:
        self._memory, self._desc, self._n = memory, desc, n
        self.types = (self._rows()["what"] & np.uint64(0xFFFFFFFF)).astype(np.uint32)

    def __len__(self) -> int:
        return self._n

    def _rows(self) -> Any:
        return np.frombuffer(native().ffi.buffer(self._desc, self._n * DESC.itemsize), DESC)

    def native_batch(self) -> Any:
        """Returns the block as `nfm_batch *`, valid as long as the block."""
        batch = native().ffi.new("nfm_batch *")
        batch.mem, batch.desc, batch.n, batch.handler = self._memory.mem, self._desc, self._n, _ALL
        return batch

    def batch(
        self, schema: Schema, types: Sequence[int], native_filter: Any, as_type: int
    ) -> EventBatch | None:
        """Returns the events of these types that pass the filter, None when there are none."""
        ffi, lib = native()
        mask = np.isin(self.types, np.asarray(types, np.uint32))
        if native_filter is not None and mask.any():
            passed = np.empty(self._n, np.uint8)
            out = ffi.from_buffer("uint8_t[]", passed)
            lib.nfm_filter_select(native_filter, self._memory.mem, self._desc, self._n, out)
            mask &= passed != 0
        rows = self._rows()[mask]
        if len(rows) == 0:
            return None
        if as_type:
            rows["what"] = APP | as_type
        return EventBatch(
            schema, self._memory, ffi.from_buffer("nfm_desc[]", rows), len(rows), rows
        )


class Published(Block):
    """What one NF published in one round.

    Args:
        rows: in the order of publishing; at least one.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        ffi, lib = native()
        self._records = ffi.new("nfm_record[]", len(rows))
        self._flows = ffi.new("nfm_flow_info[]", len(rows))
        self._fields = ffi.new("uint8_t[]", max(1, sum(len(row.fields) for row in rows)))
        desc = ffi.new("nfm_desc[]", len(rows))
        at = 0
        for i, row in enumerate(rows):
            ffi.buffer(self._records + i)[:] = row.record
            record = self._records[i]
            record.kind, record.slot, record.events = lib.NFM_REC_APP, 0xFFFFFFFF, 0
            ffi.memmove(ffi.addressof(record, "app"), bytes(64), ffi.sizeof(record.app))
            record.app.type, record.app.ordinal = row.type, i
            record.app.fields, record.app.fields_len = at, len(row.fields)
            ffi.memmove(self._fields + at, row.fields, len(row.fields))
            at += len(row.fields)
            if row.flow is not None:
                ffi.buffer(self._flows + i)[:] = row.flow
            desc[i].record = i
            desc[i].flow = _NO_FLOW if row.flow is None else i
            desc[i].what = APP | row.type
        owner = (self._records, self._flows, self._fields)
        super().__init__(Memory(self._mem(len(rows), at), owner), desc, len(rows))

    def _mem(self, n: int, fields_size: int) -> Any:
        mem = native().ffi.new("nfm_mem *")
        mem.records, mem.flows, mem.fields = self._records, self._flows, self._fields
        mem.n_records = mem.n_flows = n
        mem.fields_size = fields_size
        return mem
