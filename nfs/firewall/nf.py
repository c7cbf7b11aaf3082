# SPDX-License-Identifier: Apache-2.0
"""A stateful firewall; what happens per packet is C (firewall.c, classify.c)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mesh import NF, Context, Event, NativeCode, on
from mesh.bounds import MemoryMb
from mesh.errors import SpecError
from mesh.native_nf import library_path
from mesh.watched import Outcome, Watched
from nfs.firewall.rules import ACTIONS, Rule, Ruleset, load, parse_lines
from nfs.firewall.table import MIDSTREAM_WORDS, Core, Table

Action = Literal["accept", "drop", "reject"]
_Made = tuple[Ruleset, Table]


class Reload(Event, name="firewall.reload"):
    """The rules file changed; `error` is empty when its rules are in force."""

    rules: int
    error: str


class Firewall(NF):
    """Accepts, drops or rejects flows by ordered rules.

    Args:
        rules: rules file; "" where `lines` has the rules.
        lines: rules as texts, instead of a file.
        default: accept, drop or reject what no rule matches; a `policy` among the rules precedes.
        midstream: TCP packets of unknown flows without a SYN: "drop", "accept", or by the "rules".
        malformed: action for packets whose headers make no sense.
        non_ip: action for frames without an IP packet, such as ARP.
        hold_drops: a dropped flow stays dropped, both ways, until the engine forgets it.
        watch: put the rules file in force again whenever it changes.
        memory_mb: bound on the memory of the compiled rules.
    """

    publishes = (Reload,)
    subscribes = (on("packet", mode="inline"), on("tcp.handshake.established", name="connections"))
    native = NativeCode("firewall", "firewall_process", "firewall_open", "firewall_close")

    def __init__(
        self,
        rules: str = "",
        lines: tuple[str, ...] = (),
        default: Action = "drop",
        midstream: Literal["drop", "rules", "accept"] = "drop",
        malformed: Action = "drop",
        non_ip: Action = "accept",
        hold_drops: bool = False,
        watch: bool = True,
        memory_mb: MemoryMb = 256,
    ) -> None:
        if bool(rules) == bool(lines):
            raise SpecError("rules", "give a rules file in `rules`, or rules in `lines`")
        self.path, self.lines = Path(rules) if rules else None, tuple(lines)
        self.default, self.memory_mb, self.watch = default, memory_mb, watch
        self.fixed = {
            "midstream": MIDSTREAM_WORDS.index(midstream),
            "malformed": ACTIONS.index(malformed),
            "non_ip": ACTIONS.index(non_ip),
            "hold_drops": int(hold_drops),
        }
        self.running: tuple[Rule, ...] = ()
        self.policy: str = default
        self.error = ""
        self._core: Core | None = None
        self._watched: Watched[_Made] | None = None
        self._results: dict[str, Any] = {}

    def start(self, ctx: Context) -> None:
        """Compiles the rules, and puts them in force."""
        state = None if self.native_handle is None else self.native_handle.state
        core = self._core = Core(library_path(Firewall, self.native), state)
        core.set(self.fixed)
        if self.watch and self.path is not None:
            self._watched = Watched(self.path, lambda: self._compile(core))
        self._put_in_force(*self._compile(core))

    def _compile(self, core: Core) -> _Made:
        found = load(self.path) if self.path is not None else parse_lines(self.lines)
        policy = found.policy or self.default
        return found, core.compile(found.rules, policy, self.memory_mb << 20, self.running)

    def _put_in_force(self, found: Ruleset, table: Table) -> None:
        assert self._core is not None
        self._core.swap(table)
        self.running, self.policy, self.error = found.rules, found.policy or self.default, ""

    def poll(self) -> None:
        """Looks at the rules file now and then; puts in force what was made of a changed one."""
        outcome = self._watched.take() if self._watched is not None else None
        if outcome is not None:
            self._finish(outcome)

    def _finish(self, outcome: Outcome[_Made]) -> None:
        if outcome.made is not None:
            self._put_in_force(*outcome.made)
            self.log.info("%d rules of %s are in force", len(self.running), self.path)
        else:
            self.error = str(outcome.error)
            self.log.warning("%s (the running rules stay)", self.error)
        self.publish(Reload(rules=len(self.running), error=self.error))

    def stop(self) -> None:
        """Takes down the counters."""
        if self._watched is not None:
            self._watched.wait()
            self._watched = None
        self._results = self._report()
        self._core = None

    def results(self) -> Mapping[str, Any]:
        """Returns the rules with their hits, the default's, and what became of packets."""
        return self._results if self._core is None else self._report()

    def _report(self) -> dict[str, Any]:
        if self._core is None:
            return self._results
        stats, hits = self._core.stats(), self._core.hits(len(self.running))
        rows = [
            {"rule": rule.text, "comment": rule.comment, "place": rule.place, "hits": n}
            for rule, n in zip(self.running, hits, strict=True)
        ]
        rows.append(
            {"rule": self.policy, "comment": "default", "place": "", "hits": stats["default_hits"]}
        )
        return {"rules": rows, **stats, "error": self.error or None}
