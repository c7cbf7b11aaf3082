# SPDX-License-Identifier: Apache-2.0
"""An NF with all that its process holds for it: class, object, seat, rings and logs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from mesh.attached import attach_rings
from mesh.columns import Schema
from mesh.commands import Commands
from mesh.control import messages as m
from mesh.control.unpack import catalogue_of, planned_nf
from mesh.control.wire import LogPart, NFPart
from mesh.errors import NFError
from mesh.eventlog import LogReader, LogWriter
from mesh.events import Catalogue
from mesh.fdclient import DescriptorClient
from mesh.fdpass import Handle
from mesh.journal import Journal
from mesh.native_nf import load
from mesh.native_worker import Filters
from mesh.nf import NF, Context
from mesh.options import nf_config
from mesh.outputs import PREFIX, output_paths
from mesh.plan import PlannedNF
from mesh.publish import Block
from mesh.registry import Registry
from mesh.report import NFReport
from mesh.seat import Heard, NativeProcess, Seat
from mesh.serving import NativeFunction, Server
from mesh.sources import LogSource, RingSource, Source

__all__ = ["Station"]

MAX_SHOWN = 256
"""Published events per run that are sent to who watches; the rest is counted."""


class Station:
    """One NF in its process.

    Args:
        part: its part of the plan.

    Raises:
        NFMissing: its code does not load.
        SpecError: its options do not fit.
        NFError: its constructor failed.
    """

    def __init__(self, part: NFPart) -> None:
        self.part, self.revision = part, 0
        self.watched: tuple[str, ...] = ()
        self.backing: dict[str, str] = {}
        self._cleanups: list[Callable[[], None]] = []
        cls = Registry.installed().nf(part.use)
        options = nf_config(cls, part.config, f"{part.nf}.config")
        self._planned = planned_nf(part, cls, options)
        self._catalogue = catalogue_of(part.types)
        self._filters = Filters(self._catalogue)
        self.instance = _make(self._planned)
        self._function: NativeFunction | None = None
        natives = self._natives()
        heard = _heard(self._planned, self._catalogue, self._filters)
        self.seat = Seat(
            self._planned,
            self.instance,
            self._catalogue,
            (),
            heard,
            part.max_failures,
            natives,
        )
        self.log: LogWriter | None = None
        self._log_readers: dict[str, int] = {}
        self._logs: list[LogSource] = []
        self._files: dict[str, int] = {}

    def attach(self, client: DescriptorClient) -> list[Source]:
        """Maps the rings, the own log and those that the NF reads."""
        part = self.part
        rings = [(ring.ring, ring.objects) for ring in part.rings]
        names = [name for ring, objects in rings for name in (ring, *objects)]
        handles = client.fetch(list(dict.fromkeys(names)))
        self.backing = {name: handle.backing for name, handle in handles.items()}
        attached = attach_rings(rings, handles)
        edits = self._planned.edits
        sources: list[Source] = [
            RingSource(ring, worker, edits=edits) for worker, ring in enumerate(attached)
        ]
        queues = [Commands(ring.pointer) for ring in attached]
        self.seat.connect(
            {(worker, native): q for worker, q in enumerate(queues) for native in (False, True)}
        )
        if part.log is not None:
            self.log = _with(client, part.log, LogWriter)
            self._add_readers(client, part.readers)
        self._logs = self._open_logs(client, part.reads)
        files = () if part.opens_files else self._outputs()
        for name, handle in client.fetch([f"{PREFIX}{path}" for path in files]).items():
            self._files[name.removeprefix(PREFIX)] = handle.fd
        return [*sources, *self._logs]

    def _outputs(self) -> tuple[str, ...]:
        """Returns the files that were opened for the NF."""
        return tuple(output_paths(self._planned.cls, self._planned.options, self.part.out))

    def attach_new_logs(self, client: DescriptorClient, part: NFPart) -> list[Source]:
        """Maps logs that a new part of the plan adds, and counts readers in and out."""
        if self.log is not None:
            self._add_readers(client, part.readers)
            wanted = {reader.cursor for reader in part.readers}
            for cursor in [name for name in self._log_readers if name not in wanted]:
                self.log.remove_reader(self._log_readers.pop(cursor))
        known = {log.name for log in self._logs}
        found = self._open_logs(client, [log for log in part.reads if log.log not in known])
        self._logs += found
        return list(found)

    def start(self) -> None:
        """Calls the NF's `start`.

        Raises:
            NFError: it failed.
        """
        part = self.part
        context = Context(
            part.nf,
            part.source,
            Path(part.out),
            self._files,
            part.ports,
            self._catalogue.numbers,
            len(part.rings),
        )
        self.seat.start(context)
        if not self.seat.started:
            raise self.stop().errors[0]

    def server(self, journal: Journal, spin_ns: int, idle_ns: int) -> Server | None:
        """Returns the native loop of a native NF, if it may have it; it ends with `close`.

        What an NF finds in C is published when it is polled. An observer is polled run by run, so
        that its events are in its log before its entries are passed; packets do not wait for it.
        """
        planned = self._planned
        if self._function is None or (planned.publishes and not planned.is_inline):
            return None
        made = Server(
            self._function,
            journal,
            in_line=planned.is_inline,
            fail_open=planned.fail_open,
            spin_ns=spin_ns,
            idle_ns=idle_ns,
        )
        self._cleanups.append(made.close)
        return made

    def stop(self) -> NFReport:
        """Ends the log, calls `stop` and returns the report."""
        report = self.seat.stop()
        if self.log is not None:
            self.log.end()
        return report

    def replan(self, part: NFPart) -> None:
        """Goes on with another part of the plan: other subscriptions of the same NF."""
        self.part = part
        self._planned = planned_nf(part, self._planned.cls, self._planned.options)
        self._catalogue = catalogue_of(part.types)
        self._filters = Filters(self._catalogue)
        heard = _heard(self._planned, self._catalogue, self._filters)
        self.seat.replan(self._planned, self._catalogue, heard)

    def log_gaps(self) -> int:
        """Returns how many events of other NFs were lost."""
        return sum(log.reader.statistics().lost for log in self._logs)

    def shown(self, block: Block) -> tuple[list[m.PublishedEvent], int]:
        """Returns the watched events of a block as plain data, and how many were left out."""
        names = [t.name for t in self._catalogue if t.name and self._is_watched(t.name)]
        found: list[m.PublishedEvent] = []
        missed = 0
        for name in names:
            schema = Schema(self._catalogue, (name,))
            batch = block.batch(schema, [self._catalogue[name].id], None, 0)
            for view in batch or ():
                if len(found) < MAX_SHOWN:
                    found.append(_plain(name, schema, view))
                else:
                    missed += 1
        return found, missed

    def watch(self, events: Sequence[str]) -> None:
        """Takes the names of the event types that somebody watches."""
        self.watched = tuple(events)
        self.seat.show_raised(any(self._is_watched(name) for name in self.part.raises))

    def close(self) -> None:
        """Frees native code and logs."""
        while self._cleanups:
            self._cleanups.pop()()
        for fd in self._files.values():
            os.close(fd)
        for log in self._logs:
            log.reader.close()
        if self.log is not None:
            self.log.close()

    def _is_watched(self, name: str) -> bool:
        return any(
            watched in self._catalogue and self._catalogue.is_a(name, watched)
            for watched in self.watched
        )

    def _natives(self) -> dict[int, NativeProcess]:
        numbers = [sub.handler for sub in self._planned.subscriptions if not sub.method]
        if not numbers:
            return {}
        handle, process, free = load(self._planned.cls, self._planned.options)
        self.instance.native_handle = handle
        self._cleanups.append(free)
        self._function = NativeFunction(self._planned.name, process, handle.state)
        return dict.fromkeys(numbers, self._function)

    def _add_readers(self, client: DescriptorClient, readers: Sequence[LogPart]) -> None:
        for reader in readers:
            if self.log is None or reader.cursor in self._log_readers:
                continue
            handle = client.fetch([reader.cursor])[reader.cursor]
            try:
                number = self.log.add_reader(handle.fd, lossless=not reader.lossy)
            finally:
                os.close(handle.fd)
            self._log_readers[reader.cursor] = number

    def _open_logs(self, client: DescriptorClient, logs: Sequence[LogPart]) -> list[LogSource]:
        found: list[LogSource] = []
        for place, part in enumerate(logs, len(self._logs)):
            handles = client.fetch([part.log, part.cursor])
            try:
                log, cursor = handles[part.log].fd, handles[part.cursor].fd
                reader = LogReader(log, cursor, from_now=part.from_now)
            finally:
                for handle in handles.values():
                    os.close(handle.fd)
            found.append(LogSource(part.log, reader, place))
        return found


def _make(planned: PlannedNF) -> NF:
    try:
        return planned.cls(**planned.options)
    except (Exception, SystemExit) as error:
        raise NFError(planned.name, "__init__", error) from error


def _heard(planned: PlannedNF, catalogue: Catalogue, filters: Filters) -> list[Heard]:
    found: list[Heard] = []
    for sub in planned.subscriptions:
        for part in sub.heard:
            types = tuple(catalogue[name].id for name in part.names)
            where = None if part.where is None else filters.pointer(part.where, part.where_on)
            found.append(Heard(sub.handler, types, where, part.as_type))
    return found


def _with(client: DescriptorClient, name: str, make: Callable[[int], LogWriter]) -> LogWriter:
    handle: Handle = client.fetch([name])[name]
    try:
        return make(handle.fd)
    finally:
        os.close(handle.fd)


def _plain(name: str, schema: Schema, view: Any) -> m.PublishedEvent:
    fields: Mapping[str, Any] = {field: _value(getattr(view, field)) for field in schema.fields}
    flow = fields.get("flow", 0)
    return m.PublishedEvent(event=name, ts_ns=int(fields["ts"]), flow=flow, fields=dict(fields))


def _value(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, IPv4Address | IPv6Address):
        return str(value)
    return value
