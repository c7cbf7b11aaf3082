# SPDX-License-Identifier: Apache-2.0
"""What a runtime does with a file of custom resources.

Two do it: `LocalRuntime` (a mesh of this host) and `KubernetesRuntime` (a cluster in which the
chart is installed). Both take the same file, refuse the same mistakes with the same places, and
speak of conditions and events in the words of `mesh/conditions.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from mesh.kube.manifests import Manifests

__all__ = ["Change", "Object", "Runtime", "What"]

Object = dict[str, Any]
"""As an API server has it."""
What = Literal["created", "configured", "unchanged", "deleted", "not found"]


@dataclass(frozen=True, slots=True)
class Change:
    """What became of an object, or would become of it.

    Attributes:
        kind: of the object, as kubectl names it.
        note: what only this runtime knows, such as the packet from which on it holds.
    """

    kind: str
    name: str
    what: What
    note: str = ""

    def __str__(self) -> str:
        note = f", {self.note}" if self.note else ""
        return f"{self.kind}/{self.name}: {self.what}{note}"


class Runtime(Protocol):
    """Runs network functions.

    All of it raises SpecError for what is wrong with the file, by place, and then nothing has
    changed; and ProcessError or ApiError when nobody answers.
    """

    def plan(self, wanted: Manifests) -> list[Change]:
        """Says what `start` would change; changes nothing."""
        ...

    def start(self, wanted: Manifests) -> list[Change]:
        """Lets what is wanted run; what is not named stays as it is."""
        ...

    def stop(self, unwanted: Manifests) -> list[Change]:
        """Takes away what is named, once it has handled what it was sent."""
        ...

    def status(self) -> list[Object]:
        """Returns all network functions, with conditions, nodes and cores in their status."""
        ...

    def events(self) -> list[Object]:
        """Returns what happened to them, the last one last; equal events are one with a count."""
        ...
