# SPDX-License-Identifier: Apache-2.0
"""What follows from subscriptions: modules that have to run, and the order of NFs. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.errors import ModuleMissing, NeedCycle, PlanError, StageConflict, UnraisedEvent
from mesh.module import Phase
from mesh.plan import Edge, Level, Part, PlannedNF, PlannedSubscription
from mesh.raisers import Raisers, needs_module
from mesh.uses import NFUse

__all__ = [
    "check_inline",
    "check_raised",
    "check_raising",
    "check_shares",
    "check_stages",
    "edges_of",
    "in_order",
    "needed_modules",
    "raised_edges",
]

_TOTALS = frozenset({"flow.end", "flow.update"})
_LATER = frozenset({*_TOTALS, "tcp.end.timeout", "tcp.anomaly.gap"})
"""Events that no packet can wait for: of flows, and of bytes that are not there."""


def needed_modules(raisers: Raisers, planned: Sequence[PlannedNF]) -> dict[str, tuple[str, ...]]:
    """Returns module → who needs it: subscriptions, and modules in turn.

    Raises:
        ModuleMissing: nobody installed raises what is needed.
        NeedCycle: modules need each other.
    """
    needs = _Needs(raisers)
    for nf in planned:
        for sub in nf.subscriptions:
            for part in sub.parts:
                needs.of_part(part, f"{nf.name}.{sub.name}")
    return {name: tuple(who) for name, who in needs.found.items()}


class _Needs:
    """Collects module → who needs it."""

    def __init__(self, raisers: Raisers) -> None:
        self.raisers = raisers
        self.found: dict[str, dict[str, None]] = {}

    def of_part(self, part: Part, who: str) -> None:
        for name in part.names:
            self.of_event(name, who, ())
        for name in part.modules:
            self.of_module(name, who, ())
        if not _TOTALS.isdisjoint(part.names) and "tcp.state" in self.raisers.raised_by:
            self.of_event("tcp.state", who, ())  # conn_state is the tracker's
        if part.level > Level.PACKET or "flow.start" in part.names:
            for module in self.raisers.modules.values():  # flows are of whole datagrams
                if module.phase is Phase.IP:
                    self.of_module(module.name, who, ())

    def of_event(self, event: str, who: str, above: tuple[str, ...]) -> None:
        module = self.raisers.raised_by.get(event)
        if module is not None:
            self.of_module(module, who, above)
        elif needs_module(event):
            raise ModuleMissing(f"no installed stack module raises {event!r}", subscription=who)

    def of_module(self, name: str, who: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise NeedCycle(f"modules need each other: {' → '.join([*above, name])}")
        is_new = name not in self.found
        self.found.setdefault(name, {})[who] = None
        if not is_new:
            return
        raisers = self.raisers
        for need in raisers.modules[name].needs:
            if need not in raisers.catalogue:
                raise ModuleMissing(f"module {name!r} needs event {need!r}, which nobody declares")
            for event in raisers.catalogue.subtree(need):
                raiser = raisers.raised_by.get(event.name)
                if raiser != name and (event.bit is not None or raiser is not None):
                    self.of_event(event.name, name, (*above, name))


def check_raised(raisers: Raisers, planned: Sequence[PlannedNF]) -> None:
    """Refuses events that nobody in the plan raises."""
    publishers = {event for nf in planned for event in (*nf.publishes, *nf.raises)}
    for nf in planned:
        for sub in nf.subscriptions:
            for event in sub.events:
                if not raisers.is_raised(event, publishers):
                    text = f"nobody in this plan raises {event!r}"
                    raise UnraisedEvent(text, nf=nf.name, subscription=sub.name)


def edges_of(planned: Sequence[PlannedNF]) -> tuple[Edge, ...]:
    """Returns which NF hears which other's events."""
    return tuple(
        Edge(publisher.name, event, nf.name, sub.name)
        for publisher in planned
        for event in publisher.publishes
        for nf in planned
        for sub in nf.subscriptions
        if event in sub.published
    )


def raised_edges(raisers: Raisers, planned: Sequence[PlannedNF]) -> tuple[Edge, ...]:
    """Returns which NF hears what another raises with its verdicts."""
    return tuple(
        Edge(raiser.name, event, nf.name, sub.name)
        for raiser in planned
        for event in raiser.raises
        for nf in planned
        for sub in nf.subscriptions
        if nf is not raiser and _hears(raisers, sub, event)
    )


def _hears(raisers: Raisers, sub: PlannedSubscription, event: str) -> bool:
    number = raisers.catalogue[event].id
    spans = [part.types for part in sub.parts if part.types is not None]
    return any(first <= number <= last for first, last in spans)


def check_raising(planned: Sequence[PlannedNF], edges: Sequence[Edge]) -> None:
    """Refuses to raise events without verdicts, and to decide on those of no earlier stage."""
    named = {nf.name: nf for nf in planned}
    for nf in planned:
        if nf.raises and not nf.is_inline:
            text = f"raises {nf.raises[0]!r} with its verdicts, and gives none: it is not inline"
            raise PlanError(text, nf=nf.name)
    for edge in edges:
        subs = named[edge.subscriber].subscriptions
        sub = next(sub for sub in subs if sub.name == edge.subscription)
        stages = [s.stage for s in named[edge.publisher].subscriptions if s.mode == "inline"]
        if sub.mode == "inline" and sub.stage <= max(stages):
            text = (
                f"{edge.event!r} is raised by {edge.publisher!r} in stage {max(stages)}: who "
                f"decides on it has a later one than {sub.stage}"
            )
            raise PlanError(text, nf=edge.subscriber, subscription=edge.subscription)


def check_shares(uses: Sequence[NFUse], edges: Sequence[Edge]) -> None:
    """Refuses that an NF hears one of another domain that does not share its events."""
    named = {use.name: use for use in uses}
    for edge in edges:
        publisher, subscriber = named[edge.publisher], named[edge.subscriber]
        wanted = subscriber.domain
        if wanted in (publisher.domain, *publisher.share):
            continue
        text = (
            f"{edge.event!r} is published by {publisher.name!r} of domain {publisher.domain!r}, "
            f"which does not share it; give {publisher.name!r} `share: [{wanted}]`"
        )
        nf, path = subscriber.name, subscriber.path
        raise PlanError(text, nf=nf, subscription=edge.subscription, path=path)


def in_order(planned: Sequence[PlannedNF], edges: Sequence[Edge]) -> list[PlannedNF]:
    """Puts publishers before their subscribers, else keeps the user's order.

    Raises:
        NeedCycle: NFs wait for each other's events.
    """
    left = list(planned)
    ordered: list[PlannedNF] = []
    while left:
        waiting = {nf.name for nf in left}
        ready = next(
            (
                nf
                for nf in left
                if not any(e.subscriber == nf.name and e.publisher in waiting for e in edges)
            ),
            None,
        )
        if ready is None:
            raise NeedCycle(f"NFs wait for each other's events: {_cycle(waiting, edges)}")
        left.remove(ready)
        ordered.append(ready)
    return ordered


def _cycle(names: set[str], edges: Sequence[Edge]) -> str:
    """Walks back from a waiting NF until one comes again, and writes the circle."""
    walk = [min(names)]
    while walk[-1] not in walk[:-1]:
        walk.append(
            next(e.publisher for e in edges if e.subscriber == walk[-1] and e.publisher in names)
        )
    circle = walk[walk.index(walk[-1]) :]
    return " → ".join(reversed(circle))


def check_inline(planned: Sequence[PlannedNF]) -> None:
    """Refuses to decide on what no packet can wait for."""
    for nf in planned:
        for sub in nf.subscriptions:
            if sub.mode != "inline":
                continue
            names = {name for part in sub.parts for name in part.names}
            later = sorted(names & _LATER)
            later += sub.published
            if later:
                text = (
                    f"packets cannot wait for a verdict on {later[0]!r}: inline NFs decide on "
                    "packets, on bytes (tcp.data, udp.datagram) and on what modules find in them "
                    "(http.request, ...), or what NFs of earlier stages raise with their verdicts; "
                    "hear this in another subscription, beside"
                )
                raise PlanError(text, nf=nf.name, subscription=sub.name)


def check_stages(planned: Sequence[PlannedNF]) -> None:
    """Refuses two editors in one stage: neither would know what the other did."""
    editors: dict[int, tuple[str, str]] = {}
    for nf in planned:
        for sub in nf.subscriptions:
            if sub.mode != "inline" or not sub.edits:
                continue
            other = editors.setdefault(sub.stage, (nf.name, sub.name))
            if other[0] != nf.name:
                text = f"stage {sub.stage} already has the editor {other[0]!r}; use another stage"
                raise StageConflict(text, nf=nf.name, subscription=sub.name)
