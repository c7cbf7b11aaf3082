# SPDX-License-Identifier: Apache-2.0
"""The words of the filter language: cuts a text into tokens, and knows which words mean what."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mesh.errors import FilterError
from mesh.filter_tree import SYMBOLS

__all__ = [
    "AND",
    "ARITHMETIC",
    "COMPARISONS",
    "FRAME_WORDS",
    "NAME",
    "NOT",
    "OR",
    "PCAP_WORDS",
    "RELATIONS",
    "RESERVED",
    "ROLES",
    "Token",
    "tokens_of",
]

_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"|(?P<word>[\w.:/\\$-]+)"
    r"|(?P<sign>&&|\|\||==|!=|<=|>=|<<|>>|[()\[\]<>=!&|^+*%,])"
    r"|(?P<bad>\S)"
)
NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
AND, OR, NOT = ("and", "&&"), ("or", "||"), ("not", "!")
RESERVED = frozenset({"and", "or", "not"})
COMPARISONS = frozenset(SYMBOLS) | {"="}
ARITHMETIC = frozenset({"&", "|", "^", "+", "*", "%", "<<", ">>", "/", "-"})
RELATIONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "="})
_FRAME_TEXT = """
ether link wlan fddi tr ppp slip vlan mpls pppoed pppoes arp rarp llc decnet lat moprc mopdl iso
esis isis clnp stp ipx netbeui aarp atalk
"""
FRAME_WORDS = frozenset(_FRAME_TEXT.split())
_PACKET_TEXT = """
src dst host net port portrange proto protochain gateway less greater len ip ip6 tcp udp sctp icmp
icmp6 igmp igrp pim vrrp carp ah esp broadcast multicast geneve inbound outbound
"""
PCAP_WORDS = FRAME_WORDS | frozenset(_PACKET_TEXT.split())
ROLES = frozenset({"client", "server"})


@dataclass(frozen=True, slots=True)
class Token:
    """A word: kind is "string", "word", "sign" or, behind the last, "end"."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        """Where it ends in the filter."""
        return self.start + len(self.text)


END = "end of the filter"


def tokens_of(text: str) -> list[Token]:
    """Cuts a filter into its words, the end of it included.

    Raises:
        FilterError: a character that no word has, or a text that is not closed.
    """
    found = [
        Token(match.lastgroup or "", match.group(), match.start())
        for match in _TOKEN.finditer(text)
    ]
    for token in found:
        if token.kind == "bad":
            what = "text is not closed" if token.text in "\"'" else f"unexpected {token.text!r}"
            raise FilterError(what, text, token.start)
    return [*found, Token("end", END, len(text))]
