# SPDX-License-Identifier: Apache-2.0
"""A worker's stack as its part of the plan wants it: built once, changed while packets flow."""

from __future__ import annotations

import os
from typing import Any

from mesh._ffi import check, native
from mesh.attached import ring_stats
from mesh.control.stats import RingStats
from mesh.control.unpack import catalogue_of, part_of, planned_module
from mesh.control.wire import (
    HostedPart,
    InboxPart,
    ModulePart,
    Receiver,
    WorkerPart,
)
from mesh.errors import SpecError
from mesh.fdclient import DescriptorClient
from mesh.module import ModuleInfo
from mesh.native_worker import (
    Filters,
    Hosting,
    NativeWorker,
    Sharing,
    Terms,
    counters_of,
    domain_config,
    worker_config,
)
from mesh.plan import PlannedModule
from mesh.port_opening import open_ports
from mesh.port_spec import FILES
from mesh.reconcile import WorkerChanges, worker_changes

__all__ = ["Stack"]


class Stack:
    """One native worker in shared objects.

    Args:
        part: of the plan.
        client: gives descriptors of the objects and rings.
        is_again: entries that its predecessor pushed are not pushed again.
        mesh: names the mesh on this host.

    Raises:
        MeshError: a port cannot be opened, memory is short, or the plan asks for what is not there.
    """

    def __init__(
        self, part: WorkerPart, client: DescriptorClient, *, is_again: bool, mesh: str
    ) -> None:
        self.part, self.revision, self._client = part, 0, client
        self.left = part.max_packets
        self.ports = open_ports(part.ports, mesh, is_again=is_again)
        self.worker = NativeWorker(self._config())
        self._filters: list[Filters] = []
        self._rings: dict[str, Any] = {}
        self._domains: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        for port in self.ports:
            self.worker.add_port(port)
        if part.workers > 1:
            self._share()
        for number, way in enumerate(part.ports):
            if way.out is not None:
                self.worker.forward(number, way.out)
            if way.send_only:
                self.worker.send_only(number)
        if part.mode == "live":
            is_realtime = all(each.is_realtime for each in part.ports)
            self.worker.live(is_realtime=is_realtime, is_busy=part.is_busy)
        for room in part.room:
            self.worker.reserve_module(ModuleInfo(room.name, room.library, room.symbol))
        self._change(worker_changes(part, None))
        if is_again and part.mode == "file":
            check(native().lib.nfm_worker_resume(self.worker.pointer), "resume")
        self.worker.start()

    def _config(self) -> Any:
        row = worker_config(self.part.config, is_secret=self.part.mode == "live")
        row.id = self.part.id
        handles = self._client.fetch(self.part.objects)
        for i, name in enumerate(self.part.objects):
            row.fds[i] = handles[name].fd
        self._fds = [handle.fd for handle in handles.values()]
        return row

    def _share(self) -> None:
        part, how = self.part, self.part.handover
        files = sum(1 << n for n, port in enumerate(part.ports) if port.kind in FILES)
        if how is None:
            self.worker.share(Sharing(part.workers, files))
            return
        handles = self._client.fetch(how.objects)
        fds = {"": -1, **{name: handle.fd for name, handle in handles.items()}}
        try:
            rows = [tuple(fds[name] for name in names) for names in (how.to, how.taken, how.bells)]
            self.worker.share(Sharing(part.workers, files, *rows))
        finally:
            for handle in handles.values():
                os.close(handle.fd)

    def apply(self, part: WorkerPart) -> None:
        """Changes what differs from the part applied before.

        Raises:
            SpecError: what cannot change while packets flow.
        """
        changes = worker_changes(part, self.part)
        self.part = part
        self._change(changes)

    def run(self, budget: int) -> int:
        """Works on, at most to the packet that is the last; returns an enum nfm_run_reason."""
        source = ", ".join(port.source for port in self.ports)
        if self.left is None:
            return self.worker.run(budget, source)
        before = self.frames
        reason = self.worker.run(min(budget, self.left), source)
        self.left -= self.frames - before
        return reason

    @property
    def frames(self) -> int:
        """Number of the last frame: of a capture, whoever's of the workers it was."""
        statistics = self.worker.statistics()
        return statistics.packets + statistics.foreign

    def positions(self) -> dict[str, int]:
        """Returns the entries published so far by ring."""
        return {stats.ring: stats.head for stats in self.ring_stats()}

    def ring_stats(self) -> list[RingStats]:
        """Returns a snapshot of all rings."""
        return [ring_stats(name, ring) for name, ring in self._rings.items()]

    def counters(self) -> dict[str, int]:
        """Returns the counters that are not zero, the ports' too."""
        return counters_of(self.worker, self.ports)

    def close(self) -> None:
        """Closes ports and descriptors; the shared memory stays the supervisor's."""
        self.worker.release_ports()
        for port in self.ports:
            port.close()
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    # ---- changing ------------------------------------------------------------------------

    def _change(self, changes: WorkerChanges) -> None:
        for module in changes.modules:
            self._add_module(module)
        for inbox in changes.inboxes:
            self._add_inbox(inbox)
        for receiver in changes.rings:
            self._add_ring(receiver)
        for name in changes.unsubscribe:
            self.worker.unsubscribe(self._numbers.pop(name))
        if changes.subscribe:
            self._filters.append(Filters(catalogue_of(self.part.types)))
        for ring, row in changes.subscribe:
            terms = Terms(row.group, row.per_flow, row.in_line, row.stage)
            self._numbers[row.id] = self.worker.subscribe(
                self._rings[ring], row.handler, part_of(row), self._filters[-1], terms, row.id
            )
        for name in changes.remove_rings:
            ring = self._rings.pop(name)
            check(native().lib.nfm_worker_remove_ring(self.worker.pointer, ring), name)
        for name in changes.remove_inboxes:
            self.worker.remove_domain(self._domains.pop(name))

    def _add_module(self, part: ModulePart) -> None:
        planned, info = planned_module(part)
        limits = zip(info.descriptor.limits, part.limits, strict=True)
        for limit, value in limits:
            if not limit.min <= value <= limit.max:
                path = f"modules.{part.name}.{limit.name}"
                raise SpecError(path, f"{value} is not within {limit.min}..{limit.max}")
        if part.host is None:
            self.worker.add_module(planned, info)
        else:
            self._add_hosted(planned, info, part.host)

    def _add_hosted(self, planned: PlannedModule, info: ModuleInfo, host: HostedPart) -> None:
        handles = self._client.fetch([host.ring, host.answers])
        ring, answers = handles[host.ring].fd, handles[host.answers].fd
        is_ordered = self.part.mode == "file"
        try:
            hosting = Hosting(ring, answers, is_ordered, host.deadline_ms * 1_000_000)
            self.worker.add_hosted_module(planned, info, hosting)
        finally:
            os.close(ring)
            os.close(answers)

    def _add_inbox(self, part: InboxPart) -> None:
        row = domain_config(part.config)
        handles = self._client.fetch(part.objects)
        try:
            for i, name in enumerate(part.objects):
                row.fds[i] = handles[name].fd
            self._domains[part.domain] = self.worker.add_domain(part.domain, row)
        finally:
            for handle in handles.values():
                os.close(handle.fd)

    def _add_ring(self, receiver: Receiver) -> None:
        handle = self._client.fetch([receiver.ring])[receiver.ring]
        try:
            ring = self.worker.add_shared_ring(receiver.ring, handle.fd, is_lossy=receiver.lossy)
            if receiver.domain in self._domains:
                self.worker.give_ring(ring, self._domains[receiver.domain])
            if receiver.in_line is not None:
                how = receiver.in_line
                self.worker.make_inline(ring, fail_open=how.is_open, deadline_ms=how.deadline_ms)
                self.worker.allow_raise(ring, how.raisable)
            self.worker.allow_holds(ring, receiver.holds)
        finally:
            os.close(handle.fd)
        self._rings[receiver.ring] = ring
