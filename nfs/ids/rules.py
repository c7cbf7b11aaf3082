# SPDX-License-Identifier: Apache-2.0
"""Rules as the user writes them, read into `Rule`: see README.md for the language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mesh.errors import SpecError
from nfs.ids.buffers import BUFFERS, Kind
from nfs.ids.chains import Chain, Content, Pcre, chains_of
from nfs.ids.header import Header, Headers
from nfs.ids.keywords import Meaning, read_options
from nfs.ids.words import RawRule, Source, Unsupported, Word, raw_rules

__all__ = ["LeftOut", "Rule", "Ruleset", "load", "parse"]

_PACKET_TERMS = ("dsize", "flags", "itype", "icode")


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        action: pass, drop, reject or alert.
        proto: as written.
        header: addresses and ports.
        meaning: what its options say.
        chains: kind of occasion → conditions, each with its buffer. A rule may be asked at several.
        place: where it begins.
    """

    action: str
    proto: str
    header: Header
    meaning: Meaning
    chains: Mapping[Kind, tuple[tuple[str, Chain], ...]]
    place: str

    @property
    def identity(self) -> tuple[int, int]:
        """What makes it the same rule in another version of the file."""
        return self.meaning.gid, self.meaning.sid


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A rule that was left out, and the keyword that it was left out for."""

    place: str
    keyword: str
    reason: str
    sid: int


@dataclass(frozen=True)
class Ruleset:
    """All rules of a file, in its order."""

    rules: tuple[Rule, ...]
    left_out: tuple[LeftOut, ...] = field(default=())


def load(path: Path, variables: Mapping[str, str], *, strict: bool = False) -> Ruleset:
    """Reads a rules file.

    Raises:
        SpecError: it cannot be read, or names the line and column that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(str(path), f"cannot read the rules: {error}") from error
    return parse(text, str(path), variables, strict=strict)


def parse(
    text: str, origin: str, variables: Mapping[str, str] | None = None, *, strict: bool = False
) -> Ruleset:
    """Reads the text of a rules file.

    Args:
        text: the file.
        origin: its name, for messages.
        variables: name → value, for $NAME in headers.
        strict: what is not supported is an error, too.

    Raises:
        SpecError: names line and column.

    >>> parse('alert tcp any any -> any 80 (msg:"x"; content:"a"; sid:1;)', "r").rules[0].action
    'alert'
    """
    rules: list[Rule] = []
    left_out: list[LeftOut] = []
    seen: dict[tuple[int, int], str] = {}
    headers = Headers(variables or {})
    for raw in raw_rules(Source(text, origin)):
        try:
            rule = _rule(raw, headers)
        except Unsupported as error:
            if strict:
                text = f"not supported: {error.keyword}: {error.reason}"
                raise SpecError(error.word.place, text) from error
            left_out.append(LeftOut(error.word.place, error.keyword, error.reason, _sid(raw)))
            continue
        if rule.identity in seen:
            first = seen[rule.identity]
            raise SpecError(rule.place, f"sid {rule.meaning.sid} is there already, at {first}")
        seen[rule.identity] = rule.place
        rules.append(rule)
    return Ruleset(tuple(rules), tuple(left_out))


def _sid(raw: RawRule) -> int:
    """The number of a rule that is not read to its end; 0 where it has none."""
    found = [o.value.text for o in raw.options if o.name.text == "sid" and o.value is not None]
    return int(found[0]) if found and found[0].isdecimal() else 0


def _rule(raw: RawRule, headers: Headers) -> Rule:
    action, proto, header = headers.read(raw.header)
    meaning = read_options(raw.options)
    if meaning.sid == 0:
        raise raw.header[0].fail("the rule has no sid: number it with sid:NUMBER;")
    chains = _chains(raw.header[1], proto, meaning)
    return Rule(action, proto, header, meaning, chains, raw.place)


def _chains(
    proto_word: Word, proto: str, meaning: Meaning
) -> Mapping[Kind, tuple[tuple[str, Chain], ...]]:
    """The conditions on bytes, for each kind of occasion at which the rule is asked."""
    kinds = _kinds(proto_word, proto, meaning)
    found = tuple(
        (buffer, chain) for buffer, items in meaning.items.items() for chain in chains_of(items)
    )
    return dict.fromkeys(kinds, found)


def _kinds(proto_word: Word, proto: str, meaning: Meaning) -> tuple[Kind, ...]:
    buffers = [name for name in meaning.items if name]
    if proto in ("http", "dns") or buffers:
        return _event_kinds(proto_word, proto, meaning, buffers)
    has_bytes = bool(meaning.items)
    of_packet = any(getattr(meaning, term) is not None for term in _PACKET_TERMS)
    if proto == "tcp-stream" or meaning.flow.only_stream:
        if of_packet:
            raise Unsupported(proto_word, "dsize, flags", "in a rule about streams")
        return (Kind.STREAM,)
    if proto in ("udp", "icmp", "tcp-pkt") or of_packet or meaning.flow.no_stream or not has_bytes:
        return (Kind.PACKET,)
    return (Kind.STREAM,) if proto == "tcp" else (Kind.STREAM, Kind.PACKET)


def _event_kinds(
    proto_word: Word, proto: str, meaning: Meaning, buffers: list[str]
) -> tuple[Kind, ...]:
    """Kinds of events that have all the buffers."""
    if "" in meaning.items:
        first: Content | Pcre = meaning.items[""][0]
        text = "on the bytes beside buffers of events: name the buffer before it (http.uri; …)"
        raise Unsupported(first.word, "content", text)
    kinds = {Kind.QUERY} if proto == "dns" else {Kind.REQUEST, Kind.RESPONSE, Kind.QUERY}
    kinds = {Kind.REQUEST, Kind.RESPONSE} if proto == "http" else kinds
    for name in buffers:
        kinds &= set(BUFFERS[name])
    if meaning.flow.to_server:
        kinds.discard(Kind.RESPONSE)
    if meaning.flow.to_client:
        kinds -= {Kind.REQUEST, Kind.QUERY}
    if not kinds or any(getattr(meaning, term) is not None for term in _PACKET_TERMS):
        text = f"no event has all of {', '.join(buffers) or proto} in this direction"
        raise Unsupported(proto_word, ", ".join(buffers) or proto, text)
    return tuple(sorted(kinds))
