# SPDX-License-Identifier: Apache-2.0
"""What to change so that what is becomes what shall be. Pure.

Plans are level-triggered: a part says all that shall be, whatever was said before. These functions
compare it with what there is; doing nothing twice is doing nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mesh.control.wire import (
    ChildPart,
    HostPart,
    InboxPart,
    ModulePart,
    NativeSubscription,
    ObjectPart,
    Receiver,
    WorkerPart,
)
from mesh.errors import SpecError

__all__ = ["HostChanges", "WorkerChanges", "host_changes", "worker_changes"]


@dataclass(frozen=True, slots=True)
class WorkerChanges:
    """What a worker does, in this order, between two packets.

    Attributes:
        modules: to add.
        rings: of receivers to add.
        subscribe: (ring, row) to add.
        unsubscribe: ids to end; an id that is in `subscribe` too is the old row under that id.
        remove_rings: names, after their subscriptions are gone.
        inboxes: of domains to add, before the rings.
        remove_inboxes: names of domains to end, after their rings are gone.
    """

    modules: tuple[ModulePart, ...] = ()
    rings: tuple[Receiver, ...] = ()
    subscribe: tuple[tuple[str, NativeSubscription], ...] = ()
    unsubscribe: tuple[str, ...] = ()
    remove_rings: tuple[str, ...] = ()
    inboxes: tuple[InboxPart, ...] = ()
    remove_inboxes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__slots__)


def worker_changes(desired: WorkerPart, actual: WorkerPart | None) -> WorkerChanges:
    """Compares a worker's new part with the one that it has applied; None at the start.

    Modules stay once they run: their state belongs to flows under way.

    Raises:
        SpecError: what cannot change while packets flow: ports, sizes, a ring's size or delivery.
    """
    if actual is None:
        rows = tuple((r.ring, sub) for r in desired.receivers for sub in r.subscriptions)
        return WorkerChanges(desired.modules, desired.receivers, rows, inboxes=desired.inboxes)
    _check_fixed(desired, actual)
    present = {module.name for module in actual.modules}
    before, after = _rows(actual), _rows(desired)
    rings = {r.ring for r in actual.receivers}
    wanted = {r.ring for r in desired.receivers}
    had, has = ({inbox.domain for inbox in part.inboxes} for part in (actual, desired))
    return WorkerChanges(
        modules=tuple(m for m in desired.modules if m.name not in present),
        rings=tuple(r for r in desired.receivers if r.ring not in rings),
        subscribe=tuple(row for name, row in after.items() if before.get(name) != row),
        unsubscribe=tuple(name for name, row in before.items() if after.get(name) != row),
        remove_rings=tuple(r.ring for r in actual.receivers if r.ring not in wanted),
        inboxes=tuple(inbox for inbox in desired.inboxes if inbox.domain not in had),
        remove_inboxes=tuple(i.domain for i in actual.inboxes if i.domain not in has),
    )


def _rows(part: WorkerPart) -> dict[str, tuple[str, NativeSubscription]]:
    return {sub.id: (r.ring, sub) for r in part.receivers for sub in r.subscriptions}


def _check_fixed(desired: WorkerPart, actual: WorkerPart) -> None:
    for name in ("worker", "id", "workers", "objects", "config", "mode", "ports", "max_packets"):
        if getattr(desired, name) != getattr(actual, name):
            raise SpecError(f"plan.{name}", "cannot change while packets flow; start again")
    rings = {r.ring: (r.entries, r.lossy) for r in actual.receivers}
    for receiver in desired.receivers:
        was = rings.get(receiver.ring)
        if was is not None and was != (receiver.entries, receiver.lossy):
            text = "a ring's size and delivery cannot change while packets flow"
            raise SpecError(f"nfs.{receiver.nf}", text)
    sizes = {inbox.domain: inbox.config for inbox in actual.inboxes}
    for inbox in desired.inboxes:
        if sizes.get(inbox.domain, inbox.config) != inbox.config:
            text = "cannot change while packets flow; start again"
            raise SpecError(f"domains.{inbox.domain}.memory", text)
    before = {m.name: m for m in actual.modules}
    for module in desired.modules:
        was_module = before.get(module.name, module)
        if (was_module.limits, was_module.host) != (module.limits, module.host):
            raise SpecError(f"modules.{module.name}", "cannot change while packets flow")


@dataclass(frozen=True, slots=True)
class HostChanges:
    """What a supervisor does, in this order.

    Attributes:
        create: objects to make.
        start: children to start, in the order of the plan.
        regrant: names of running children that may have more or fewer objects now.
        stop: names of children that the plan no longer has; they were told to leave.
        drop: names of objects to let go of, once `stop` has ended.
    """

    create: tuple[ObjectPart, ...] = ()
    start: tuple[ChildPart, ...] = ()
    regrant: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.create or self.start or self.regrant or self.stop or self.drop)


def host_changes(
    desired: HostPart, children: Mapping[str, ChildPart], objects: Collection[str]
) -> HostChanges:
    """Compares the host's part with the children that are kept running and the objects made.

    Args:
        desired: the part.
        children: name → part as last applied, also of children that wait for a restart.
        objects: names of the objects that there are.
    """
    wanted = {child.name for child in desired.children}
    needed = {each.name for each in desired.objects}
    return HostChanges(
        create=tuple(each for each in desired.objects if each.name not in objects),
        start=tuple(child for child in desired.children if child.name not in children),
        regrant=tuple(
            child.name
            for child in desired.children
            if child.name in children and children[child.name] != child
        ),
        stop=tuple(name for name in children if name not in wanted),
        drop=tuple(name for name in sorted(objects) if name not in needed),
    )
