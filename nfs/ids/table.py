# SPDX-License-Identifier: Apache-2.0
"""Rules as the C part wants them, compiled and put in force."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cffi import FFI

from mesh._ffi import check
from mesh.errors import SpecError
from mesh.ranges import Ranges
from nfs.ids.buffers import BUFFERS, Kind, Source, cells
from nfs.ids.chains import Chain, Pattern
from nfs.ids.header import ACTIONS, Addresses, Header
from nfs.ids.rules import LeftOut, Rule
from nfs.ids.sizes import Range

__all__ = ["Core", "FlowBits", "Table"]

HERE = Path(__file__).parent
_HEAD = 0xFFFFFFFF
_BIT_OPS = ("set", "unset", "toggle", "isset", "isnotset")
_FLAG_MODES = ("", "exact", "all", "any", "none")
_TYPES = ("", "limit", "threshold", "both", "filter")
_TRACKS = ("by_src", "by_dst", "by_both", "by_rule", "by_flow")
_SIMPLE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789\\")
MAX_BITS = 1024


class FlowBits:
    """Numbers of flow bits by name; they stay while the NF lives, so sessions outlive a reload."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, name: str, place: str) -> int:
        """Returns the number of a bit.

        Raises:
            SpecError: there are too many.
        """
        if name not in self.numbers and len(self.numbers) == MAX_BITS:
            raise SpecError(place, f"more than {MAX_BITS} names of flowbits")
        return self.numbers.setdefault(name, len(self.numbers))


@dataclass
class Table:
    """Compiled rules; freed with the object unless put in force.

    Attributes:
        pointer: `ids_table *`.
        rules: those that are in it.
        left_out: those that the matcher refuses.
    """

    pointer: Any
    rules: tuple[Rule, ...]
    left_out: tuple[LeftOut, ...]


class Core:
    """The C part of one NF.

    Args:
        library: path of ids.so.
        state: address that `ids_open` returned; None makes one.
    """

    def __init__(self, library: Path, state: int | None = None) -> None:
        self.ffi = FFI()
        self.ffi.cdef((HERE / "ids.cdef").read_text(encoding="utf-8"))
        self.lib: Any = self.ffi.dlopen(str(library))
        if state is None:
            opened = self.lib.ids_open(self.ffi.NULL)
            self.state = self.ffi.gc(self.ffi.cast("ids *", opened), self.lib.ids_close)
        else:
            self.state = self.ffi.cast("ids *", state)
        self.bits = FlowBits()
        self._cells = cells()

    def set(self, limits: dict[str, int], types: Sequence[int]) -> None:
        """Sets what is bounded by number, and the event types by kind."""
        options = self.ffi.new("ids_options *", {**limits, "types": list(types)})
        check(self.lib.ids_set(self.state, options), "ids")

    def compile(self, rules: Sequence[Rule], memory: int) -> Table:
        """Compiles rules; may run in any thread.

        Args:
            rules: in their order.
            memory: bytes for all streams.

        Raises:
            SpecError: the matcher refuses the patterns together.
        """
        kept, left_out = list(rules), list[LeftOut]()
        made, reason = self._made(kept, memory)
        if made is None:
            kept, left_out = self._without_refused(rules)
        if left_out:
            made, reason = self._made(kept, memory)
        if made is None:
            raise SpecError("rules", f"the patterns of all rules together: {reason}")
        return Table(made, tuple(kept), tuple(left_out))

    def _made(self, rules: Sequence[Rule], memory: int) -> tuple[Any, str]:
        """Returns `ids_table *`, or None and why there is none."""
        layout = _Layout(self, rules)
        text = self.ffi.new("char[512]")
        pointer = self.lib.ids_compile(layout.struct(memory), text, len(text))
        if pointer == self.ffi.NULL:
            return None, self.ffi.string(text).decode("utf-8", "replace")
        return self.ffi.gc(pointer, self.lib.ids_table_free), ""

    def _without_refused(self, rules: Sequence[Rule]) -> tuple[list[Rule], list[LeftOut]]:
        """Leaves out rules with an expression that the matcher does not take."""
        known: dict[tuple[Pattern, bool], str] = {}
        kept: list[Rule] = []
        left_out: list[LeftOut] = []
        for rule in rules:
            refused = [
                (pattern, reason)
                for kind, chains in rule.chains.items()
                for _, chain in chains
                for pattern in _patterns_of(chain)
                if (reason := self._refusal(pattern, kind == Kind.STREAM, known))
            ]
            if not refused:
                kept.append(rule)
                continue
            pattern, reason = refused[0]
            sid = rule.meaning.sid
            left_out.append(LeftOut(pattern.word.place, pattern.keyword, reason, sid))
        return kept, left_out

    def _refusal(
        self, pattern: Pattern, is_stream: bool, known: dict[tuple[Pattern, bool], str]
    ) -> str:
        if _SIMPLE.issuperset(pattern.expression):
            return ""
        key = pattern, is_stream
        if key not in known:
            row = self.ffi.new("ids_pattern *")
            expression = self.ffi.new("char[]", pattern.expression.encode())
            row.expression, row.least, row.most = expression, pattern.least, pattern.most
            text = self.ffi.new("char[256]")
            rc = self.lib.ids_check(row, is_stream, text, len(text))
            known[key] = "" if rc == 0 else self.ffi.string(text).decode("utf-8", "replace")
        return known[key]

    def swap(self, table: Table) -> None:
        """Puts a table in force."""
        self.ffi.gc(table.pointer, None)  # the NF's from now on
        self.lib.ids_swap(self.state, table.pointer)

    def resume(self, most: int) -> tuple[list[int], bool]:
        """Returns flows to hear all of again after a swap, and whether there may be more."""
        found, more = self.ffi.new("uint64_t[]", most), self.ffi.new("int *")
        n = int(self.lib.ids_resume(self.state, found, most, more))
        return [int(found[i]) for i in range(n)], bool(more[0])

    def alerts(self, most: int) -> list[Any]:
        """Takes what was found: `ids_alert` each."""
        found = self.ffi.new("ids_alert[]", most)
        n = int(self.lib.ids_take(self.state, found, most))
        return [found[i] for i in range(n)]

    def stats(self) -> dict[str, int]:
        """Returns the counters."""
        stats = self.ffi.new("ids_stats *")
        self.lib.ids_stats_get(self.state, stats)
        names = [name for name, _ in self.ffi.typeof("ids_stats").fields]
        return {name: int(getattr(stats, name)) for name in names}


@dataclass
class _Pat:
    """A pattern of a buffer, with who uses it."""

    pattern: Pattern
    buffer: int
    once: bool = True
    uses: list[tuple[int, int]] = field(default_factory=list)


class _Layout:
    """Lays rules out in the arrays of ids_rules."""

    def __init__(self, core: Core, rules: Sequence[Rule]) -> None:
        self.core = core
        self.rules: list[dict[str, Any]] = []
        self.chains: list[dict[str, Any]] = []
        self.follows: list[dict[str, Any]] = []
        self.bits: list[tuple[int, int, int]] = []
        self.headers: dict[Header, int] = {}
        self.kinds: list[int] = []
        self.buffers: dict[tuple[Kind, str], int] = {(Kind.STREAM, ""): 0, (Kind.PACKET, ""): 1}
        self.patterns: dict[tuple[int, Pattern], _Pat] = {}
        self.rings = self.stream_rings = self.stream_rules = self.stream_chains = 0
        asked = [(kind, rule) for rule in rules for kind in rule.chains]
        asked.sort(key=lambda pair: (pair[0], ACTIONS.index(pair[1].action)))
        for kind, rule in asked:
            self._add(kind, rule)
            if kind == Kind.STREAM:
                self.stream_rules, self.stream_chains = len(self.rules), len(self.chains)
                self.stream_rings = self.rings

    def _add(self, kind: Kind, rule: Rule) -> None:
        meaning = rule.meaning
        first_chain, first_bit = len(self.chains), len(self.bits)
        chains = rule.chains[kind]
        is_deferred = any(chain.negated or chain.follows for _, chain in chains)
        repeats = bool(meaning.thresholds) or any(b.op.startswith("is") for b in meaning.bits)
        for buffer, chain in chains:
            once = kind != Kind.STREAM or is_deferred or not repeats
            self._add_chain(self._buffer(kind, buffer), chain, once)
        self._add_bits(rule)
        terms = _terms_of(rule, kind)
        if kind == Kind.STREAM:
            terms |= self._lib("IDS_DEFERRED") if is_deferred else 0
            terms |= self._lib("IDS_REPEATS") if repeats and not is_deferred else 0
        row = {
            "sid": meaning.sid,
            "gid": meaning.gid,
            "header": self._header(rule.header, kind),
            "terms": terms,
            "kind": kind,
            "action": ACTIONS.index(rule.action),
            "chains": (first_chain, len(self.chains) - first_chain),
            "bits": (first_bit, len(self.bits) - first_bit),
            "dsize": _number(meaning.dsize),
            "itype": _number(meaning.itype),
            "icode": _number(meaning.icode),
        }
        if meaning.flags is not None:
            row["flag_mode"] = _FLAG_MODES.index(meaning.flags.how)
            row["flag_bits"], row["flag_mask"] = meaning.flags.bits, meaning.flags.mask
        for threshold in meaning.thresholds:
            row["threshold"] = _TYPES.index(threshold.type)
            row["track"] = _TRACKS.index(threshold.track)
            row["count"], row["seconds"] = threshold.count, threshold.seconds
        self.rules.append(row)

    def _lib(self, name: str) -> int:
        return int(getattr(self.core.lib, name))

    def _add_chain(self, buffer: int, chain: Chain, once: bool) -> None:
        number, first = len(self.chains), len(self.follows)
        self._use(buffer, chain.pattern, (number, _HEAD), once and not chain.follows)
        for follow in chain.follows:
            self._use(buffer, follow.pattern, (number, len(self.follows)), False)
            self.follows.append(
                {"distance": follow.distance, "within": follow.within, "length": follow.length}
            )
        self.chains.append(
            {
                "until": chain.until,
                "rule": len(self.rules),
                "ring": self.rings,
                "follows": (first, len(chain.follows)),
                "negated": chain.negated,
                "from_begin": chain.pattern.from_begin,
            }
        )
        self.rings += bool(chain.follows)

    def _use(self, buffer: int, pattern: Pattern, use: tuple[int, int], once: bool) -> None:
        entry = self.patterns.setdefault((buffer, pattern), _Pat(pattern, buffer))
        entry.once = entry.once and once
        entry.uses.append(use)

    def _buffer(self, kind: Kind, name: str) -> int:
        return self.buffers.setdefault((kind, name), len(self.buffers))

    def _header(self, header: Header, kind: Kind) -> int:
        number = self.headers.setdefault(header, len(self.headers))
        if number == len(self.kinds):
            self.kinds.append(0)
        self.kinds[number] |= 1 << kind
        return number

    def _add_bits(self, rule: Rule) -> None:
        for entry in rule.meaning.bits:
            for name in entry.names:
                number = self.core.bits.number(name, rule.place)
                is_last = name == entry.names[-1]
                self.bits.append((number, _BIT_OPS.index(entry.op), int(not is_last)))

    def struct(self, memory: int) -> Any:
        """Returns it as `ids_rules *`, which keeps what it points to."""
        ffi = self.core.ffi
        keep: list[Any] = []
        patterns = sorted(self.patterns.values(), key=lambda entry: entry.buffer)
        uses = [use for entry in patterns for use in entry.uses]
        headers, addresses, ports = _headers(self.headers, self.kinds)
        arrays: dict[str, tuple[str, Sequence[Any]]] = {
            "buffers": ("ids_buffer", list(self._buffer_rows(patterns, keep))),
            "patterns": ("ids_pattern", list(self._pattern_rows(patterns, keep))),
            "uses": ("ids_use", uses),
            "rules": ("ids_rule", self.rules),
            "chains": ("ids_chain", self.chains),
            "follows": ("ids_follow", self.follows),
            "bits": ("ids_bit", self.bits),
            "headers": ("ids_header", headers),
            "addresses": ("ids_addresses", addresses),
            "ports": ("ids_ports", ports),
        }
        made = ffi.new("ids_rules *")
        for name, (kind, rows) in arrays.items():
            array = ffi.new(f"{kind}[]", list(rows) or 1)
            keep.append(array)
            setattr(made, name, array)
            setattr(made, f"n_{name}", len(rows))
        made.n_stream_rules, made.n_stream_chains = self.stream_rules, self.stream_chains
        made.n_stream_rings, made.n_rings = self.stream_rings, self.rings
        made.stream_memory = memory
        self._keep = keep
        return made

    def _pattern_rows(self, patterns: Sequence[_Pat], keep: list[Any]) -> Iterator[dict[str, Any]]:
        first = 0
        for entry in patterns:
            text = self.core.ffi.new("char[]", entry.pattern.expression.encode())
            keep.append(text)
            yield {
                "expression": text,
                "least": entry.pattern.least,
                "most": entry.pattern.most,
                "uses": (first, len(entry.uses)),
                "buffer": entry.buffer,
                "from_begin": entry.pattern.from_begin,
                "once": entry.once,
            }
            first += len(entry.uses)

    def _buffer_rows(self, patterns: Sequence[_Pat], keep: list[Any]) -> Iterator[dict[str, Any]]:
        first = 0
        for (kind, name), number in self.buffers.items():
            n = sum(entry.buffer == number for entry in patterns)
            row: dict[str, Any] = {"patterns": (first, n), "kind": kind}
            first += n
            if name:
                buffer = BUFFERS[name][kind]
                row["cell"], row["source"] = self.core._cells[kind, buffer.field], buffer.source
                if buffer.source is Source.HEADER:
                    row["header"] = self.core.ffi.new("char[]", buffer.header.encode())
                    keep.append(row["header"])
            yield row


def _patterns_of(chain: Chain) -> Iterator[Pattern]:
    yield chain.pattern
    for follow in chain.follows:
        yield follow.pattern


def _terms_of(rule: Rule, kind: Kind) -> int:
    """Bits of enum ids_term."""
    flow = rule.meaning.flow
    bits = (
        flow.established,
        flow.not_established,
        flow.to_server,
        flow.to_client,
        rule.meaning.noalert,
        rule.proto in ("ip", "any") and Kind.STREAM in rule.chains and kind == Kind.PACKET,
    )
    return sum(1 << place for place, holds in enumerate(bits) if holds)


def _number(range_: Range | None) -> dict[str, int]:
    if range_ is None:
        return {}
    return {
        "first": range_.first,
        "last": range_.last,
        "asked": 1,
        "negated": int(range_.negated),
    }


def _headers(
    headers: dict[Header, int], kinds: Sequence[int]
) -> tuple[list[dict[str, Any]], list[Any], list[Any]]:
    addresses: list[Any] = []
    ports: list[Any] = []

    def span(ranges: Ranges, size: int) -> tuple[int, int]:
        begin = len(addresses)
        for pair in ranges:
            addresses.append([list(n.to_bytes(size, "big").ljust(16, b"\0")) for n in pair])
        return begin, len(ranges)

    def port_span(ranges: Ranges) -> tuple[int, int]:
        begin = len(ports)
        ports.extend(ranges)
        return begin, len(ranges)

    def family(ends: tuple[Addresses, Addresses], name: str, size: int) -> list[tuple[int, int]]:
        return [span(getattr(end, name), size) for end in ends]

    rows = [
        {
            "addr4": family(header.addresses, "ipv4", 4),
            "addr6": family(header.addresses, "ipv6", 16),
            "ports": [port_span(ranges) for ranges in header.ports],
            "proto": header.proto,
            "both_ways": header.both_ways,
            "kinds": kinds[number],
        }
        for header, number in headers.items()
    ]
    return rows, addresses, ports
