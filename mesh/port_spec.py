# SPDX-License-Identifier: Apache-2.0
"""`ports` of a spec: where frames enter and leave, as a user writes it.

What enters by `eth0` leaves by the port `outside`, and what enters there leaves by port 0:

    - {afpacket: eth0, out: outside}
    - {afpacket: {interface: eth1, block_ms: 5}, name: outside, out: 0}

A kind's options are a mapping; a text alone is the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from mesh.errors import SpecError, did_you_mean
from mesh.words import MAX_WORKERS

__all__ = [
    "FILES",
    "KINDS",
    "MAX_PORTS",
    "CaptureSpec",
    "ImpairSpec",
    "PcapSpec",
    "PortSpec",
    "RecordFormat",
    "ReplaySpec",
    "check_ports",
    "is_live",
    "outs_of",
    "record_format",
]

KINDS = ("pcap", "afpacket", "tap", "afxdp", "dpdk", "record")
FILES = ("pcap", "record")
"""Kinds whose first option is a file."""
MAX_PORTS = 16
"""Of a worker: NFM_MAX_PORTS in native/src/engine/worker.h."""
_Interface = Annotated[str, Field(min_length=1, max_length=15, description="its name")]
_Share = Annotated[float, Field(ge=0, le=1)]
_Seconds = Annotated[float, Field(ge=0, le=3600)]
_Copy = Literal["auto", "always", "never"]
RecordFormat: TypeAlias = Literal["pcap", "pcap-ns", "pcapng"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, defer_build=True)


class _Kind(_Model):
    """What is said of a port of one kind; a text alone is its first option."""

    @model_validator(mode="before")
    @classmethod
    def _take_text(cls, said: Any) -> Any:
        return {cls.first(): said} if isinstance(said, str) else said

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler(core_schema)]}

    @classmethod
    def first(cls) -> str:
        """Name of the first option."""
        return next(iter(cls.model_fields))


class PcapSpec(_Kind):
    """A capture that is read."""

    path: Annotated[str, Field(min_length=1, description="capture file")]


class RecordSpec(_Kind):
    """A capture that is written: what leaves by this port."""

    path: Annotated[str, Field(min_length=1, description="file, made or emptied")]
    format: Annotated[
        RecordFormat | None,
        Field(description="none: pcap-ns for a file.pcap, else pcapng"),
    ] = None


class AfpacketSpec(_Kind):
    """An interface of this host, through packet sockets."""

    interface: _Interface
    block_ms: Annotated[
        int, Field(ge=0, le=1000, description="0: frames are seen at once; else in blocks")
    ] = 0
    rx_frames: Annotated[int, Field(ge=0, le=1 << 20, description="in the receive ring")] = 0
    promiscuous: Annotated[bool, Field(description="frames for other MAC addresses, too")] = True
    past_queue: Annotated[
        bool, Field(description="short frames go past the interface's queueing discipline")
    ] = False


class TapSpec(_Kind):
    """An interface that is made for the mesh."""

    interface: _Interface = "nfmesh%d"
    mtu: Annotated[int, Field(ge=0, le=65535, description="0: as it is")] = 0
    persist: Annotated[bool, Field(description="it outlives the mesh")] = False
    offload: Annotated[
        bool, Field(description="the kernel may hand over GSO frames, without checksums")
    ] = True


class AfxdpSpec(_Kind):
    """A queue of an interface, through AF_XDP."""

    interface: _Interface
    queue: Annotated[int, Field(ge=0, lt=4096, description="number of the queue")] = 0
    queues: Annotated[
        int, Field(ge=1, le=MAX_WORKERS, description="from that one on, one for each worker")
    ] = 1
    generic: Annotated[bool, Field(description="the kernel's generic XDP")] = False
    promiscuous: Annotated[bool, Field(description="frames for other MAC addresses, too")] = True
    copies: Annotated[_Copy, Field(description="never: fail where the driver has no zero-copy")] = (
        "auto"
    )


class DpdkSpec(_Kind):
    """A DPDK device: a NIC's virtual function, or a virtual device."""

    device: Annotated[
        str | None, Field(description="0000:3b:02.1, net_ring0; none: the first there is")
    ] = None
    eal: Annotated[str | None, Field(description="arguments of EAL, of the first port")] = None
    mtu: Annotated[int, Field(ge=0, le=65535, description="0: as it is")] = 0
    promiscuous: Annotated[bool, Field(description="frames for other MAC addresses, too")] = True
    copies: Annotated[_Copy, Field(description="whether frames are copied into slots")] = "auto"


class ReplaySpec(_Model):
    """The pace of a capture that is read."""

    speed: Annotated[
        float, Field(ge=0, le=1e9, description="1: as recorded; 10: ten times faster; 0: at once")
    ] = 1.0
    live: Annotated[bool, Field(description="frames get the time at which they come")] = False
    loop: Annotated[
        bool,
        Field(description="begin again at its end, for ever, like an interface; says live, too"),
    ] = False

    @model_validator(mode="after")
    def _check_live(self) -> ReplaySpec:
        if self.loop and "live" in self.model_fields_set and not self.live:
            raise ValueError("a loop does not end, so its frames are live: leave `live` out")
        return self

    @property
    def is_live(self) -> bool:
        """True when frames get the time at which they come."""
        return self.live or self.loop


class ImpairSpec(_Model):
    """What is wrong with a link; shares are 0..1 of the frames, drawn by the seed."""

    seed: Annotated[int, Field(ge=0, lt=1 << 64, description="draws the same again")] = 0
    drop: Annotated[_Share, Field(description="share that is lost")] = 0.0
    duplicate: Annotated[_Share, Field(description="share that comes twice")] = 0.0
    corrupt: Annotated[_Share, Field(description="share in which one bit is turned")] = 0.0
    reorder: Annotated[_Share, Field(description="share that lets others pass")] = 0.0
    delay: Annotated[_Share, Field(description="share that waits")] = 0.0
    delay_s: Annotated[_Seconds, Field(description="how long")] = 0.0
    jitter_s: Annotated[_Seconds, Field(description="and up to so much longer")] = 0.0
    reorder_gap: Annotated[int, Field(ge=1, le=65535, description="how many it lets pass")] = 1
    reorder_s: Annotated[_Seconds, Field(description="or as many as come in")] = 0.01
    rate_bps: Annotated[
        int, Field(ge=0, le=10**12, description="bits per second, 1000 or more; 0: no limit")
    ] = 0
    queue: Annotated[int, Field(ge=1, le=65535, description="frames kept at most")] = 1024
    direction: Annotated[
        Literal["rx", "tx", "both"], Field(description="frames that enter, leave, or either")
    ] = "both"


class CaptureSpec(_Kind):
    """Files into which go the frames that pass a port, from the start of the mesh."""

    path: Annotated[
        str, Field(min_length=1, max_length=1024, description="pcapng; older ones get numbers")
    ]
    filter: Annotated[
        str, Field(max_length=4096, description="which packets: as in nfmesh capture --filter")
    ] = ""
    max_mb: Annotated[int, Field(ge=1, le=1 << 20, description="of a file, about")] = 100
    files: Annotated[int, Field(ge=1, le=1000, description="that are kept")] = 10
    snaplen: Annotated[int, Field(ge=0, le=1 << 18, description="bytes of a packet; 0: all")] = 0
    direction: Annotated[
        Literal["rx", "tx", "both"], Field(description="frames that enter, leave, or either")
    ] = "both"

    @model_validator(mode="after")
    def _check_path(self) -> CaptureSpec:
        if not self.path.isprintable():
            raise ValueError("a name of printable letters, please")
        return self


class PortSpec(_Model):
    """One port: exactly one of the kinds, and what holds for each."""

    pcap: Annotated[PcapSpec | None, Field(description="capture file to read")] = None
    afpacket: Annotated[AfpacketSpec | None, Field(description="interface")] = None
    tap: Annotated[TapSpec | None, Field(description="interface to make")] = None
    afxdp: Annotated[AfxdpSpec | None, Field(description="interface, through AF_XDP")] = None
    dpdk: Annotated[DpdkSpec | None, Field(description="DPDK device")] = None
    record: Annotated[RecordSpec | None, Field(description="capture file to write")] = None
    name: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=64, description="for `out` of others"
        ),
    ] = None
    out: Annotated[
        str | Annotated[int, Field(ge=0, lt=MAX_PORTS)] | None,
        Field(description="port by which frames leave that enter here"),
    ] = None
    replay: Annotated[ReplaySpec | None, Field(description="pace of a capture")] = None
    impair: Annotated[ImpairSpec | None, Field(description="what is wrong with its link")] = None
    capture: Annotated[
        CaptureSpec | None, Field(description="files into which go the frames that pass it")
    ] = None
    send_only: Annotated[
        bool, Field(description="nothing enters by it: a run ends with the captures that it reads")
    ] = False

    @model_validator(mode="after")
    def _check(self) -> PortSpec:
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            has = f"this one has {' and '.join(kinds)}" if kinds else "this one has none"
            raise ValueError(f"a port has one of {', '.join(KINDS)}; {has}")
        if self.replay is not None and self.pcap is None:
            raise ValueError(f"only captures (pcap) have a replay; {kinds[0]} comes as it comes")
        if self.out is not None and self.record is not None:
            raise ValueError("nothing enters by a record port: give `out` to the other port")
        if self.capture is not None and self.record is not None:
            raise ValueError("a record port is a capture: give `capture` to another port")
        if self.send_only and (self.pcap is not None or self.out is not None):
            raise ValueError("send_only is for ports by which frames leave, and none enter")
        return self

    @property
    def kind(self) -> str:
        """Which kind it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def said(self) -> _Kind:
        """What is said of its kind."""
        found: _Kind = getattr(self, self.kind)
        return found

    @property
    def options(self) -> dict[str, Any]:
        """The same by name, without what is left out."""
        return {name: getattr(self.said, name) for name in sorted(self.said.model_fields_set)}

    @property
    def source(self) -> str:
        """What reports call it: a file, or kind and interface."""
        first = getattr(self.said, self.said.first())
        if self.kind in FILES:
            return str(first)
        return f"{self.kind}:{first}" if first is not None else self.kind

    @property
    def names(self) -> tuple[str, ...]:
        """What NFs may call it: its name, its interface, what reports call it."""
        said = (self.name, _interface(self), self.source)
        return tuple(dict.fromkeys(name for name in said if name is not None))

    @property
    def is_loop(self) -> bool:
        """True for a capture that begins again at its end."""
        return self.replay is not None and self.replay.loop

    @property
    def path(self) -> str | None:
        """The file of a capture; None for an interface."""
        return str(self.options["path"]) if self.kind in FILES else None

    def with_files(self, change: Callable[[str], str]) -> PortSpec:
        """Returns the same port with other names of all its files."""
        port = self if self.path is None else self.with_path(change(self.path))
        if port.capture is None:
            return port
        capture = port.capture.model_copy(update={"path": change(port.capture.path)})
        return port.model_copy(update={"capture": capture})

    def with_path(self, path: str) -> PortSpec:
        """Returns the same port over another file."""
        said = self.said.model_copy(update={"path": path})
        return self.model_copy(update={self.kind: said})


def record_format(options: Mapping[str, Any]) -> RecordFormat:
    """Returns the format of a recording: what its options say, else what its name suggests."""
    found: RecordFormat | None = options.get("format")
    return found or ("pcap-ns" if str(options["path"]).endswith(".pcap") else "pcapng")


def is_live(ports: Sequence[PortSpec]) -> bool:
    """True when a port does not end: an interface, or a capture in a loop."""
    return any(port.kind not in FILES or port.is_loop for port in ports)


def check_ports(ports: Sequence[PortSpec]) -> None:
    """Checks what ports say of each other.

    Raises:
        SpecError: too many, a name twice, or an `out` that is no port or cannot send.
    """
    if len(ports) > MAX_PORTS:
        raise SpecError("ports", f"{len(ports)} ports; a worker has room for {MAX_PORTS}")
    names = [port.name for port in ports]
    for i, port in enumerate(ports):
        if port.name is not None and port.name in names[:i]:
            raise SpecError(f"ports[{i}].name", f"there is a port {port.name!r} already")
    if ports and all(port.kind == "record" for port in ports):
        raise SpecError("ports", "nothing enters: name a capture (pcap) or an interface, too")
    outs_of(ports)


def outs_of(ports: Sequence[PortSpec]) -> list[int | None]:
    """Returns the number of the port by which each port's frames leave.

    Raises:
        SpecError: there is no such port, or it cannot send.
    """
    found = []
    for i, port in enumerate(ports):
        out = None if port.out is None else _number_of(port.out, ports, f"ports[{i}].out")
        if out is not None and ports[out].kind == "pcap":
            text = f"{ports[out].source} is read; frames leave by a record port or an interface"
            raise SpecError(f"ports[{i}].out", text)
        found.append(out)
    return found


def _number_of(out: str | int, ports: Sequence[PortSpec], path: str) -> int:
    for number, port in enumerate(ports):
        if out in (port.name, number) or (isinstance(out, str) and out == _interface(port)):
            return number
    known = [port.name or _interface(port) or "" for port in ports]
    hint = did_you_mean(str(out), known) or f" (ports: 0 to {len(ports) - 1}, by name or number)"
    raise SpecError(path, f"no port {out!r}{hint}")


def _interface(port: PortSpec) -> str | None:
    found = port.options.get("interface")
    return None if found is None else str(found)
