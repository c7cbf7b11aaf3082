# SPDX-License-Identifier: Apache-2.0
"""How a plan is spread over processes: what a spec says beyond what composition needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mesh.control.port_parts import PortPart
from mesh.module import ModuleInfo
from mesh.words import OWN_DOMAIN

__all__ = ["RING_ENTRIES", "Layout", "Leaving", "Placement"]

RING_ENTRIES = 8192
"""Room for about a quarter millisecond of descriptors at a core's speed; a power of two."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What a spec says of one NF beyond what composition needs.

    Attributes:
        use: the class, files absolute; config: its options as written.
        delivery: "lossy", "blocking", or None: blocking for files, lossy for live ports.
        domain: whose memory it maps.
        token: of an NF that joins from elsewhere: the hash of its token; None: it is started here.
        n_cores: so many cores for itself, whichever; 0: as `cores` says.
        is_busy: it never sleeps.
    """

    use: str
    config: Mapping[str, Any] = field(default_factory=dict)
    delivery: Literal["lossy", "blocking"] | None = None
    restart: Literal["always", "on-failure", "never"] = "on-failure"
    cores: tuple[int, ...] | None = None
    ring_entries: int = RING_ENTRIES
    domain: str = OWN_DOMAIN
    token: str | None = None
    n_cores: int = 0
    is_busy: bool = False


@dataclass(frozen=True, slots=True)
class Leaving:
    """An NF that finishes what it was sent: the objects that it had stay until it is done."""

    placement: Placement
    has_log: bool
    is_inline: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """How a plan is spread over processes.

    Attributes:
        ports: of the mesh, in order.
        mode: "file" or "live".
        config: sizes of every worker, by name in nfm_worker_config.
        modules: the plan's stack modules by name.
        room: installed modules whose state lies in the flows' blocks; they may be needed later.
        placements: by NF.
        own_cores: modules in processes of their own, with their cores if they are named.
        leaving: NFs that only finish what is in their rings.
        joined: NFs that were added while others ran.
        workers: how many share the packets.
        worker_cores: of one worker; or one for each of several. None: the supervisor's choice.
        is_busy: workers never sleep.
        out: folder for files that NFs write.
        inboxes: sizes by domain, for those that NFs are of beside the mesh's own.
        undeclared: NFs that may join, and are not in the plan until they say what they hear.
        reserved: cores that no process gets for itself unless it names them.
    """

    ports: tuple[PortPart, ...]
    mode: Literal["file", "live"]
    config: Mapping[str, int]
    modules: Mapping[str, ModuleInfo]
    placements: Mapping[str, Placement]
    room: tuple[ModuleInfo, ...] = ()
    leaving: Mapping[str, Leaving] = field(default_factory=dict)
    joined: frozenset[str] = frozenset()
    workers: int = 1
    worker_cores: tuple[int, ...] | None = None
    is_busy: bool = False
    own_cores: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)
    max_packets: int | None = None
    out: str = "."
    inboxes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    undeclared: Mapping[str, Placement] = field(default_factory=dict)
    reserved: tuple[int, ...] = ()
