# SPDX-License-Identifier: Apache-2.0
"""Routes and ports as the native part takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import numpy as np
import numpy.typing as npt

from mesh.errors import SpecError
from nfs.router.routes import Address, Interface, Network, Route

__all__ = ["HOP", "ROUTE", "Hops", "Placed", "derive"]

ROUTE = np.dtype(
    [
        ("prefix", "u1", 16),
        ("hop", "<u4"),
        ("ip_version", "u1"),
        ("bits", "u1"),
        ("reserved", "u1", 2),
    ]
)
"""router_route."""
HOP = np.dtype([("gateway", "u1", 16), ("kind", "u1"), ("port", "u1"), ("reserved", "u1", 2)])
"""router_hop."""
LINK, VIA, LOCAL, BLACKHOLE, UNREACHABLE, PROHIBIT, BROADCAST = range(1, 8)
"""enum router_kind."""
REFUSALS = {"blackhole": BLACKHOLE, "unreachable": UNREACHABLE, "prohibit": PROHIBIT}
_LAST_WITH_BROADCAST = 30
"""Prefixes of 31 and 32 bits have no broadcast address (RFC 3021)."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An interface and the number of its port."""

    interface: Interface
    number: int

    def is_on_link(self, address: Address) -> bool:
        """Says whether an address is on its link."""
        return any(
            address in net.network
            for net in self.interface.addresses
            if net.version == address.version
        )


@dataclass(slots=True)
class Hops:
    """The different next hops, by number."""

    numbers: dict[tuple[int, int, bytes], int] = field(default_factory=dict)

    def number(self, kind: int, port: int = 0, gateway: Address | None = None) -> int:
        """Returns the number of a hop."""
        packed = b"" if gateway is None else gateway.packed
        return self.numbers.setdefault((kind, port, packed), len(self.numbers))

    def array(self) -> npt.NDArray[Any]:
        """Returns them as router_hop[]."""
        found = np.zeros(len(self.numbers), HOP)
        for (kind, port, gateway), number in self.numbers.items():
            found[number]["kind"], found[number]["port"] = kind, port
            found[number]["gateway"] = _bytes(gateway)
        return found


def derive(
    placed: Sequence[Placed], routes: Sequence[Route], port_of: Callable[[str], int]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Returns router_hop[] and router_route[]: those of the file, of the links, and the router's.

    Args:
        placed: the router's ports.
        routes: the file's.
        port_of: name of a port → number.

    Raises:
        SpecError: a route leads to no port of the router.
    """
    hops = Hops()
    links = _of_links(placed, hops)
    own = _of_the_router(placed, hops)
    for route in routes:
        if route.prefix in links:
            raise route.word.fail(f"{route.prefix} is the link of a port already: leave it out")
    rows = {route.prefix: _hop(route, placed, port_of, hops) for route in routes}
    rows |= links
    rows |= own
    found = np.zeros(len(rows), ROUTE)
    for i, (prefix, hop) in enumerate(sorted(rows.items(), key=lambda row: row[0].prefixlen)):
        found[i] = (_bytes(prefix.network_address.packed), hop, prefix.version, prefix.prefixlen, 0)
    return hops.array(), found


def _of_links(placed: Sequence[Placed], hops: Hops) -> dict[Network, int]:
    found: dict[Network, int] = {}
    for each in placed:
        for address in each.interface.addresses:
            if address.is_link_local:
                continue
            if address.network in found:
                text = f"{address.network} is the link of another port"
                raise each.interface.port.fail(f"{text}; each link has a prefix of its own")
            found[address.network] = hops.number(LINK, each.number)
    return found


def _of_the_router(placed: Sequence[Placed], hops: Hops) -> dict[Network, int]:
    found: dict[Network, int] = {}
    local, broadcast = hops.number(LOCAL), hops.number(BROADCAST)
    for each in placed:
        for address in each.interface.addresses:
            net = address.network
            if address.is_link_local:
                continue
            if net.version == 4 and net.prefixlen <= _LAST_WITH_BROADCAST:
                found[ip_network(net.broadcast_address)] = broadcast
                found[ip_network(net.network_address)] = broadcast
            elif net.version == 6 and net.prefixlen < 127:
                found[ip_network(net.network_address)] = local  # RFC 4291 section 2.6.1
    for each in placed:
        found |= {
            ip_network(address.ip): local
            for address in each.interface.addresses
            if not address.is_link_local
        }
    return found


def _hop(route: Route, placed: Sequence[Placed], port_of: Callable[[str], int], hops: Hops) -> int:
    if route.kind in REFUSALS:
        return hops.number(REFUSALS[route.kind])
    said = None if route.port is None else _placed(route, placed, port_of)
    if route.gateway is None:
        assert said is not None
        return hops.number(LINK, said.number)
    gateway = route.gateway
    if gateway.is_link_local and said is None:
        text = f"{gateway} is on every link: say which, `via {gateway} port NAME`"
        raise route.word.fail(text)
    if any(gateway == a.ip for each in placed for a in each.interface.addresses):
        raise route.word.fail(f"{gateway} is an address of this router: name the next one")
    on_link = [each for each in placed if each.is_on_link(gateway)]
    if said is not None and gateway.is_link_local:
        return hops.number(VIA, said.number, gateway)
    if not on_link or said not in (None, on_link[0]):
        links = ", ".join(str(a.network) for each in placed for a in each.interface.addresses)
        raise route.word.fail(f"{gateway} is on no link of that port; links are {links}")
    return hops.number(VIA, on_link[0].number, gateway)


def _placed(route: Route, placed: Sequence[Placed], port_of: Callable[[str], int]) -> Placed:
    assert route.port is not None
    number = port_of(route.port.text)
    found = [each for each in placed if each.number == number]
    if not found:
        names = ", ".join(each.interface.port.text for each in placed)
        text = f"{route.port.text!r} is none of the router's ports; these are {names}"
        raise SpecError(route.port.place, text)
    return found[0]


def _bytes(packed: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(packed.ljust(16, b"\0"), np.uint8)
