# SPDX-License-Identifier: Apache-2.0
"""`nfmesh apply`: from what runs to what a spec says, changing only what differs. Pure.

NFs that are new join and NFs that are gone leave, all from one packet on. What an NF hears changes
in place. An NF that differs in anything else is replaced: the old one leaves with its totals, then,
as a second revision (`Desired.then`), the new one joins. What holds for the whole mesh cannot
change while packets flow; what the spec leaves out there stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from mesh.control.desired import Desired
from mesh.errors import SpecError
from mesh.plan import Plan
from mesh.port_spec import PortSpec
from mesh.spec import NFSpec, Spec

__all__ = ["Difference", "applied", "difference", "leaving_entry"]

IN_PLACE = frozenset({"where", "events", "subscriptions", "token", "declares"})
FREE = frozenset({"nfs", "events", "modules"})
"""Keys of a spec that may change; composition and the worker judge what they say."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What changes, as names of NFs.

    Attributes:
        changed: hear something else.
        replaced: begin anew.
        others: keys of the spec beside `nfs`.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.replaced or self.others)


def difference(running: Spec, wanted: Spec) -> Difference:
    """Compares what runs with what is wanted; every NF has its name in both."""
    before, after = _by_name(running), _by_name(wanted)
    both = [name for name in after if name in before]
    differ = {name: _differing(before[name], after[name]) for name in both}
    anew = {name for name in both if differ[name] - IN_PLACE and not before[name].is_undeclared}
    return Difference(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed=tuple(name for name in both if differ[name] and name not in anew),
        replaced=tuple(name for name in both if name in anew),
        others=tuple(
            key for key in sorted(FREE - {"nfs"}) if getattr(running, key) != getattr(wanted, key)
        ),
    )


def applied(wanted: Spec, desired: Desired, plan: Plan) -> Desired:
    """Returns what shall run next; the same object when nothing changes.

    Args:
        wanted: every NF has its name.
        desired: what shall run now.
        plan: composed of it.

    Raises:
        SpecError: something that cannot change while packets flow.
    """
    running = desired.parsed
    _check_names(wanted, desired)
    wanted = _with_the_rest(wanted, running)
    found = difference(running, wanted)
    if not found:
        return desired
    now = [entry for entry in wanted.nfs if entry.name not in found.replaced]
    if not now and not wanted.may_be_empty:
        text = "no NF would stay as it is; stop the mesh and run it again"
        raise SpecError("nfs", text)
    entries = _by_name(running)
    gone = {
        name: leaving_entry(entries[name], plan)
        for name in (*found.removed, *found.replaced)
        if not entries[name].is_undeclared
    }
    joined = {name: at for name, at in desired.joined.items() if name not in gone}
    return replace(
        desired.with_spec(wanted.model_copy(update={"nfs": now})),
        leaving={**desired.leaving, **gone},
        joined=joined,
        then=wanted.model_dump(mode="json", exclude_unset=True) if found.replaced else None,
    )


def leaving_entry(entry: NFSpec, plan: Plan) -> dict[str, Any]:
    """Returns what has to be known of an NF that leaves."""
    planned = next((nf for nf in plan.nfs if nf.name == entry.name), None)
    return {
        "entry": entry.model_dump(mode="json", exclude_unset=True),
        "has_log": planned is not None and bool(planned.publishes),
        "is_inline": planned is not None and planned.is_inline,
    }


def _by_name(spec: Spec) -> dict[str, NFSpec]:
    return {entry.name or "": entry for entry in spec.nfs}


def _differing(before: NFSpec, after: NFSpec) -> set[str]:
    """Keys in which two entries differ; cores that are not named are left to the supervisor."""
    found = {key for key in NFSpec.model_fields if getattr(before, key) != getattr(after, key)}
    return found - {"cores"} if after.cores is None else found


def _check_names(wanted: Spec, desired: Desired) -> None:
    for i, entry in enumerate(wanted.nfs):
        if entry.name is None:
            raise SpecError(f"nfs[{i}].name", "an NF that is applied needs its name")
        if entry.name in desired.leaving:
            text = f"the last {entry.name!r} is still leaving; try again"
            raise SpecError(f"nfs[{i}].name", text)


def _with_the_rest(wanted: Spec, running: Spec) -> Spec:
    """Takes from what runs what the spec leaves out and cannot change.

    Raises:
        SpecError: it says something else.
    """
    kept: dict[str, Any] = {}
    for key in sorted(Spec.model_fields.keys() - FREE):
        value, old = getattr(wanted, key), getattr(running, key)
        is_said = key in wanted.model_fields_set and value
        if is_said and not _is_same(value, old):
            text = "cannot change while packets flow; stop the mesh and run it again"
            raise SpecError(key, text)
        if key in running.model_fields_set:
            kept[key] = old
    nfs = [_with_cores(entry, running.nfs) for entry in wanted.nfs]
    return wanted.model_copy(update={**kept, "nfs": nfs})


def _is_same(value: Any, old: Any) -> bool:
    if isinstance(value, list) and all(isinstance(each, PortSpec) for each in value):
        return [_absolute(port) for port in value] == [_absolute(port) for port in old]
    return bool(value == old)


def _absolute(port: PortSpec) -> PortSpec:
    return port.with_files(os.path.abspath)


def _with_cores(entry: NFSpec, running: Iterable[NFSpec]) -> NFSpec:
    """Leaves an NF that names no cores on those that it has."""
    for other in running:
        if other.name == entry.name and entry.cores is None and other.cores is not None:
            return entry.model_copy(update={"cores": other.cores})
    return entry
