# SPDX-License-Identifier: Apache-2.0
"""A worker's shared objects as this process maps them. Needs no numpy: workers have none."""

from __future__ import annotations

import functools
from typing import Any

from mesh._ffi import native

__all__ = ["Memory"]


class Memory:
    """The shared objects as this process maps them, for gathering.

    Args:
        mem: `const nfm_mem *`.
        owner: kept alive as long as any view of the memory is.
    """

    __slots__ = ("fields", "fields_base", "mem", "owner", "packets", "packets_base")

    def __init__(self, mem: Any, owner: object) -> None:
        lib = native().lib
        large = int(mem.n_slots) - int(mem.n_small)
        size = int(mem.n_small) * int(lib.NFM_SLOT_SMALL) + large * int(lib.NFM_SLOT_LARGE)
        self.mem, self.owner = mem, owner
        self.packets, self.packets_base = _mapped(mem.packets, size, owner)
        self.fields, self.fields_base = _mapped(mem.fields, int(mem.fields_size), owner)


def _mapped(pointer: Any, size: int, owner: object) -> tuple[memoryview, int]:
    ffi = native().ffi
    if pointer == ffi.NULL or size == 0:
        return memoryview(b""), 0
    kept = ffi.gc(ffi.cast("uint8_t *", pointer), functools.partial(_let_go, owner))
    return memoryview(ffi.buffer(kept, size)).toreadonly(), int(ffi.cast("uintptr_t", pointer))


def _let_go(owner: object, pointer: Any) -> None:
    """Does nothing: as a finaliser it keeps `owner` alive until the last view is gone."""
