# SPDX-License-Identifier: Apache-2.0
"""nfmesh: network functions beside one consolidated protocol stack.

import mesh

class Counter(mesh.NF):
total = 0

@mesh.on("packet.tcp")
def count(self, batch: mesh.EventBatch) -> None:
self.total += len(batch)

mesh.replay("capture.pcap", nfs=[Counter])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.batch import EventBatch, EventView
    from mesh.declare import Event
    from mesh.errors import MeshError, NFError
    from mesh.event_types import EventType, FieldDef, Kind
    from mesh.events import Catalogue
    from mesh.module import ModuleInfo
    from mesh.nf import NF, Context, NativeCode, on
    from mesh.registry import Registry
    from mesh.report import NFReport, Progress, Report
    from mesh.runner import catalogue, make_plan, replay

__all__ = [
    "NF",
    "Catalogue",
    "Context",
    "Event",
    "EventBatch",
    "EventType",
    "EventView",
    "FieldDef",
    "Kind",
    "MeshError",
    "ModuleInfo",
    "NFError",
    "NFReport",
    "NativeCode",
    "Progress",
    "Registry",
    "Report",
    "catalogue",
    "make_plan",
    "on",
    "replay",
]

_HOMES = {
    "mesh.batch": ("EventBatch", "EventView"),
    "mesh.declare": ("Event",),
    "mesh.errors": ("MeshError", "NFError"),
    "mesh.event_types": ("EventType", "FieldDef", "Kind"),
    "mesh.events": ("Catalogue",),
    "mesh.module": ("ModuleInfo",),
    "mesh.nf": ("NF", "Context", "NativeCode", "on"),
    "mesh.registry": ("Registry",),
    "mesh.report": ("NFReport", "Progress", "Report"),
    "mesh.runner": ("catalogue", "make_plan", "replay"),
}
"""Where each name lives: loaded when it is asked for, since the processes of a mesh need few."""


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            found = globals()[name] = getattr(importlib.import_module(home), name)
            return found
    raise AttributeError(f"module 'mesh' has no attribute {name!r}")
