# SPDX-License-Identifier: Apache-2.0
"""What a plan is asked for: NFs with their options, and events that users name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mesh.nf import NF
from mesh.words import OWN_DOMAIN

__all__ = ["NFUse", "SubscriptionOverride", "UserEvent"]


@dataclass(frozen=True, slots=True)
class SubscriptionOverride:
    """What a spec changes of one subscription; None leaves the NF's own."""

    events: tuple[str, ...] | None = None
    where: str | None = None


@dataclass(frozen=True, slots=True)
class NFUse:
    """One NF of a plan.

    Attributes:
        cls: its class.
        name: of this instance; default is the class's name.
        options: keyword arguments of its `__init__`.
        instance: a ready object instead of options.
        where: a filter that narrows all of its subscriptions.
        overrides: subscription name → what to change.
        mode: "inline" or "observe" for all subscriptions, or None.
        stage: of all inline subscriptions, or None.
        domain: NFs of one domain share memory.
        share: other domains that may hear what it publishes.
        holds: entries that it may keep at once; None: what its class says.
        fail_open: packets that an inline NF does not judge pass; else they are dropped.
        deadline_ms: after which an inline NF did not judge; 0 never.
        path: place in the spec for messages, such as `nfs[2]`.
    """

    cls: type[NF]
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    instance: NF | None = None
    where: str | None = None
    overrides: Mapping[str, SubscriptionOverride] = field(default_factory=dict)
    mode: str | None = None
    stage: int | None = None
    domain: str = OWN_DOMAIN
    share: tuple[str, ...] = ()
    holds: int | None = None
    fail_open: bool = False
    deadline_ms: int = 100
    path: str = ""


@dataclass(frozen=True, slots=True)
class UserEvent:
    """A named event: a base event where a filter holds."""

    name: str
    base: str
    where: str
    path: str = ""
