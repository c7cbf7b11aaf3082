# SPDX-License-Identifier: Apache-2.0
"""What processes say of themselves in heartbeats; status and metrics are made of this."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Count",
    "Counts",
    "HostStats",
    "NFStats",
    "ObjectStats",
    "PortStats",
    "ProcessStats",
    "RingStats",
    "Stats",
    "Strict",
    "Text",
    "WorkerStats",
]

Text = Annotated[str, Field(max_length=4096)]
Count = Annotated[int, Field(ge=0, lt=1 << 64)]
Counts = Annotated[dict[Annotated[str, Field(max_length=128)], Count], Field(max_length=4096)]


class Strict(BaseModel):
    """Base of all that crosses process boundaries: nothing is converted, nothing is extra."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class RingStats(Strict):
    """One ring, as its worker or its NF sees it (nfm_ring_stats).

    Attributes:
        ring: name of the object, as in `ring/http_log/w0`.
        head: entries published ever; tail: entries passed ever; their difference is the depth.
        dropped: entries of a lossy ring that did not fit.
        bad_tails: positions outside the ring that its receiver claimed.
    """

    ring: Text
    entries: Count
    head: Count
    tail: Count
    dropped: Count = 0
    bad_tails: Count = 0
    wakeups: Count = 0
    quarantined: bool = False

    @property
    def depth(self) -> int:
        """Entries that wait."""
        return max(0, self.head - self.tail)


class PortStats(Strict):
    """One port: where it reads, its counters (nfm_port_stats), what is wrong with it, its names."""

    source: Text
    counters: Counts
    warning: Text = ""
    names: list[Text] = Field(default_factory=list, max_length=8)


class WorkerStats(Strict):
    """A worker's heartbeat.

    Attributes:
        statistics: by name in mesh.report.Statistics.
        counters: by name; drops have their reason there.
        memory_bytes: resident memory of the process.
    """

    kind: Literal["worker"] = "worker"
    statistics: Counts = {}
    counters: Counts = {}
    ports: Annotated[list[PortStats], Field(max_length=64)] = []
    rings: Annotated[list[RingStats], Field(max_length=256)] = []
    memory_bytes: Count = 0


class NFStats(Strict):
    """An NF host's heartbeat.

    Attributes:
        events: entries handed to Python handlers; batches: calls.
        handlers: entries by handler (method) name.
        published: by event name.
        failures: exceptions caught; disabled: too many of them.
        log_gaps: entries of logs it reads that were overwritten before it came.
        skipped: ring entries passed unheard after repeated crashes.
    """

    kind: Literal["nf"] = "nf"
    events: Count = 0
    batches: Count = 0
    handlers: Counts = {}
    published: Counts = {}
    failures: Count = 0
    disabled: bool = False
    rings: Annotated[list[RingStats], Field(max_length=256)] = []
    log_gaps: Count = 0
    skipped: Count = 0
    memory_bytes: Count = 0


class ProcessStats(Strict):
    """One process under a supervisor.

    Attributes:
        state: "starting", "running", "waiting" (to be started again), "done" or "failed".
        cores_asked: as in the spec; cores: what the kernel lets it run on.
        restarts: starts after the first; last_exit: how it ended before, in words.
        silent_s: seconds since it last gave a sign of life, of one that runs: an NF gives one
            between two calls of handlers; patience_s: after so many it is killed; 0: never.
    """

    name: Text
    role: Literal["controller", "worker", "module", "nf"]
    pid: Count
    uid: Count = 0
    state: Text
    cores_asked: list[int] = []
    cores: list[int] = []
    restarts: Count = 0
    last_exit: Text = ""
    memory_bytes: Count = 0
    silent_s: Annotated[float, Field(ge=0)] = 0.0
    patience_s: Annotated[float, Field(ge=0)] = 0.0


class ObjectStats(Strict):
    """One shared object: its size, and what memory it lies on ("huge_2m", "ordinary", ...)."""

    name: Text
    size: Count
    backing: Text


class HostStats(Strict):
    """A supervisor's heartbeat.

    Attributes:
        notices: what it had to do without, one line each.
        refused: requests for descriptors that were refused, by reason.
        pinning: how cores of processes of their own are kept: "cgroup v2", "cgroup v1", "affinity".
    """

    kind: Literal["host"] = "host"
    processes: Annotated[list[ProcessStats], Field(max_length=1024)] = []
    objects: Annotated[list[ObjectStats], Field(max_length=8192)] = []
    notices: Annotated[list[Text], Field(max_length=256)] = []
    refused: Counts = {}
    pinning: Text = ""


Stats = Annotated[WorkerStats | NFStats | HostStats, Field(discriminator="kind")]
