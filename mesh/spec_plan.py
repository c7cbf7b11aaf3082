# SPDX-License-Identifier: Apache-2.0
"""From a checked spec to what composition takes: classes found, options checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mesh.declared import class_of
from mesh.errors import NFMissing, SpecError
from mesh.nf import NF
from mesh.options import nf_config
from mesh.plan import Plan
from mesh.registry import Registry
from mesh.runner import make_plan
from mesh.spec import DomainSpec, NFSpec, Spec
from mesh.uses import NFUse, SubscriptionOverride, UserEvent
from mesh.words import OWN_DOMAIN

__all__ = ["inboxes_of", "plan_of", "user_events_of", "uses_of"]


def uses_of(spec: Spec, registry: Registry) -> list[NFUse]:
    """Turns a spec's NFs into what composition takes.

    Raises:
        SpecError: an option that the NF does not have or that does not fit its type.
        NFMissing: no such NF.
    """
    _check_domains(spec)
    return [
        _use(entry, f"nfs[{i}]", registry)
        for i, entry in enumerate(spec.nfs)
        if not entry.is_undeclared
    ]


def user_events_of(spec: Spec) -> list[UserEvent]:
    """Turns a spec's named events into what composition takes."""
    return [
        UserEvent(name, entry.event, entry.where, f"events.{name}")
        for name, entry in spec.events.items()
    ]


def inboxes_of(spec: Spec, names: Iterable[str]) -> dict[str, dict[str, int]]:
    """Returns the sizes of the inboxes of domains, by name in nfm_domain_config."""
    memories = {name: spec.domains.get(name, DomainSpec()).memory for name in names}
    return {
        name: {
            "n_small": memory.slots,
            "n_large": memory.large_slots,
            "n_records": memory.records,
            "fields_size": memory.fields_mib << 20,
        }
        for name, memory in memories.items()
    }


def _check_domains(spec: Spec) -> None:
    if OWN_DOMAIN in spec.domains:
        text = "the mesh's own domain lies in the worker's memory: give its sizes under `worker`"
        raise SpecError(f"domains.{OWN_DOMAIN}", text)


def plan_of(spec: Spec, registry: Registry) -> Plan:
    """Composes a spec; runs nothing."""
    return make_plan(
        uses_of(spec, registry),
        events=user_events_of(spec),
        limits=spec.limits,
        registry=registry,
    )


def _class_of(entry: NFSpec, registry: Registry) -> type[NF]:
    """Returns the class of an entry: the installed one, or what one that joins has declared.

    Raises:
        NFMissing: no such NF.
    """
    return registry.nf(entry.use) if entry.declares is None else class_of(entry.declares)


def _use(entry: NFSpec, path: str, registry: Registry) -> NFUse:
    try:
        cls = _class_of(entry, registry)
    except NFMissing as error:
        raise NFMissing(error.text, path=f"{path}.use") from error
    overrides = {
        name: SubscriptionOverride(
            None if change.events is None else tuple(change.events), change.where
        )
        for name, change in entry.subscriptions.items()
    }
    if entry.events is not None:
        own = cls.subscriptions()
        if len(own) != 1:
            names = ", ".join(sub.name for sub in own)
            text = f"NF {cls.name!r} has several subscriptions ({names}): use subscriptions.NAME"
            raise SpecError(f"{path}.events", text)
        before = overrides.get(own[0].name, SubscriptionOverride())
        overrides[own[0].name] = SubscriptionOverride(tuple(entry.events), before.where)
    return NFUse(
        cls=cls,
        name=entry.name or cls.name,
        options=_options(entry, cls, f"{path}.config"),
        where=entry.where,
        overrides=overrides,
        mode=entry.mode,
        stage=entry.stage,
        domain=entry.domain,
        share=tuple(entry.share),
        holds=entry.hold,
        fail_open=entry.fail == "open",
        deadline_ms=entry.deadline_ms,
        path=path,
    )


def _options(entry: NFSpec, cls: type[NF], path: str) -> dict[str, Any]:
    """Checks options; those of a declared class are checked where its code is."""
    return nf_config(cls, entry.config, path) if entry.declares is None else dict(entry.config)
