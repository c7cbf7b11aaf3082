# SPDX-License-Identifier: Apache-2.0
"""Columns of events: from shared memory into numpy arrays and lists.

Theory of operation: the C library copies one field of many descriptors side by side (`nfm_gather`)
or finds the places of texts and bytes (`nfm_gather_bytes`). Python turns each column into an array
once per batch, and into a list once when somebody iterates. Bytes of packets stay where they are: a
`Memory` keeps one memoryview over the whole object and hands out slices of it, which also keep the
memory mapped as long as somebody holds one.
"""

from __future__ import annotations

import functools
import socket
from typing import Any

import numpy as np
import numpy.typing as npt

from mesh._ffi import check, native
from mesh.events import Catalogue, FieldDef, Kind, Source, shared_fields
from mesh.memory import Memory
from mesh.words import enumeration

__all__ = ["BIT_MASK", "DESC", "Schema", "address_text", "endpoint", "enumeration"]

DESC = np.dtype([("record", "<u4"), ("flow", "<u4"), ("what", "<u8")])
BIT_MASK = (1 << 48) - 1
"""Bits of nfm_desc.what that are built-in events."""
APP = 1 << 63
"""Bit of nfm_desc.what that says: the low 32 bits are a type id."""

_DTYPES: dict[Kind, Any] = {
    Kind.U8: np.uint8,
    Kind.U16: np.uint16,
    Kind.U32: np.uint32,
    Kind.U64: np.uint64,
    Kind.I64: np.int64,
    Kind.F64: np.float64,
    Kind.BOOL: np.bool_,
    Kind.TIME: np.int64,
}
_IN_PLACE = frozenset({Source.PAYLOAD, Source.DATA})

Array = npt.NDArray[Any]


class Schema:
    """The fields that all events of a batch share, with their native descriptions.

    Args:
        catalogue: all event types.
        names: the event types that the batch may hold.
    """

    __slots__ = ("_native", "_single", "catalogue", "fields", "names", "view")

    def __init__(self, catalogue: Catalogue, names: tuple[str, ...]) -> None:
        self.catalogue, self.names = catalogue, names
        self.fields = shared_fields(catalogue, names)
        self.view: type[Any] | None = None
        self._native: dict[tuple[str, bool], Any] = {}
        self._single: dict[str, Schema] = {}

    def of(self, name: str) -> Schema:
        """Returns the schema of one event type."""
        found = self._single.get(name)
        if found is None:
            found = self._single[name] = Schema(self.catalogue, (name,))
        return found

    def native(self, name: str, as_bytes: bool = False) -> Any:
        """Returns the `nfm_field_def *` of a field; an address of a field record is bytes, too."""
        found = self._native.get((name, as_bytes))
        if found is None:
            found = self._native[name, as_bytes] = native_field(self.fields[name])
            if as_bytes and self.fields[name].kind is Kind.ADDR:
                found.kind = int(Kind.BYTES)
        return found

    def array(self, name: str, memory: Memory, desc: Any, n: int) -> Array:
        """Gathers a column: numbers as their type, addresses as u8[n, 16]."""
        ffi, lib = native()
        kind = self.fields[name].kind
        if kind is Kind.ADDR:
            out: Array = np.empty((n, 16), np.uint8)
        else:
            out = np.empty(n, _DTYPES[kind])
        if n:
            target = ffi.from_buffer(out, require_writable=True)
            check(lib.nfm_gather(memory.mem, desc, n, self.native(name), target), f"column {name}")
        return out

    def pieces(self, name: str, memory: Memory, desc: Any, n: int) -> list[memoryview]:
        """Finds the bytes of a text or bytes column, or of addresses in field records, in place."""
        ffi, lib = native()
        starts, lengths = np.empty(n, np.uint64), np.empty(n, np.uint32)
        if n == 0:
            return []
        rc = lib.nfm_gather_bytes(
            memory.mem,
            desc,
            n,
            self.native(name, as_bytes=True),
            ffi.cast("const uint8_t **", ffi.from_buffer(starts)),
            ffi.from_buffer("uint32_t[]", lengths),
        )
        check(rc, f"column {name}")
        if self.fields[name].source in _IN_PLACE:
            whole, base = memory.packets, memory.packets_base
        else:
            whole, base = memory.fields, memory.fields_base
        starts[lengths == 0] = base
        first = starts - np.uint64(base)
        last = first + lengths
        return [whole[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]

    def is_in_place(self, name: str) -> bool:
        """True when the bytes of this field lie in the packet's slot."""
        return self.fields[name].source in _IN_PLACE


def native_field(field: FieldDef) -> Any:
    """Makes the `nfm_field_def *` of a field; names and texts are left out."""
    row = native().ffi.new("nfm_field_def *")
    row.kind, row.source, row.offset = int(field.kind), int(field.source), field.offset
    return row


@functools.lru_cache(maxsize=65536)
def address_text(raw: bytes, version: int) -> str:
    """Writes an address.

    Args:
        raw: 16 bytes, IPv4 in the first four.
        version: 4 or 6.

    >>> address_text(bytes([192, 0, 2, 1]) + bytes(12), 4)
    '192.0.2.1'
    """
    if version == 4:
        return socket.inet_ntop(socket.AF_INET, raw[:4])
    return socket.inet_ntop(socket.AF_INET6, raw)


def endpoint(address: str, port: int) -> str:
    """Writes address and port, IPv6 in brackets.

    >>> endpoint("2001:db8::1", 80)
    '[2001:db8::1]:80'
    """
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def address_texts(rows: Array, versions: list[int]) -> list[str]:
    """Writes a column of a flow's addresses; an event without a flow has the empty text."""
    pairs = zip(rows.view("V16").ravel().tolist(), versions, strict=True)
    return [address_text(row, version) if version else "" for row, version in pairs]


def field_address(raw: bytes) -> str:
    """Writes an address of a field record, whose length tells its version.

    >>> field_address(bytes([192, 0, 2, 1])), field_address(bytes([32, 1] + [0] * 14))
    ('192.0.2.1', '2001::')
    """
    if len(raw) not in (4, 16):
        return ""
    return address_text(raw, 4 if len(raw) == 4 else 6)
