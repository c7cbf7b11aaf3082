# SPDX-License-Identifier: Apache-2.0
"""What tools ask for, as a new revision of what shall run. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from mesh.control import messages as m
from mesh.control.applying import applied, leaving_entry
from mesh.control.desired import (
    Desired,
    add_nf,
    change_subscription,
    declare_nf,
    events_without,
    put_nf,
    remove_nf,
)
from mesh.declared import Declaration, declaration_of
from mesh.errors import MeshError, PlanError, SpecError, did_you_mean
from mesh.plan import Plan, PlannedNF
from mesh.spec import Spec, SubscriptionSpec, parse

__all__ = [
    "CHANGES",
    "Change",
    "Declared",
    "changed",
    "finished",
    "is_dry",
    "is_news",
    "place_in",
    "refusal_of",
    "started_here",
    "without_leaving",
]


@dataclass(frozen=True, slots=True)
class Declared:
    """An NF that joined says what its class subscribes to; this is no tool's request."""

    nf: str
    declares: m.Data


Change = m.NfAdd | m.NfPut | m.NfRemove | m.Subscribe | m.Unsubscribe | m.Apply | Declared
CHANGES = (m.NfAdd, m.NfPut, m.NfRemove, m.Subscribe, m.Unsubscribe, m.Apply)
"""What tools may ask for."""


def changed(request: Change, desired: Desired, plan: Plan) -> Desired:
    """Returns what shall run after the request.

    Args:
        request: a tool's.
        desired: what shall run now.
        plan: composed of it.

    Raises:
        SpecError: the request does not fit; nothing has changed.
        NFMissing: no such NF runs.
    """
    spec = desired.parsed
    if isinstance(request, m.NfAdd):
        name = request.entry.get("name")
        if name in desired.leaving:
            raise SpecError("nfs", f"the last {name!r} is still leaving; try again")
        return desired.with_spec(add_nf(spec, request.entry))
    if isinstance(request, m.NfPut):
        for said in request.entries:
            spec = _with_entry(spec, said)
        return applied(spec, desired, plan)
    if isinstance(request, Declared):
        return applied(declare_nf(spec, request.nf, request.declares), desired, plan)
    if isinstance(request, m.NfRemove):
        if request.missing_ok and all(entry.name != request.nf for entry in spec.nfs):
            return desired
        rest, entry = remove_nf(spec, request.nf)
        if entry.is_undeclared:
            return desired.with_spec(rest)
        gone = {**desired.leaving, request.nf: leaving_entry(entry, plan)}
        return _with_leaving(desired.with_spec(rest), gone)
    if isinstance(request, m.Apply):
        return applied(parse(request.spec), desired, plan)
    return _resubscribed(request, desired, plan)


def _with_entry(spec: Spec, entry: m.Data) -> Spec:
    try:
        return put_nf(spec, entry)
    except SpecError as error:
        error.nf = str(entry.get("name") or "")
        raise


def is_news(request: Declared, desired: Desired, plan: Plan) -> bool:
    """True when an NF says of its class what is not known here.

    Raises:
        SpecError: what it says is no declaration.
    """
    entry = next((each for each in desired.parsed.nfs if each.name == request.nf), None)
    if entry is None or entry.place != "pod":
        return False
    try:
        said = Declaration.model_validate(request.declares)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise SpecError(f"{request.nf}.declares.{place}", first["msg"]) from error
    planned = next((nf for nf in plan.nfs if nf.name == request.nf), None)
    return planned is None or declaration_of(planned.cls) != said


def is_dry(request: Change | None) -> bool:
    """True for one that says what would change, and changes nothing."""
    return isinstance(request, m.Apply | m.NfPut) and request.dry_run


def refusal_of(request: Change, error: MeshError, seq: int) -> m.Error:
    """Returns what a tool is told whose request is refused."""
    text, path = str(error), ""
    if isinstance(error, SpecError | PlanError):
        text, path = error.text, error.path
        if isinstance(request, m.NfPut) and error.nf:
            path = ".".join(part for part in ("nfs", error.nf, place_in(error)) if part)
        elif isinstance(error, PlanError) and error.nf:
            text = f"NF {error.nf!r}: {text}"
    return m.Error(request=seq, text=text, path=path)


def place_in(error: MeshError) -> str:
    """Names the place within an NF's entry, "" for all of it.

    Who puts one NF in knows nothing of the others' numbers.
    """
    path = getattr(error, "path", "")
    inside = path.partition("].")[2] if path.startswith("nfs[") else path
    return str(inside.removeprefix(f"{getattr(error, 'nf', '')}."))


def finished(desired: Desired) -> Desired:
    """Returns what shall run once those have left that are replaced."""
    return replace(desired, revision=desired.revision + 1, spec=desired.then or {}, then=None)


def without_leaving(desired: Desired, name: str) -> Desired:
    """Returns what shall run once a removed NF has left."""
    leaving = {key: gone for key, gone in desired.leaving.items() if key != name}
    return replace(desired, revision=desired.revision + 1, leaving=leaving)


def _with_leaving(desired: Desired, leaving: dict[str, Any]) -> Desired:
    joined = {name: at for name, at in desired.joined.items() if name not in leaving}
    return replace(desired, leaving=leaving, joined=joined)


def started_here(request: m.Body) -> str:
    """Returns the place of the first entry whose code this host would load and run, or ""."""
    entries = request.entries if isinstance(request, m.NfPut) else ()
    here = (i for i, entry in enumerate(entries) if entry.get("place") != "pod")
    return next((f"entries[{i}].place" for i in here), "")


def _resubscribed(request: m.Subscribe | m.Unsubscribe, desired: Desired, plan: Plan) -> Desired:
    planned = _planned(plan, request.nf)
    names = list(dict.fromkeys(sub.name for sub in planned.cls.subscriptions()))
    name = request.subscription or names[0]
    if request.subscription is None and len(names) != 1:
        text = f"NF {request.nf!r} has several ({', '.join(names)}): say which"
        raise SpecError("subscription", text)
    if name not in names:
        hint = did_you_mean(name, names) or f" (has: {', '.join(names)})"
        raise SpecError("subscription", f"NF {request.nf!r} has none named {name!r}{hint}")
    heard = tuple(e for sub in planned.subscriptions if sub.name == name for e in sub.events)
    if isinstance(request, m.Unsubscribe):
        events = events_without(heard, request.events, request.nf)
        change = SubscriptionSpec(events=events)
    else:
        if not request.events and request.where is None:
            raise SpecError("events", "name events, or give a filter")
        change = SubscriptionSpec(
            events=list(dict.fromkeys([*heard, *request.events])), where=request.where
        )
    return desired.with_spec(change_subscription(desired.parsed, request.nf, name, change))


def _planned(plan: Plan, name: str) -> PlannedNF:
    for nf in plan.nfs:
        if nf.name == name:
            return nf
    hint = did_you_mean(name, (nf.name for nf in plan.nfs))
    raise SpecError("nf", f"no NF {name!r} runs here{hint}")
