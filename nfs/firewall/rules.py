# SPDX-License-Identifier: Apache-2.0
"""The language of rules: a subset of nftables' statements, one rule a line.

    line     = [ policy | set | rule ]
    policy   = "policy" action
    set      = "set" NAME "=" list
    rule     = { match } [ "counter" ] action [ "comment" STRING ]
    match    = [ "ip" | "ip6" ] ( "saddr" | "daddr" ) values
             | ( "tcp" | "udp" | "sctp" | "dccp" | "udplite" | "th" ) ( "sport" | "dport" ) values
             | ( "icmp" | "icmpv6" ) ( "type" | "code" ) values
             | "meta" "l4proto" values | ( "ip" "protocol" | "ip6" "nexthdr" ) values
             | "meta" "nfproto" ( "ipv4" | "ipv6" )
             | "state" ( "new" | "midstream" )
    values   = [ "!=" ] ( VALUE | "@" NAME | list )
    list     = "{" VALUE { "," VALUE } [ "," ] "}"
    action   = "accept" | "drop" | "reject"

`#` begins a comment, `;` ends a line as well. A value is a number, a name, an address, a prefix or
first-last. `saddr` and `daddr` without a family take addresses of both. What a rule does not name
it does not ask for; what it names must all hold. Sets are defined above their use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import SpecError, did_you_mean
from mesh.ranges import Ranges, complement, intersect, union
from nfs.firewall.values import (
    NumberReader,
    addresses_of,
    codes,
    icmp_types,
    numbers_of,
    ports,
    protocols,
)
from nfs.firewall.words import PROTOCOLS, Token, tokens_of

__all__ = ["ACTIONS", "DIMS", "MIDSTREAM", "Rule", "Ruleset", "load", "parse", "parse_lines"]

ACTIONS = ("accept", "drop", "reject")
"""In the order of enum firewall_action."""
DIMS = ("kind", "src4", "dst4", "src6", "dst6", "sport", "dport")
"""In the order of enum firewall_dim."""
MIDSTREAM, IPV6 = 256, 512
_ADDRESS_DIMS = {"saddr": ("src4", "src6"), "daddr": ("dst4", "dst6")}
_MOST = {"4": 2**32 - 1, "6": 2**128 - 1}
_TRANSPORTS = ("tcp", "udp", "sctp", "dccp", "udplite")
_BEGINS = ("ip", "ip6", "saddr", "daddr", *_TRANSPORTS, "th", "icmp", "icmpv6", "meta", "state")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        action: accept, drop or reject.
        bounds: dimension → numbers that match; others are not asked for. In `kind`, numbers are
            protocol | MIDSTREAM | IPV6.
        text: matches and action in the writing of the language, without the comment.
        comment: the user's.
        place: where it was written.
        ordinal: how many rules of the same text stand before it.
    """

    action: str
    bounds: dict[str, Ranges]
    text: str
    comment: str
    place: str
    ordinal: int = 0

    @property
    def identity(self) -> tuple[str, int]:
        """What makes it the same rule in another version of the file."""
        return self.text, self.ordinal


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All rules in their order; `policy` is for what none matches, None where it is not said."""

    rules: tuple[Rule, ...]
    policy: str | None = None


def load(path: Path) -> Ruleset:
    """Reads a rules file.

    Raises:
        SpecError: it cannot be read, or names the line and column that is wrong.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(str(path), f"cannot read the rules: {error}") from error


def parse(text: str, origin: str) -> Ruleset:
    """Reads the text of a rules file.

    Args:
        text: the file.
        origin: its name, for messages.

    Raises:
        SpecError: names line and column.

    >>> parse("policy drop; tcp dport 22 accept", "x").rules[0].bounds["dport"]
    ((22, 22),)
    """
    return _Parser().whole([tokens_of(text, origin)])


def parse_lines(lines: Iterable[str], origin: str = "lines") -> Ruleset:
    """Reads rules from a list of texts, as a spec has them.

    Raises:
        SpecError: names the entry, its line and column.
    """
    return _Parser().whole(
        [tokens_of(line, f"{origin}[{index}]") for index, line in enumerate(lines)]
    )


class _Parser:
    def __init__(self) -> None:
        self.sets: dict[str, list[Token]] = {}
        self.policy: str | None = None
        self.rules: list[Rule] = []
        self.seen: Counter[str] = Counter()

    def whole(self, texts: Iterable[Iterable[Token]]) -> Ruleset:
        for text in texts:
            line: list[Token] = []
            for token in text:
                line.append(token)
                if token.kind == "end":
                    self.line(_Words(line))
                    line = []
        return Ruleset(tuple(self.rules), self.policy)

    def line(self, words: _Words) -> None:
        first = words.peek()
        if first.text == "policy":
            words.take()
            if self.policy is not None:
                raise first.fail("there is a policy already; keep one of them")
            self.policy = words.one_of(ACTIONS, "an action")
        elif first.text == "set":
            words.take()
            name = words.word("the name of the set")
            if name.text in self.sets:
                raise name.fail(f"there is a set {name.text!r} already")
            words.mark("=")
            self.sets[name.text] = self.values(words)
        elif first.kind != "end":
            self.rules.append(_RuleParser(words, self).rule(self.seen))
        words.finish()

    def values(self, words: _Words) -> list[Token]:
        words.mark("{")
        found: list[Token] = []
        while words.peek().text != "}":
            found += self.named(words.word("a value"))
            if words.peek().text == ",":
                words.take()
            elif words.peek().text != "}":
                raise words.peek().fail("expected ',' or '}'")
        closed = words.take()
        if not found:
            raise closed.fail("a set must have a value")
        return found

    def named(self, token: Token) -> list[Token]:
        if not token.text.startswith("@"):
            return [token]
        found = self.sets.get(token.text[1:])
        if found is None:
            hint = did_you_mean(token.text[1:], self.sets) or "; define it above: set NAME = { … }"
            raise token.fail(f"there is no set {token.text[1:]!r}{hint}")
        return found


class _Words:
    """The tokens of a line."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens, self.at = tokens, 0

    def peek(self) -> Token:
        return self.tokens[self.at]

    def take(self) -> Token:
        token = self.tokens[self.at]
        self.at += token.kind != "end"
        return token

    def word(self, what: str) -> Token:
        token = self.take()
        if token.kind != "word":
            raise token.fail(f"expected {what}" + (f", found {token.text!r}" if token.text else ""))
        return token

    def mark(self, text: str) -> None:
        token = self.take()
        if token.text != text:
            raise token.fail(f"expected {text!r}")

    def one_of(self, words: Iterable[str], what: str) -> str:
        token, known = self.word(what), tuple(words)
        if token.text not in known:
            hint = did_you_mean(token.text, known) or f"; one of {', '.join(known)}"
            raise token.fail(f"{token.text!r} is not {what}{hint}")
        return token.text

    def finish(self) -> None:
        token = self.peek()
        if token.kind != "end":
            raise token.fail(f"unexpected {token.text!r}; a rule ends with its action and comment")


class _RuleParser:
    """One rule; `families`, `protocols` and `states` become the dimension `kind` at its end."""

    def __init__(self, words: _Words, file: _Parser) -> None:
        self.words, self.file = words, file
        self.bounds: dict[str, Ranges] = {}
        self.families: Ranges = ((0, 1),)
        self.protocols: Ranges = ((0, 255),)
        self.states: Ranges = ((0, 1),)

    def rule(self, seen: Counter[str]) -> Rule:
        words, begin = self.words, self.words.at
        first = words.peek()
        while words.peek().text in _BEGINS:
            token = words.take()
            self.match(token)
            if () in (self.families, self.protocols, self.states):
                raise token.fail("the rule can never match: this contradicts what is before it")
        texts = [token.text for token in words.tokens[begin : words.at]]
        if words.peek().text == "counter":
            words.take()
        if words.peek().text not in ACTIONS and words.peek().kind != "end":
            known = (*_BEGINS, *ACTIONS)
            token = words.peek()
            raise token.fail(f"unknown word {token.text!r}{did_you_mean(token.text, known)}")
        action = words.one_of(ACTIONS, "an action")
        self.kind()
        text = " ".join([*texts, action])
        seen[text] += 1
        return Rule(action, self.bounds, text, self.comment(), first.place, seen[text] - 1)

    def comment(self) -> str:
        if self.words.peek().text != "comment":
            return ""
        self.words.take()
        token = self.words.take()
        if token.kind != "string":
            raise token.fail('expected the comment in quotation marks: comment "…"')
        return token.text[1:-1]

    def match(self, token: Token) -> None:
        words = self.words
        if token.text in ("saddr", "daddr"):
            self.addresses(token.text, "46")
        elif token.text in ("ip", "ip6"):
            self.network(token)
        elif token.text in (*_TRANSPORTS, "th"):
            names = _TRANSPORTS if token.text == "th" else (token.text,)
            wanted = union((PROTOCOLS[name],) * 2 for name in names)
            self.protocols = intersect(self.protocols, wanted)
            which = words.one_of(("sport", "dport"), "a field")
            self.bound(token, which, self.numbers(ports, 65535))
        elif token.text in ("icmp", "icmpv6"):
            self.icmp(token)
        elif token.text == "meta":
            if words.one_of(("l4proto", "nfproto"), "a field") == "l4proto":
                self.protocols = intersect(self.protocols, self.numbers(protocols, 255))
            else:
                self.family(int(words.one_of(("ipv4", "ipv6"), "a family") == "ipv6"))
        else:
            state = int(words.one_of(("new", "midstream"), "a state") == "midstream")
            self.states = intersect(self.states, ((state, state),))

    def network(self, token: Token) -> None:
        self.family(int(token.text == "ip6"))
        fields = ("saddr", "daddr", "protocol" if token.text == "ip" else "nexthdr")
        which = self.words.one_of(fields, "a field")
        if which in _ADDRESS_DIMS:
            self.addresses(which, "6" if token.text == "ip6" else "4")
        else:
            self.protocols = intersect(self.protocols, self.numbers(protocols, 255))

    def icmp(self, token: Token) -> None:
        ipv6 = token.text == "icmpv6"
        self.family(int(ipv6))
        self.protocols = intersect(self.protocols, ((PROTOCOLS[token.text],) * 2,))
        if self.words.one_of(("type", "code"), "a field") == "type":
            types = self.numbers(icmp_types(ipv6), 255)
            wanted = union((first << 8, last << 8 | 255) for first, last in types)
        else:
            found = self.numbers(codes, 255)
            wanted = union((t << 8 | a, t << 8 | b) for t in range(256) for a, b in found)
        self.bound(token, "dport", wanted)

    def addresses(self, which: str, families: str) -> None:
        negated, tokens = self.values()
        found = addresses_of(tokens)
        if (families == "4" and found.ipv6) or (families == "6" and found.ipv4):
            text = f"an address of the other family; write {which} without 'ip' or 'ip6'"
            raise tokens[0].fail(text)
        for dim, ranges in zip(_ADDRESS_DIMS[which], (found.ipv4, found.ipv6), strict=True):
            if dim[-1] not in families:
                continue
            wanted = complement(ranges, _MOST[dim[-1]]) if negated else ranges
            self.bound(tokens[0], dim, wanted, may_be_empty=families == "46")
        if families == "46" and not negated and not (found.ipv4 and found.ipv6):
            self.family(int(not found.ipv4))

    def numbers(self, read: NumberReader, most: int) -> Ranges:
        negated, tokens = self.values()
        found = numbers_of(tokens, read)
        return complement(found, most) if negated else found

    def values(self) -> tuple[bool, list[Token]]:
        words = self.words
        negated = words.peek().text == "!="
        if negated:
            words.take()
        if words.peek().text == "{":
            return negated, self.file.values(words)
        return negated, self.file.named(words.word("a value"))

    def family(self, ipv6: int) -> None:
        self.families = intersect(self.families, ((ipv6, ipv6),))

    def bound(self, token: Token, dim: str, ranges: Ranges, *, may_be_empty: bool = False) -> None:
        """Narrows a dimension."""
        narrowed = intersect(self.bounds.get(dim, ranges), ranges)
        if not narrowed and not may_be_empty:
            raise token.fail("the rule can never match: no value is left")
        self.bounds[dim] = narrowed

    def kind(self) -> None:
        if (self.families, self.protocols, self.states) == (((0, 1),), ((0, 255),), ((0, 1),)):
            return
        self.bounds["kind"] = union(
            (family * IPV6 + state * MIDSTREAM + first, family * IPV6 + state * MIDSTREAM + last)
            for family in _each(self.families)
            for state in _each(self.states)
            for first, last in self.protocols
        )


def _each(ranges: Ranges) -> Iterable[int]:
    return (number for first, last in ranges for number in range(first, last + 1))
