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

from collections.abc import Mapping
from typing import Literal, cast

from mesh.errors import FilterError, UnknownField, did_you_mean
from mesh.events import FieldDef, Kind
from mesh.filter_literals import Literals, Words
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
    join,
    lower,
    negate,
)
from mesh.filter_words import (
    AND,
    ARITHMETIC,
    COMPARISONS,
    FRAME_WORDS,
    NAME,
    NOT,
    OR,
    PCAP_WORDS,
    RELATIONS,
    RESERVED,
    ROLES,
    Token,
    tokens_of,
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


# ---- grammar -----------------------------------------------------------------------------------


class _Parser(Literals):
    def __init__(self, text: str, fields: Mapping[str, FieldDef], words: Words) -> None:
        super().__init__(text, words)
        self.fields = fields
        self.tokens = tokens_of(text)
        self.at = self.depth = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def next_token(self) -> Token:
        return self.tokens[min(self.at + 1, len(self.tokens) - 1)]

    def advance(self) -> Token:
        token = self.token
        self.at = min(self.at + 1, len(self.tokens) - 1)
        return token

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
        while self.token.text in AND or self.token.text in OR:
            sign = self.advance()
            operator: Literal["and", "or"] = "and" if sign.text in AND else "or"
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
        if word.kind != "word" or word.text in PCAP_WORDS or word.text in RESERVED:
            return False
        if not isinstance(tree, Pcap) or word.text in ROLES or self.field(word.text) is not None:
            return False
        return self.next_token().text not in COMPARISONS

    def operand(self) -> Filter:
        token = self.token
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.fail(f"more than {MAX_DEPTH} parentheses in one another", token)
        if token.text in NOT and token.kind != "string":
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
        if token.kind == "end" or token.text == ")" or token.text in RESERVED:
            raise self.fail(f"expected a term, found {token.text!r}", token)
        if token.kind == "string":
            raise self.fail("a text stands alone: name the field to compare it with", token)
        if token.kind == "word" and NAME.fullmatch(token.text):
            field = self.field(token.text)
            if after.kind != "string" and after.text in COMPARISONS:
                if field is not None:
                    return self.predicate(field)
                if token.text != "len":
                    raise self.unknown(token)
            elif token.text in ROLES:
                return self.role()
            elif field is not None and token.text not in PCAP_WORDS:
                return self.boolean(field)
            elif token.text not in PCAP_WORDS:
                raise self.unknown(token)
        elif token.kind == "word" and not _is_calculated(after):
            text = (
                f"{token.text!r} stands alone; say what it is, as in 'port 80' or 'host 10.0.0.1'"
            )
            raise self.fail(text, token)
        return self.pcap()

    def unknown(self, token: Token) -> UnknownFilterField:
        name = token.text
        known = [*self.fields, *ROLES, *PCAP_WORDS]
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
            both = text in AND or text in OR
            if depth == 0 and (text == ")" or (both and last.text not in ("src", "dst"))):
                break
            if self.token.kind == "string":
                raise self.fail("a text in a pcap expression", self.token)
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(text, 0)
            on_frame = on_frame or text in FRAME_WORDS
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

    def role_range(self, role: Token, value: Token) -> Filter:
        field = self.role_field(role, "port")
        low, dash, high = value.text.partition("-")
        if not (dash and low.isdecimal() and high.isdecimal()):
            raise self.fail(f"expected a range such as 1-1023, found {value.text!r}", value)
        first = self.number(Token("word", low, value.start), field)
        last = self.number(Token("word", high, value.start + len(low) + 1), field)
        above, below = Predicate(field, Compare.GE, first), Predicate(field, Compare.LE, last)
        return And((above, below))

    def role_field(self, role: Token, part: str) -> FieldDef:
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
        if value.kind not in ("word", "string") or value.text in RESERVED:
            raise self.fail(f"expected a value, found {value.text!r}", value)
        return Predicate(field, compare, self.literal(field, compare, value))


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


def _is_calculated(after: Token) -> bool:
    """True when the token goes on with a calculation or compares its result."""
    return after.text in ARITHMETIC or after.text in RELATIONS or after.text[0] in "/-"


def _is_pure(tree: Filter) -> bool:
    """True when libpcap alone could read the filter."""
    if isinstance(tree, And | Or):
        return all(map(_is_pure, tree.operands))
    return _is_pure(tree.operand) if isinstance(tree, Not) else isinstance(tree, Pcap)


def _continued(tree: Pcap, operator: str, word: str) -> Pcap:
    return Pcap(f"{tree.text} {operator} {word}", tree.on_frame, joint=True)
