# SPDX-License-Identifier: Apache-2.0
"""Literals of the filter language: values that fields are compared with, by the fields' kinds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from mesh.errors import FilterError, did_you_mean
from mesh.event_types import FieldDef, Kind
from mesh.filter_tree import TEXT_KINDS, UNSIGNED_BITS, Compare, Value
from mesh.filter_words import Token

__all__ = ["Literals", "Words"]

Words = Callable[[str], Sequence[str] | None]
"""The words of an enumeration, by the unit of the fields that are of it."""

_ESCAPES = {
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"0": b"\0",
    b'"': b'"',
    b"'": b"'",
    b"\\": b"\\",
}


class Literals:
    """Reads values.

    Args:
        text: the whole filter, for errors.
        words: the names of enumerations.
    """

    def __init__(self, text: str, words: Words) -> None:
        self.text, self.words = text, words

    def fail(self, text: str, token: Token) -> FilterError:
        """Returns the error at the place of `token`."""
        return FilterError(text, self.text, token.start)

    def literal(self, field: FieldDef, compare: Compare, token: Token) -> Value:
        """Reads the value that a field is compared with."""
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

    def number(self, token: Token, field: FieldDef) -> int:
        """Reads a whole number, or the word of an enumeration."""
        try:
            value = int(token.text, 0)
        except ValueError:
            return self.enumerator(token, field)
        bits = UNSIGNED_BITS.get(field.kind)
        low, high = (0, 2**bits - 1) if bits else (-(2**63), 2**63 - 1)
        if not low <= value <= high:
            raise self.fail(f"{field.name!r} is a number from {low} to {high}", token)
        return value

    def enumerator(self, token: Token, field: FieldDef) -> int:
        """Reads the word of an enumeration."""
        words = list(self.words(field.unit) or ()) if field.unit else []
        word = token.text.strip("\"'")
        if word in words:
            return words.index(word)
        if not any(words):
            raise self.fail(f"expected a number, found {token.text!r}", token)
        hint = did_you_mean(word, words) or f"; one of {', '.join(filter(None, words))}"
        raise self.fail(f"{field.name!r} has no value {word!r}{hint}", token)

    def real(self, token: Token) -> float:
        """Reads a number that need not be whole."""
        try:
            value = float(token.text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.fail(f"expected a number, found {token.text!r}", token)
        return value

    def address(self, token: Token) -> IPv4Address | IPv6Address:
        """Reads an IP address."""
        try:
            address = ip_address(token.text.strip("\"'"))
        except ValueError:
            hint = "; a network goes with 'in' or 'net'" if "/" in token.text else ""
            text = f"expected an IP address, found {token.text!r}{hint}"
            raise self.fail(text, token) from None
        if isinstance(address, IPv6Address) and address.scope_id:
            raise self.fail("an address with a zone is not known on the wire", token)
        return address

    def network(self, token: Token) -> IPv4Network | IPv6Network:
        """Reads a network."""
        try:
            return ip_network(token.text.strip("\"'"), strict=False)
        except ValueError:
            text = f"expected a network such as 10.0.0.0/8, found {token.text!r}"
            raise self.fail(text, token) from None

    def unquoted(self, token: Token) -> bytes:
        """Reads a text in quotes, escapes resolved."""

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
