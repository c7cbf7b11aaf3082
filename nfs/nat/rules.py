# SPDX-License-Identifier: Apache-2.0
"""What the options of the translator say: prefixes, addresses, forwards, pairs of prefixes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Network

from mesh.errors import SpecError

__all__ = ["Forward", "Npt", "Words", "externals", "forwards", "npts", "prefixes", "words"]

Words = str | Sequence[str]
"""A list, or one text with commas or blanks between."""
CLASSES = ("tcp", "udp", "icmp")
"""By enum nat_class."""
LONGEST_NPT = 64
MAX_EXTERNAL = 64


@dataclass(frozen=True, slots=True)
class Forward:
    """An external endpoint that stands for an internal one, for good."""

    protocol: str
    external: IPv4Address
    external_port: int
    internal: IPv4Address
    internal_port: int


@dataclass(frozen=True, slots=True)
class Npt:
    """An internal IPv6 prefix and the external one that stands for it (RFC 6296)."""

    internal: IPv6Network
    external: IPv6Network


def words(value: Words) -> list[str]:
    """Splits a text at commas and blanks; a list stays one.

    >>> words("10.0.0.0/8, 192.168.0.0/16"), words(["a"])
    (['10.0.0.0/8', '192.168.0.0/16'], ['a'])
    """
    return re.split(r"[,\s]+", value.strip()) if isinstance(value, str) and value else list(value)


def prefixes(value: Words) -> list[IPv4Network]:
    """Reads IPv4 prefixes.

    Raises:
        SpecError: one is none; names it.
    """
    found = []
    for i, text in enumerate(words(value)):
        try:
            found.append(IPv4Network(text))
        except ValueError as error:
            raise SpecError(f"inside[{i}]", f"{error}; write it as 10.0.0.0/8") from error
    return found


def externals(value: Words) -> list[IPv4Address]:
    """Reads external addresses; a prefix stands for all of its addresses.

    Raises:
        SpecError: one is none; names it.
    """
    found: list[IPv4Address] = []
    for i, text in enumerate(words(value)):
        try:
            net = IPv4Network(text)
        except ValueError as error:
            raise SpecError(f"external[{i}]", f"{error}; write it as 198.51.100.1") from error
        if len(found) + net.num_addresses > MAX_EXTERNAL:
            raise SpecError(f"external[{i}]", f"{net}: at most {MAX_EXTERNAL} addresses in all")
        found += list(net)
    if len(found) != len(set(found)):
        raise SpecError("external", "an address is there twice")
    return found


def forwards(value: Sequence[str]) -> list[Forward]:
    """Reads forwards, one text each.

    >>> forwards(["tcp 198.51.100.1:443 -> 10.0.0.5:8443"])[0].internal_port
    8443

    Raises:
        SpecError: one is none; names it.
    """
    pattern = re.compile(r"(tcp|udp)\s+([\d.]+):(\d+)\s*->\s*([\d.]+):(\d+)")
    found = []
    for i, text in enumerate(value):
        match = pattern.fullmatch(text.strip())
        try:
            if match is None:
                raise AddressValueError("not a forward")
            ports = int(match[3]), int(match[5])
            if not all(0 < port < 65536 for port in ports):
                raise AddressValueError("a port is 1 to 65535")
            ends = IPv4Address(match[2]), IPv4Address(match[4])
        except AddressValueError as error:
            hint = "write it as tcp 198.51.100.1:443 -> 10.0.0.5:8443"
            raise SpecError(f"forwards[{i}]", f"{text!r}: {error}; {hint}") from error
        found.append(Forward(match[1], ends[0], ports[0], ends[1], ports[1]))
    return found


def npts(value: Sequence[str]) -> list[Npt]:
    """Reads pairs of IPv6 prefixes.

    >>> npts(["fd00:1::/48 <-> 2001:db8:1::/48"])[0].external.prefixlen
    48

    Raises:
        SpecError: one is none, or the prefixes have different lengths.
    """
    found = []
    for i, text in enumerate(value):
        place = f"npt[{i}]"
        inner, arrow, outer = (part.strip() for part in text.partition("<->"))
        try:
            pair = Npt(IPv6Network(inner), IPv6Network(outer))
        except ValueError as error:
            hint = "write it as fd00:1::/48 <-> 2001:db8:1::/48"
            raise SpecError(place, f"{text!r}: {error}; {hint}") from error
        if not arrow or pair.internal.prefixlen != pair.external.prefixlen:
            raise SpecError(place, f"{text!r}: both prefixes must have the same length")
        if not 1 <= pair.internal.prefixlen <= LONGEST_NPT:
            raise SpecError(
                place, f"{text!r}: prefixes of 1 to {LONGEST_NPT} bits can be translated"
            )
        found.append(pair)
    return found
