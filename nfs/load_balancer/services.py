# SPDX-License-Identifier: Apache-2.0
"""What the balancer's option `services` says, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Literal

from pydantic import Field

from mesh.errors import SpecError

__all__ = ["Backend", "Service", "check"]

STATES = ("up", "drain", "down", "failed")
"""By enum lb_state."""
PROTOCOLS = {"tcp": 6, "udp": 17}
MAC_BYTES = 6


@dataclass(frozen=True, slots=True)
class Backend:
    """A host that serves.

    Attributes:
        address: its own.
        port: 0 is the service's.
        weight: share of new flows, 0 to 1000.
        mac: for mode "direct".
        state: "up", "drain" or "down" at the start.
    """

    address: str
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    weight: Annotated[int, Field(ge=0, le=1000)] = 1
    mac: str = ""
    state: Literal["up", "drain", "down"] = "up"


@dataclass(frozen=True, slots=True)
class Service:
    """A virtual address and port, and who serves it.

    Attributes:
        address: virtual address.
        port: its port.
        backends: who serves.
        protocol: "tcp" or "udp".
        mode: "dnat" translates; "direct" changes the MAC only, and answers go their own way.
        affinity: "source" keeps a client's flows together.
        reject: tells clients when nobody is up; else their packets are dropped.
    """

    address: str
    port: Annotated[int, Field(ge=1, le=65535)]
    backends: Sequence[Backend] = field(default_factory=tuple)
    protocol: Literal["tcp", "udp"] = "tcp"
    mode: Literal["dnat", "direct"] = "dnat"
    affinity: Literal["flow", "source"] = "flow"
    reject: bool = True


def check(services: Sequence[Service]) -> None:
    """Looks for what cannot be.

    Raises:
        SpecError: names the place.
    """
    seen: set[tuple[object, ...]] = set()
    for i, service in enumerate(services):
        place = f"services[{i}]"
        address = _address(service.address, place)
        key = (address, service.port, service.protocol)
        if key in seen:
            raise SpecError(place, f"{service.address}:{service.port} is there twice")
        seen.add(key)
        for k, backend in enumerate(service.backends):
            _check_backend(service, address.version, backend, f"{place}.backends[{k}]")


def _check_backend(service: Service, version: int, backend: Backend, place: str) -> None:
    if _address(backend.address, place).version != version:
        raise SpecError(place, f"{backend.address} and {service.address} differ in IP version")
    if service.mode == "direct" and len(mac_bytes(backend.mac)) != MAC_BYTES:
        raise SpecError(f"{place}.mac", "mode direct needs the backend's MAC: 02:00:00:00:00:01")


def _address(text: str, place: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError as error:
        raise SpecError(f"{place}.address", str(error)) from error


def mac_bytes(text: str) -> bytes:
    """Returns the bytes of a MAC address; none when it is not one.

    >>> mac_bytes("02:00:00:00:00:01").hex(), mac_bytes("x")
    ('020000000001', b'')
    """
    try:
        return bytes.fromhex(text.replace(":", ""))
    except ValueError:
        return b""
