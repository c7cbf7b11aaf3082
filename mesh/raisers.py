# SPDX-License-Identifier: Apache-2.0
"""Who raises which event, and how much work the stack has with it."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.events import Catalogue, EventType, Kind, Source
from mesh.module import ModuleDescriptor
from mesh.plan import Level

__all__ = ["Raisers", "level_of", "needs_module", "raisable_of"]

_DATA_EVENTS = frozenset(
    {
        "tcp.data",
        "tcp.anomaly.gap",
        "tcp.anomaly.overlap",
        "tcp.anomaly.inconsistent_overlap",
    }
)
_POINTING = (Kind.BYTES, Kind.STR, Kind.ADDR)


class Raisers:
    """Event types together with the modules that raise them; immutable.

    Attributes:
        catalogue: all event types.
        modules: descriptors by name, in the order in which a worker runs them.
        raised_by: event → module.
    """

    __slots__ = ("catalogue", "modules", "raised_by")

    def __init__(self, catalogue: Catalogue, modules: Sequence[ModuleDescriptor]) -> None:
        self.catalogue = catalogue
        self.modules = {module.name: module for module in modules}
        self.raised_by = {e.name: m.name for m in modules for e in m.emits}

    def app_types(self, span: tuple[int, int]) -> list[EventType]:
        """The types of an interval that a worker delivers: raised by modules, or with verdicts."""
        types = self.catalogue.between(*span)
        return [
            t for t in types if t.bit is None and (t.is_raised_inline or self.is_from_module(t))
        ]

    def is_from_module(self, event: EventType) -> bool:
        """True when a module raises it, and no NF or user event has its name."""
        is_nfs = event.is_published or event.is_raised_inline
        return event.base is None and not is_nfs and event.name in self.raised_by

    def level_of_module(self, name: str) -> Level:
        """What a flow needs so that this module can work."""
        needs = [t.name for need in self.modules[name].needs for t in self.catalogue.subtree(need)]
        return max((level_of(need) for need in needs), default=Level.PACKET)

    def is_raised(self, event: str, publishers: set[str]) -> bool:
        """True when the worker, a module, or one of the published events is `event` or below."""
        for found in self.catalogue.subtree(event):
            if found.base is not None:
                if self.is_raised(found.base, publishers):
                    return True
                continue
            is_own = found.bit is not None and not needs_module(found.name)
            if is_own or found.name in self.raised_by or found.name in publishers:
                return True
        return False


def raisable_of(catalogue: Catalogue, names: Sequence[str]) -> tuple[tuple[int, int, int], ...]:
    """Returns what a worker has to know of the event types that an inline NF raises.

    Returns:
        Of each its id, how many cells its field record has, and a mask of those that point to
        bytes.
    """
    found: list[tuple[int, int, int]] = []
    for name in names:
        placed = [f for f in catalogue.fields(name).values() if f.source is Source.FIELDS]
        placed.sort(key=lambda field: field.offset)
        pointing = sum(1 << i for i, field in enumerate(placed) if field.kind in _POINTING)
        found.append((catalogue[name].id, len(placed), pointing))
    return tuple(found)


def level_of(event: str) -> Level:
    """Returns what the stack has to do for a flow so that a stack event is raised."""
    if event in _DATA_EVENTS:
        return Level.DATA
    if event.startswith("packet.") or event == "flow.start":
        return Level.PACKET
    return Level.TRACK


def needs_module(event: str) -> bool:
    """True for the stack events that a module raises, not the worker itself."""
    return event.partition(".")[0] not in ("packet", "flow")
