# SPDX-License-Identifier: Apache-2.0
"""Spec files: what a user writes (YAML or JSON), checked here and nowhere else.

    ports:
      - {afpacket: eth0, out: eth1}
      - {afpacket: eth1, out: eth0}
    nfs:
      - use: syn_scan
        config: {limit: 50}
        where: not src net 10.0.0.0/8
      - use: ./mine.py:Blocker
    events:
      slow: {event: http.response, where: latency_us > 200000}
    modules:
      tcp_stream: {overlap: last}
      http: {core: 3}

Every error names the place: `nfs[2].where: unknown field 'prot'; did you mean 'proto'?`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mesh.bounds import PowerOfTwo, refusal
from mesh.declared import Declaration
from mesh.errors import SpecError, place_text, system_text
from mesh.port_spec import PortSpec, check_ports
from mesh.words import MAX_WORKERS, OWN_DOMAIN

__all__ = [
    "DomainSpec",
    "EventSpec",
    "InboxSpec",
    "ListenSpec",
    "ModuleSpec",
    "NFSpec",
    "PatienceSpec",
    "PortSpec",
    "Spec",
    "SubscriptionSpec",
    "json_schema",
    "load",
    "parse",
    "read_yaml",
]

MAX_BYTES = 1 << 20
"""A spec longer than this is refused before it is parsed."""
_Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=64)]
_Core = Annotated[int, Field(ge=0, lt=65536)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, defer_build=True)


class SubscriptionSpec(_Model):
    """Changes one subscription of an NF."""

    events: Annotated[
        list[str] | None, Field(description="instead of its own; none at all: it hears nothing")
    ] = None
    where: Annotated[str | None, Field(description="filter instead of its own")] = None


class NFSpec(_Model):
    """One network function."""

    use: Annotated[str, Field(description="installed name, file.py:Class or package.module:Class")]
    name: Annotated[_Name | None, Field(description="of this instance")] = None
    config: Annotated[dict[str, Any], Field(description="its options")] = {}
    events: Annotated[
        list[str] | None, Field(min_length=1, description="what its only subscription hears")
    ] = None
    where: Annotated[str | None, Field(description="filter that narrows what it hears")] = None
    subscriptions: Annotated[
        dict[str, SubscriptionSpec], Field(description="changes by subscription")
    ] = {}
    mode: Annotated[
        Literal["observe", "inline"] | None, Field(description="beside or in the way of packets")
    ] = None
    stage: Annotated[
        int | None, Field(ge=0, le=255, description="place in line of an inline NF")
    ] = None
    domain: Annotated[
        _Name, Field(description="NFs of one domain share memory; of another, see nothing of it")
    ] = OWN_DOMAIN
    share: Annotated[
        list[_Name], Field(description="other domains that may hear what it publishes")
    ] = []
    cores: Annotated[
        list[_Core] | Annotated[int, Field(ge=1, le=1024)] | None,
        Field(description="cores that it is pinned to, or how many it is to have for itself"),
    ] = None
    poll: Annotated[
        Literal["adaptive", "busy"],
        Field(description="when there is nothing: sleep soon, or never, for a core of its own"),
    ] = "adaptive"
    delivery: Annotated[
        Literal["lossy", "blocking"] | None,
        Field(description="when it is slow: count what it misses, or wait for it"),
    ] = None
    restart: Annotated[
        Literal["always", "on-failure", "never"], Field(description="when its process ends")
    ] = "on-failure"
    fail: Annotated[
        Literal["open", "closed"],
        Field(description="packets that it does not judge in time: pass, or are dropped"),
    ] = "closed"
    deadline_ms: Annotated[
        int, Field(ge=0, le=60_000, description="for judging a packet; 0 as long as it takes")
    ] = 100
    hold: Annotated[
        int | None, Field(ge=0, le=4096, description="entries that it may keep at once")
    ] = None
    ring: Annotated[
        Annotated[int, Field(ge=64, le=1 << 20), PowerOfTwo] | None,
        Field(description="entries of its ring, a power of two"),
    ] = None
    place: Annotated[
        Literal["process", "pod"],
        Field(description="a process that is started here, or one that joins from elsewhere"),
    ] = "process"
    token: Annotated[
        str | None,
        Field(pattern=r"^[0-9a-f]{64}$", description="of one that joins: SHA-256 of its token"),
    ] = None
    declares: Annotated[
        Declaration | None,
        Field(description="of one that joins: what its class says, when that is not installed"),
    ] = None

    @model_validator(mode="after")
    def _check_place(self) -> NFSpec:
        joins = self.place == "pod"
        if joins and (self.token is None or self.name is None):
            raise ValueError("an NF that joins (place: pod) needs a name and the hash of its token")
        if not joins and (self.token is not None or self.declares is not None):
            raise ValueError("token and declares are for an NF that joins: say place: pod")
        return self

    @property
    def is_undeclared(self) -> bool:
        """True for one that joins and has not said yet what its class subscribes to."""
        is_elsewhere = ".py" in self.use or ":" in self.use
        return self.place == "pod" and self.declares is None and is_elsewhere


class ListenSpec(_Model):
    """Control over the network, for those whose keys are known; `nfmesh keys` makes keys."""

    control: Annotated[
        str,
        Field(pattern=r"^tcp://[^/\s]+:(\d{1,5}|\*)$", description="address: tcp://0.0.0.0:7600"),
    ] = "tcp://0.0.0.0:7600"
    keys: Annotated[
        str, Field(min_length=1, description="folder with server.key and client.pub")
    ] = "/etc/nfmesh/control"


class EventSpec(_Model):
    """A named user event: a base event where a filter holds."""

    event: Annotated[str, Field(description="base event")]
    where: Annotated[str, Field(min_length=1, description="filter")]


class InboxSpec(_Model):
    """Sizes of the memory that one domain's NFs map instead of the worker's."""

    slots: Annotated[int, Field(ge=256, le=1 << 26, description="packets of up to 2 KiB")] = 16384
    large_slots: Annotated[int, Field(ge=0, le=1 << 20, description="packets up to 68 KiB")] = 128
    records: Annotated[
        int,
        Field(ge=1024, le=1 << 26, description="entries in flight, a power of two"),
        PowerOfTwo,
    ] = 32768
    fields_mib: Annotated[
        int, Field(ge=1, le=1 << 20, description="MiB for fields of application events")
    ] = 16


class WorkerSpec(_Model):
    """Sizes and switches of each worker; without them the library's own (nfm_worker_config)."""

    n_small: Annotated[int, Field(ge=256, le=1 << 26, description="packets of up to 2 KiB")] = 16384
    n_large: Annotated[int, Field(ge=0, le=1 << 20, description="packets of up to 68 KiB")] = 256
    n_records: Annotated[
        int,
        Field(ge=1024, le=1 << 26, description="entries in flight, a power of two"),
        PowerOfTwo,
    ] = 65536
    max_flows: Annotated[
        int, Field(ge=1024, le=1 << 28, description="flows at once, a power of two"), PowerOfTwo
    ] = 1 << 20
    fields_size: Annotated[
        int, Field(ge=1 << 20, le=1 << 40, description="bytes for fields of application events")
    ] = 64 << 20
    max_tunnel_depth: Annotated[
        int, Field(ge=0, le=16, description="headers that are peeled; 0 stops at the outermost")
    ] = 4
    key_vlan: Annotated[
        int, Field(ge=0, le=1, description="1: VLAN ids are part of the flow key")
    ] = 0
    key_tunnel: Annotated[
        int, Field(ge=0, le=1, description="1: the tunnel's id is part of the flow key")
    ] = 0
    update_s: Annotated[
        int, Field(ge=1, le=86_400, description="seconds from one flow.update to the next")
    ] = 60

    @property
    def sizes(self) -> dict[str, int]:
        """Those that are said, by name in nfm_worker_config."""
        return {name: getattr(self, name) for name in sorted(self.model_fields_set)}


class DomainSpec(_Model):
    """One domain other than the mesh's own."""

    memory: Annotated[InboxSpec, Field(description="sizes of its memory")] = InboxSpec()


class PatienceSpec(_Model):
    """Seconds without a sign of life after which a process hangs: it is killed, then restarted."""

    start: Annotated[
        float, Field(ge=0.1, le=3600, description="until an NF is constructed and has started")
    ] = 30.0
    run: Annotated[
        float, Field(ge=0.1, le=3600, description="in one call of a handler, or between two")
    ] = 10.0
    end: Annotated[float, Field(ge=0.1, le=3600, description="in an NF's stop and results")] = 60.0


class ModuleSpec(_Model):
    """One stack module: its limits by name, and where it runs."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=False)
    __pydantic_extra__: dict[str, int | str]

    own: Annotated[
        bool, Field(strict=True, description="run it on a core of its own, beside the worker")
    ] = False
    core: Annotated[_Core | None, Field(description="that core; says own, too")] = None

    @model_validator(mode="after")
    def _check_core(self) -> ModuleSpec:
        if self.core is not None and "own" in self.model_fields_set and not self.own:
            raise ValueError("a core is named, but own is false: leave one of them out")
        return self

    @property
    def limits(self) -> dict[str, int | str]:
        """All that is said but where it runs."""
        return dict(self.__pydantic_extra__ or {})


class Spec(_Model):
    """A whole spec."""

    nfs: Annotated[list[NFSpec], Field(description="network functions")] = []
    events: Annotated[
        dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")], EventSpec],
        Field(description="named user events"),
    ] = {}
    ports: Annotated[list[PortSpec], Field(description="where packets enter and leave")] = []
    modules: Annotated[
        dict[str, ModuleSpec], Field(description="limits by stack module, and where it runs")
    ] = {}
    worker: Annotated[WorkerSpec, Field(description="sizes of each worker")] = WorkerSpec()
    domains: Annotated[
        dict[_Name, DomainSpec], Field(description="domains of NFs; others have these defaults")
    ] = {}
    workers: Annotated[
        int, Field(ge=1, le=MAX_WORKERS, description="that share the packets, flow by flow")
    ] = 1
    worker_cores: Annotated[
        list[_Core] | None,
        Field(description="cores that the worker is pinned to; of several, one for each"),
    ] = None
    worker_poll: Annotated[
        Literal["adaptive", "busy"],
        Field(description="live ports that are quiet: sleep soon, or never, on cores of their own"),
    ] = "adaptive"
    reserved_cores: Annotated[
        list[_Core], Field(description="cores that no NF gets when it asks for a number of them")
    ] = []
    max_packets: Annotated[
        int | None, Field(ge=1, lt=1 << 63, description="stop after so many")
    ] = None
    checksums: Annotated[
        Literal["ignore", "verify"], Field(description="whether bad checksums count")
    ] = "ignore"
    out: Annotated[str, Field(description="folder for files that NFs write")] = "."
    metrics_port: Annotated[
        int | None,
        Field(ge=0, le=65535, description="Prometheus endpoint on 127.0.0.1; 0 any, none: off"),
    ] = None
    patience: Annotated[
        PatienceSpec, Field(description="how long a process may be silent before it is killed")
    ] = PatienceSpec()
    listen: Annotated[
        ListenSpec | None, Field(description="take orders over the network; NFs may come later")
    ] = None

    @property
    def may_be_empty(self) -> bool:
        """True when it makes sense without NFs: frames leave, or NFs come later."""
        return self.listen is not None or any(port.out is not None for port in self.ports)

    @property
    def limits(self) -> dict[str, dict[str, int | str]]:
        """Limits by stack module."""
        return {name: entry.limits for name, entry in self.modules.items()}

    @property
    def own_cores(self) -> dict[str, tuple[int, ...] | None]:
        """Modules that run on cores of their own; None leaves the core to the supervisor."""
        return {
            name: None if entry.core is None else (entry.core,)
            for name, entry in self.modules.items()
            if entry.own or entry.core is not None
        }


def load(path: Path) -> Spec:
    """Reads a spec file.

    Raises:
        SpecError: unreadable, too long, no YAML, or not a spec; the text names file and place.
    """
    try:
        return parse(read_yaml(path, yaml.safe_load))
    except SpecError as error:
        raise SpecError(str(path), str(error)) from error


def read_yaml(path: Path, read: Callable[[bytes], Any]) -> Any:
    """Returns what `read` makes of a file of at most MAX_BYTES.

    Raises:
        SpecError: unreadable, too long, or no YAML.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError("", system_text(error)) from error
    if len(raw) > MAX_BYTES:
        raise SpecError("", f"longer than {MAX_BYTES} bytes")
    try:
        return read(raw)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError("", f"no YAML: {' '.join(str(error).split())}") from error


def parse(data: object) -> Spec:
    """Checks parsed YAML or JSON.

    Raises:
        SpecError: names the first place that is wrong.
    """
    if not isinstance(data, Mapping):
        raise SpecError("", "a spec is a mapping with the key 'nfs'")
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        place, text = refusal(error, json_schema())
        raise SpecError(place_text(place), text) from error
    check_ports(spec.ports)
    _check_workers(spec)
    if not spec.nfs and not spec.may_be_empty:
        text = "name at least one NF, or ports that frames leave by (`out`)"
        raise SpecError("nfs", text)
    return spec


def _check_workers(spec: Spec) -> None:
    cores = spec.worker_cores
    for i, port in enumerate(spec.ports):
        queues = port.afxdp.queues if port.afxdp is not None else 1
        if queues not in (1, spec.workers):
            text = f"{queues} queues for {spec.workers} workers; one for each, or one for all"
            raise SpecError(f"ports[{i}].afxdp.queues", text)
    if spec.workers == 1:
        return
    if cores is not None and len(cores) != spec.workers:
        text = f"{len(cores)} cores for {spec.workers} workers; name one for each"
        raise SpecError("worker_cores", text)
    for i, core in enumerate(cores or ()):
        if core in (cores or ())[:i]:
            raise SpecError(f"worker_cores[{i}]", f"core {core} is given twice")
    for name, pinned in spec.own_cores.items():
        if pinned is not None:
            text = f"each of {spec.workers} workers has a process of its own for it; say own: true"
            raise SpecError(f"modules.{name}.core", text)


def json_schema() -> dict[str, Any]:
    """Returns the JSON schema of spec files."""
    return Spec.model_json_schema()
