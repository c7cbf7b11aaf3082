# SPDX-License-Identifier: Apache-2.0
"""The native worker as a Python object: ports, modules, rings and subscriptions by their names.

The engine runs one in its own memory; a worker process runs one in shared objects.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mesh._ffi import check, check_pointer, native
from mesh.errors import SpecError, did_you_mean
from mesh.events import Catalogue, shared_fields
from mesh.memory import Memory
from mesh.module import ModuleInfo
from mesh.native_filter import NativeFilter
from mesh.plan import Part, PlannedModule
from mesh.port_wrappers import Wrapper
from mesh.ports import Port
from mesh.report import Statistics

__all__ = [
    "Filters",
    "Hosting",
    "NativeWorker",
    "Sharing",
    "Terms",
    "counters_of",
    "domain_config",
    "worker_config",
]

TURN_NS = 10_000_000
"""A worker with live ports looks at the controller's messages at least so often."""
SPIN_NS = 200_000
"""It polls so long after the last packet or verdict: an NF that sleeps is woken, and answers."""
NEVER_NS = 1 << 62
_PORT_COUNTERS = {
    "truncated": "rx_truncated",
    "oversize": "rx_oversize",
    "bad_record": "rx_bad_record",
    "unsupported_link": "rx_unsupported_link",
    "missed": "rx_missed",
    "errors": "rx_errors",
    "tx_full": "tx_full",
    "tx_oversize": "tx_oversize",
    "tx_errors": "tx_errors",
}
"""What ports did not do as they should, by name in reports."""
_FIXED = frozenset({"size", "reserved", "fds", "hash_key", "idle_s"})


def worker_config(config: Mapping[str, int], *, is_secret: bool = False) -> Any:
    """Makes a `nfm_worker_config *`: the defaults, and what `config` changes.

    Args:
        config: sizes and switches by name.
        is_secret: hashes get a key that senders of packets do not know. Without, the same packets
            end in the same places in every run.

    Raises:
        SpecError: `config` names what a worker does not have, or a number is too large.
    """
    ffi, lib = native()
    row = ffi.new("nfm_worker_config *")
    lib.nfm_worker_config_init(row)
    known = [name for name, _ in ffi.typeof("nfm_worker_config").fields if name not in _FIXED]
    for name, value in config.items():
        if name not in known:
            raise SpecError(f"worker.{name}", f"no such size{did_you_mean(name, known)}")
        try:
            setattr(row, name, value)
        except OverflowError as cause:
            raise SpecError(f"worker.{name}", f"{value} is too large") from cause
    if is_secret:
        row.hash_key = struct.unpack("2Q", os.urandom(16))
    return row


def domain_config(config: Mapping[str, int]) -> Any:
    """Makes a `nfm_domain_config *`: the defaults, and what `config` changes."""
    ffi, lib = native()
    row = ffi.new("nfm_domain_config *")
    lib.nfm_domain_config_init(row)
    for name, value in config.items():
        setattr(row, name, value)
    return row


@dataclass(frozen=True, slots=True)
class Hosting:
    """How a worker speaks to the process that runs one of its modules.

    Attributes:
        ring_fd, answers_fd: what it is asked, and what it says.
        is_ordered: all records in the order of their packets, for captures.
        deadline_ns: a host that is silent for so long is not waited for.
    """

    ring_fd: int
    answers_fd: int
    is_ordered: bool
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class Sharing:
    """How a worker shares packets with others.

    Attributes:
        workers: how many there are.
        read_by_all: bit per port: captures, which all of them read.
        to, taken: handover rings by worker, written and read; -1 its own; () none.
        bells: eventfds by worker.
    """

    workers: int
    read_by_all: int
    to: tuple[int, ...] = ()
    taken: tuple[int, ...] = ()
    bells: tuple[int, ...] = ()


class Filters:
    """Compiled filters, one per text and set of event types.

    Args:
        catalogue: says which fields the events have.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._made: dict[tuple[str, tuple[str, ...]], NativeFilter] = {}

    def pointer(self, text: str | None, events: tuple[str, ...]) -> Any:
        """Returns the `nfm_filter *`, valid as long as this object; NULL for no filter."""
        if text is None:
            return native().ffi.NULL
        found = self._made.get((text, events))
        if found is None:
            found = NativeFilter(text, shared_fields(self._catalogue, events))
            self._made[text, events] = found
        return found.pointer


@dataclass(frozen=True, slots=True)
class Terms:
    """How a subscription is served.

    Attributes:
        group: number of the NF's subscription; per_flow: on no flow until the NF says so.
        inline: packets wait for the receiver; stage: in which order.
    """

    group: int = 0
    per_flow: bool = False
    inline: bool = False
    stage: int = 0


class NativeWorker:
    """One native worker: one core, one stack.

    Args:
        row: `nfm_worker_config *`.

    Raises:
        CapacityError: no memory for it.
    """

    def __init__(self, row: Any) -> None:
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        worker = check_pointer(lib.nfm_worker_new(row, error), "", error)
        self.pointer = ffi.gc(worker, lib.nfm_worker_free)
        self.memory = Memory(lib.nfm_worker_mem(self.pointer), self.pointer)
        self.modules: dict[str, int] = {}

    def add_port(self, port: Port) -> None:
        """Takes packets from `port`, which must stay open until `release_ports`."""
        check(native().lib.nfm_worker_add_port(self.pointer, port.pointer), port.source)

    def live(self, *, is_realtime: bool, is_busy: bool = False) -> None:
        """Makes `run` stay while ports are quiet; the calling thread has to run the worker.

        Args:
            is_realtime: event time is the clock's, and goes on without packets.
            is_busy: it polls for ever instead of sleeping.
        """
        ffi, lib = native()
        row = ffi.new("nfm_live_config *")
        row.turn_ns, row.is_realtime = TURN_NS, is_realtime
        row.spin_ns = NEVER_NS if is_busy else SPIN_NS
        check(lib.nfm_worker_live(self.pointer, row), "live")

    def release_ports(self) -> None:
        """Ends the use of all ports, which give back what they hold. They may be closed then."""
        native().lib.nfm_worker_release_ports(self.pointer)

    def reserve_module(self, info: ModuleInfo) -> None:
        """Gives flows room for a module's state, so that it may be added after the start."""
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        check(lib.nfm_worker_reserve_module(self.pointer, info.pointer, error), info.name, error)

    def add_module(self, planned: PlannedModule, info: ModuleInfo) -> None:
        """Adds a stack module, also while packets flow; one that is there stays as it is."""
        if planned.name in self.modules:
            return
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        limits = ffi.new("uint64_t[]", [*planned.limits, 0])
        types = ffi.new("uint32_t[]", [*planned.types, 0])
        rc = lib.nfm_worker_add_module(self.pointer, info.pointer, limits, types, error)
        self.modules[planned.name] = check(rc, "", error)

    def add_hosted_module(self, planned: PlannedModule, info: ModuleInfo, hosting: Hosting) -> None:
        """Adds a stack module that another process runs; one that is there stays as it is."""
        if planned.name in self.modules:
            return
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        limits = ffi.new("uint64_t[]", [*planned.limits, 0])
        types = ffi.new("uint32_t[]", [*planned.types, 0])
        row = ffi.new("nfm_hosting *")
        row.module, row.limits, row.types = info.pointer, limits, types
        row.ring_fd, row.answers_fd = hosting.ring_fd, hosting.answers_fd
        row.ordered, row.deadline_ns = int(hosting.is_ordered), hosting.deadline_ns
        rc = lib.nfm_worker_add_hosted_module(self.pointer, row, error)
        self.modules[planned.name] = check(rc, "", error)

    def add_ring(self, entries: int) -> Any:
        """Returns a `nfm_ring *` for a receiver in this process."""
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        ring = lib.nfm_worker_add_ring(self.pointer, entries, error)
        return check_pointer(ring, "ring", error)

    def add_shared_ring(self, name: str, fd: int, *, is_lossy: bool) -> Any:
        """Returns a `nfm_ring *` in a ring object that another process reads."""
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        ring = lib.nfm_worker_add_shared_ring(self.pointer, fd, int(is_lossy), error)
        return check_pointer(ring, name, error)

    def forward(self, way_in: int, way_out: int) -> None:
        """Sends what comes from one port by another: numbers in the order of `add_port`.

        Raises:
            SpecError: the port cannot send.
        """
        rc = native().lib.nfm_worker_forward(self.pointer, way_in, way_out)
        check(rc, f"ports {way_in} → {way_out}")

    def send_only(self, port: int) -> None:
        """Takes nothing from a port."""
        check(native().lib.nfm_worker_send_only(self.pointer, port), f"port {port}")

    def share(self, how: Sharing) -> None:
        """Leaves to other workers what is theirs; after the ports were added."""
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        row = ffi.new("nfm_sharing *", {"n_workers": how.workers, "read_by_all": how.read_by_all})
        lists = [ffi.new("int32_t[]", list(fds)) for fds in (how.to, how.taken, how.bells) if fds]
        if lists:
            row.to, row.taken, row.bells = lists
        check(lib.nfm_worker_share(self.pointer, row, error), "sharing packets", error)

    def make_inline(self, ring: Any, *, fail_open: bool, deadline_ms: int) -> None:
        """Lets packets wait for a receiver."""
        ffi, lib = native()
        config = ffi.new("nfm_inline_config *")
        config.deadline_ns, config.fail_open = deadline_ms * 1_000_000, fail_open
        check(lib.nfm_worker_make_inline(self.pointer, ring, config), "inline receiver")

    def allow_raise(self, ring: Any, raisable: Iterable[tuple[int, int, int]]) -> None:
        """Lets an inline receiver raise events.

        Args:
            ring: `nfm_ring *`.
            raisable: of each type its id, how many cells its field record has, and which of them
                point to bytes.
        """
        ffi, lib = native()
        for number, cells, places in raisable:
            what = ffi.new("nfm_raisable *", (number, cells, places))
            check(lib.nfm_worker_allow_raise(self.pointer, ring, what), "events to be raised")

    def allow_holds(self, ring: Any, holds: int) -> None:
        """Lets a receiver keep so many records past its ring's tail; 0 changes nothing.

        Raises:
            CapacityError: all receivers' holds leave too little of the pool.
        """
        if holds:
            ffi, lib = native()
            error = ffi.new("nfm_error *")
            check(lib.nfm_worker_allow_holds(self.pointer, ring, holds, error), "", error)

    def add_domain(self, name: str, row: Any) -> int:
        """Adds a domain with memory of its own; returns its number.

        Args:
            name: part of the names of its counters.
            row: `nfm_domain_config *`.
        """
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        rc = lib.nfm_worker_add_domain(self.pointer, name.encode(), row, error)
        return check(rc, f"domain {name}", error)

    def remove_domain(self, number: int) -> None:
        """Ends a domain that has no rings any more."""
        check(native().lib.nfm_worker_remove_domain(self.pointer, number), f"domain {number}")

    def give_ring(self, ring: Any, domain: int) -> None:
        """Gives a ring to a domain, before it is subscribed and before it may hold."""
        check(native().lib.nfm_worker_give_ring(self.pointer, ring, domain), "ring of a domain")

    def subscribe(
        self,
        ring: Any,
        handler: int,
        part: Part,
        filters: Filters,
        terms: Terms | None = None,
        where: str = "",
    ) -> int:
        """Subscribes a ring to part of a subscription; returns the native number.

        Args:
            ring: `nfm_ring *`.
            handler: number in descriptors.
            part: what it hears.
            filters: must live as long as the subscription.
            terms: beside what it hears.
            where: the subscription's name for messages.
        """
        ffi, lib = native()
        row = ffi.new("nfm_subscription *")
        row.ring, row.handler, row.level = ring, handler, int(part.stack_level)
        row.events = part.events
        row.type_first, row.type_last = part.types or (1, 0)
        row.modules = sum(1 << self.modules[name] for name in part.modules)
        row.as_type = part.as_type
        terms = terms or Terms()
        row.group, row.per_flow = terms.group, terms.per_flow
        row.in_line, row.stage = terms.inline, terms.stage
        row.filter = filters.pointer(part.where, part.where_on)
        return check(lib.nfm_worker_subscribe(self.pointer, row), f"subscription {where}")

    def unsubscribe(self, number: int) -> None:
        """Ends a subscription."""
        rc = native().lib.nfm_worker_unsubscribe(self.pointer, number)
        check(rc, f"subscription {number}")

    def start(self) -> None:
        """Ends the setting up."""
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        check(lib.nfm_worker_start(self.pointer, error), "worker", error)

    def run(self, max_packets: int, where: str) -> int:
        """Works on; returns an enum nfm_run_reason.

        Raises:
            NativeError: the port failed; the text names `where`.
        """
        return check(native().lib.nfm_worker_run(self.pointer, max_packets), where)

    def finish(self) -> None:
        """Ends all flows now; run until NFM_RUN_EOF."""
        native().lib.nfm_worker_finish(self.pointer)

    def take_commands(self) -> None:
        """Takes what receivers of this process ask for; between two runs."""
        native().lib.nfm_worker_take_commands(self.pointer)

    def statistics(self) -> Statistics:
        """Returns a snapshot."""
        ffi, lib = native()
        out = ffi.new("nfm_worker_stats *")
        lib.nfm_worker_stats_get(self.pointer, out)
        return Statistics(**{name: int(getattr(out, name)) for name in Statistics.__slots__})

    def counters(self) -> dict[str, int]:
        """Returns all counters by name, those that are zero too."""
        ffi, lib = native()
        n = int(lib.nfm_worker_counters(self.pointer, ffi.NULL, 0))
        rows = ffi.new("nfm_counter[]", n)
        n = min(n, int(lib.nfm_worker_counters(self.pointer, rows, n)))
        return {ffi.string(rows[i].name).decode(): int(rows[i].value) for i in range(n)}


def counters_of(worker: NativeWorker, ports: Sequence[Port]) -> dict[str, int]:
    """Returns the counters that are not zero, those of the ports included."""
    counters = {name: value for name, value in worker.counters().items() if value}
    for port in ports:
        stats = port.statistics()
        found = {f"port.{name}": getattr(stats, of) for name, of in _PORT_COUNTERS.items()}
        for name, value in (*found.items(), *layers_of(port).items()):
            if value:
                counters[name] = counters.get(name, 0) + value
    return counters


def layers_of(port: Port) -> dict[str, int]:
    """Returns what is counted by what is around a port."""
    layers = port.layers() if isinstance(port, Wrapper) else []
    return {name: value for each in layers for name, value in each.own_counters().items()}
