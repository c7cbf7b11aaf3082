# SPDX-License-Identifier: Apache-2.0
"""The header of a rule: action, protocol, addresses and ports with groups, `!` and variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from mesh.errors import did_you_mean
from mesh.ranges import Ranges, complement, intersect, union
from nfs.ids.vocabulary import OTHER_PROTOCOLS
from nfs.ids.words import Unsupported, Word

__all__ = ["ACTIONS", "Addresses", "Header", "Headers"]

ACTIONS = ("pass", "drop", "reject", "alert")
"""In the order in which rules are asked, and of enum ids_action."""
PROTOCOLS = {"ip": 0, "any": 0, "tcp": 6, "tcp-pkt": 6, "tcp-stream": 6, "udp": 17, "icmp": 1}
APPLICATIONS = {"http": 6, "dns": 0}
"""Protocols that stack modules follow, by transport; 0: several."""
_MOST = {4: 2**32 - 1, 6: 2**128 - 1}
_DEEPEST = 16
Variables = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Addresses:
    """A set of addresses of both families."""

    ipv4: Ranges
    ipv6: Ranges


@dataclass(frozen=True, slots=True)
class Header:
    """Which packets a rule is about.

    Attributes:
        proto: IANA number, 0 any.
        addresses: of senders and of receivers.
        ports: likewise.
        both_ways: `<>`: the two ends may change places.
    """

    proto: int
    addresses: tuple[Addresses, Addresses]
    ports: tuple[Ranges, Ranges]
    both_ways: bool


class Headers:
    """Reads headers of rules; what the same words mean is read once.

    Args:
        variables: name → value, for $NAME.
    """

    def __init__(self, variables: Variables) -> None:
        self._lists = _Lists(variables)
        self._addresses: dict[str, Addresses] = {}
        self._ports: dict[str, Ranges] = {}

    def read(self, words: list[Word]) -> tuple[str, str, Header]:
        """Reads the seven words of a header; returns action, protocol and what it matches.

        Raises:
            SpecError: names the word that is wrong.
            Unsupported: an action or protocol that is known but not handled.
        """
        action, proto, source, sport, arrow, target, dport = words
        number = _protocol(action, proto)
        if arrow.text not in ("->", "<>"):
            raise arrow.fail(f"the direction is '->' or '<>', not {arrow.text!r}")
        header = Header(
            number,
            (self._addresses_of(source), self._addresses_of(target)),
            (self._ports_of(sport), self._ports_of(dport)),
            arrow.text == "<>",
        )
        return action.text, proto.text, header

    def _addresses_of(self, word: Word) -> Addresses:
        if word.text not in self._addresses:
            self._addresses[word.text] = self._lists.addresses(word)
        return self._addresses[word.text]

    def _ports_of(self, word: Word) -> Ranges:
        if word.text not in self._ports:
            self._ports[word.text] = self._lists.ports(word)
        return self._ports[word.text]


def _protocol(action: Word, proto: Word) -> int:
    """The number of a known protocol, after a known action."""
    if action.text not in ACTIONS:
        if action.text in ("rejectsrc", "rejectdst", "rejectboth", "config"):
            raise Unsupported(action, action.text, f"the actions are {', '.join(ACTIONS)}")
        hint = did_you_mean(action.text, ACTIONS) or f"; one of {', '.join(ACTIONS)}"
        raise action.fail(f"unknown action {action.text!r}{hint}")
    known = PROTOCOLS | APPLICATIONS
    if proto.text not in known:
        if proto.text in OTHER_PROTOCOLS:
            raise Unsupported(proto, proto.text, f"the protocols are {', '.join(known)}")
        raise proto.fail(f"unknown protocol {proto.text!r}{did_you_mean(proto.text, known)}")
    return known[proto.text]


@dataclass(frozen=True)
class _Kind:
    """How one kind of lists is read: addresses of one family, or ports."""

    single: Callable[[Word], Ranges]
    most: int


class _Lists:
    """Reads `!`, `[a, b]` and `$NAME` around single values."""

    def __init__(self, variables: Variables) -> None:
        self.variables = variables

    def addresses(self, word: Word) -> Addresses:
        """Reads a set of addresses."""
        families = [self._read(word, _Kind(_addresses_of(v), _MOST[v]), 0) for v in (4, 6)]
        found = Addresses(*families)
        if not found.ipv4 and not found.ipv6:
            raise word.fail(f"{word.text!r} leaves no address")
        return found

    def ports(self, word: Word) -> Ranges:
        """Reads a set of ports."""
        found = self._read(word, _Kind(_port, 65535), 0)
        if not found:
            raise word.fail(f"{word.text!r} leaves no port")
        return found

    def _read(self, word: Word, kind: _Kind, depth: int) -> Ranges:
        if depth > _DEEPEST:
            raise word.fail("variables and brackets are nested too deep")
        text = word.text
        if text.startswith("!"):
            return complement(self._read(word.part(1), kind, depth + 1), kind.most)
        if text == "any":
            return ((0, kind.most),)
        if text.startswith("["):
            if not text.endswith("]"):
                raise word.fail("this bracket is not closed")
            return self._list(word.part(1, len(text) - 1), kind, depth + 1)
        if text.startswith("$"):
            return self._read(self._variable(word), kind, depth + 1)
        if not text:
            raise word.fail("a value is missing")
        return kind.single(word)

    def _list(self, body: Word, kind: _Kind, depth: int) -> Ranges:
        """What is named, less what is negated; all less that, where only `!` are in it."""
        named: list[tuple[int, int]] = []
        left_out: list[tuple[int, int]] = []
        is_named = False
        for item in _items(body):
            if item.text.startswith("!"):
                left_out += self._read(item.part(1), kind, depth + 1)
            else:
                is_named = True
                named += self._read(item, kind, depth + 1)
        whole: Ranges = union(named) if is_named else ((0, kind.most),)
        return intersect(whole, complement(union(left_out), kind.most))

    def _variable(self, word: Word) -> Word:
        name = word.text[1:]
        value = self.variables.get(name)
        if value is None:
            hint = did_you_mean(name, self.variables) or "; set it in the option `variables`"
            raise word.fail(f"there is no variable ${name}{hint}")
        return Word(value.strip(), word.source, word.at)


def _items(body: Word) -> list[Word]:
    """Cuts at the commas that stand in no inner bracket."""
    found: list[Word] = []
    begin = depth = 0
    for at, letter in enumerate(body.text + ","):
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            found.append(body.part(begin, at))
            begin = at + 1
    return found


def _addresses_of(version: int) -> Callable[[Word], Ranges]:
    """Reads an address, a prefix or first-last; of the other family it is nothing."""

    def read(word: Word) -> Ranges:
        first, dash, last = word.text.partition("-")
        try:
            if dash:
                low, high = ip_address(first.strip()), ip_address(last.strip())
                if low.version != high.version or int(low) > int(high):
                    raise word.fail(f"{word.text!r} is empty; the smaller address comes first")
                return ((int(low), int(high)),) if low.version == version else ()
            network = ip_network(first, strict=False)
        except ValueError:
            text = "write 192.0.2.1, 192.0.2.0/24, 2001:db8::/32, [a, b], !a or $NAME"
            raise word.fail(f"{word.text!r} is no address; {text}") from None
        return ((int(network[0]), int(network[-1])),) if network.version == version else ()

    return read


def _port(word: Word) -> Ranges:
    found = re.fullmatch(r"(\d{1,5})?\s*(:)?\s*(\d{1,5})?", word.text)
    if found is None or (found[1] is None and found[3] is None):
        raise word.fail(f"{word.text!r} is no port; write 80, 80:90, 1024:, [80,443], !80 or $NAME")
    low = int(found[1] or 0)
    high = int(found[3] or 65535) if found[2] else low
    if not low <= high <= 65535:
        raise word.fail(f"{word.text!r} is no range of ports up to 65535")
    return ((low, high),)
