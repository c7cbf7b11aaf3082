# SPDX-License-Identifier: Apache-2.0
"""Stack modules as the control plane sees them: descriptors read from C, lazily."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from mesh._ffi import check, check_pointer, native
from mesh.errors import ModuleMissing, did_you_mean
from mesh.event_types import EventType
from mesh.native_events import read_events

__all__ = ["LimitDef", "ModuleDescriptor", "ModuleInfo", "Phase"]


class Phase(IntEnum):
    """Where in the worker a module runs (enum nfm_phase)."""

    IP = 0
    TRACK = 1
    STREAM = 2
    APP = 3


@dataclass(frozen=True, slots=True)
class LimitDef:
    """One limit or option of a module: a number within bounds."""

    name: str
    value: int
    min: int
    max: int
    doc: str = ""


@dataclass(frozen=True, slots=True)
class ModuleDescriptor:
    """A module's descriptor as plain data; what composition computes with.

    Attributes:
        name: the module's name.
        summary: one line.
        needs: event types that it consumes.
        emits: event types that it raises.
        limits: its limits with defaults, in the order of the descriptor.
        counters: names of its counters.
        phase: order in the worker.
        flow_size: bytes of state per flow.
    """

    name: str
    summary: str = ""
    needs: tuple[str, ...] = ()
    emits: tuple[EventType, ...] = ()
    limits: tuple[LimitDef, ...] = ()
    counters: tuple[str, ...] = ()
    phase: Phase = Phase.APP
    flow_size: int = 0


@dataclass(frozen=True)
class ModuleInfo:
    """A stack module: a name, and how to find its C descriptor when a property is first read.

    Attributes:
        name: the module's name.
        library: shared library of a third party's module; "" for one that ships with libnfm.
        symbol: name of the `nfm_module` object in `library`.
    """

    name: str
    library: str = ""
    symbol: str = ""

    @classmethod
    def builtin(cls, name: str) -> ModuleInfo:
        """Names a module that ships with the C library."""
        return cls(name)

    @functools.cached_property
    def pointer(self) -> Any:
        """The `const nfm_module *`. Raises ModuleMissing or NativeError."""
        ffi, lib = native()
        if self.library:
            error = ffi.new("nfm_error *")
            found = lib.nfm_module_load(self.library.encode(), self.symbol.encode(), error)
            return check_pointer(found, self.library, error)
        by_name = _builtin_modules()
        if self.name not in by_name:
            hint = did_you_mean(self.name, by_name)
            raise ModuleMissing(f"the native library has no module {self.name!r}{hint}")
        return by_name[self.name]

    @functools.cached_property
    def descriptor(self) -> ModuleDescriptor:
        """The C descriptor as plain data."""
        ffi, lib = native()
        info = ffi.new("nfm_module_info *")
        check(lib.nfm_module_describe(self.pointer, info), f"module {self.name}")
        return ModuleDescriptor(
            name=_text(info.name),
            summary=_text(info.summary),
            needs=_names(info.needs),
            emits=read_events(info.emits, int(info.n_emits), self.name),
            limits=tuple(_limit(info.limits[i]) for i in range(int(info.n_limits))),
            counters=_names(info.counters),
            phase=Phase(int(info.phase)),
            flow_size=int(info.flow_size),
        )

    @property
    def summary(self) -> str:
        """One line on what the module does."""
        return self.descriptor.summary

    @property
    def needs(self) -> tuple[str, ...]:
        """Event types that it consumes."""
        return self.descriptor.needs

    @property
    def emits(self) -> tuple[EventType, ...]:
        """Event types that it raises."""
        return self.descriptor.emits

    @property
    def limits(self) -> Mapping[str, LimitDef]:
        """Its limits by name."""
        return {limit.name: limit for limit in self.descriptor.limits}

    @property
    def counters(self) -> tuple[str, ...]:
        """Names of its counters."""
        return self.descriptor.counters

    @property
    def phase(self) -> Phase:
        """Order in the worker."""
        return self.descriptor.phase


def _builtin_modules() -> dict[str, Any]:
    ffi, lib = native()
    count = ffi.new("uint32_t *")
    table = lib.nfm_builtin_modules(count)
    info = ffi.new("nfm_module_info *")
    found: dict[str, Any] = {}
    for i in range(int(count[0])):
        check(lib.nfm_module_describe(table[i], info), "builtin modules")
        found[_text(info.name)] = table[i]
    return found


def _limit(row: Any) -> LimitDef:
    return LimitDef(_text(row.name), int(row.value), int(row.min), int(row.max), _text(row.doc))


def _names(table: Any) -> tuple[str, ...]:
    ffi = native().ffi
    found: list[str] = []
    while table != ffi.NULL and table[len(found)] != ffi.NULL:
        found.append(_text(table[len(found)]))
    return tuple(found)


def _text(pointer: Any) -> str:
    ffi = native().ffi
    if pointer == ffi.NULL:
        return ""
    text: str = ffi.string(pointer).decode()
    return text
