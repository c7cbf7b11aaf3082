# SPDX-License-Identifier: Apache-2.0
"""Spreads flows over backends. The decisions are C (load_balancer.c), the worker does the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Any

from cffi import FFI
from pydantic import Field

from mesh import NF, Context, EventBatch, NativeCode, on
from mesh.bounds import Seed
from mesh.errors import SpecError, StateError
from mesh.native_nf import library_path
from nfs.load_balancer.services import PROTOCOLS, STATES, Service, check, mac_bytes

HERE = Path(__file__).parent
SECOND_NS = 1_000_000_000


class LoadBalancer(NF):
    """Spreads new flows over backends, by Maglev hashing.

    Args:
        services: virtual addresses and their backends.
        max_fails: TCP connections in a row that a backend may refuse or leave unanswered; 0: any.
        retry_s: seconds until a backend that failed is tried again.
        max_sessions: flows that are counted as active; at least the worker's max_flows.
        seed: balancers with the same seed and backends choose alike.
    """

    native = NativeCode("load_balancer", "lb_process", "lb_open", "lb_close")
    subscribes = (
        on("packet.tcp", "packet.udp", mode="inline", edits=True),
        on("tcp.handshake.established", "tcp.end.reset", "flow.end"),
    )

    def __init__(
        self,
        services: Sequence[Service] = (),
        max_fails: Annotated[int, Field(ge=0, le=1_000_000)] = 3,
        retry_s: Annotated[int, Field(ge=1, le=86_400)] = 10,
        max_sessions: Annotated[int, Field(ge=1, le=1 << 26)] = 1048576,
        seed: Seed = 1,
    ) -> None:
        check(services)
        self.services = tuple(services)
        self.max_fails, self.retry_s, self.max_sessions = max_fails, retry_s, max_sessions
        self.seed = seed
        self._backends = [(s, b) for s in self.services for b in s.backends]
        self._ffi = FFI()
        self._lib: Any = None
        self._lb: Any = None
        self._results: dict[str, Any] = {}

    def start(self, ctx: Context) -> None:
        """Gives the native part its configuration."""
        if self.native_handle is None or self.native is None:
            raise StateError("load_balancer has no native part here")
        self._ffi.cdef((HERE / "load_balancer.cdef").read_text(encoding="utf-8"))
        self._lib = self._ffi.dlopen(str(library_path(LoadBalancer, self.native)))
        self._lb = self._ffi.cast("lb *", self.native_handle.state)
        config, _borrowed = self._config()
        rc = self._lib.lb_load(self._lb, config)
        if rc != 0:
            text = "no memory" if rc == -1 else "at most 256 services and 4096 backends"
            raise SpecError("services", f"the configuration was refused: {text}")

    def _config(self) -> tuple[Any, list[Any]]:
        """The configuration, and what it borrows."""
        ffi = self._ffi
        services = ffi.new("lb_service[]", len(self.services))
        backends = ffi.new("lb_backend[]", len(self._backends))
        for at, (_, backend) in enumerate(self._backends):
            to = backends[at]
            to.address = _bytes(ip_address(backend.address))
            to.mac = mac_bytes(backend.mac).ljust(6, b"\0")[:6]
            to.port, to.weight = backend.port, backend.weight
            to.state = STATES.index(backend.state)
        first = 0
        for to, service in zip(services, self.services, strict=True):
            address = ip_address(service.address)
            to.address, to.ip_version = _bytes(address), address.version
            to.port, to.proto = service.port, PROTOCOLS[service.protocol]
            to.mode = int(service.mode == "direct")
            to.affinity = int(service.affinity == "source")
            to.reject = int(service.reject)
            to.first, to.n = first, len(service.backends)
            first += len(service.backends)
        config = ffi.new("lb_config *")
        config.services, config.backends = services, backends
        config.n_services, config.n_backends = len(self.services), len(self._backends)
        config.max_sessions, config.max_fails = self.max_sessions, self.max_fails
        config.retry_ns, config.seed = self.retry_s * SECOND_NS, self.seed
        return config, [services, backends]

    def set_state(self, address: str, state: str, port: int | None = None) -> int:
        """Says what the backends with an address (and port) are from now on.

        Args:
            address: the backend's.
            state: "up", "drain" or "down"; the last two get no new flows and keep what they have.
            port: None is any.

        Returns:
            How many backends that were: one may be in several services.

        Raises:
            StateError: the NF does not run.
            ValueError: no such state.
        """
        if self._lb is None:
            raise StateError("load_balancer does not run")
        word, found = STATES.index(state), 0
        for at, (service, backend) in enumerate(self._backends):
            its_port = backend.port or service.port
            if ip_address(backend.address) == ip_address(address) and port in (None, its_port):
                self._lib.lb_set_state(self._lb, at, word)
                found += 1
        return found

    def stop(self) -> None:
        """Takes down the counters, before the native part is freed."""
        if self._lb is not None:
            self._results = self._read()
            self._lb = None

    def results(self) -> Mapping[str, Any]:
        """Returns the counters, and what became of each backend."""
        return self._results if self._lb is None else self._read()

    def _read(self) -> dict[str, Any]:
        stats, info = self._ffi.new("lb_stats *"), self._ffi.new("lb_backend_info *")
        self._lib.lb_stats_get(self._lb, stats)
        rows = []
        for at, (service, backend) in enumerate(self._backends):
            self._lib.lb_backend_get(self._lb, at, info)
            rows.append(
                {
                    "service": f"{service.protocol} {service.address} {service.port}",
                    "backend": f"{backend.address} {backend.port or service.port}",
                    "state": STATES[info.state],
                    "share": round(info.entries / self._lib.LB_TABLE, 4),
                    "flows": int(info.flows),
                    "active": int(info.active),
                }
            )
        names = [name for name, _ in self._ffi.typeof("lb_stats").fields]
        return {"backends": rows, **{name: int(getattr(stats, name)) for name in names}}


class LoadBalancerByEvent(LoadBalancer):
    """A load balancer that hears from another NF how its backends are.

    Args:
        services: virtual addresses and their backends.
        max_fails: TCP connections in a row that a backend may refuse or leave unanswered; 0: any.
        retry_s: seconds until a backend that failed is tried again.
        max_sessions: flows that are counted as active; at least the worker's max_flows.
        seed: balancers with the same seed and backends choose alike.
    """

    @on("backend.health")
    def health(self, batch: EventBatch) -> None:
        """Takes each word: `address`, `port` (0 any) and `state` (up, drain, down)."""
        for event in batch:
            if event.state not in STATES[:3]:
                self.log.warning("%s is no state of a backend", event.state)
                continue
            self.set_state(str(event.address), event.state, event.port or None)


def _bytes(address: IPv4Address | IPv6Address) -> bytes:
    return address.packed.ljust(16, b"\0")
