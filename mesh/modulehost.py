# SPDX-License-Identifier: Apache-2.0
"""The process of one stack module on a core of its own: `python -m mesh.modulehost`.

Theory of operation. The supervisor starts it like an NF's process, with no more rights. It maps the
worker's memory read-only and serves the module in C: questions from the worker's ring, answers into
the answer ring (native/src/engine/module_host.h). It needs no controller: what it runs stands in
its arguments, and its end in the ring. The worker copes with its death; a new one is told to begin
anew, and so is this one when the worker is new.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mesh._ffi import check_pointer, native
from mesh.child_main import ChildHost, child_parser, run_child
from mesh.control.wire import ModuleHostPart, from_wire
from mesh.errors import MeshError
from mesh.fdpass import Handle
from mesh.journal import AT_LIFE, Phase
from mesh.module import ModuleInfo
from mesh.process import CANNOT_START

__all__ = ["ModuleHost", "main"]

RUN_S = 0.05
"""Between two signs of life."""
IDLE_NS = 50_000_000
"""The longest sleep on the ring."""
SPIN_NS = 20_000
RETRY_S = 0.002
"""Between two looks whether the worker has laid out its memory."""


class ModuleHost(ChildHost):
    """Serves one module.

    Args:
        name: of this process.
        run: the mesh's run folder.
        token: of this start.
        part: what to run.
    """

    def __init__(self, name: str, run: Path, token: bytes, part: ModuleHostPart) -> None:
        super().__init__(name, run, token)
        self.part = part
        self._handles = self._client.fetch([*part.objects, part.ring, part.answers])
        self._is_stopping = False
        self._life = native().ffi.from_buffer(self.journal.memory)

    def stop(self, *_: object) -> None:
        """Makes it leave: also a signal handler."""
        self._is_stopping = True

    def close(self) -> None:
        """Closes what was granted."""
        for handle in self._handles.values():
            os.close(handle.fd)
        self._handles = {}
        native().ffi.release(self._life)
        super().close()

    def run(self) -> int:
        """Runs until the worker says that nothing follows; returns the exit status."""
        lib = native().lib
        try:
            host = self._attach()
        except MeshError as error:
            self.journal.last_words(str(error))
            return CANNOT_START
        if host is None:
            return 0
        spin_ns = SPIN_NS if len(os.sched_getaffinity(0)) == 1 else 0
        state = lib.NFM_RING_READY
        try:
            while state != lib.NFM_RING_ENDED and not self._is_stopping:
                self.journal.beat(Phase.RUNNING)
                until = time.monotonic() + RUN_S
                while state != lib.NFM_RING_ENDED and time.monotonic() < until:
                    state = lib.nfm_module_host_run(host, spin_ns, IDLE_NS)
        finally:
            lib.nfm_module_host_free(host)
        return 0

    def _attach(self) -> Any:
        """Waits for the worker's memory; returns a `nfm_module_host *`, None when told to leave.

        Raises:
            MeshError: the module is not there, or what the worker wrote is of another ABI.
        """
        ffi, lib = native()
        part = self.part
        info = ModuleInfo(part.module, part.library, part.symbol)
        row = ffi.new("nfm_module_host_config *")
        limits = ffi.new("uint64_t[]", [*part.limits, 0])
        fds = ffi.new("int32_t[]", [self._fd(name) for name in part.objects])
        beat = ffi.cast("int64_t *", ffi.cast("char *", self._life) + AT_LIFE)
        row.module, row.limits, row.fds, row.beat = info.pointer, limits, fds, beat
        row.ring_fd, row.answers_fd = self._fd(part.ring), self._fd(part.answers)
        while not self._is_stopping:
            self.journal.beat(Phase.STARTING)
            error = ffi.new("nfm_error *")
            host = lib.nfm_module_host_new(row, error)
            if host != ffi.NULL:
                return host
            if error.code != lib.NFM_E_FORMAT:  # else the worker has not begun yet
                return check_pointer(host, f"module {part.module}", error)
            time.sleep(RETRY_S)
        return None

    def _fd(self, name: str) -> int:
        handle: Handle = self._handles[name]
        return handle.fd


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the process; the arguments are the supervisor's."""
    parser = child_parser("mesh.modulehost")
    parser.add_argument("--part", required=True, help="what to run, as JSON")
    given = parser.parse_args(argv)

    def make(token: bytes) -> ModuleHost:
        part = from_wire(ModuleHostPart, json.loads(given.part))
        return ModuleHost(given.name, given.run, token, part)

    return run_child(given, make)


if __name__ == "__main__":
    sys.exit(main())
