# SPDX-License-Identifier: Apache-2.0
"""A router for IPv4 and IPv6; what happens per packet is C (forward.c and beside it)."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

from cffi import FFI
from pydantic import Field

from mesh import NF, Context, Event, NativeCode, on
from mesh.bounds import MemoryMb, Seconds
from mesh.errors import SpecError, StateError
from mesh.native_nf import library_path
from nfs.router.routes import Route, Word, load, parse_ports
from nfs.router.table import Placed, derive

HERE = Path(__file__).parent
SECOND_NS = 1_000_000_000
WATCH_S = 0.5
"""How often the routes file is looked at."""
STATES = ("free", "incomplete", "reachable", "stale", "probe", "failed")
"""enum router_state."""
SHOWN = 1000
"""Neighbours in the results."""


class Reload(Event, name="router.reload"):
    """The routes file changed; `error` is empty when its routes are in force."""

    routes: int
    error: str


class Router(NF):
    """Sends packets on by the longest prefix, and answers for its own addresses.

    Args:
        ports: its ports, each as "eth0 10.1.0.1/24 fd01::1/64 mtu 1500"; or one text with ";".
        routes: routes file; "": the links of its ports are all it knows.
        watch: put the routes file in force again whenever it changes.
        check_source: packets must come by the port by which their source is reached.
        errors_per_s: ICMP errors that are sent per second; 0 sends none.
        error_burst: how many at once.
        max_neighbours: bound on neighbours.
        reachable_s: how long a neighbour's answer is trusted.
        stale_s: how long a neighbour is remembered that nobody sends to.
        memory_mb: bound on the memory of routes.
    """

    publishes = (Reload,)
    subscribes = (on("packet", mode="inline", edits=True, stage=100),)
    native = NativeCode("router", "router_process", "router_open", "router_close")
    holds = 64

    def __init__(
        self,
        ports: str | tuple[str, ...],
        routes: str = "",
        watch: bool = True,
        check_source: bool = False,
        errors_per_s: Annotated[int, Field(ge=0, le=1 << 20)] = 100,
        error_burst: Annotated[int, Field(ge=1, le=1 << 20)] = 50,
        max_neighbours: Annotated[int, Field(ge=1, le=1 << 20)] = 4096,
        reachable_s: Seconds = 30.0,
        stale_s: Seconds = 600.0,
        memory_mb: MemoryMb = 256,
    ) -> None:
        self.interfaces = parse_ports(ports)
        self.path = Path(routes) if routes else None
        self.watch, self.memory_mb = watch, memory_mb
        self.fixed = {
            "check_source": int(check_source),
            "errors_per_s": errors_per_s,
            "error_burst": error_burst,
            "max_neighbours": max_neighbours,
            "reachable_ns": int(reachable_s * SECOND_NS),
            "stale_ns": int(stale_s * SECOND_NS),
        }
        self.running = 0
        self.error = ""
        self._placed: list[Placed] = []
        self._names: Context | None = None
        self._ffi = FFI()
        self._lib: Any = None
        self._router: Any = None
        self._seen: tuple[int, ...] = ()
        self._next_look = 0.0
        self._loading: _Loading | None = None
        self._results: dict[str, Any] = {}

    def start(self, ctx: Context) -> None:
        """Finds the ports, and puts the routes in force."""
        if self.native_handle is None:
            raise StateError("router has no native part here")
        self._ffi.cdef((HERE / "router.cdef").read_text(encoding="utf-8"))
        self._lib = self._ffi.dlopen(str(library_path(Router, self.native)))
        self._router = self._ffi.cast("router *", self.native_handle.state)
        self._names = ctx
        self._placed = [Placed(each, self._port_of(each.port)) for each in self.interfaces]
        numbers = [each.number for each in self._placed]
        for each in self._placed:
            if numbers.count(each.number) > 1:
                raise each.interface.port.fail(f"port {each.number} is there twice")
        self._configure()
        self._seen = self._signature()
        self._put_in_force(*self.compile())

    def _port_of(self, word: Word) -> int:
        assert self._names is not None
        try:
            return self._names.port(word.text)
        except StateError as error:
            raise word.fail(str(error)) from error

    def _configure(self) -> None:
        config = self._ffi.new("router_config *")
        rows = []
        for each in self._placed:
            place = config.interfaces[each.number]
            place.mtu, place.mac = each.interface.mtu, list(each.interface.mac)
            for address in each.interface.addresses:
                packed = list(address.ip.packed.ljust(16, b"\0"))
                rows.append((packed, address.version, address.network.prefixlen, each.number, 0))
        try:
            addresses = self._ffi.new("router_address[]", rows)
            config.addresses, config.n_addresses = addresses, len(rows)
            for name, value in self.fixed.items():
                setattr(config, name, value)
            config.hash_key = secrets.randbits(64)
            rc = self._lib.router_load(self._router, config)
        except OverflowError as error:
            raise SpecError("router", str(error)) from error
        if rc != 0:
            most = self._lib.ROUTER_MAX_ADDRESSES
            text = (
                "no memory" if rc == -1 else f"at most {most} addresses, link-local ones included"
            )
            raise SpecError("ports", f"the configuration was refused: {text}")

    def compile(self) -> tuple[int, Any]:
        """Reads the routes and builds their table; on any thread.

        Raises:
            SpecError: names file, line and column, or what is too much.
        """
        routes: Sequence[Route] = load(self.path) if self.path is not None else ()
        names = {word: self._port_of(Word(word, place)) for word, place in _ports_in(routes)}
        hops, rows = derive(self._placed, routes, names.__getitem__)
        ffi = self._ffi
        config, status = ffi.new("router_table_config *"), ffi.new("int *")
        config.hops = ffi.from_buffer("router_hop[]", hops)
        config.routes = ffi.from_buffer("router_route[]", rows)
        config.n_hops, config.n_routes = len(hops), len(rows)
        config.max_bytes = self.memory_mb << 20
        table = self._lib.router_table_new(self._router, config, status)
        if table == ffi.NULL:
            place = str(self.path or "routes")
            most = f"at most {self._lib.ROUTER_MAX_ROUTES} routes over"
            most += f" {self._lib.ROUTER_MAX_HOPS - 1} next hops"
            text = {-1: "no memory", -6: f"more than memory_mb ({self.memory_mb}): raise it"}
            raise SpecError(place, text.get(int(status[0]), most))
        return len(routes), table

    def _put_in_force(self, n_routes: int, table: Any) -> None:
        self._lib.router_swap(self._router, table)
        self.running, self.error = n_routes, ""

    def _signature(self) -> tuple[int, ...]:
        """What differs when the file is another one; empty while there is none."""
        try:
            stat = self.path.stat() if self.path is not None else None
        except OSError:
            stat = None
        return () if stat is None else (stat.st_mtime_ns, stat.st_size, stat.st_ino)

    def poll(self) -> None:
        """Lets time go on, and looks at the routes file now and then."""
        if self._router is None:
            return
        self._lib.router_poll(self._router, time.time_ns())
        if self._loading is not None:
            if not self._loading.is_alive():
                self._finish(self._loading)
        elif self.watch and self.path is not None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + WATCH_S
            signature = self._signature()
            if signature != self._seen:
                self._seen = signature
                self._loading = _Loading(self)
                self._loading.start()

    def _finish(self, loading: _Loading) -> None:
        self._loading = None
        if loading.made is not None:
            self._put_in_force(*loading.made)
            self.log.info("%d routes of %s are in force", self.running, self.path)
        else:
            self.error = str(loading.error)
            self.log.warning("%s (the running routes stay)", self.error)
        self.publish(Reload(routes=self.running, error=self.error))

    def stop(self) -> None:
        """Takes down the counters, before the native part is freed."""
        if self._loading is not None:
            self._loading.join()
            if self._loading.made is not None:
                self._lib.router_table_free(self._loading.made[1])
            self._loading = None
        if self._router is not None:
            self._results = self._report()
            self._router = None

    def results(self) -> Mapping[str, Any]:
        """Returns the neighbours, and what became of packets."""
        return self._results if self._router is None else self._report()

    def _report(self) -> dict[str, Any]:
        ffi = self._ffi
        stats, table = ffi.new("router_stats *"), ffi.new("router_neighbour[]", SHOWN)
        self._lib.router_stats_get(self._router, stats)
        n = self._lib.router_neighbours_get(self._router, table, SHOWN)
        names = {each.number: each.interface.port.text for each in self._placed}
        rows = [
            {
                "port": names[row.port],
                "address": str(ip_address(bytes(row.address)[: 4 if row.ip_version == 4 else 16])),
                "mac": bytes(row.mac).hex(":"),
                "state": STATES[row.state],
            }
            for row in table[0:n]
        ]
        counts = {name: int(getattr(stats, name)) for name, _ in ffi.typeof("router_stats").fields}
        counts |= {"neighbours": counts["neighbours"], "routes": self.running}
        return {"neighbour_table": rows, **counts, "error": self.error or None}


def _ports_in(routes: Sequence[Route]) -> list[tuple[str, str]]:
    """Names of ports in routes, with the place of the first of each."""
    found: dict[str, str] = {}
    for route in routes:
        if route.port is not None:
            found.setdefault(route.port.text, route.port.place)
    return list(found.items())


class _Loading(threading.Thread):
    """Compiles routes beside the packets.

    Attributes:
        made: number of routes and table, or None.
        error: why there is none.
    """

    def __init__(self, router: Router) -> None:
        super().__init__(name="router-routes", daemon=True)
        self._router = router
        self.made: tuple[int, Any] | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Reads and compiles."""
        try:
            self.made = self._router.compile()
        except Exception as error:
            self.error = error
