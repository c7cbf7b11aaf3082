# SPDX-License-Identifier: Apache-2.0
"""Ports and handing over, as a worker's part of the plan says them."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

__all__ = ["CapturePart", "HandoverPart", "PortPart", "ReplayPart"]

_STRICT = ConfigDict(extra="forbid", defer_build=True)
Text = Annotated[str, Field(max_length=4096)]


@checked(frozen=True, slots=True, config=_STRICT)
class ReplayPart:
    """The pace of a capture, as `mesh.port_wrappers.Replay` takes it."""

    speed: float
    live: bool
    loop: bool = False


@checked(frozen=True, slots=True, config=_STRICT)
class CapturePart:
    """Files into which a port's frames go.

    Attributes:
        path: of the one that is written; where: which packets, "" all.
        max_file: bytes at which another one is begun; files: that are kept.
        snaplen: bytes of a frame; 0: all.
    """

    path: Text
    where: Text
    max_file: Annotated[int, Field(ge=1)]
    files: Annotated[int, Field(ge=1)]
    snaplen: Annotated[int, Field(ge=0)]
    direction: Literal["rx", "tx", "both"]


@checked(frozen=True, slots=True, config=_STRICT)
class PortPart:
    """One port of a worker.

    Attributes:
        source: what reports call it.
        options: of its kind, as in a spec; those left out have their defaults.
        out: number of the port by which frames leave that enter here; None: they do not.
        names: what NFs may call it.
        replay, impair: what is around it; the latter by name in `mesh.port_wrappers.Impairment`.
        fanout: every worker opens it, and the kernel spreads its packets.
        send_only: nothing is taken from it.
        capture: files into which go its frames, from the start.
    """

    kind: Literal["pcap", "afpacket", "tap", "afxdp", "dpdk", "record", "remote"]
    source: Text
    options: dict[Text, bool | int | float | Text | None] = field(default_factory=dict)
    out: Annotated[int, Field(ge=0, lt=16)] | None = None
    replay: ReplayPart | None = None
    impair: dict[Text, int | float | Text] | None = None
    names: tuple[Text, ...] = ()
    fanout: bool = False
    send_only: bool = False
    capture: CapturePart | None = None

    @property
    def is_realtime(self) -> bool:
        """True when frames have the time at which they come; sinks have none."""
        return self.kind != "pcap" or (self.replay is not None and self.replay.live)


@checked(frozen=True, slots=True, config=_STRICT)
class HandoverPart:
    """How a worker reaches the others: names of objects by their number, "" for its own.

    Attributes:
        to: rings that it writes; taken: rings that it reads.
        bells: what wakes each, its own too.
    """

    to: tuple[Text, ...]
    taken: tuple[Text, ...]
    bells: tuple[Text, ...]

    @property
    def objects(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(name for name in (*self.to, *self.taken, *self.bells) if name)
