# SPDX-License-Identifier: Apache-2.0
"""Rules as the C part wants them, compiled and put in force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cffi import FFI

from mesh.errors import SpecError
from nfs.firewall.rules import ACTIONS, DIMS, Rule

__all__ = ["MIDSTREAM_WORDS", "Core", "Table"]

HERE = Path(__file__).parent
MIDSTREAM_WORDS = ("drop", "rules", "accept")
"""In the order of enum firewall_midstream."""
_RANGE = np.dtype([("first", "u8", 2), ("last", "u8", 2), ("rule", "u4"), ("dim", "u4")])
_NO_RULE = 0xFFFFFFFF
_LOW = 2**64 - 1


class Table:
    """Compiled rules; freed with the object unless put in force.

    Attributes:
        pointer: `firewall_table *`.
        rules: what it was compiled from.
    """

    def __init__(self, pointer: Any, rules: tuple[Rule, ...]) -> None:
        self.pointer, self.rules = pointer, rules


class Core:
    """The C part of one firewall.

    Args:
        library: path of firewall.so.
        state: address that `firewall_open` returned; None makes one.
    """

    def __init__(self, library: Path, state: int | None = None) -> None:
        self.ffi = FFI()
        self.ffi.cdef((HERE / "firewall.cdef").read_text(encoding="utf-8"))
        self.lib: Any = self.ffi.dlopen(str(library))
        if state is None:
            opened = self.lib.firewall_open(self.ffi.NULL)
            self.state = self.ffi.gc(self.ffi.cast("firewall *", opened), self.lib.firewall_close)
        else:
            self.state = self.ffi.cast("firewall *", state)

    def set(self, options: Mapping[str, int]) -> None:
        """Sets what is judged without rules: fields of firewall_options."""
        self.lib.firewall_set(self.state, self.ffi.new("firewall_options *", dict(options)))

    def compile(
        self,
        rules: tuple[Rule, ...],
        policy: str,
        max_bytes: int,
        running: Sequence[Rule] = (),
    ) -> Table:
        """Compiles rules; may run in any thread.

        Args:
            rules: in their order.
            policy: action where none matches.
            max_bytes: of the table.
            running: rules of the table in force, whose hits go on.

        Raises:
            SpecError: the table would be too large.
        """
        ffi = self.ffi
        ranges = _ranges_of(rules)
        places = {rule.identity: index for index, rule in enumerate(running)}
        columns = [
            np.array([ACTIONS.index(rule.action) for rule in rules], "u1"),
            np.array([sum(1 << DIMS.index(dim) for dim in rule.bounds) for rule in rules], "u1"),
            np.array([places.get(rule.identity, _NO_RULE) for rule in rules], "u4"),
        ]
        config = ffi.new("firewall_rules *")
        config.action = ffi.from_buffer("uint8_t[]", columns[0])
        config.bounded = ffi.from_buffer("uint8_t[]", columns[1])
        config.before = ffi.from_buffer("uint32_t[]", columns[2])
        config.ranges = ffi.cast("firewall_range *", ffi.from_buffer(ranges))
        config.n_rules, config.n_ranges = len(rules), len(ranges)
        config.policy, config.max_bytes = ACTIONS.index(policy), max_bytes
        text = ffi.new("char[256]")
        pointer = self.lib.firewall_compile(config, text, len(text))
        if pointer == ffi.NULL:
            raise SpecError("rules", ffi.string(text).decode())
        return Table(ffi.gc(pointer, self.lib.firewall_table_free), rules)

    def swap(self, table: Table) -> None:
        """Puts a table in force."""
        self.ffi.gc(table.pointer, None)  # the firewall's from now on
        self.lib.firewall_swap(self.state, table.pointer)

    def hits(self, n: int) -> list[int]:
        """Returns the hits of the first `n` rules in force."""
        found = self.ffi.new("uint64_t[]", n)
        self.lib.firewall_hits(self.state, found, n)
        return list(found)

    def stats(self) -> dict[str, int]:
        """Returns the counters."""
        stats = self.ffi.new("firewall_stats *")
        self.lib.firewall_stats_get(self.state, stats)
        names = [name for name, _ in self.ffi.typeof("firewall_stats").fields]
        return {name: int(getattr(stats, name)) for name in names}


def _ranges_of(rules: Sequence[Rule]) -> np.ndarray[Any, Any]:
    rows = [
        ((first >> 64, first & _LOW), (last >> 64, last & _LOW), index, DIMS.index(dim))
        for index, rule in enumerate(rules)
        for dim, ranges in rule.bounds.items()
        for first, last in ranges
    ]
    return np.array(rows, _RANGE)
