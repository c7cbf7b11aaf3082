# SPDX-License-Identifier: Apache-2.0
"""The filter language: pcap-filter expressions and predicates over event fields, in one text.

    filter    = operand { (and | or) operand }
    operand   = not operand | "(" filter ")" | predicate | role | pcap
    predicate = field (== | != | < | <= | > | >= | contains | startswith | endswith | in) literal
              | boolean-field
    role      = (client | server) (host ADDRESS | net NETWORK | port N | portrange N-N)
    pcap      = a primitive of pcap-filter, as libpcap reads it

`&&`, `||` and `!` mean `and`, `or` and `not`; texts stand in double or single quotes. A field may
be written below its event, as in `tcp.retransmits`. `src` and `dst` mean the packet, `client` and
`server` the flow. Expressions run on the innermost IP packet; those with words of the link layer
(`ether`, `vlan`, …) on the frame, if it is an Ethernet frame: on others they are false.

pcap-filter reads `and` and `or` from left to right, other languages let `and` bind first. A filter
of pcap primitives alone means what it means to libpcap; one that has other terms too and would
differ between the two readings is refused until it has parentheses. Pure: no C library is needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal, cast

from mesh.errors import FilterError, UnknownField, did_you_mean
from mesh.events import FieldDef, Kind
from mesh.filter_tree import (
    SYMBOLS,
    TEXT_KINDS,
    UNSIGNED_BITS,
    And,
    Compare,
    Filter,
    Not,
    Op,
    OpKind,
    Or,
    Pcap,
    Predicate,
    Value,
    join,
    lower,
    negate,
)
from mesh.words import enumeration

__all__ = [
    "And",
    "Compare",
    "Filter",
    "Not",
    "Op",
    "OpKind",
    "Or",
    "Pcap",
    "Predicate",
    "UnknownFilterField",
    "join",
    "lower",
    "negate",
    "parse",
    "pointer",
]

Words = Callable[[str], Sequence[str] | None]
"""The words of an enumeration, by the unit of the fields that are of it."""

MAX_DEPTH = 100
"""Parentheses and negations in one another."""


class UnknownFilterField(UnknownField):
    """A filter names a field that its event does not have.

    Attributes:
        expression: the whole filter as the user wrote it.
        position: offset of the name in `expression`.
    """

    def __init__(self, text: str, expression: str, position: int) -> None:
        super().__init__(text)
        self.expression, self.position = expression, position


def parse(text: str, fields: Mapping[str, FieldDef], words: Words | None = None) -> Filter:
    """Reads a filter.

    Args:
        text: the filter.
        fields: what the subscribed event types have, by name.
        words: names of enumerations, so that `conn_state == SF` is understood; default: the C
            library's, loaded when a filter uses one.

    Returns:
        A tree of terms; its `str` parses to an equal tree.

    Raises:
        FilterError: the text is no filter; `pointer` draws the place.
        UnknownFilterField: the events have no such field.
    """
    parser = _Parser(text, fields, words or enumeration)
    return parser.whole()


def pointer(error: FilterError | UnknownFilterField) -> str:
    """Draws the place of an error: the filter, and a caret below the offending word.

    >>> print(pointer(FilterError("bad", "a b", 2)))
    a b
      ^
    """
    line = "".join(" " if char.isspace() else char for char in error.expression)
    return line if error.position is None else f"{line}\n{' ' * error.position}^"


# ---- words -------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"|(?P<word>[\w.:/\\$-]+)"
    r"|(?P<sign>&&|\|\||==|!=|<=|>=|<<|>>|[()\[\]<>=!&|^+*%,])"
    r"|(?P<bad>\S)"
)
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
_AND, _OR, _NOT = ("and", "&&"), ("or", "||"), ("not", "!")
_RESERVED = frozenset({"and", "or", "not"})
_COMPARISONS = frozenset(SYMBOLS) | {"="}
_ARITHMETIC = frozenset({"&", "|", "^", "+", "*", "%", "<<", ">>", "/", "-"})
_RELATIONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "="})
_FRAME_TEXT = """
ether link wlan fddi tr ppp slip vlan mpls pppoed pppoes arp rarp llc decnet lat moprc mopdl iso
esis isis clnp stp ipx netbeui aarp atalk
"""
_FRAME_WORDS = frozenset(_FRAME_TEXT.split())
_PACKET_TEXT = """
src dst host net port portrange proto protochain gateway less greater len ip ip6 tcp udp sctp icmp
icmp6 igmp igrp pim vrrp carp ah esp broadcast multicast geneve inbound outbound
"""
_PCAP_WORDS = _FRAME_WORDS | frozenset(_PACKET_TEXT.split())
_ROLES = frozenset({"client", "server"})


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


_END = "end of the filter"


def _tokens(text: str) -> list[_Token]:
    found = [
        _Token(match.lastgroup or "", match.group(), match.start())
        for match in _TOKEN.finditer(text)
    ]
    for token in found:
        if token.kind == "bad":
            what = "text is not closed" if token.text in "\"'" else f"unexpected {token.text!r}"
            raise FilterError(what, text, token.start)
    return [*found, _Token("end", _END, len(text))]


# ---- grammar -----------------------------------------------------------------------------------


class _Parser:
    def __init__(self, text: str, fields: Mapping[str, FieldDef], words: Words) -> None:
        self.text, self.fields, self.words = text, fields, words
        self.tokens = _tokens(text)
        self.at = self.depth = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.at]

    def next_token(self) -> _Token:
        return self.tokens[min(self.at + 1, len(self.tokens) - 1)]

    def advance(self) -> _Token:
        token = self.token
        self.at = min(self.at + 1, len(self.tokens) - 1)
        return token

    def fail(self, text: str, token: _Token) -> FilterError:
        return FilterError(text, self.text, token.start)

    def whole(self) -> Filter:
        if self.token.kind == "end":
            raise self.fail("the filter is empty", self.token)
        tree = self.chain()
        if self.token.kind != "end":
            raise self.fail(f"unexpected {self.token.text!r}", self.token)
        return tree

    def chain(self) -> Filter:
        """Operands joined by and, or: from left to right, refused where that may surprise."""
        tree = self.operand()
        pure, seen_or, surprise = _is_pure(tree), False, None
        while self.token.text in _AND or self.token.text in _OR:
            sign = self.advance()
            operator: Literal["and", "or"] = "and" if sign.text in _AND else "or"
            if self.continues(tree):
                tree = _continued(cast(Pcap, tree), operator, self.advance().text)
            else:
                right = self.operand()
                pure = pure and _is_pure(right)
                tree = join(operator, tree, right)
            if seen_or and operator == "and":
                surprise = surprise or sign
            seen_or = seen_or or operator == "or"
            if not pure and surprise is not None:
                raise self.fail("put parentheses: it is not clear what goes together", surprise)
        return tree

    def continues(self, tree: Filter) -> bool:
        """True for the `443` of `port 80 or 443`: pcap-filter repeats the words before."""
        word = self.token
        if word.kind != "word" or word.text in _PCAP_WORDS or word.text in _RESERVED:
            return False
        if not isinstance(tree, Pcap) or word.text in _ROLES or self.field(word.text) is not None:
            return False
        return self.next_token().text not in _COMPARISONS

    def operand(self) -> Filter:
        token = self.token
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.fail(f"more than {MAX_DEPTH} parentheses in one another", token)
        if token.text in _NOT and token.kind != "string":
            self.advance()
            tree = negate(self.operand())
        elif token.text == "(" and not self.is_arithmetic():
            self.advance()
            tree = self.chain()
            if self.token.text != ")":
                raise self.fail(f"expected ')', found {self.token.text!r}", self.token)
            self.advance()
        else:
            tree = self.term()
        self.depth -= 1
        return tree

    def is_arithmetic(self) -> bool:
        """True when the parenthesis here is a number's, as in `(ip[0] & 15) * 4 > 20`."""
        depth = 0
        for place in range(self.at, len(self.tokens)):
            depth += {"(": 1, ")": -1}.get(self.tokens[place].text, 0)
            if depth == 0:
                return _is_calculated(self.tokens[place + 1])
        return False

    def term(self) -> Filter:
        token, after = self.token, self.next_token()
        if token.kind == "end" or token.text == ")" or token.text in _RESERVED:
            raise self.fail(f"expected a term, found {token.text!r}", token)
        if token.kind == "string":
            raise self.fail("a text stands alone: name the field to compare it with", token)
        if token.kind == "word" and _NAME.fullmatch(token.text):
            field = self.field(token.text)
            if after.kind != "string" and after.text in _COMPARISONS:
                if field is not None:
                    return self.predicate(field)
                if token.text != "len":
                    raise self.unknown(token)
            elif token.text in _ROLES:
                return self.role()
            elif field is not None and token.text not in _PCAP_WORDS:
                return self.boolean(field)
            elif token.text not in _PCAP_WORDS:
                raise self.unknown(token)
        elif token.kind == "word" and not _is_calculated(after):
            text = (
                f"{token.text!r} stands alone; say what it is, as in 'port 80' or 'host 10.0.0.1'"
            )
            raise self.fail(text, token)
        return self.pcap()

    def unknown(self, token: _Token) -> UnknownFilterField:
        name = token.text
        known = [*self.fields, *_ROLES, *_PCAP_WORDS]
        hint = did_you_mean(name, known) or did_you_mean(name.rpartition(".")[2], known)
        return UnknownFilterField(f"no field {name!r} here{hint}", self.text, token.start)

    def field(self, name: str) -> FieldDef | None:
        """The field of this name; `tcp.retransmits` is the field `retransmits` as well."""
        found = self.fields.get(name)
        return found if found is not None else self.fields.get(name.rpartition(".")[2])

    def boolean(self, field: FieldDef) -> Filter:
        token = self.advance()
        if field.kind is not Kind.BOOL:
            text = f"expected a comparison after field {token.text!r}, found {self.token.text!r}"
            raise self.fail(text, self.token)
        return Predicate(field, Compare.EQ, True)

    def pcap(self) -> Filter:
        """One primitive: everything up to an operator or a parenthesis that it did not open."""
        first, last, depth = self.token, self.token, 0
        on_frame = first.text in ("broadcast", "multicast")
        while self.token.kind != "end":
            text = self.token.text
            both = text in _AND or text in _OR
            if depth == 0 and (text == ")" or (both and last.text not in ("src", "dst"))):
                break
            if self.token.kind == "string":
                raise self.fail("a text in a pcap expression", self.token)
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(text, 0)
            on_frame = on_frame or text in _FRAME_WORDS
            last = self.advance()
        if depth != 0:
            raise self.fail("a parenthesis or bracket is not closed", first)
        return Pcap(self.text[first.start : last.end], on_frame)

    # ---- roles ---------------------------------------------------------------------------------

    def role(self) -> Filter:
        role, what = self.advance(), self.advance()
        value = self.advance()
        if what.text in ("host", "net"):
            field = self.role_field(role, "ip")
            if what.text == "host":
                return Predicate(field, Compare.EQ, self.address(value))
            return Predicate(field, Compare.IN_NET, self.network(value))
        if what.text == "port":
            number = self.number(value, self.role_field(role, "port"))
            return Predicate(self.role_field(role, "port"), Compare.EQ, number)
        if what.text == "portrange":
            return self.role_range(role, value)
        text = f"expected host, net, port or portrange after {role.text!r}, found {what.text!r}"
        raise self.fail(text, what)

    def role_range(self, role: _Token, value: _Token) -> Filter:
        field = self.role_field(role, "port")
        low, dash, high = value.text.partition("-")
        if not (dash and low.isdecimal() and high.isdecimal()):
            raise self.fail(f"expected a range such as 1-1023, found {value.text!r}", value)
        first = self.number(_Token("word", low, value.start), field)
        last = self.number(_Token("word", high, value.start + len(low) + 1), field)
        above, below = Predicate(field, Compare.GE, first), Predicate(field, Compare.LE, last)
        return And((above, below))

    def role_field(self, role: _Token, part: str) -> FieldDef:
        field = self.fields.get(f"{role.text}_{part}")
        if field is None:
            text = f"the events have no {role.text}: no field '{role.text}_{part}'"
            raise UnknownFilterField(text, self.text, role.start)
        return field

    # ---- predicates ----------------------------------------------------------------------------

    def predicate(self, field: FieldDef) -> Filter:
        name, sign = self.advance(), self.advance()
        if sign.text == "=":
            raise self.fail("a field is compared with '=='", sign)
        compare = SYMBOLS[sign.text]
        if not _fits(field.kind, compare):
            text = f"{sign.text!r} does not fit field {name.text!r}, which is {_KIND[field.kind]}"
            raise self.fail(text, sign)
        value = self.advance()
        if value.kind not in ("word", "string") or value.text in _RESERVED:
            raise self.fail(f"expected a value, found {value.text!r}", value)
        return Predicate(field, compare, self.literal(field, compare, value))

    def literal(self, field: FieldDef, compare: Compare, token: _Token) -> Value:
        if field.kind in TEXT_KINDS:
            if token.kind != "string":
                raise self.fail(f'expected a text: "{token.text}"', token)
            return self.unquoted(token)
        if field.kind is Kind.ADDR:
            return self.network(token) if compare is Compare.IN_NET else self.address(token)
        if field.kind is Kind.BOOL:
            if token.text not in ("true", "false", "0", "1"):
                raise self.fail(f"expected true or false, found {token.text!r}", token)
            return token.text in ("true", "1")
        if field.kind is Kind.F64:
            return self.real(token)
        return self.number(token, field)

    def number(self, token: _Token, field: FieldDef) -> int:
        try:
            value = int(token.text, 0)
        except ValueError:
            return self.enumerator(token, field)
        bits = UNSIGNED_BITS.get(field.kind)
        low, high = (0, 2**bits - 1) if bits else (-(2**63), 2**63 - 1)
        if not low <= value <= high:
            raise self.fail(f"{field.name!r} is a number from {low} to {high}", token)
        return value

    def enumerator(self, token: _Token, field: FieldDef) -> int:
        words = list(self.words(field.unit) or ()) if field.unit else []
        word = token.text.strip("\"'")
        if word in words:
            return words.index(word)
        if not any(words):
            raise self.fail(f"expected a number, found {token.text!r}", token)
        hint = did_you_mean(word, words) or f"; one of {', '.join(filter(None, words))}"
        raise self.fail(f"{field.name!r} has no value {word!r}{hint}", token)

    def real(self, token: _Token) -> float:
        try:
            value = float(token.text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.fail(f"expected a number, found {token.text!r}", token)
        return value

    def address(self, token: _Token) -> IPv4Address | IPv6Address:
        try:
            address = ip_address(token.text.strip("\"'"))
        except ValueError:
            hint = "; a network goes with 'in' or 'net'" if "/" in token.text else ""
            text = f"expected an IP address, found {token.text!r}{hint}"
            raise self.fail(text, token) from None
        if isinstance(address, IPv6Address) and address.scope_id:
            raise self.fail("an address with a zone is not known on the wire", token)
        return address

    def network(self, token: _Token) -> IPv4Network | IPv6Network:
        try:
            return ip_network(token.text.strip("\"'"), strict=False)
        except ValueError:
            text = f"expected a network such as 10.0.0.0/8, found {token.text!r}"
            raise self.fail(text, token) from None

    def unquoted(self, token: _Token) -> bytes:
        def escape(match: re.Match[bytes]) -> bytes:
            code = match.group(1)
            if code[:1] == b"x":
                return bytes([int(code[1:], 16)])
            if code not in _ESCAPES:
                text = f"unknown escape {match.group().decode()!r}"
                raise FilterError(text, self.text, token.start)
            return _ESCAPES[code]

        raw = token.text[1:-1].encode("utf-8", "surrogatepass")
        return re.sub(rb"\\(x[0-9a-fA-F]{2}|.)", escape, raw, flags=re.DOTALL)


_ESCAPES = {
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"0": b"\0",
    b'"': b'"',
    b"'": b"'",
    b"\\": b"\\",
}
_KIND = {
    **dict.fromkeys(UNSIGNED_BITS, "a number"),
    Kind.I64: "a number",
    Kind.F64: "a number",
    Kind.TIME: "a time",
    Kind.BOOL: "true or false",
    Kind.BYTES: "bytes",
    Kind.STR: "a text",
    Kind.ADDR: "an address",
}


def _fits(kind: Kind, compare: Compare) -> bool:
    if compare in (Compare.EQ, Compare.NE):
        return True
    if compare is Compare.IN_NET:
        return kind is Kind.ADDR
    if compare in (Compare.CONTAINS, Compare.STARTSWITH, Compare.ENDSWITH):
        return kind in TEXT_KINDS
    return kind not in TEXT_KINDS and kind not in (Kind.ADDR, Kind.BOOL)


def _is_calculated(after: _Token) -> bool:
    """True when the token goes on with a calculation or compares its result."""
    return after.text in _ARITHMETIC or after.text in _RELATIONS or after.text[0] in "/-"


def _is_pure(tree: Filter) -> bool:
    """True when libpcap alone could read the filter."""
    if isinstance(tree, And | Or):
        return all(map(_is_pure, tree.operands))
    return _is_pure(tree.operand) if isinstance(tree, Not) else isinstance(tree, Pcap)


def _continued(tree: Pcap, operator: str, word: str) -> Pcap:
    return Pcap(f"{tree.text} {operator} {word}", tree.on_frame, joint=True)
