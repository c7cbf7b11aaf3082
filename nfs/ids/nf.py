# SPDX-License-Identifier: Apache-2.0
"""Suricata-style rules over streams, packets and HTTP and DNS events; the search itself is C."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mesh import NF, Context, Event, NativeCode, on
from mesh.bounds import Kept, MemoryMb
from mesh.columns import endpoint
from mesh.declare import Origin
from mesh.errors import NFMissing, SpecError
from mesh.native_nf import library_path
from mesh.records import Records
from mesh.watched import Outcome, Watched
from nfs.ids.buffers import EVENTS, Kind
from nfs.ids.eve import Found, eve_record
from nfs.ids.rules import LeftOut, Rule, Ruleset, load, parse
from nfs.ids.table import Core, Table
from nfs.ids.vocabulary import VARIABLES

TAKE = 1024
"""Alerts fetched from C at a time."""
RESUME = 64
"""Flows heard anew at a time: the commands for all subscriptions fit the queue."""


class Alert(Event, name="ids.alert"):
    """A rule matched: time, flow and sender are those of the packet that completed it."""

    sid: int
    gid: int
    rev: int
    msg: str
    severity: int
    category: str
    action: str
    blocked: bool
    position: int


class Reload(Event, name="ids.reload"):
    """The rules file changed; `error` is empty when its rules are in force."""

    rules: int
    error: str


@dataclass(frozen=True)
class _Made:
    """A compiled file."""

    found: Ruleset
    table: Table

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """All rules that are not in the table."""
        return self.found.left_out + self.table.left_out


class Ids(NF):
    """Alerts on traffic that matches rules.

    Args:
        rules: rules file; "" where `lines` has the rules.
        lines: rules as texts, instead of a file.
        variables: what $NAME stands for in headers, such as HOME_NET: 10.0.0.0/8.
        path: file for alerts as JSON lines, relative to the folder for output; "" writes none,
            "-" standard output, a container's log.
        keep: alerts that results() shows, the first ones.
        strict: a rule with what is not supported is an error; else it is left out and listed.
        watch: put the rules file in force again whenever it changes.
        memory_mb: bound on the memory of all streams together.
        max_flows: flows with flow bits and state; a further one takes the place of another.
        max_alerts: alerts kept until they are written; more are counted only.
        max_counters: sources and others that thresholds count apart.
    """

    publishes = (Alert, Reload)
    subscribes = (
        on("tcp.data", name="streams"),
        on(
            *("packet.tcp", "packet.icmp", "packet.other", "udp.datagram"),
            "tcp.handshake.established",
            name="packets",
        ),
        on("http.request", "http.response", name="http"),
        on("dns.query", name="dns"),
        on("flow.end", name="ends", beside=True),
    )
    native = NativeCode("ids", "ids_process", "ids_open", "ids_close")
    writes = ("path",)

    def __init__(
        self,
        rules: str = "",
        lines: tuple[str, ...] = (),
        variables: dict[str, str] | None = None,
        path: str = "",
        keep: Kept = 100,
        strict: bool = False,
        watch: bool = True,
        memory_mb: MemoryMb = 256,
        max_flows: Annotated[int, Field(ge=1, le=1 << 24)] = 262144,
        max_alerts: Annotated[int, Field(ge=1, le=1 << 20)] = 8192,
        max_counters: Annotated[int, Field(ge=1, le=1 << 24)] = 65536,
    ) -> None:
        if bool(rules) == bool(lines):
            raise SpecError("rules", "give a rules file in `rules`, or rules in `lines`")
        self.file, self.lines = Path(rules) if rules else None, tuple(lines)
        self.variables = VARIABLES | (variables or {})
        self.strict, self.watch, self.memory_mb = strict, watch, memory_mb
        self.limits = {
            "max_flows": max_flows,
            "max_alerts": max_alerts,
            "max_counters": max_counters,
        }
        self.records, self.keep = Records(path, 0), keep
        self.shown: list[dict[str, Any]] = []
        self.running: dict[tuple[int, int], Rule] = {}
        self.left_out: tuple[LeftOut, ...] = ()
        self.hits: Counter[tuple[int, int]] = Counter()
        self.error = ""
        self._resuming = False
        self._core: Core | None = None
        self._watched: Watched[_Made] | None = None
        self._stats: dict[str, int] = {}

    def start(self, ctx: Context) -> None:
        """Compiles the rules, and puts them in force."""
        self.records.open(ctx)
        state = None if self.native_handle is None else self.native_handle.state
        core = self._core = Core(_library(), state)
        types = [ctx.types.get(EVENTS.get(kind, ""), 0) for kind in Kind]
        core.set(self.limits, types)
        if self.watch and self.file is not None:
            self._watched = Watched(self.file, lambda: self._compile(core))
        self._put_in_force(self._compile(core))

    def _compile(self, core: Core) -> _Made:
        if self.file is not None:
            found = load(self.file, self.variables, strict=self.strict)
        else:
            text = "\n".join(self.lines)
            found = parse(text, "lines", self.variables, strict=self.strict)
        table = core.compile(found.rules, self.memory_mb << 20)
        if self.strict and table.left_out:
            first = table.left_out[0]
            raise SpecError(first.place, f"{first.keyword}: {first.reason}")
        return _Made(found, table)

    def _put_in_force(self, made: _Made) -> None:
        assert self._core is not None
        self._core.swap(made.table)
        self.running = {rule.identity: rule for rule in made.table.rules}
        self.left_out, self.error = made.left_out, ""

    def poll(self) -> None:
        """Takes the alerts; puts in force what was made of a changed file."""
        self._take()
        self._resume()
        outcome = self._watched.take() if self._watched is not None else None
        if outcome is not None:
            self._finish(outcome)

    def _finish(self, outcome: Outcome[_Made]) -> None:
        if outcome.made is not None:
            self._put_in_force(outcome.made)
            self._resuming = True
            self.log.info("%d rules of %s are in force", len(self.running), self.file)
        else:
            self.error = str(outcome.error)
            self.log.warning("%s (the running rules stay)", self.error)
        self.publish(Reload(rules=len(self.running), error=self.error))

    def _resume(self) -> None:
        """After a change of the rules: hears all again of flows of which it heard less."""
        if not self._resuming or self._core is None:
            return
        flows, self._resuming = self._core.resume(RESUME)
        for flow in flows:
            self.flow(flow).subscribe()

    def _take(self) -> None:
        if self._core is None:
            return
        while alerts := self._core.alerts(TAKE):
            for alert in alerts:
                self._tell(alert)

    def _tell(self, row: Any) -> None:
        rule = self.running.get((row.gid, row.sid))
        if rule is None or self._core is None:
            return
        buffer = self._core.ffi.buffer
        about = Origin(bytes(buffer(row.record)), bytes(buffer(row.flow)))
        meaning = rule.meaning
        self.hits[rule.identity] += 1
        found = Found(rule, about, int(row.position), int(row.verdict))
        record = eve_record(found)
        self.records.write(record)
        if len(self.shown) < self.keep:
            self.shown.append(_line_of(found, record))
        self.publish(
            Alert(
                sid=meaning.sid,
                gid=meaning.gid,
                rev=meaning.rev,
                msg=meaning.msg,
                severity=meaning.severity,
                category=meaning.classtype,
                action=rule.action,
                blocked=row.verdict != 0,
                position=int(row.position),
            ),
            about,
        )

    def stop(self) -> None:
        """Takes the last alerts and the counters, and closes the file."""
        if self._watched is not None:
            self._watched.wait()
            self._watched = None
        if self._core is not None:
            self._take()
            self._stats = self._core.stats()
            self._core = None
        self.records.close()

    def results(self) -> Mapping[str, Any]:
        """Returns the rules that matched, those that were left out, and the counters."""
        rows = [self._row(identity, n) for identity, n in self.hits.most_common()]
        left_out = [
            {"place": row.place, "keyword": row.keyword, "sid": row.sid, "reason": row.reason}
            for row in self.left_out
        ]
        stats = self._stats if self._core is None else self._core.stats()
        return {
            "rules": len(self.running),
            "alerts_by_rule": rows,
            "left_out": left_out,
            "alerts": self.shown,
            "counters": stats,
            "error": self.error or None,
        }

    def _row(self, identity: tuple[int, int], n: int) -> dict[str, Any]:
        rule = self.running.get(identity)
        msg = rule.meaning.msg if rule is not None else ""
        return {"sid": identity[1], "msg": msg, "alerts": n}


def _line_of(found: Found, record: Mapping[str, Any]) -> dict[str, Any]:
    """An alert as a line of a table."""
    ends = [endpoint(record[f"{end}_ip"], record.get(f"{end}_port", 0)) for end in ("src", "dest")]
    return {
        "time": found.seconds,
        "sid": found.rule.meaning.sid,
        "msg": found.rule.meaning.msg,
        "source": ends[0],
        "target": ends[1],
        "proto": record["proto"],
        "action": record["alert"]["action"],
    }


def _library() -> Path:
    try:
        return library_path(Ids, Ids.native)
    except NFMissing as error:
        text = "ids.so was not built: install libvectorscan-dev, then run make setup"
        raise NFMissing(text, nf=Ids.name) from error
