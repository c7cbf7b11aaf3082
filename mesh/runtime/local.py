# SPDX-License-Identifier: Apache-2.0
"""Network functions in a mesh of this host."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mesh.control import messages as m
from mesh.errors import SpecError
from mesh.runtime.interface import Change, Object

if TYPE_CHECKING:
    from mesh.kube.manifests import Manifests

__all__ = ["LocalRuntime"]

CHANGE_S = 60.0
STEPS = 3
"""An NF that is replaced leaves, its memory goes, the new one joins."""
ANSWER_S = 5.0
KIND = "networkfunction"


class LocalRuntime:
    """A mesh that runs. Chains are no objects there: their functions do what they say.

    Args:
        ask: sends a request to the mesh's controller and returns the answer, as
            `mesh.control.tool.ask` and `Remote.ask` do.
    """

    def __init__(self, ask: Callable[[m.Body, float], dict[str, Any]]) -> None:
        self._ask = ask

    def plan(self, wanted: Manifests) -> list[Change]:
        """Composes what is wanted with what runs."""
        return self._put(wanted, dry_run=True)

    def start(self, wanted: Manifests) -> list[Change]:
        """Puts NFs in, all from one packet on, or none."""
        return self._put(wanted)

    def stop(self, unwanted: Manifests) -> list[Change]:
        """Takes NFs out, one after the other."""
        return [self._remove(name) for name in unwanted.functions]

    def status(self) -> list[Object]:
        """Returns all NFs as objects; their one node is this host."""
        found: list[Object] = self._ask(m.Functions(), ANSWER_S)["functions"]
        node = socket.gethostname()
        for each in found:
            rows = each["status"]["nodes"]
            each["status"]["nodes"] = [{"node": node, **row} for row in rows]
        return found

    def events(self) -> list[Object]:
        """Returns the events that the controller keeps."""
        found: list[Object] = self._ask(m.Functions(), ANSWER_S)["events"]
        return found

    def _put(self, wanted: Manifests, *, dry_run: bool = False) -> list[Change]:
        from mesh.kube.manifests import as_in_file, local_entries

        request = m.NfPut(entries=local_entries(wanted), dry_run=dry_run)
        try:
            found = self._ask(request, STEPS * CHANGE_S)
        except SpecError as error:
            name = error.path.removeprefix("nfs.").partition(".")[0]
            if name not in wanted.functions:
                raise
            raise as_in_file(error, name) from error
        return [_change(name, found) for name in wanted.functions]

    def _remove(self, name: str) -> Change:
        found = self._ask(m.NfRemove(nf=name, missing_ok=True), CHANGE_S)
        at = found.get("effective_from")
        note = f"heard until packet {at}" if at is not None else ""
        return Change(KIND, name, "deleted" if found["revision"] else "not found", note)


def _change(name: str, found: Mapping[str, Any]) -> Change:
    at, again = found.get("effective_from"), found.get("replaced_from")
    if name in found.get("replaced", ()):
        note = f"left at packet {at} and began anew at {again}" if again is not None else "anew"
        return Change(KIND, name, "configured", note)
    since = f"from packet {at} on" if at is not None else ""
    if name in found.get("added", ()):
        return Change(KIND, name, "created", since)
    if name in found.get("changed", ()):
        return Change(KIND, name, "configured", since)
    return Change(KIND, name, "unchanged")
