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
