# SPDX-License-Identifier: Apache-2.0
"""The options of a rule: what each keyword means."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mesh.errors import did_you_mean
from nfs.ids.buffers import BUFFERS, OLD_NAMES
from nfs.ids.chains import Content, Pcre, bytes_of
from nfs.ids.pcre import pcre_of
from nfs.ids.sizes import Range, data_at, range_of, size_of
from nfs.ids.vocabulary import CLASSES, OTHER_KEYWORDS
from nfs.ids.words import Option, Unsupported, Word

__all__ = ["Bits", "Flow", "Meaning", "TcpFlags", "Threshold", "read_options"]

FLAG_BITS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32, "E": 64, "C": 128}
_TRACKS = ("by_src", "by_dst", "by_both", "by_rule", "by_flow")
_TYPES = ("limit", "threshold", "both")
BitOp = Literal["set", "unset", "toggle", "isset", "isnotset"]
_BIT_OPS = ("set", "unset", "toggle", "isset", "isnotset")
DEFAULT_SEVERITY = 3
_LONGEST_CONTENT = 4096


@dataclass
class Flow:
    """What `flow` asks for."""

    to_server: bool = False
    to_client: bool = False
    established: bool = False
    not_established: bool = False
    only_stream: bool = False
    no_stream: bool = False


@dataclass(frozen=True, slots=True)
class Bits:
    """One `flowbits`: of several names any one will do."""

    op: BitOp
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TcpFlags:
    """Bits of `mask` are looked at; how = exact, all, any or none of `bits`."""

    bits: int
    mask: int
    how: Literal["exact", "all", "any", "none"]


@dataclass(frozen=True, slots=True)
class Threshold:
    """`threshold` and `detection_filter`: type, what is counted apart, how often, in which time."""

    type: Literal["limit", "threshold", "both", "filter"]
    track: str
    count: int
    seconds: int


@dataclass
class Meaning:
    """What a rule's options say; `items` are contents by buffer, "" the bytes themselves."""

    msg: str = ""
    sid: int = 0
    gid: int = 1
    rev: int = 0
    classtype: str = ""
    priority: int | None = None
    references: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    items: dict[str, list[Content | Pcre]] = field(default_factory=dict)
    flow: Flow = field(default_factory=Flow)
    bits: list[Bits] = field(default_factory=list)
    noalert: bool = False
    thresholds: list[Threshold] = field(default_factory=list)
    dsize: Range | None = None
    flags: TcpFlags | None = None
    itype: Range | None = None
    icode: Range | None = None

    @property
    def severity(self) -> int:
        """1 is the worst: of `priority`, else of the class."""
        return self.priority or CLASSES.get(self.classtype, DEFAULT_SEVERITY)


class _Reader:
    """Reads the options in their order."""

    def __init__(self) -> None:
        self.meaning = Meaning()
        self.buffer = ""
        self.last: Content | None = None

    def read(self, option: Option) -> None:
        name = option.name.text
        reader = _READERS.get(name)
        if reader is not None:
            reader(self, option)
        elif name in BUFFERS or name == "dns_query":
            option.alone()
            self.buffer, self.last = name.replace("dns_query", "dns.query"), None
        elif name in OLD_NAMES:
            self.move(option, OLD_NAMES[name])
        elif name in OTHER_KEYWORDS:
            raise Unsupported(option.name, name, "this keyword is not handled")
        else:
            known = (*_READERS, *BUFFERS, *OLD_NAMES, *OTHER_KEYWORDS)
            text = f"unknown keyword {name!r}{did_you_mean(name, known)}"
            raise option.name.fail(text)

    def content(self, option: Option) -> None:
        word, negated = _quoted(option)
        data = bytes_of(word)
        if not data:
            raise option.text().fail("a content has at least one byte")
        if len(data) > _LONGEST_CONTENT:
            raise word.fail(f"a content has at most {_LONGEST_CONTENT} bytes")
        self.last = Content(option.text(), data, negated)
        self.meaning.items.setdefault(self.buffer, []).append(self.last)

    def pcre(self, option: Option) -> None:
        item, buffer = pcre_of(option.text())
        self.add(item, buffer or self.buffer)

    def size(self, option: Option) -> None:
        self.add(size_of(option.text()), self.buffer)

    def uri_length(self, option: Option) -> None:
        word, _, which = option.text().text.partition(",")
        if which.strip() not in ("", "raw", "norm"):
            raise option.text().fail("write urilen:5, urilen:>5,raw or urilen:5<>9,norm")
        buffer = "http.uri" if which.strip() == "norm" else "http.uri.raw"
        self.add(size_of(option.text().part(0, len(word))), buffer)

    def data_at(self, option: Option) -> None:
        self.add(data_at(option.text()), self.buffer)

    def add(self, item: Pcre, buffer: str) -> None:
        self.meaning.items.setdefault(buffer, []).append(item)
        self.last = None

    def of_last(self, option: Option) -> Content:
        if self.last is None:
            raise option.name.fail(f"{option.name.text} belongs behind a content")
        return self.last

    def move(self, option: Option, buffer: str) -> None:
        """A modifier of old that puts the content before it into a buffer."""
        option.alone()
        last = self.of_last(option)
        items = self.meaning.items.get(self.buffer, [])
        if not items or items[-1] is not last:
            raise option.name.fail("the content before it is in a buffer already")
        items.pop()
        if not items:
            del self.meaning.items[self.buffer]
        self.meaning.items.setdefault(buffer, []).append(last)

    def place(self, option: Option) -> None:
        name = option.name.text
        if option.value is not None and re.fullmatch(r"[A-Za-z_]\w*", option.value.text):
            raise Unsupported(option.value, name, "a variable of byte_extract")
        least = -65535 if name == "distance" else 0
        last = self.of_last(option)
        if getattr(last, name) is not None:
            raise option.name.fail(f"{name} is said twice of one content")
        setattr(last, name, option.number(least, 65535))

    def mark(self, option: Option) -> None:
        option.alone()
        setattr(self.of_last(option), option.name.text, True)

    def fast_pattern(self, option: Option) -> None:
        self.of_last(option)
        if option.value is not None and not re.fullmatch(r"only|\d+\s*,\s*\d+", option.value.text):
            raise option.value.fail("write fast_pattern, fast_pattern:only or fast_pattern:3,8")

    def flow(self, option: Option) -> None:
        names = {
            "to_server": "to_server",
            "from_client": "to_server",
            "to_client": "to_client",
            "from_server": "to_client",
            "established": "established",
            "not_established": "not_established",
            "only_stream": "only_stream",
            "no_stream": "no_stream",
            "stateless": "",
        }
        for word in option.text().split(","):
            if word.text in ("no_frag", "only_frag"):
                raise Unsupported(word, "flow", word.text)
            if word.text not in names:
                hint = did_you_mean(word.text, names) or f"; one of {', '.join(names)}"
                raise word.fail(f"flow knows no {word.text!r}{hint}")
            if names[word.text]:
                setattr(self.meaning.flow, names[word.text], True)
        flow = self.meaning.flow
        if (flow.to_server and flow.to_client) or (flow.established and flow.not_established):
            raise option.text().fail("these exclude each other: keep one of them")

    def flowbits(self, option: Option) -> None:
        words = option.text().split(",")
        op = words[0].text
        if op == "noalert" and len(words) == 1:
            self.meaning.noalert = True
            return
        if op not in _BIT_OPS:
            hint = did_you_mean(op, _BIT_OPS) or f"; one of noalert, {', '.join(_BIT_OPS)}"
            raise words[0].fail(f"flowbits knows no {op!r}{hint}")
        names = tuple(word.text for word in words[1].split("|")) if len(words) == 2 else ()
        if not names or not all(re.fullmatch(r"[\w.:-]+", name) for name in names):
            raise words[-1].fail(f"write flowbits:{op},NAME;")
        if len(names) > 1 and not op.startswith("is"):
            raise words[1].fail(f"{op} takes one name")
        self.meaning.bits.append(Bits(op, names))  # type: ignore[arg-type]

    def threshold(self, option: Option) -> None:
        name = option.name.text
        is_filter = name == "detection_filter"
        given: dict[str, Word] = {}
        for word in option.text().split(","):
            key, _, _ = word.text.partition(" ")
            if key not in ("type", "track", "count", "seconds"):
                raise word.fail(f"{name} knows no {key!r}; it has type, track, count, seconds")
            given[key] = word.part(len(key))
        wanted = {"track", "count", "seconds"} | (set() if is_filter else {"type"})
        if set(given) != wanted:
            raise option.text().fail(f"{name} needs {', '.join(sorted(wanted))}")
        if self.meaning.thresholds:
            raise option.name.fail("one threshold or detection_filter a rule")
        kind = "filter" if is_filter else _one_of(given["type"], _TYPES)
        self.meaning.thresholds.append(
            Threshold(
                kind,  # type: ignore[arg-type]
                _one_of(given["track"], _TRACKS),
                _positive(given["count"]),
                _positive(given["seconds"]),
            )
        )

    def dsize(self, option: Option) -> None:
        self.meaning.dsize = range_of(option.text(), 65535)

    def icmp(self, option: Option) -> None:
        setattr(self.meaning, option.name.text, range_of(option.text(), 255))

    def flags(self, option: Option) -> None:
        self.meaning.flags = _tcp_flags(option.text())

    def number(self, option: Option) -> None:
        most = 255 if option.name.text == "priority" else 2**32 - 1
        setattr(self.meaning, option.name.text, option.number(int(most == 255), most))

    def sid(self, option: Option) -> None:
        self.meaning.sid = option.number(1)

    def msg(self, option: Option) -> None:
        word, negated = _quoted(option)
        if negated:
            raise word.fail("a message is not negated")
        self.meaning.msg = re.sub(r"\\(.)", r"\1", word.text)

    def classtype(self, option: Option) -> None:
        self.meaning.classtype = option.text().text

    def note(self, option: Option) -> None:
        texts = [word.text for word in option.text().split(",")]
        if option.name.text == "reference":
            self.meaning.references.append(":".join(texts))
        else:
            self.meaning.metadata += texts

    def nothing(self, option: Option) -> None:
        """What changes nothing here."""

    def noalert(self, option: Option) -> None:
        option.alone()
        self.meaning.noalert = True

    def raw_data(self, option: Option) -> None:
        option.alone()
        self.buffer, self.last = "", None


_READERS: dict[str, Callable[[_Reader, Option], None]] = {
    "content": _Reader.content,
    "pcre": _Reader.pcre,
    "bsize": _Reader.size,
    "urilen": _Reader.uri_length,
    "isdataat": _Reader.data_at,
    **dict.fromkeys(("offset", "depth", "distance", "within"), _Reader.place),
    **dict.fromkeys(("nocase", "startswith", "endswith"), _Reader.mark),
    "fast_pattern": _Reader.fast_pattern,
    **dict.fromkeys(("rawbytes", "prefilter"), _Reader.nothing),
    "pkt_data": _Reader.raw_data,
    "flow": _Reader.flow,
    "flowbits": _Reader.flowbits,
    "noalert": _Reader.noalert,
    "threshold": _Reader.threshold,
    "detection_filter": _Reader.threshold,
    "dsize": _Reader.dsize,
    **dict.fromkeys(("flags", "tcp.flags"), _Reader.flags),
    "itype": _Reader.icmp,
    "icode": _Reader.icmp,
    "msg": _Reader.msg,
    "sid": _Reader.sid,
    **dict.fromkeys(("gid", "rev", "priority"), _Reader.number),
    "classtype": _Reader.classtype,
    **dict.fromkeys(("reference", "metadata"), _Reader.note),
    "target": _Reader.nothing,
}


def read_options(options: Sequence[Option]) -> Meaning:
    """Reads the options of a rule.

    Raises:
        SpecError: names the place that is wrong.
        Unsupported: a keyword that is known but not handled.
    """
    reader = _Reader()
    for option in options:
        reader.read(option)
    return reader.meaning


def _quoted(option: Option) -> tuple[Word, bool]:
    """What stands between quotation marks, and whether `!` stands before them."""
    word = option.text()
    negated = word.text.startswith("!")
    inner = word.part(1) if negated else word
    if len(inner.text) < 2 or not (inner.text.startswith('"') and inner.text.endswith('"')):
        raise inner.fail(f'write {option.name.text}:"…";')
    return Word(inner.text[1:-1], inner.source, inner.at + 1), negated


def _one_of(word: Word, known: Sequence[str]) -> str:
    if word.text not in known:
        hint = did_you_mean(word.text, known) or f"; one of {', '.join(known)}"
        raise word.fail(f"{word.text!r} is not known{hint}")
    return word.text


def _positive(word: Word) -> int:
    if not re.fullmatch(r"\d{1,9}", word.text) or int(word.text) == 0:
        raise word.fail(f"{word.text!r} is no number from 1 on")
    return int(word.text)


def _tcp_flags(word: Word) -> TcpFlags:
    pieces = word.split(",")
    found = re.fullmatch(r"([!*+]?)([FSRPAUEC0-2]+)([*+!]?)", pieces[0].text)
    if found is None or len(pieces) > 2 or (found[1] and found[3]):
        text = "write flags:S, flags:+SA (and others), flags:*SF (any), flags:!R (none)"
        raise word.fail(f"{word.text!r} are no TCP flags; {text}, flags:S,CE (CE are ignored)")
    bits = sum(FLAG_BITS[letter] for letter in set(_letters(found[2])))
    ignored = pieces[1].text if len(pieces) == 2 else ""
    if not set(ignored) <= set("FSRPAUEC12"):
        raise pieces[1].fail(f"{ignored!r} are no TCP flags")
    mask = 255 & ~sum(FLAG_BITS[letter] for letter in set(_letters(ignored)))
    modes = {"": "exact", "+": "all", "*": "any", "!": "none"}
    return TcpFlags(bits & mask, mask, modes[found[1] or found[3]])  # type: ignore[arg-type]


def _letters(text: str) -> str:
    """Flags by letters: 1 and 2 are the reserved bits of old, 0 is none."""
    return text.replace("1", "C").replace("2", "E").replace("0", "")
