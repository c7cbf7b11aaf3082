# SPDX-License-Identifier: Apache-2.0
"""What a filter is once it is read: a tree of terms, and the postfix program for the C library.

A tree is kept in one form: equal operators are flattened, and neighbouring pcap expressions about
the same bytes are one expression. So equal filters are equal trees, and `parse(str(tree))` is the
tree again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

from mesh.events import FieldDef, Kind

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
    "Value",
    "join",
    "lower",
    "negate",
]

Value = int | float | bool | bytes | IPv4Address | IPv6Address | IPv4Network | IPv6Network
"""A literal: texts are bytes as on the wire, `in` takes a network."""

UNSIGNED_BITS = {Kind.U8: 8, Kind.U16: 16, Kind.U32: 32, Kind.U64: 64}
TEXT_KINDS = frozenset({Kind.BYTES, Kind.STR})


class OpKind(IntEnum):
    """One step of a postfix program (enum nfm_filter_op_kind)."""

    AND = 1
    OR = 2
    NOT = 3
    BPF = 4
    BPF_L2 = 5
    FIELD = 6


class Compare(IntEnum):
    """A comparison of a field with a literal (enum nfm_compare)."""

    EQ = 1
    NE = 2
    LT = 3
    LE = 4
    GT = 5
    GE = 6
    CONTAINS = 7
    STARTSWITH = 8
    ENDSWITH = 9
    IN_NET = 10


SYMBOLS = {
    "==": Compare.EQ,
    "!=": Compare.NE,
    "<": Compare.LT,
    "<=": Compare.LE,
    ">": Compare.GT,
    ">=": Compare.GE,
    "contains": Compare.CONTAINS,
    "startswith": Compare.STARTSWITH,
    "endswith": Compare.ENDSWITH,
    "in": Compare.IN_NET,
}
_SYMBOL_OF = {compare: symbol for symbol, compare in SYMBOLS.items()}


@dataclass(frozen=True, slots=True)
class Pcap:
    """A pcap-filter expression, passed to libpcap as it stands.

    Attributes:
        text: the expression; libpcap reads `and` and `or` from left to right.
        on_frame: it looks at the frame from its link layer on, not at the innermost IP packet.
        joint: the text has an `and` or `or` outside of parentheses.
    """

    text: str
    on_frame: bool = False
    joint: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Predicate:
    """A comparison of one field of the event.

    Attributes:
        field: the field, as its event type defines it.
        compare: how.
        value: a literal of the field's kind.
    """

    field: FieldDef
    compare: Compare
    value: Value

    def __str__(self) -> str:
        return f"{self.field.name} {_SYMBOL_OF[self.compare]} {_literal(self.value)}"


@dataclass(frozen=True, slots=True)
class Not:
    """True where `operand` is not."""

    operand: Filter

    def __str__(self) -> str:
        return f"not {_wrapped(self.operand)}"


@dataclass(frozen=True, slots=True)
class And:
    """True where all operands are; two at least."""

    operands: tuple[Filter, ...]

    def __str__(self) -> str:
        return " and ".join(map(_wrapped, self.operands))


@dataclass(frozen=True, slots=True)
class Or:
    """True where one operand is; two at least."""

    operands: tuple[Filter, ...]

    def __str__(self) -> str:
        return " or ".join(map(_wrapped, self.operands))


Filter = Pcap | Predicate | Not | And | Or


def join(operator: Literal["and", "or"], left: Filter, right: Filter) -> Filter:
    """Combines two filters and keeps the tree in its one form.

    >>> str(join("and", Pcap("port 80"), Pcap("net 10 or net 11", joint=True)))
    'port 80 and (net 10 or net 11)'
    """
    cls = And if operator == "and" else Or
    ours = list(left.operands) if isinstance(left, cls) else [left]
    for operand in right.operands if isinstance(right, cls) else (right,):
        last = ours[-1]
        if (
            isinstance(last, Pcap)
            and isinstance(operand, Pcap)
            and last.on_frame == operand.on_frame
        ):
            text = f"{last.text} {operator} {_wrapped(operand)}"
            ours[-1] = Pcap(text, last.on_frame, joint=True)
        else:
            ours.append(operand)
    return ours[0] if len(ours) == 1 else cls(tuple(ours))


def negate(operand: Filter) -> Filter:
    """Turns a filter round.

    >>> str(negate(Pcap("port 80")))
    'not port 80'
    """
    if isinstance(operand, Pcap):
        return Pcap(f"not {_wrapped(operand)}", operand.on_frame)
    return Not(operand)


def _wrapped(operand: Filter) -> str:
    if isinstance(operand, And | Or) or (isinstance(operand, Pcap) and operand.joint):
        return f"({operand})"
    return str(operand)


def _literal(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return quoted(value)
    return repr(value).replace("e+", "e") if isinstance(value, float) else str(value)


def quoted(value: bytes) -> str:
    r"""Writes a text literal; bytes that are no printable UTF-8 become `\xHH`.

    >>> quoted(b'say "\xff"')
    '"say \\"\\xff\\""'
    """
    out = []
    for char in value.decode("utf-8", "surrogateescape"):
        if char in '"\\':
            out.append(f"\\{char}")
        elif char.isprintable():
            out.append(char)
        else:
            raw = char.encode("utf-8", "surrogateescape")
            out.append("".join(f"\\x{byte:02x}" for byte in raw))
    return f'"{"".join(out)}"'


@dataclass(frozen=True, slots=True)
class Op:
    """One step of the postfix program that the C library compiles (nfm_filter_op).

    Attributes:
        kind: operator or leaf.
        text: pcap expression of BPF and BPF_L2.
        field: of FIELD; None for all others.
        compare: of FIELD.
        number: literal of unsigned kinds and BOOL.
        integer: literal of I64 and TIME.
        real: literal of F64.
        data: literal of BYTES and STR; 4 or 16 bytes of an address.
        prefix: number of network bits for IN_NET.
    """

    kind: OpKind
    text: str = ""
    field: FieldDef | None = None
    compare: Compare = Compare.EQ
    number: int = 0
    integer: int = 0
    real: float = 0.0
    data: bytes = b""
    prefix: int = 0


def lower(tree: Filter) -> list[Op]:
    """Returns the postfix program of a filter: operands first, then their operator.

    >>> [op.kind.name for op in lower(join("and", negate(Pcap("tcp")), Pcap("vlan 5", True)))]
    ['BPF', 'BPF_L2', 'AND']
    """
    ops: list[Op] = []
    _lower(tree, ops.append)
    return ops


def _lower(tree: Filter, emit: Callable[[Op], None]) -> None:
    if isinstance(tree, Pcap):
        emit(Op(OpKind.BPF_L2 if tree.on_frame else OpKind.BPF, text=tree.text))
    elif isinstance(tree, Predicate):
        emit(_lower_predicate(tree))
    elif isinstance(tree, Not):
        _lower(tree.operand, emit)
        emit(Op(OpKind.NOT))
    else:
        kind = OpKind.AND if isinstance(tree, And) else OpKind.OR
        for place, operand in enumerate(tree.operands):
            _lower(operand, emit)
            if place > 0:
                emit(Op(kind))


def _lower_predicate(term: Predicate) -> Op:
    field, compare, value = term.field, term.compare, term.value
    if isinstance(value, bytes):
        return Op(OpKind.FIELD, field=field, compare=compare, data=value)
    if isinstance(value, IPv4Address | IPv6Address):
        return Op(OpKind.FIELD, field=field, compare=compare, data=value.packed)
    if isinstance(value, IPv4Network | IPv6Network):
        data, prefix = value.network_address.packed, value.prefixlen
        return Op(OpKind.FIELD, field=field, compare=compare, data=data, prefix=prefix)
    if field.kind is Kind.F64:
        return Op(OpKind.FIELD, field=field, compare=compare, real=float(value))
    if field.kind in (Kind.I64, Kind.TIME):
        return Op(OpKind.FIELD, field=field, compare=compare, integer=int(value))
    return Op(OpKind.FIELD, field=field, compare=compare, number=int(value))
