# SPDX-License-Identifier: Apache-2.0
"""Running NFs on a capture in this process: the embedded way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mesh.events import Catalogue, core_events
from mesh.nf import NF
from mesh.registry import Registry
from mesh.report import Progress, Report

if TYPE_CHECKING:
    from mesh.compose import NFUse
    from mesh.plan import Plan

__all__ = ["catalogue", "make_plan", "replay"]

AnyNF = "str | type[NF] | NF | NFUse"


def catalogue(registry: Registry | None = None) -> Catalogue:
    """Returns all event types that the core, the installed modules and NFs declare.

    Args:
        registry: what is installed; default `Registry.installed()`.
    """
    found = registry or Registry.installed()
    types = list(core_events())
    for module in found.modules():
        types += module.emits
    for name in found.nf_names():
        cls = found.nf(name)
        types += [event.event_type(cls.name) for event in cls.publishes]
    return Catalogue(types)


def make_plan(
    nfs: Sequence[str | type[NF] | NF | NFUse],
    *,
    events: Mapping[str, tuple[str, str]] | None = None,
    limits: Mapping[str, Mapping[str, int | str]] | None = None,
    registry: Registry | None = None,
) -> Plan:
    """Composes NFs into a plan without running anything (see `replay` for the arguments)."""
    raise NotImplementedError


def replay(
    source: str | Path,
    nfs: Sequence[str | type[NF] | NF | NFUse],
    *,
    events: Mapping[str, tuple[str, str]] | None = None,
    limits: Mapping[str, Mapping[str, int | str]] | None = None,
    checksums: Literal["ignore", "verify"] = "ignore",
    worker: Mapping[str, int] | None = None,
    out: str | Path = ".",
    registry: Registry | None = None,
    progress: Callable[[Progress], None] | None = None,
    max_packets: int | None = None,
) -> Report:
    """Runs NFs over a capture, all in this process and deterministic.

    Args:
        source: a capture file: pcap or pcapng, also gzipped.
        nfs: installed names, `file.py:Class`, classes, instances, or NFUse with options.
        events: user events: name → (base event, filter).
        limits: module → limit → number, as in `{"tcp_stream": {"flow_slots": 64}}`.
        checksums: "verify" makes packets with bad TCP and UDP checksums malformed.
        worker: sizes that override the defaults, by name in nfm_worker_config: `max_flows`, …
        out: folder for files that NFs write.
        registry: what is installed; default `Registry.installed()`.
        progress: called about ten times a second.
        max_packets: stop after so many.

    Returns:
        The report; Ctrl-C ends the run early and sets `interrupted`.

    Raises:
        PlanError: the NFs cannot be composed.
        NativeError: the capture cannot be read.
    """
    raise NotImplementedError
