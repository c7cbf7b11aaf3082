# SPDX-License-Identifier: Apache-2.0
"""Who may say what to the controller. Pure."""

from __future__ import annotations

from mesh.control import messages as m
from mesh.control.keys import REMOTE
from mesh.control.process import Process
from mesh.control.requests import CHANGES
from mesh.control.stats import HostStats, NFStats, WorkerStats

__all__ = ["ASKED_BY", "FROM_PROCESSES", "may_say"]

FROM_TOOLS = (m.Status, m.Functions, m.Stop, m.Record, m.RecordEnd, *CHANGES)
FROM_AFAR = (m.Status, m.Functions, m.Stop, m.NfPut, m.NfRemove)
ASKED_BY = {"tool": FROM_TOOLS, "supervisor": FROM_TOOLS, REMOTE: FROM_AFAR}
"""Who may ask for what."""
FROM_PROCESSES = (
    *(m.Register, m.Heartbeat, m.Ready, m.Attached, m.Held, m.Drained),
    *(m.Eof, m.Result, m.Failed, m.Published),
)
ROLES = {m.Held: "nf", m.Published: "nf", m.Result: "nf", m.Eof: "worker"}
"""Of those who alone may say something."""
STATS = {"nf": NFStats, "worker": WorkerStats, "supervisor": HostStats}
"""What a heartbeat brings."""


def may_say(process: Process, body: m.Body) -> bool:
    """True for what is a process' to say: an NF may be anybody's."""
    if isinstance(body, m.Heartbeat) and body.stats is not None:
        return isinstance(body.stats, STATS[process.role])
    return ROLES.get(type(body), process.role) == process.role
