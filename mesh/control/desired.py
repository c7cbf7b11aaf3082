# SPDX-License-Identifier: Apache-2.0
"""What shall run, as it stands in the run directory: the spec and what a restart has to know.

`nfmesh run` writes `desired.json` before the controller starts; from then on the controller
writes it, before it acts on a change. A controller that comes back reads it and asks nobody.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from mesh.errors import NFMissing, SpecError, did_you_mean, system_text
from mesh.spec import NFSpec, Spec, SubscriptionSpec, parse
from mesh.whole_file import write_whole

__all__ = [
    "FILE",
    "RESERVED",
    "Desired",
    "add_nf",
    "change_subscription",
    "declare_nf",
    "events_without",
    "load_desired",
    "put_nf",
    "remove_nf",
    "save_desired",
    "with_files",
]

FILE = "desired.json"
RESERVED = frozenset({"controller", "supervisor", "tool", "remote"})
"""Names of processes that no NF may have; nor may it begin with `worker-`."""


@dataclass(frozen=True, slots=True)
class Desired:
    """What shall run.

    Attributes:
        revision: counts up with every change, from 1.
        spec: a checked spec as plain data; files are absolute, every NF has its name.
        numbers: event type → id, of all types that ever were in this run.
        leaving: NFs that were removed and finish what is in their rings: name → entry of the spec.
        joined: NF → revision in which it joined.
        modules: stack modules that run; they stay when nobody needs them any more, because flows
            have their state.
        then: spec that follows when those in `leaving` have left: they are replaced.
    """

    revision: int
    spec: Mapping[str, Any]
    numbers: Mapping[str, int] = field(default_factory=dict)
    leaving: Mapping[str, Any] = field(default_factory=dict)
    joined: Mapping[str, int] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    then: Mapping[str, Any] | None = None

    @property
    def parsed(self) -> Spec:
        """The spec as a model."""
        return parse(dict(self.spec))

    def with_spec(self, spec: Spec, **changes: Any) -> Desired:
        """Returns the next revision with this spec."""
        plain = spec.model_dump(mode="json", exclude_unset=True)
        return replace(self, revision=self.revision + 1, spec=plain, **changes)


@checked(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class _File:
    revision: int
    spec: dict[str, Any]
    numbers: dict[str, int]
    leaving: dict[str, Any]
    joined: dict[str, int]
    modules: tuple[str, ...] = ()
    then: dict[str, Any] | None = None


def save_desired(folder: Path, desired: Desired) -> None:
    """Writes it whole or not at all."""
    write_whole(folder / FILE, json.dumps(asdict(desired), indent=1, default=str))


def load_desired(folder: Path) -> Desired:
    """Reads it.

    Raises:
        SpecError: it is not there or not what it should be.
    """
    path = folder / FILE
    try:
        found = TypeAdapter(_File).validate_json(path.read_bytes())
    except OSError as error:
        raise SpecError(str(path), system_text(error)) from error
    except ValidationError as error:
        raise SpecError(str(path), error.errors()[0]["msg"]) from error
    return Desired(**{each.name: getattr(found, each.name) for each in fields(found)})


def with_files(spec: Spec, folder: Path) -> Spec:
    """Returns the spec with files relative to the working directory instead of `folder`.

    NFs' files become absolute: one may be added from elsewhere.
    """
    nfs = [
        entry
        if entry.place == "pod"
        else entry.model_copy(update={"use": _absolute_use(entry.use, folder)})
        for entry in spec.nfs
    ]
    ports = spec.ports
    if folder != Path():
        ports = [port.with_files(lambda name: os.path.join(folder, name)) for port in ports]
    return spec.model_copy(update={"nfs": nfs, "ports": ports})


def _absolute_use(use: str, folder: Path) -> str:
    return os.path.abspath(folder / use) if ".py" in use else use


# ---- changes ------------------------------------------------------------------------------------


def add_nf(spec: Spec, entry: Mapping[str, Any]) -> Spec:
    """Adds an entry behind the others.

    Raises:
        SpecError: the entry is wrong, or its name is taken.
    """
    added = parse({"nfs": [dict(entry)]}).nfs[0]
    if added.name is not None and any(each.name == added.name for each in spec.nfs):
        text = f"an NF {added.name!r} runs already; give this one another name"
        raise SpecError(f"nfs[{len(spec.nfs)}].name", text)
    return _with_nfs(spec, [*spec.nfs, added])


def put_nf(spec: Spec, entry: Mapping[str, Any]) -> Spec:
    """Adds an entry, or replaces the one of its name; what that has declared stays with its class.

    Raises:
        SpecError: the entry is wrong.
    """
    fresh = parse({"nfs": [dict(entry)]}).nfs[0]
    if fresh.name is None:
        raise SpecError("name", "an NF that is put in needs its name")
    before = next((each for each in spec.nfs if each.name == fresh.name), None)
    if before is None:
        return _with_nfs(spec, [*spec.nfs, fresh])
    if fresh.declares is None and fresh.use == before.use and before.declares is not None:
        fresh = fresh.model_copy(update={"declares": before.declares})
    return _with_nfs(spec, [fresh if each is before else each for each in spec.nfs])


def declare_nf(spec: Spec, name: str, declares: Mapping[str, Any]) -> Spec:
    """Takes down what an NF that joined says of its class.

    Raises:
        NFMissing: no such NF runs.
        SpecError: it is no declaration.
    """
    entry = _entry(spec, name).model_dump(mode="json", exclude_unset=True)
    return put_nf(spec, {**entry, "declares": dict(declares)})


def remove_nf(spec: Spec, name: str) -> tuple[Spec, NFSpec]:
    """Takes an NF out.

    Raises:
        NFMissing: no such NF.
        SpecError: it is the last one.

    Returns:
        The new spec, and the entry that was taken out.
    """
    entry = _entry(spec, name)
    rest = [each for each in spec.nfs if each is not entry]
    if not rest and not spec.may_be_empty:
        raise SpecError("nfs", f"{name!r} is the last NF; use `nfmesh stop`")
    return _with_nfs(spec, rest), entry


def change_subscription(spec: Spec, nf: str, name: str, change: SubscriptionSpec) -> Spec:
    """Replaces what a subscription of an NF hears; a filter that is None is left as it is."""
    entry = _entry(spec, nf)
    old = entry.subscriptions.get(name, SubscriptionSpec())
    where = old.where if change.where is None else change.where
    fresh_change = SubscriptionSpec(events=change.events, where=where)
    subscriptions = {**entry.subscriptions, name: fresh_change}
    fresh = entry.model_copy(update={"subscriptions": subscriptions, "events": None})
    return _with_nfs(spec, [fresh if each is entry else each for each in spec.nfs])


def events_without(heard: Sequence[str], events: Sequence[str], nf: str) -> list[str]:
    """Returns what is left of `heard` without `events`; no events: nothing.

    Raises:
        SpecError: it does not hear one of them.

    >>> events_without(("tcp.data", "flow.end"), ("tcp.data",), "x")
    ['flow.end']
    """
    for event in events:
        if event not in heard:
            text = f"NF {nf!r} does not hear {event!r}{did_you_mean(event, heard)}"
            raise SpecError("events", text)
    return [event for event in heard if events and event not in events]


def _entry(spec: Spec, name: str) -> NFSpec:
    for entry in spec.nfs:
        if entry.name == name:
            return entry
    names = [entry.name for entry in spec.nfs if entry.name]
    hint = did_you_mean(name, names) or f" (running: {', '.join(names)})"
    raise NFMissing(f"no NF {name!r} runs here{hint}")


def _with_nfs(spec: Spec, nfs: list[NFSpec]) -> Spec:
    plain = spec.model_dump(mode="json", exclude_unset=True)
    plain["nfs"] = [entry.model_dump(mode="json", exclude_unset=True) for entry in nfs]
    return parse(plain)
