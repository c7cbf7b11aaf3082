# SPDX-License-Identifier: Apache-2.0
"""Native NFs in processes of their own: their function, and the loop that calls it from C.

The loop is for NFs that hear nothing but rings: there is no Python between two batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mesh._ffi import check, native
from mesh.journal import AT_LIFE, AT_WORK, Journal
from mesh.memory import Memory
from mesh.sources import RingSource, Source
from mesh.verdicts import Verdicts

__all__ = ["NativeFunction", "Served", "Server"]

TURN_NS = 20_000_000
"""How late a message of the controller may be seen while events flow."""


class NativeFunction:
    """A native NF's function, called with a run of ring entries: a `NativeProcess`.

    Args:
        name: of the NF, for errors.
        process: `nfm_process_fn`.
        state: what its `init` returned, as a number.
    """

    def __init__(self, name: str, process: Any, state: int) -> None:
        self._name, self.process = name, process
        self.state = native().ffi.cast("void *", state)

    def __call__(
        self, memory: Memory, ring: Any, desc: Any, n: int, verdicts: Verdicts | None
    ) -> None:
        """Calls it.

        Raises:
            NativeError: it refused the batch.
        """
        ffi = native().ffi
        batch = ffi.new("nfm_batch *")
        batch.ring = ring
        if verdicts is not None:
            batch.verdict = ffi.cast("uint32_t *", verdicts.words.ctypes.data)
            batch.edit = ffi.cast("nfm_edit *", verdicts.edits.ctypes.data)
        batch.mem, batch.desc, batch.n, batch.handler = memory.mem, desc, n, 0xFFFFFFFF
        check(self.process(self.state, batch), f"NF {self._name}")


@dataclass(frozen=True, slots=True)
class Served:
    """What a turn did.

    Attributes:
        batches: that the NF was called with.
        status: negative when it refused the last one.
        stopped: something other than an entry comes next, or the NF refused a batch.
        idle: nothing came; ended: nothing will.
    """

    batches: int
    status: int
    stopped: bool
    idle: bool
    ended: bool


class Server:
    """Serves a native NF in turns.

    Args:
        function: the NF.
        journal: what it has at hand is noted here.
        in_line: it decides on its packets; fail_open: packets that it refuses to judge pass.
        spin_ns: how long to wait awake; idle_ns: and then asleep.
    """

    def __init__(
        self,
        function: NativeFunction,
        journal: Journal,
        *,
        in_line: bool,
        fail_open: bool,
        spin_ns: int,
        idle_ns: int,
    ) -> None:
        ffi, lib = native()
        self._journal = ffi.from_buffer(journal.memory)
        at = ffi.cast("char *", self._journal)
        self._config = row = ffi.new("nfm_serve_config *")
        row.process, row.state = function.process, function.state
        row.in_line, row.fail_open = in_line, fail_open
        row.spin_ns, row.idle_ns, row.turn_ns = spin_ns, idle_ns, TURN_NS
        row.beat = ffi.cast("int64_t *", at + AT_LIFE)
        row.work = ffi.cast("uint64_t *", at + AT_WORK)
        self._out = ffi.new("nfm_served *")
        self._rings: Any = None
        self._most = int(lib.NFM_SERVE_RINGS)

    def close(self) -> None:
        """Lets the journal go."""
        native().ffi.release(self._journal)

    def fits(self, sources: Sequence[Source]) -> bool:
        """Says whether these sources can be served: rings, not too many."""
        return 0 < len(sources) <= self._most and all(isinstance(s, RingSource) for s in sources)

    def turn(self, sources: Sequence[RingSource]) -> Served:
        """Serves for a turn, or until something else is to be done."""
        ffi, lib = native()
        if self._rings is None or len(self._rings) != len(sources):
            self._rings = ffi.new("nfm_served_ring[]", len(sources))
            for row, source in zip(self._rings, sources, strict=True):
                row.ring, row.mem = source.ring.pointer, source.ring.memory.mem
                row.source = source.number
            self._config.rings, self._config.n_rings = self._rings, len(sources)
        out = self._out
        state = check(lib.nfm_serve(self._config, out), "native loop")
        for source in sources:
            source.saw(int(out.now_ns))
        return Served(
            batches=int(out.batches),
            status=int(out.status),
            stopped=bool(out.stopped),
            idle=state == int(lib.NFM_RING_TIMEOUT),
            ended=state == int(lib.NFM_RING_ENDED),
        )
