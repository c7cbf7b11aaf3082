# SPDX-License-Identifier: Apache-2.0
"""Filters as the C library runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mesh._ffi import native, text_of
from mesh.errors import FilterError
from mesh.events import FieldDef
from mesh.filters import Op, lower, parse

__all__ = ["NativeFilter"]


class NativeFilter:
    """A compiled filter.

    Args:
        text: the filter.
        fields: what the events have, by name.

    Attributes:
        pointer: `nfm_filter *`, valid as long as this object.

    Raises:
        FilterError: the text is no filter, or libpcap refuses its part of it.
        UnknownField: the events have no such field.
    """

    __slots__ = ("pointer",)

    def __init__(self, text: str, fields: Mapping[str, FieldDef]) -> None:
        ffi, lib = native()
        ops = lower(parse(text, fields))
        program, kept = _program(ops)
        error = ffi.new("nfm_error *")
        found = lib.nfm_filter_new(program, len(ops), error)
        del kept
        if found == ffi.NULL:
            raise FilterError(text_of(error), text)
        self.pointer = ffi.gc(found, lib.nfm_filter_free)


def _program(ops: Sequence[Op]) -> tuple[Any, list[Any]]:
    """Returns the C array, and what has to live as long as it is read."""
    ffi = native().ffi
    program = ffi.new("nfm_filter_op[]", len(ops))
    kept: list[Any] = []
    for row, op in zip(program, ops, strict=True):
        row.kind, row.compare, row.prefix = int(op.kind), int(op.compare), op.prefix
        row.number, row.integer, row.real = op.number, op.integer, op.real
        row.bytes_len = len(op.data)
        kept += [ffi.new("char[]", op.text.encode()), ffi.new("uint8_t[]", op.data + b"\0")]
        row.text, row.bytes = kept[-2], kept[-1]
        if op.field is not None:
            row.field.kind, row.field.source = int(op.field.kind), int(op.field.source)
            row.field.offset = op.field.offset
    return program, kept
