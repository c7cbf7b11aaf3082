# SPDX-License-Identifier: Apache-2.0
"""Passes the rings of NFs that will not come back, so that they hold up nobody.

A ring whose NF has failed for good would stop a blocking worker until the plan no longer has it.
The supervisor, who owns the memory, takes the NF's side of the ring and lets everything go. Packets
that wait for the NF's verdict are told that it is absent, and take its policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mesh._ffi import native
from mesh.attached import ring_stats
from mesh.objects import Objects

__all__ = ["Drainer"]

BUSY_S, CALM_S = 0.002, 0.02
"""Between two rounds: while rings fill, and when they hardly do."""
IDLE_S = 3600.0
MOST_RUNS = 256
"""In a round: a ring's last receiver can still write there that more has come than ever will."""


class Drainer:
    """Drains rings of NFs that are gone.

    Attributes:
        dropped: NF → entries that nobody heard.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._rings: dict[str, dict[str, Any]] = {}
        self.dropped: dict[str, int] = {}
        self._pause_s = BUSY_S

    @property
    def pause_s(self) -> float:
        """How long to wait before the next `drain`."""
        return self._pause_s if self._rings else IDLE_S

    def add(self, nf: str, rings: Sequence[str]) -> None:
        """Takes the rings of an NF, as soon as their worker has laid them out."""
        self._rings[nf] = dict.fromkeys(rings)
        self.dropped.setdefault(nf, 0)

    def forget(self, nf: str) -> None:
        """Lets the rings of an NF alone."""
        self._rings.pop(nf, None)

    def drain(self) -> None:
        """Passes what is there."""
        is_busy = False
        for nf, rings in self._rings.items():
            for name in rings:
                if rings[name] is None:
                    rings[name] = self._attach(name)
                if rings[name] is not None:
                    passed = _pass_all(rings[name])
                    self.dropped[nf] += passed
                    is_busy = is_busy or 4 * passed >= ring_stats(name, rings[name]).entries
        self._pause_s = BUSY_S if is_busy else min(CALM_S, 2 * self._pause_s)

    def _attach(self, name: str) -> Any:
        ffi, lib = native()
        if name not in self._objects:
            return None
        ring = lib.nfm_ring_attach(self._objects[name].fd, ffi.new("nfm_error *"))
        if ring == ffi.NULL:
            return None
        lib.nfm_ring_leave(ring)
        return ffi.gc(ring, lib.nfm_ring_detach)

    def close(self) -> None:
        """Lets all rings go."""
        self._rings.clear()


def _pass_all(ring: Any) -> int:
    ffi, lib = native()
    place = ffi.new("nfm_desc **")
    passed = 0
    for _ in range(MOST_RUNS):
        n = int(lib.nfm_ring_peek(ring, place, 0xFFFFFFFF))
        if n == 0:
            break
        lib.nfm_ring_advance(ring, n)
        passed += n
    return passed
