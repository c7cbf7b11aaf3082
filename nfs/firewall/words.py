# SPDX-License-Identifier: Apache-2.0
"""Words of a rules file: tokens with their places, and the names of protocols, ports and types."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mesh.errors import SpecError

__all__ = ["ICMPV6_TYPES", "ICMP_TYPES", "PORTS", "PROTOCOLS", "Token", "tokens_of"]

PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ipv6-icmp": 58,
    "ospf": 89,
    "vrrp": 112,
    "sctp": 132,
    "udplite": 136,
}
"""IANA protocol numbers."""
PORTS = {
    "ftp": 21,
    "ssh": 22,
    "telnet": 23,
    "smtp": 25,
    "domain": 53,
    "bootps": 67,
    "bootpc": 68,
    "http": 80,
    "ntp": 123,
    "snmp": 161,
    "bgp": 179,
    "ldap": 389,
    "https": 443,
    "submission": 587,
    "imaps": 993,
    "mdns": 5353,
}
"""Services by IANA's names; others are written as numbers."""
ICMP_TYPES = {
    "echo-reply": 0,
    "destination-unreachable": 3,
    "source-quench": 4,
    "redirect": 5,
    "echo-request": 8,
    "router-advertisement": 9,
    "router-solicitation": 10,
    "time-exceeded": 11,
    "parameter-problem": 12,
    "timestamp-request": 13,
    "timestamp-reply": 14,
}
ICMPV6_TYPES = {
    "destination-unreachable": 1,
    "packet-too-big": 2,
    "time-exceeded": 3,
    "parameter-problem": 4,
    "echo-request": 128,
    "echo-reply": 129,
    "mld-listener-query": 130,
    "mld-listener-report": 131,
    "mld-listener-done": 132,
    "nd-router-solicit": 133,
    "nd-router-advert": 134,
    "nd-neighbor-solicit": 135,
    "nd-neighbor-advert": 136,
    "nd-redirect": 137,
}
_TOKEN = re.compile(
    r'(?P<space>[ \t\r]+|#[^\n]*)|(?P<end>[\n;])|(?P<string>"[^"\n]*")'
    r"|(?P<mark>!=|[{},=])|(?P<word>[\w@][\w.:/@*-]*|:[\w.:/-]+)"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word and where it stands.

    Attributes:
        kind: word, string, mark or end (of a line).
        text: as written.
        origin: the file, or the option.
        line: from 1.
        column: from 1.
    """

    kind: str
    text: str
    origin: str
    line: int
    column: int

    @property
    def place(self) -> str:
        """File, line and column."""
        return f"{self.origin}:{self.line}:{self.column}"

    def fail(self, text: str) -> SpecError:
        """Returns the error at this place."""
        return SpecError(self.place, text)


def tokens_of(text: str, origin: str) -> Iterator[Token]:
    """Yields the tokens of a file; a line ends where no brace is open.

    Raises:
        SpecError: a character has no meaning, or a brace is not closed.
    """
    at, line, begin = 0, 1, 0
    opened: Token | None = None
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            place = Token("bad", text[at], origin, line, at - begin + 1)
            hint = "; a comment ends with a quotation mark" if text[at] == '"' else ""
            raise place.fail(f"unexpected {text[at]!r}{hint}")
        token = Token(match.lastgroup or "", match.group(), origin, line, at - begin + 1)
        at = match.end()
        if token.text == "\n":
            line, begin = line + 1, at
        if token.text == "{":
            opened = opened or token
        if token.text == "}":
            opened = None
        if token.kind != "space" and (token.kind != "end" or opened is None):
            yield token
    if opened is not None:
        raise opened.fail("this brace is not closed")
    yield Token("end", "", origin, line, at - begin + 1)
