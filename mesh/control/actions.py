# SPDX-License-Identifier: Apache-2.0
"""What the controller's core wants done, and the change that it is about to make."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.control import messages as m
from mesh.control.desired import Desired
from mesh.control.requests import Change

__all__ = ["Action", "Compose", "Pending", "Publish", "Save", "Send"]


@dataclass(frozen=True, slots=True)
class Send:
    """Seal for `name` and send to the connection."""

    identity: bytes
    name: str
    body: m.Body


@dataclass(frozen=True, slots=True)
class Compose:
    """Compose, then call `composed` or `not_composed`."""

    desired: Desired


@dataclass(frozen=True, slots=True)
class Save:
    """Write to the run directory, then call `saved` or `not_saved`."""

    desired: Desired


@dataclass(frozen=True, slots=True)
class Publish:
    """Send to whoever watches."""

    topic: bytes
    payload: bytes


Action = Send | Compose | Save | Publish


@dataclass(slots=True)
class Pending:
    """A change under way.

    Attributes:
        request: what was asked, None for a change of the controller's own.
        identity, name, seq: whom to answer.
        before: what ran before it.
        revision: of the change, once composed.
        nf: that it is about, or "".
        found: what the answer says beside what came of it.
    """

    request: Change | None
    identity: bytes
    name: str
    seq: int
    before: Desired
    since: float
    revision: int = 0
    nf: str = ""
    found: m.Data = field(default_factory=dict)
