# SPDX-License-Identifier: Apache-2.0
"""Values of rules: addresses, ports, protocols and ICMP types as ranges of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from mesh.errors import did_you_mean
from mesh.ranges import Ranges, union
from nfs.firewall.words import ICMP_TYPES, ICMPV6_TYPES, PORTS, PROTOCOLS, Token

__all__ = [
    "Addresses",
    "NumberReader",
    "addresses_of",
    "codes",
    "icmp_types",
    "numbers_of",
    "ports",
    "protocols",
]

NumberReader = Callable[[Token], tuple[int, int]]
"""Reads one value, or first-last."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """A set of addresses of both families."""

    ipv4: Ranges
    ipv6: Ranges


def addresses_of(tokens: list[Token]) -> Addresses:
    """Reads addresses, prefixes and first-last.

    Raises:
        SpecError: names the word that is none.
    """
    found: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    for token in tokens:
        version, first, last = _address(token)
        found[version].append((first, last))
    return Addresses(union(found[4]), union(found[6]))


def numbers_of(tokens: list[Token], read: NumberReader) -> Ranges:
    """Reads ports, protocols or types.

    Raises:
        SpecError: names the word that is none.
    """
    return union(read(token) for token in tokens)


def ports(token: Token) -> tuple[int, int]:
    """Reads a port, its name, or first-last."""
    return _numbers(token, PORTS, 65535, "a port")


def protocols(token: Token) -> tuple[int, int]:
    """Reads a protocol."""
    return _numbers(token, PROTOCOLS, 255, "a protocol")


def codes(token: Token) -> tuple[int, int]:
    """Reads an ICMP code."""
    return _numbers(token, {}, 255, "a code")


def icmp_types(ipv6: bool) -> NumberReader:
    """Returns what reads ICMP types of the family."""
    names = ICMPV6_TYPES if ipv6 else ICMP_TYPES
    return lambda token: _numbers(token, names, 255, "a type")


def _numbers(token: Token, names: Mapping[str, int], most: int, what: str) -> tuple[int, int]:
    if token.text in names:
        return names[token.text], names[token.text]
    first, dash, last = token.text.partition("-")
    if not (first.isdecimal() and (last.isdecimal() or not dash)):
        hint = did_you_mean(token.text, names) or f"; write {what} as a number"
        raise token.fail(f"{token.text!r} is not the name of {what}{hint}")
    low, high = int(first), int(last or first)
    if low > high:
        raise token.fail(f"{token.text!r} is empty; the smaller number comes first")
    if high > most:
        raise token.fail(f"{what} is a number up to {most}")
    return low, high


def _address(token: Token) -> tuple[int, int, int]:
    """Returns the family, the first and the last address."""
    first, dash, last = token.text.partition("-")
    try:
        if dash:
            low, high = ip_address(first), ip_address(last)
            if low.version != high.version or int(low) > int(high):
                raise token.fail(f"{token.text!r} is empty; the smaller address comes first")
            return low.version, int(low), int(high)
        network = ip_network(first, strict=False)
    except ValueError:
        text = f"{token.text!r} is no address; write 192.0.2.1, 192.0.2.0/24, 2001:db8::/32 or @set"
        raise token.fail(text) from None
    _refuse_host_bits(token, network.network_address)
    return network.version, int(network[0]), int(network[-1])


def _refuse_host_bits(token: Token, network: IPv4Address | IPv6Address) -> None:
    """A prefix whose address is no prefix is more often a slip than meant."""
    address, slash, length = token.text.partition("/")
    if slash and ip_address(address) != network:
        raise token.fail(f"{token.text!r} has bits behind the prefix; write {network}/{length}")
