# SPDX-License-Identifier: Apache-2.0
"""Translates addresses: NAPT44 and NPTv6. The decisions are C (nat.c), the worker does the rest."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal

from cffi import FFI
from pydantic import Field

from mesh import NF, Context, NativeCode, on
from mesh.bounds import Seed
from mesh.errors import SpecError, StateError
from mesh.native_nf import library_path
from nfs.nat.rules import CLASSES, Words, externals, forwards, npts, prefixes

HERE = Path(__file__).parent
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
"""RFC 1918."""
FILTERING = ("endpoint", "address", "address_port")
"""By enum nat_filtering."""
SHOWN = 1000
"""Mappings in the results."""
SECOND_NS = 1_000_000_000


Hold = Annotated[int, Field(ge=0, le=86_400)]
"""Seconds that a mapping stays without a flow."""


class Nat(NF):
    """Hides networks behind external addresses, flow by flow.

    Args:
        external: external IPv4 addresses or prefixes; none: IPv4 is left alone.
        inside: prefixes of the networks that are hidden.
        forwards: static forwards, each as "tcp 198.51.100.1:443 -> 10.0.0.5:8443".
        npt: IPv6 prefixes that are translated, each as "fd00:1::/48 <-> 2001:db8:1::/48".
        ports: external ports that are given out, as "1024-65535".
        filtering: who may send to a mapping: endpoint (all), address or address_port.
        paired: a host keeps its external address, also when that has no free port left.
        preserve: tries the internal port first.
        max_mappings: bound on mappings.
        max_sessions: bound on translated flows; at least the worker's max_flows.
        tcp_hold_s: how long a mapping outlives its last TCP connection.
        udp_hold_s: the same for UDP, after the worker's time-out of the flow.
        icmp_hold_s: the same for ICMP queries.
        seed: of the choice of ports; 0 takes a random one.
    """

    native = NativeCode("nat", "nat_process", "nat_open", "nat_close")
    subscribes = (on("packet", mode="inline", edits=True), on("flow.end", "tcp.end.timeout"))

    def __init__(
        self,
        external: Words = (),
        inside: Words = PRIVATE,
        forwards: Sequence[str] = (),
        npt: Sequence[str] = (),
        ports: str = "1024-65535",
        filtering: Literal["endpoint", "address", "address_port"] = "address",
        paired: bool = True,
        preserve: bool = True,
        max_mappings: Annotated[int, Field(ge=1, le=1 << 24)] = 262144,
        max_sessions: Annotated[int, Field(ge=1, le=1 << 26)] = 1048576,
        tcp_hold_s: Hold = 240,
        udp_hold_s: Hold = 0,
        icmp_hold_s: Hold = 0,
        seed: Seed = 0,
    ) -> None:
        self.external, self.inside = externals(external), prefixes(inside)
        self.rules, self.npt = _forwards(forwards, self.external), npts(npt)
        self.ports = _range(ports)
        self.filtering, self.paired, self.preserve = filtering, paired, preserve
        self.max_mappings, self.max_sessions = max_mappings, max_sessions
        self.hold_s = (tcp_hold_s, udp_hold_s, icmp_hold_s)
        self.seed = seed
        self._ffi = FFI()
        self._lib: Any = None
        self._nat: Any = None
        self._results: dict[str, Any] = {}

    def start(self, ctx: Context) -> None:
        """Gives the native part its configuration."""
        if self.native_handle is None:
            raise StateError("nat has no native part here")
        self._ffi.cdef((HERE / "nat.cdef").read_text(encoding="utf-8"))
        self._lib = self._ffi.dlopen(str(library_path(type(self), self.native)))
        self._nat = self._ffi.cast("nat *", self.native_handle.state)
        config, _borrowed = self._config()
        config.workers = ctx.workers
        rc = self._lib.nat_load(self._nat, config)
        if rc != 0:
            text = "no memory" if rc == -1 else "too many entries, or an endpoint is used twice"
            raise SpecError("nat", f"the configuration was refused: {text}")

    def _config(self) -> tuple[Any, list[Any]]:
        """The configuration, and what it borrows."""
        ffi = self._ffi
        inside = [(int(net.network_address), net.prefixlen) for net in self.inside]
        rules = [
            (
                int(rule.external),
                int(rule.internal),
                rule.external_port,
                rule.internal_port,
                CLASSES.index(rule.protocol),
            )
            for rule in self.rules
        ]
        pairs = [
            (
                list(pair.internal.network_address.packed),
                list(pair.external.network_address.packed),
                pair.internal.prefixlen,
            )
            for pair in self.npt
        ]
        lists = [
            ffi.new("nat_prefix[]", inside),
            ffi.new("uint32_t[]", [int(address) for address in self.external]),
            ffi.new("nat_forward[]", rules),
            ffi.new("nat_npt[]", pairs),
        ]
        config = ffi.new("nat_config *")
        config.inside, config.external, config.forwards, config.npt = lists
        config.n_inside, config.n_external = len(inside), len(self.external)
        config.n_forwards, config.n_npt = len(rules), len(pairs)
        config.port_low, config.port_high = self.ports
        config.filtering = FILTERING.index(self.filtering)
        config.paired, config.preserve = int(self.paired), int(self.preserve)
        config.max_mappings, config.max_sessions = self.max_mappings, self.max_sessions
        config.hold_ns = [seconds * SECOND_NS for seconds in self.hold_s]
        config.seed = self.seed or secrets.randbits(64) | 1
        return config, lists

    def stop(self) -> None:
        """Takes down the counters and the mappings, before the native part is freed."""
        if self._nat is not None:
            self._results = self._read()
            self._nat = None

    def results(self) -> Mapping[str, Any]:
        """Returns the counters, and the mappings there are now."""
        return self._results if self._nat is None else self._read()

    def _read(self) -> dict[str, Any]:
        stats = self._ffi.new("nat_stats *")
        self._lib.nat_stats_get(self._nat, stats)
        names = [name for name, _ in self._ffi.typeof("nat_stats").fields]
        table = self._ffi.new("nat_mapping_info[]", SHOWN)
        n = self._lib.nat_mappings_get(self._nat, table, SHOWN)
        rows = [
            {
                "protocol": CLASSES[row.klass],
                "internal": f"{IPv4Address(row.internal)}:{row.internal_port}",
                "external": f"{IPv4Address(row.external)}:{row.external_port}",
                "flows": int(row.flows),
                "static": bool(row.fixed),
            }
            for row in table[0:n]
        ]
        return {"table": rows, **{name: int(getattr(stats, name)) for name in names}}


def _forwards(texts: Sequence[str], external: Sequence[IPv4Address]) -> list[Any]:
    rules = forwards(texts)
    for i, rule in enumerate(rules):
        if rule.external not in external:
            text = f"{rule.external} is none of the external addresses; add it there"
            raise SpecError(f"forwards[{i}]", text)
    return rules


def _range(text: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    if not dash or not (low.strip().isdigit() and high.strip().isdigit()):
        raise SpecError("ports", f"{text!r} is no range; write it as 1024-65535")
    ports = int(low), int(high)
    if not 1 <= ports[0] <= ports[1] <= 65535:
        raise SpecError("ports", f"{text!r} is no range of ports from 1 to 65535")
    return ports
