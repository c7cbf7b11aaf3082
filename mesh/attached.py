# SPDX-License-Identifier: Apache-2.0
"""A worker's shared objects and an NF's rings, as the NF's process maps them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mesh._ffi import check_pointer, native
from mesh.control.stats import RingStats
from mesh.fdpass import Handle
from mesh.memory import Memory
from mesh.placing import Place

__all__ = ["AttachedRing", "attach_memory", "attach_rings", "ring_stats"]


def attach_memory(handles: Sequence[Handle]) -> Memory:
    """Maps a worker's objects read-only and closes their descriptors: the mapping is enough.

    Args:
        handles: by enum nfm_object.

    Raises:
        NativeError: another ABI (the text names both versions), or sizes that lie.
    """
    ffi, lib = native()
    error = ffi.new("nfm_error *")
    fds = ffi.new("int32_t[]", [handle.fd for handle in handles])
    found = lib.nfm_attach(fds, error)
    for handle in handles:
        os.close(handle.fd)
    check_pointer(found, f"memory of {handles[0].name.partition('/')[0]}", error)
    attachment = ffi.gc(found, lib.nfm_attachment_free)
    return Memory(lib.nfm_attachment_mem(attachment), attachment)


class AttachedRing:
    """The receiver's side of one ring.

    Args:
        handle: of the ring's object; its descriptor is closed.
        memory: what its entries refer to.

    Raises:
        NativeError: no ring, or of another ABI.
    """

    def __init__(self, handle: Handle, memory: Memory) -> None:
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        found = lib.nfm_ring_attach(handle.fd, error)
        os.close(handle.fd)
        self.name, self.memory = handle.name, memory
        self._ring = ffi.gc(check_pointer(found, handle.name, error), lib.nfm_ring_detach)
        self._place = ffi.new("nfm_desc **")
        self._ended = int(lib.NFM_RING_ENDED)

    @property
    def position(self) -> int:
        """Position of the next entry: the same after a restart."""
        return int(native().lib.nfm_ring_position(self._ring))

    @property
    def clock(self) -> Place:
        """What entries to come are not earlier than; read it before `peek`."""
        lib = native().lib
        return int(lib.nfm_ring_clock(self._ring)), int(lib.nfm_ring_clock_packet(self._ring))

    def wait(self, spin_ns: int, timeout_ns: int) -> bool:
        """Waits for an entry; returns False when the ring has ended and is empty."""
        return int(native().lib.nfm_ring_wait(self._ring, spin_ns, timeout_ns)) != self._ended

    def peek(self, most: int = 0xFFFFFFFF) -> tuple[Any, int]:
        """Returns `nfm_desc *` and how many entries stand there side by side."""
        n = int(native().lib.nfm_ring_peek(self._ring, self._place, most))
        return self._place[0], n

    @property
    def pointer(self) -> Any:
        """The `nfm_ring *`, valid as long as this object."""
        return self._ring

    def gap(self) -> int:
        """Returns how many entries are missing at the next position; 0: an entry stands there."""
        return int(native().lib.nfm_ring_gap(self._ring))

    def advance(self, n: int) -> None:
        """Passes entries: what they refer to may be reused."""
        native().lib.nfm_ring_advance(self._ring, n)

    @property
    def head(self) -> int:
        """Position behind the last entry."""
        return self.stats().head

    def leave(self) -> None:
        """Says that nobody receives any more: packets do not wait for verdicts."""
        native().lib.nfm_ring_leave(self._ring)

    def stats(self) -> RingStats:
        """Returns a snapshot."""
        return ring_stats(self.name, self._ring)


def ring_stats(name: str, ring: Any) -> RingStats:
    """Reads a `nfm_ring *`."""
    ffi, lib = native()
    out = ffi.new("nfm_ring_stats *")
    lib.nfm_ring_stats_get(ring, out)
    return RingStats(
        ring=name,
        entries=int(out.entries),
        head=int(out.head),
        tail=int(out.tail),
        dropped=int(out.dropped),
        bad_tails=int(out.bad_tails),
        wakeups=int(out.wakeups),
        quarantined=bool(out.quarantined),
    )


def attach_rings(
    rings: Sequence[tuple[str, Sequence[str]]], handles: Mapping[str, Handle]
) -> list[AttachedRing]:
    """Attaches rings, each with the objects that its worker writes; those are mapped once.

    Args:
        rings: (name of the ring, names of the objects by enum nfm_object).
        handles: by name; their descriptors are closed.
    """
    memories: dict[tuple[str, ...], Memory] = {}
    found: list[AttachedRing] = []
    for name, objects in rings:
        key = tuple(objects)
        if key not in memories:
            memories[key] = attach_memory([handles[each] for each in key])
        found.append(AttachedRing(handles[name], memories[key]))
    return found
