# SPDX-License-Identifier: Apache-2.0
"""Batches of events: numpy columns gathered on demand, and light views of single events."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from mesh._ffi import native
from mesh.columns import (
    APP,
    BIT_MASK,
    DESC,
    Schema,
    address_texts,
    enumeration,
    field_address,
)
from mesh.commands import Commands
from mesh.errors import StateError, did_you_mean
from mesh.event_types import Kind, Source
from mesh.events import Catalogue
from mesh.memory import Memory
from mesh.verdicts import (
    ARG_SHIFT,
    DROP,
    EDIT,
    KEEP,
    MIRROR,
    PASS,
    REDIRECT,
    REJECT,
    REWRITE,
    Verdicts,
    fill_edit,
    word,
)

__all__ = ["EventBatch", "EventView", "HeldBatch", "KeptBatch"]

Mask = npt.NDArray[np.bool_] | None
"""Marks entries of a batch; None: all of them."""

_BYTES_KINDS = (Kind.BYTES, Kind.STR)


class EventBatch:
    """A run of events for one handler, in order. Valid until the handler returns.

    Every field of the subscribed event types is an attribute: numbers are numpy arrays
    (`batch.src_port`, u16[n]), addresses and text lists of str, bytes a list of bytes; bytes that
    lie in packets (`batch.data`, `batch.payload`) are memoryviews in place. With several subscribed
    types the attributes are the fields that they share; `of` gives the others. A field that has the
    name of a method here (an NF's own event may) is read by `column`, `text`, `views` and by views.
    """

    __slots__ = (
        "_columns",
        "_commands",
        "_desc",
        "_keep",
        "_lists",
        "_memory",
        "_n",
        "_native",
        "_parts",
        "_rows",
        "_schema",
        "_verdicts",
    )

    def __init__(
        self,
        schema: Schema,
        memory: Memory,
        desc: Any,
        n: int,
        keep: object = None,
        commands: Commands | None = None,
    ) -> None:
        self._schema, self._memory, self._desc, self._n = schema, memory, desc, n
        self._keep, self._commands = keep, commands
        self._verdicts: Verdicts | None = None
        self._rows: npt.NDArray[np.intp] | None = None
        self._native: Any = None
        self._columns: dict[str, npt.NDArray[Any]] = {}
        self._lists: dict[str, list[Any]] = {}
        self._parts: dict[str, tuple[EventBatch, list[int]]] = {}

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[EventView]:
        return map(self._view(), repeat(self, self._n), range(self._n))

    def __getitem__(self, index: int) -> EventView:
        """Returns the view of one event; negative numbers count from the end."""
        return self._view()(self, range(self._n)[index])

    def __getattr__(self, name: str) -> Any:
        schema = self._schema
        field = schema.fields.get(name)
        if field is None:
            hint = did_you_mean(name, schema.fields)
            events = ", ".join(schema.names)
            raise AttributeError(f"events {events} share no field {name!r}{hint}")
        if field.kind is Kind.ADDR or field.kind in _BYTES_KINDS:
            return self._list(name)
        return self.column(name)

    def __repr__(self) -> str:
        return f"<EventBatch of {self._n} x {', '.join(self._schema.names)}>"

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that all events of this batch have."""
        return tuple(self._schema.fields)

    @property
    def what(self) -> npt.NDArray[np.uint64]:
        """The descriptors' second word: event bits or type id, and handler (see nfm_abi.h)."""
        found = self._columns.get("\0what")
        if found is None:
            buffer = native().ffi.buffer(self._pointer(), self._n * DESC.itemsize)
            found = self._columns["\0what"] = np.frombuffer(buffer, DESC)["what"].copy()
        return found

    @property
    def events(self) -> npt.NDArray[np.uint64]:
        """Bits of the built-in events that were asked for and raised; 0 for other events."""
        what = self.what
        return np.where(what & np.uint64(APP), np.uint64(0), what & np.uint64(BIT_MASK))

    @property
    def types(self) -> npt.NDArray[np.uint32]:
        """Catalogue ids of the event types; of the lowest bit for built-in events."""
        what = self.what
        bits = what & np.uint64(BIT_MASK)
        lowest = np.frexp((bits & (~bits + np.uint64(1))).astype(np.float64))[1] - 1
        of_bit = np.array(self._schema.catalogue.ids_of_bits(), np.uint32)
        ids = np.where(what & np.uint64(APP), what & np.uint64(0xFFFFFFFF), of_bit[lowest])
        return ids.astype(np.uint32)

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """Event times in seconds since the epoch; `ts` has nanoseconds."""
        return self.column("ts") / 1e9

    def has(self, event: str) -> npt.NDArray[np.bool_]:
        """Marks the entries that raised `event` or an event below it."""
        catalogue = self._schema.catalogue
        what = self.what
        is_app = (what & np.uint64(APP)) != 0
        ids = what & np.uint64(0xFFFFFFFF)
        in_tree = np.zeros(len(ids), np.bool_)
        for first, last in catalogue.spans(event):
            in_tree |= (ids >= np.uint64(first)) & (ids <= np.uint64(last))
        has_bit = (what & np.uint64(catalogue.bits(event))) != 0
        return np.asarray(np.where(is_app, in_tree, has_bit), np.bool_)

    def of(self, event: str) -> EventBatch:
        """Returns the entries that raised `event`, with all fields of that type."""
        return self._select(self.has(event), self._schema.of(event))

    def where(self, mask: npt.NDArray[np.bool_]) -> EventBatch:
        """Returns the entries that `mask` marks, in order."""
        return self._select(mask, self._schema)

    def each(self, *events: str) -> Iterator[tuple[str, EventView]]:
        """Yields (event, view) in order, each view with all the fields of that event.

        For handlers of several events. An entry that raised two of them comes twice, in the order
        in which they are named here; one that raised none is left out.
        """
        found: list[tuple[int, int, EventView]] = []
        for rank, event in enumerate(events):
            rows = np.flatnonzero(self.has(event)).tolist()
            found += zip(rows, repeat(rank, len(rows)), self.of(event), strict=True)
        found.sort(key=lambda item: item[:2])
        return ((events[rank], view) for _, rank, view in found)

    def column(self, name: str) -> npt.NDArray[Any]:
        """Returns a number field as numpy array, an address field as u8[n, 16].

        Raises:
            AttributeError: the events have no such field, or it is text or bytes.
            StateError: the handler has returned.
        """
        found = self._columns.get(name)
        if found is None:
            field = self._schema.fields.get(name)
            if field is None or field.kind in _BYTES_KINDS:
                hint = did_you_mean(name, self._schema.fields)
                raise AttributeError(f"no column {name!r} of numbers{hint}")
            found = self._schema.array(name, self._memory, self._pointer(), self._n)
            self._columns[name] = found
        return found

    def bytes(self, name: str) -> list[builtins.bytes]:
        """Returns copies of the bytes of a text or bytes field."""
        return [bytes(piece) for piece in self.views(name)]

    def views(self, name: str) -> list[memoryview]:
        """Returns the bytes of a text or bytes field in place: valid until the handler returns."""
        field = self._schema.fields.get(name)
        if field is None or field.kind not in _BYTES_KINDS:
            raise AttributeError(f"no field {name!r} of text or bytes")
        return self._schema.pieces(name, self._memory, self._pointer(), self._n)

    def text(self, name: str) -> list[str]:
        """Returns a field as text: addresses, states and reasons by their words, else str()."""
        return [value if isinstance(value, str) else str(value) for value in self._list(name)]

    def decide(self, verdicts: Verdicts, rows: npt.NDArray[np.intp] | None) -> EventBatch:
        """Makes the batch one that is decided on: the runtime's; `rows` in the run, None all."""
        self._verdicts, self._rows = verdicts, rows
        return self

    def accept(self, mask: Mask = None, *, rest: bool = False) -> None:
        """Lets packets pass, as they do when nothing is said.

        Args:
            mask: marks the entries; None all. So it is with all verdicts.
            rest: and all that follow on their flows: the NF is not asked for these again.

        Raises:
            StateError: the handler is not inline. So it is with all verdicts.
        """
        self._judge(mask, word(PASS, rest=rest))

    def drop(self, mask: Mask = None, *, rest: bool = False) -> None:
        """Drops packets; with `rest`, all that follow on their flows, too."""
        self._judge(mask, word(DROP, rest=rest))

    def reject(self, mask: Mask = None) -> None:
        """Drops packets and tells their senders: RST, or ICMP administratively prohibited."""
        self._judge(mask, word(REJECT))

    def redirect(self, mask: Mask, port: int, *, rest: bool = False) -> None:
        """Sends packets to another port than their own: its number in the worker."""
        self._judge(mask, word(REDIRECT, port, rest=rest))

    def mirror(self, mask: Mask, port: int) -> None:
        """Lets packets pass, and sends copies of them to a port."""
        self._judge(mask, word(MIRROR, port))

    def rewrite(self, mask: Mask = None, *, rest: bool = False, **what: Any) -> None:
        """Changes packets; checksums follow.

        Args:
            mask: marks the entries; None all.
            rest: the same for all that follow on their flows, and the inverse for what comes back.
            what: src_ip, dst_ip, src_port, dst_port, src_mac, dst_mac, ttl, ttl_down, vlan_push,
                vlan_pop, seq_add, ack_add, out (the port by which it leaves): one value, or one
                for each entry that is marked.
        """
        rows = self._judge(mask, word(REWRITE, rest=rest))
        if self._verdicts is not None and len(rows):
            self._verdicts.edits[rows] = fill_edit(np.zeros(len(rows), EDIT), what)

    def replace(self, index: int, payload: builtins.bytes | bytearray | memoryview) -> None:
        """Puts other bytes in the place of an entry's own: of its datagram, or of its stream.

        What follows in a stream is numbered anew, at both ends, when their number differs; copies
        that are sent again later leave with the same bytes.

        Args:
            index: of the entry, a `tcp.data` or `udp.datagram`.
            payload: what leaves instead; empty: nothing of it.

        Raises:
            CapacityError: too long (128 KiB, a datagram: 64 KiB), or too many in one batch: the
                subscription has to say `edits=True`.
        """
        self._pointer()
        if self._verdicts is None:
            raise StateError('only an inline handler decides: @on(…, mode="inline")')
        row = index if self._rows is None else int(self._rows[index])
        self._verdicts.replace(row, payload)

    def waiting(self, index: int) -> tuple[int, Commands]:
        """Returns an entry's place among those that are not passed, and the way to its worker.

        Raises:
            StateError: no packet waits for it.
        """
        self._pointer()
        if self._commands is None or self._verdicts is None:
            raise StateError("only an inline handler raises events, about what it decides on")
        return index if self._rows is None else int(self._rows[index]), self._commands

    def keep(self, mask: Mask = None) -> KeptBatch:
        """Keeps packets back, and what follows on their flows, until they are judged.

        Raises:
            CapacityError: more than the NF may hold.
        """
        if self._commands is None or self._verdicts is None:
            raise StateError("only an inline handler can keep packets")
        kept = KeptBatch(self.where(self._mask(mask)), self._commands)
        rows = self._judge(mask, KEEP)
        self._verdicts.words[rows] |= np.array(kept.holds, np.uint32) << ARG_SHIFT
        return kept

    def _mask(self, mask: Mask) -> npt.NDArray[np.bool_]:
        return np.ones(self._n, np.bool_) if mask is None else np.asarray(mask, np.bool_)

    def _judge(self, mask: Mask, verdict: int) -> npt.NDArray[np.intp]:
        """Enters a verdict; returns the rows of the run that it is for."""
        self._pointer()
        if self._verdicts is None:
            raise StateError('only an inline handler decides: @on(…, mode="inline")')
        rows = np.arange(self._n) if self._rows is None else self._rows
        rows = rows if mask is None else rows[np.asarray(mask, np.bool_)]
        self._verdicts.words[rows] = verdict
        return rows

    def hold(self, mask: npt.NDArray[np.bool_] | None = None) -> HeldBatch:
        """Keeps the entries that `mask` marks (None: all) until they are released.

        Their packets, fields and flow facts stay readable; the class says in `holds` how many
        entries it may keep at once. They are released when the NF ends or begins again.

        Raises:
            CapacityError: more than the NF may hold.
            StateError: published events: they are no entries of a ring.
        """
        if self._commands is None:
            raise StateError("only events of the stack can be held; copy what others published")
        part = self.where(np.ones(self._n, np.bool_) if mask is None else mask)
        return HeldBatch(part, self._commands)

    @property
    def address(self) -> int:
        """Where this batch lies as an `nfm_batch`, for C code: valid until the handler returns."""
        ffi, _ = native()
        self._native = ffi.new("nfm_batch *")
        self._native.mem, self._native.desc = self._memory.mem, self._pointer()
        self._native.n, self._native.handler = self._n, 0xFFFFFFFF
        return int(ffi.cast("uintptr_t", self._native))

    def close(self) -> None:
        """Makes further gathering an error: the records may be reused now."""
        self._desc = None

    def _pointer(self) -> Any:
        if self._desc is None:
            raise StateError("the batch was valid until its handler returned: copy what you keep")
        return self._desc

    def _select(self, mask: npt.NDArray[np.bool_], schema: Schema) -> EventBatch:
        ffi = native().ffi
        pointer = self._pointer()
        rows = np.frombuffer(ffi.buffer(pointer, self._n * DESC.itemsize), DESC)
        chosen = np.ascontiguousarray(rows[mask])
        desc = ffi.from_buffer("nfm_desc[]", chosen)
        part = EventBatch(schema, self._memory, desc, len(chosen), (self, chosen), self._commands)
        if self._verdicts is not None:
            places = np.arange(self._n) if self._rows is None else self._rows
            part.decide(self._verdicts, places[mask])
        return part

    def _view(self) -> type[EventView]:
        schema = self._schema
        if schema.view is None:
            schema.view = _view_class(schema)
        return schema.view

    def _list(self, name: str) -> list[Any]:
        """The column as Python values, as views show them; made once."""
        found = self._lists.get(name)
        if found is None:
            found = self._lists[name] = self._make_list(name)
        return found

    def _make_list(self, name: str) -> list[Any]:
        field = self._schema.fields[name]
        if field.kind in _BYTES_KINDS:
            pieces = self.views(name)
            if field.kind is Kind.STR:
                return [str(piece, "utf-8", "backslashreplace") for piece in pieces]
            return list(pieces) if self._schema.is_in_place(name) else [bytes(p) for p in pieces]
        if field.kind is Kind.ADDR and field.source is Source.FIELDS:
            pieces = self._schema.pieces(name, self._memory, self._pointer(), self._n)
            return [field_address(bytes(piece)) for piece in pieces]
        if field.kind is Kind.ADDR:
            return address_texts(self.column(name), self.column("ip_version").tolist())
        words = enumeration(field.unit)
        values: list[Any] = self.column(name).tolist()
        if words is None:
            return values
        return [words[value] if value < len(words) else str(value) for value in values]

    def _what_list(self) -> list[int]:
        found = self._lists.get("\0what")
        if found is None:
            found = self._lists["\0what"] = self.what.tolist()
        return found

    def _sole(self, event: str) -> tuple[EventBatch, list[int]]:
        """The entries of one type as a batch, and each entry's place in it; made once."""
        found = self._parts.get(event)
        if found is None:
            mask = self.has(event)
            places = (np.cumsum(mask) - 1).tolist()
            found = self._parts[event] = (self._select(mask, self._schema.of(event)), places)
        return found


class HeldBatch(EventBatch):
    """Entries that stay valid until `release`, or until the `with` block ends."""

    __slots__ = ("_holds",)

    def __init__(self, part: EventBatch, commands: Commands) -> None:
        super().__init__(part._schema, part._memory, part._pointer(), part._n, part._keep, None)
        rows = np.frombuffer(native().ffi.buffer(self._desc, self._n * DESC.itemsize), DESC)
        self._holds: list[int] = []
        self._commands = commands
        try:
            for record in rows["record"].tolist():
                self._holds.append(commands.hold(record))
        except BaseException:
            self.release()
            raise

    def __enter__(self) -> HeldBatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Lets the entries go; a second time does nothing."""
        self.close()
        while self._holds and self._commands is not None:
            self._commands.release(self._holds.pop())


class KeptBatch(HeldBatch):
    """Packets that wait for their verdict; dropped if they are released without one."""

    __slots__ = ()

    @property
    def holds(self) -> tuple[int, ...]:
        """The holds' numbers, by entry."""
        return tuple(self._holds)

    def judge(self, *, drop: bool = False) -> None:
        """Lets the packets pass, or drops them; a second time does nothing."""
        self.close()
        while self._holds and self._commands is not None:
            self._commands.judge(self._holds.pop(), DROP if drop else PASS)

    def release(self) -> None:
        """Drops the packets."""
        self.judge(drop=True)

    def _judge(self, mask: Mask, verdict: int) -> npt.NDArray[np.intp]:
        raise StateError("packets that are kept wait for kept.judge(), or kept.judge(drop=True)")


class EventView:
    """One event of a batch: its fields are attributes, valid until the handler returns.

    Addresses, states and reasons are text; bytes that lie in packets are memoryviews in place.
    """

    __slots__ = ("_batch", "_index")

    def __init__(self, batch: EventBatch, index: int) -> None:
        self._batch, self._index = batch, index

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return _from_own_type(self, name)

    def __repr__(self) -> str:
        return f"<{self.type} event {self._index} of its batch>"

    @property
    def type(self) -> str:
        """Name of the event type; of the lowest bit when one packet raised several."""
        what = self._batch._what_list()[self._index]
        return _names(self._batch._schema.catalogue, what)[0]

    def is_a(self, event: str) -> bool:
        """True when this is `event` or an event below it."""
        what = self._batch._what_list()[self._index]
        catalogue = self._batch._schema.catalogue
        if what & APP:
            number = what & 0xFFFFFFFF
            return any(first <= number <= last for first, last in catalogue.spans(event))
        return bool(what & BIT_MASK & catalogue.bits(event))

    def accept(self, *, rest: bool = False) -> None:
        """Lets the packet pass: as `EventBatch.accept`, and the others likewise."""
        self._one(word(PASS, rest=rest))

    def drop(self, *, rest: bool = False) -> None:
        """Drops the packet."""
        self._one(word(DROP, rest=rest))

    def reject(self) -> None:
        """Drops the packet and tells its sender."""
        self._one(word(REJECT))

    def replace(self, payload: bytes | bytearray | memoryview) -> None:
        """Puts other bytes in the place of the event's own: as `EventBatch.replace`."""
        self._batch.replace(self._index, payload)

    def rewrite(self, *, rest: bool = False, **what: Any) -> None:
        """Changes the packet."""
        mask = np.zeros(len(self._batch), np.bool_)
        mask[self._index] = True
        self._batch.rewrite(mask, rest=rest, **what)

    def _one(self, verdict: int) -> None:
        mask = np.zeros(len(self._batch), np.bool_)
        mask[self._index] = True
        self._batch._judge(mask, verdict)

    @property
    def frame(self) -> memoryview:
        """The whole frame in place, link layer included; empty when a timer caused the event."""
        ffi, lib = native()
        batch = self._batch
        memory = batch._memory
        record = batch._pointer()[self._index].record
        view = lib.nfm_record_frame(memory.mem, memory.mem.records + record)
        if view.data == ffi.NULL:
            return memory.packets[:0]
        start = int(ffi.cast("uintptr_t", view.data)) - memory.packets_base
        return memory.packets[start : start + int(view.len)]


def _names(catalogue: Catalogue, what: int) -> tuple[str, ...]:
    """Names of the event types in a descriptor's second word, at least one."""
    if what & APP:
        return (catalogue.by_id(what & 0xFFFFFFFF).name,)
    return catalogue.names_of_bits(what & BIT_MASK)


def _from_own_type(view: EventView, name: str) -> Any:
    """Reads a field that only some types of the batch have."""
    batch = view._batch
    catalogue = batch._schema.catalogue
    names = _names(catalogue, batch._what_list()[view._index])
    for own in names:
        if name in catalogue.fields(own):
            part, places = batch._sole(own)
            return part._list(name)[places[view._index]]
    known = [field for own in names for field in catalogue.fields(own)]
    raise AttributeError(f"event {view.type!r} has no field {name!r}{did_you_mean(name, known)}")


def _view_class(schema: Schema) -> type[EventView]:
    """Makes the view class of a schema: a property per shared field."""
    space: dict[str, Any] = {"__slots__": ()}
    for name in schema.fields:
        if not hasattr(EventView, name):
            space[name] = property(_getter(name))
    return type("EventView", (EventView,), space)


def _getter(name: str) -> Callable[[EventView], Any]:
    def get(self: EventView) -> Any:
        batch = self._batch
        try:
            return batch._lists[name][self._index]
        except KeyError:
            return batch._list(name)[self._index]

    return get
