# SPDX-License-Identifier: Apache-2.0
"""The shared objects that a host's part of the plan asks for."""

from __future__ import annotations

from mesh.control.wire import ChildPart, HostPart
from mesh.fdpass import Handle
from mesh.journal import JOURNAL_BYTES
from mesh.objects import Objects, cursor_size, log_size
from mesh.outputs import Outputs

__all__ = ["create_objects", "grants_of", "journal_name"]

LOG_BYTES = 1 << 20


def journal_name(child: str) -> str:
    """Returns the name of a child's journal; every child has one."""
    return f"ckpt/{child}"


def create_objects(objects: Objects, part: HostPart) -> None:
    """Makes the objects that are not there yet.

    Raises:
        CapacityError: no memory.
        NativeError: the system refuses, for instance another descriptor.
    """
    for child in part.children:
        objects.create_sparse(journal_name(child.name), JOURNAL_BYTES)
        if child.role == "worker":
            prefix = next(o.partition("/")[0] for o in child.writes if o.endswith("/header"))
            objects.create_worker(prefix, part.worker_config[child.name])
    for prefix, config in part.inboxes.items():
        objects.create_inbox(prefix, config)
    for wanted in part.objects:
        if wanted.kind == "ring":
            objects.create_ring(wanted.name, wanted.entries)
        elif wanted.kind == "answers":
            objects.create_answers(wanted.name)
        elif wanted.kind == "handover":
            objects.create_handover(wanted.name)
        elif wanted.kind == "bell":
            objects.create_bell(wanted.name)
        elif wanted.kind == "log":
            objects.create(wanted.name, log_size(LOG_BYTES))
        elif wanted.kind == "cursor":
            objects.create(wanted.name, cursor_size())


def grants_of(objects: Objects, part: ChildPart, outputs: Outputs) -> dict[str, Handle]:
    """Returns what a child may have, by name."""
    files = outputs.handles(part.writes)
    found = {name: objects.handle(name, writable=False) for name in part.reads}
    own = [*(name for name in part.writes if name not in files), journal_name(part.name)]
    return found | files | {name: objects.handle(name, writable=True) for name in own}
