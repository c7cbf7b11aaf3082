# SPDX-License-Identifier: Apache-2.0
"""What a user writes of a router: its ports, and the routes file.

A port is one text, `m0 10.1.0.1/24 fd01::1/64 mtu 1400 mac 02:00:00:00:00:01`: its name, interface
or number, its addresses, and what differs from 1500 bytes and a MAC address made of the addresses.

A route is a line, `#` begins a comment:

    default        via 192.0.2.254
    10.8.0.0/16    via 10.1.0.9
    2001:db8::/32  via fe80::1 port m1
    10.9.0.0/16    port m1
    10.66.0.0/16   unreachable          # also: prohibit, blackhole
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from pathlib import Path
from typing import TypeVar

from mesh.errors import SpecError, did_you_mean

__all__ = ["Interface", "Route", "Word", "load", "parse", "parse_ports"]

KINDS = ("via", "port", "blackhole", "unreachable", "prohibit")
MTU = range(68, 65536)
"""RFC 791; a port with IPv6 addresses has 1280 at least."""
MTU_OF_IPV6 = 1280
_ROUTE = "write a route as 10.8.0.0/16 via 10.1.0.9, or 10.9.0.0/16 port m1"
_PORT = "write a port as m0 10.1.0.1/24 fd01::1/64 mtu 1500"
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_T = TypeVar("_T")

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
InterfaceAddress = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class Word:
    """A word and where it stands."""

    text: str
    place: str

    def fail(self, text: str) -> SpecError:
        """Returns the error at this place."""
        return SpecError(self.place, text)

    def read(self, make: Callable[[str], _T], hint: str) -> _T:
        """Returns what the word means.

        Raises:
            SpecError: `make` refuses it.
        """
        try:
            return make(self.text)
        except ValueError as error:
            raise self.fail(f"{error}; {hint}") from error


@dataclass(frozen=True, slots=True)
class Interface:
    """One port of the router."""

    port: Word
    addresses: tuple[InterfaceAddress, ...]
    mtu: int
    mac: bytes


@dataclass(frozen=True, slots=True)
class Route:
    """Where packets to a prefix go.

    Attributes:
        prefix: where it was written, too.
        kind: of KINDS.
        gateway: for "via".
        port: for "port"; of "via" where it is said.
    """

    word: Word
    prefix: Network
    kind: str
    gateway: Address | None = None
    port: Word | None = None


def load(path: Path) -> list[Route]:
    """Reads a routes file.

    Raises:
        SpecError: it cannot be read, or names file, line and column.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(str(path), f"cannot read the routes: {error}") from error


def parse(text: str, origin: str) -> list[Route]:
    """Reads the text of a routes file.

    Args:
        text: the file.
        origin: its name, for messages.

    Raises:
        SpecError: names file, line and column.

    >>> parse("10.8.0.0/16 via 10.1.0.9", "x")[0].kind
    'via'
    """
    found: dict[Network, Route] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = list(_words(line.partition("#")[0], f"{origin}:{number}"))
        if not words:
            continue
        route = _route(words)
        if route.prefix in found:
            first = found[route.prefix].word.place
            raise words[0].fail(f"{route.prefix} has a route already, at {first}: leave one out")
        found[route.prefix] = route
    return list(found.values())


def parse_ports(said: str | Sequence[str]) -> list[Interface]:
    """Reads the router's ports: texts, or one with semicolons between.

    Raises:
        SpecError: names the port and the column.

    >>> parse_ports("m0 10.1.0.1/24; m1 10.2.0.1/24 mtu 1400")[1].mtu
    1400
    """
    texts = [text for text in said.split(";") if text.strip()] if isinstance(said, str) else said
    found = [_interface(list(_words(t, f"ports[{i}]"))) for i, t in enumerate(texts)]
    if not found:
        raise SpecError("ports", f"a router has ports: {_PORT}")
    seen: dict[Address, Word] = {}
    for interface in found:
        for address in interface.addresses:
            if address.ip in seen:
                text = f"{address.ip} is at {seen[address.ip].place} already"
                raise interface.port.fail(text)
            seen[address.ip] = interface.port
    return found


def _words(line: str, place: str) -> Iterator[Word]:
    for match in re.finditer(r"\S+", line):
        yield Word(match.group(), f"{place}:{match.start() + 1}")


def _after(words: Sequence[Word], at: int, what: str) -> Word:
    if at + 1 >= len(words):
        raise words[at].fail(f"{what} is missing behind {words[at].text!r}")
    return words[at + 1]


def _route(words: Sequence[Word]) -> Route:
    head = words[0]
    if len(words) < 2:
        raise head.fail(f"where packets to {head.text} go is missing: {_ROUTE}")
    kind = words[1].text
    if kind not in KINDS:
        raise words[1].fail(f"unknown word {kind!r}{did_you_mean(kind, KINDS) or '; ' + _ROUTE}")
    gateway, port, at = None, None, 2
    if kind == "via":
        gateway = _after(words, 1, "the address of the next router").read(ip_address, _ROUTE)
        at = 3
        if at < len(words) and words[at].text == "port":
            port = _after(words, at, "the name of a port")
            at = 5
    elif kind == "port":
        port = _after(words, 1, "the name of a port")
        at = 3
    if at < len(words):
        raise words[at].fail(f"{words[at].text!r} makes no sense here; {_ROUTE}")
    prefix = _prefix(head, gateway)
    if gateway is not None and gateway.version != prefix.version:
        raise words[2].fail(f"{gateway} and {prefix} differ in IP version")
    return Route(head, prefix, kind, gateway, port)


def _prefix(word: Word, gateway: Address | None) -> Network:
    if word.text != "default":
        return word.read(ip_network, "a prefix is written as 10.8.0.0/16")
    if gateway is None:
        raise word.fail("default needs `via`; write 0.0.0.0/0 or ::/0")
    return ip_network("0.0.0.0/0" if gateway.version == 4 else "::/0")


def _interface(words: Sequence[Word]) -> Interface:
    if not words:
        raise SpecError("ports", f"an empty text is no port; {_PORT}")
    addresses: list[InterfaceAddress] = []
    mtu, mac, at = 1500, b"", 1
    while at < len(words):
        word = words[at]
        if word.text == "mtu":
            mtu = _after(words, at, "a number of bytes").read(_mtu, _PORT)
            at += 1
        elif word.text == "mac":
            mac = _after(words, at, "a MAC address").read(_mac, "write it as 02:00:00:00:00:01")
            at += 1
        else:
            addresses.append(word.read(_address, _PORT))
        at += 1
    if not addresses:
        raise words[0].fail(f"port {words[0].text} has no address; {_PORT}")
    if mtu < MTU_OF_IPV6 and any(address.version == 6 for address in addresses):
        raise words[0].fail(f"IPv6 needs an mtu of {MTU_OF_IPV6} at least, not {mtu}")
    mac = mac or _mac_of(addresses)
    if any(address.version == 6 for address in addresses):
        addresses.append(_link_local(mac))
    return Interface(words[0], tuple(addresses), mtu, mac)


def _address(text: str) -> InterfaceAddress:
    address = ip_interface(text)
    if "/" not in text:
        raise ValueError(f"{text} has no prefix length")
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise ValueError(f"{text} is no address of a router")
    return address


def _mtu(text: str) -> int:
    if not text.isdecimal() or int(text) not in MTU:
        raise ValueError(f"{text!r} is no number from {MTU.start} to {MTU.stop - 1}")
    return int(text)


def _mac(text: str) -> bytes:
    mac = bytes.fromhex(text.replace(":", "")) if _MAC.fullmatch(text) else b"\1"
    if mac[0] & 1 or mac == bytes(6):
        raise ValueError(f"{text!r} is no MAC address of one interface")
    return mac


def _mac_of(addresses: Sequence[InterfaceAddress]) -> bytes:
    """A locally administered one: as the addresses are, it is the only one of its link."""
    text = " ".join(sorted(map(str, addresses)))
    return b"\x02" + hashlib.sha256(text.encode()).digest()[:5]


def _link_local(mac: bytes) -> IPv6Interface:
    """RFC 4291, appendix A."""
    number = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return IPv6Interface((bytes.fromhex("fe80000000000000") + number, 64))
