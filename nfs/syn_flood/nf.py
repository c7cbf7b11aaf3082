# SPDX-License-Identifier: Apache-2.0
"""Detects SYN floods, and keeps attempts of unknown sources from their targets while they last."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mesh import NF, Event, EventBatch, on
from mesh.bounds import MemoryMb, Seconds, Share
from nfs.syn_flood.tables import Remembered, Slots, Targets, hashes

SYN, ACK, RST = 2, 16, 4
ESTABLISHED = "tcp.handshake.established"
SLOTS = 1 << 14
KEPT_ATTACKS = 1000
"""Attacks that the results list; further ones are counted."""

Rows = npt.NDArray[np.intp]


class AttackBegin(Event, name="syn_flood.attack.begin"):
    """A target gets many SYNs of which few become connections."""

    target: IPv4Address | IPv6Address
    syns: int
    half_open: int


class AttackEnd(Event, name="syn_flood.attack.end"):
    """The SYNs have become few again."""

    target: IPv4Address | IPv6Address
    syns: int
    held_back: int
    seconds: float


@dataclass(slots=True)
class Attack:
    """An attack: what came since it began, and what of it did not pass."""

    target: str
    since_ns: int
    until_ns: int = 0
    syns: int = 0
    held_back: int = 0

    @property
    def seconds(self) -> float:
        """How long it lasted; 0 as long as it does."""
        return (self.until_ns - self.since_ns) / 1e9 if self.until_ns else 0.0


class SynFlood(NF):
    """Detects SYN floods, and holds back first SYNs of unknown sources while they last.

    Args:
        limit: unfinished attempts on one target in an interval that may be an attack.
        ratio: a target that finishes more than this share of its attempts is busy, not attacked.
        interval_s: seconds of event time that are counted together.
        calm: intervals with less than half of `limit` attempts after which an attack is over.
        patience_s: a SYN that comes again within this time passes.
        proven_s: a source that finished a handshake within this time passes.
        action: what becomes of a SYN that may not pass: drop or reject.
        memory_mb: of what is remembered of sources and attempts.
    """

    publishes = (AttackBegin, AttackEnd)

    def __init__(
        self,
        limit: Annotated[int, Field(ge=1, le=1_000_000_000)] = 200,
        ratio: Share = 0.5,
        interval_s: Seconds = 1.0,
        calm: Annotated[int, Field(ge=1, le=1_000_000)] = 5,
        patience_s: Seconds = 4.0,
        proven_s: Seconds = 600.0,
        action: Literal["drop", "reject"] = "drop",
        memory_mb: MemoryMb = 16,
    ) -> None:
        self.action = action
        self._interval_ns = int(interval_s * 1e9)
        self._targets = Targets(SLOTS, limit, ratio, calm)
        size = 1 << ((memory_mb << 20) // 4).bit_length() - 1
        self._waiting = Remembered(size, int(patience_s * 1e9))
        self._proven = Remembered(size, int(proven_s * 1e9))
        self._seed = secrets.randbits(64)
        self._interval: int | None = None
        self._running: dict[int, Attack] = {}
        self._ended: list[Attack] = []
        self.attacks = self.syns = self.held_back = self.came_again = self.from_proven = 0

    @on("packet.tcp", ESTABLISHED, mode="inline")
    def judge(self, batch: EventBatch) -> None:
        """Judges SYNs, and learns from finished handshakes; the rest of a flow passes unasked."""
        established = batch.has(ESTABLISHED)
        is_syn = (batch.tcp_flags & (SYN | ACK | RST)) == SYN
        batch.accept(established & ~is_syn, rest=True)
        rows = np.flatnonzero(established | is_syn)
        intervals = batch.ts[rows] // self._interval_ns
        for interval in np.unique(intervals).tolist():
            part = rows[intervals == interval]
            self._turn(interval, int(batch.ts[part[0]]))
            finished = part[established[part]]
            self._judge(batch, part[is_syn[part]], finished)
            self._learn(batch, finished)

    def _turn(self, interval: int, now_ns: int) -> None:
        self._waiting.turn(now_ns)
        self._proven.turn(now_ns)
        if self._interval is None:
            self._interval = interval
        if interval <= self._interval:
            return
        for slot in self._targets.turn(interval - self._interval).tolist():
            self._end(slot, interval * self._interval_ns)
        self._interval = interval

    def _learn(self, batch: EventBatch, rows: Rows) -> None:
        version, source = batch.ip_version[rows], batch.column("client_ip")[rows]
        self._proven.add(hashes(self._seed, version, source))

    def _judge(self, batch: EventBatch, syns: Rows, finished: Rows) -> None:
        slots = self._slots(batch, "dst_ip", syns)
        for slot in self._targets.count(slots, self._slots(batch, "server_ip", finished)).tolist():
            self._begin(batch, slot, int(syns[slots == slot][-1]))
        self.syns += len(syns)
        attacked = self._targets.attacked[slots]
        is_held = self._is_held(batch, syns[attacked])
        self._targets.hold(slots[attacked], is_held)
        self.held_back += int(is_held.sum())
        held = np.zeros(len(batch), np.bool_)
        held[syns[attacked]] = is_held
        (batch.drop if self.action == "drop" else batch.reject)(held)

    def _slots(self, batch: EventBatch, address: str, rows: Rows) -> Slots:
        version, target = batch.ip_version[rows], batch.column(address)[rows]
        return self._targets.slots(hashes(self._seed, version, target))

    def _is_held(self, batch: EventBatch, rows: Rows) -> npt.NDArray[np.bool_]:
        """Marks SYNs of sources that finished nothing so far and did not try before."""
        version, source = batch.ip_version[rows], batch.column("src_ip")[rows]
        proven = self._proven.has(hashes(self._seed, version, source))
        ends = [batch.column(name)[rows] for name in ("dst_ip", "src_port", "dst_port")]
        attempts = hashes(self._seed, version, source, *ends)
        again = self._waiting.has(attempts)
        self._waiting.add(attempts)
        self.from_proven += int(proven.sum())
        self.came_again += int((again & ~proven).sum())
        return ~proven & ~again

    def _begin(self, batch: EventBatch, slot: int, row: int) -> None:
        event = batch[row]
        self.attacks += 1
        self._running[slot] = Attack(event.dst_ip, event.ts)
        syns, half_open = self._targets.syns(slot)
        begin = AttackBegin(target=ip_address(event.dst_ip), syns=syns, half_open=half_open)
        self.publish(begin, event)

    def _end(self, slot: int, now_ns: int) -> None:
        attack = self._running.pop(slot)
        attack.until_ns = now_ns
        attack.syns, attack.held_back = self._targets.attack(slot)
        if len(self._ended) < KEPT_ATTACKS:
            self._ended.append(attack)
        end = AttackEnd(
            target=ip_address(attack.target),
            syns=attack.syns,
            held_back=attack.held_back,
            seconds=attack.seconds,
        )
        self.publish(end)

    def results(self) -> Mapping[str, Any]:
        """Returns the attacks, those that last included, and what became of SYNs."""
        for slot, attack in self._running.items():
            attack.syns, attack.held_back = self._targets.attack(slot)
        rows = [
            {
                "target": attack.target,
                "syns": attack.syns,
                "held_back": attack.held_back,
                "seconds": attack.seconds,
                "lasts": not attack.until_ns,
            }
            for attack in (*self._ended, *self._running.values())
        ]
        counts = ("attacks", "syns", "held_back", "came_again", "from_proven")
        return {"found": rows, **{name: getattr(self, name) for name in counts}}
