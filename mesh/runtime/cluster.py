# SPDX-License-Identifier: Apache-2.0
"""Network functions in a cluster: objects for the operator that the chart installs."""

from __future__ import annotations

import time
from collections.abc import Callable

from mesh.errors import ApiError, ProcessError, SpecError
from mesh.kube.api import CHAINS, EVENTS, FUNCTIONS, INVALID, NOT_FOUND, Api, Kind
from mesh.kube.manifests import Manifests
from mesh.registry import Registry
from mesh.runtime.graph import check_graph
from mesh.runtime.interface import Change, Object, What

__all__ = ["KubernetesRuntime"]

LEAVE_S, LOOK_S = 90.0, 0.2
"""The operator lets an object go after a minute at the latest."""
_KINDS = {kind.name: kind for kind in (FUNCTIONS, CHAINS)}


class KubernetesRuntime:
    """One namespace of a cluster, with the rights of whoever asks.

    Args:
        api: the server.
        registry: what is installed here; graphs are checked with it.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        api: Api,
        registry: Registry | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._api, self._registry, self._sleep = api, registry or Registry.installed(), sleep

    def plan(self, wanted: Manifests) -> list[Change]:
        """Lets the server check every object, and composes what would be there, as far as known."""
        there = [each for kind in _KINDS.values() for each in self._list(kind)]
        check_graph(wanted, there, self._registry)
        return [self._apply(each, dry_run=True) for each in wanted.objects]

    def start(self, wanted: Manifests) -> list[Change]:
        """Applies the objects that differ; nothing when one of them would be refused."""
        planned = self.plan(wanted)
        return [
            change if change.what == "unchanged" else self._apply(each)
            for each, change in zip(wanted.objects, planned, strict=True)
        ]

    def stop(self, unwanted: Manifests) -> list[Change]:
        """Deletes the objects, and waits until the operator has let them go."""
        order = sorted(unwanted.objects, key=lambda each: str(each["kind"]) != CHAINS.name)
        there = [each for each in order if self._delete(each)]
        until = time.monotonic() + LEAVE_S
        for each in there:
            while self._find(each) is not None:
                if time.monotonic() > until:
                    raise ProcessError(f"{_change(each, 'deleted')}, and does not leave")
                self._sleep(LOOK_S)
        return [
            _change(each, "deleted" if each in there else "not found") for each in unwanted.objects
        ]

    def status(self) -> list[Object]:
        """Returns the objects, with the status that the operator writes."""
        return self._list(FUNCTIONS)

    def events(self) -> list[Object]:
        """Returns the events of the objects, as far as the cluster keeps them."""
        found = []
        for kind in _KINDS:
            fields = f"involvedObject.kind={kind}"
            found += self._api.list(EVENTS, fields=fields)["items"]
        return sorted(found, key=lambda each: str(each.get("lastTimestamp") or ""))

    def _list(self, kind: Kind) -> list[Object]:
        try:
            found: list[Object] = self._api.list(kind)["items"]
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            text = f"the cluster knows no {kind.name}: install the chart first (helm install)"
            raise ProcessError(text) from error
        return found

    def _find(self, wanted: Object) -> Object | None:
        return self._api.find(_KINDS[wanted["kind"]], wanted["metadata"]["name"])

    def _apply(self, wanted: Object, *, dry_run: bool = False) -> Change:
        """Lets the server merge an object, and says what that changes.

        Raises:
            SpecError: it is of another namespace, or the server refuses what it says.
        """
        said = wanted["metadata"].get("namespace", self._api.namespace)
        if said != self._api.namespace:
            path = f"{wanted['kind']} {wanted['metadata']['name']}: metadata.namespace"
            raise SpecError(path, f"is {said!r}; this is {self._api.namespace!r}: --namespace")
        before = self._find(wanted)
        try:
            after = self._api.apply(_KINDS[wanted["kind"]], wanted, dry_run=dry_run)
        except ApiError as error:
            if error.status != INVALID:
                raise
            raise SpecError(f"{wanted['kind']} {wanted['metadata']['name']}", error.text) from error
        if before is None:
            return _change(wanted, "created")
        return _change(wanted, "unchanged" if _said(before) == _said(after) else "configured")

    def _delete(self, unwanted: Object) -> bool:
        """Deletes an object; False: there is none."""
        try:
            self._api.delete(_KINDS[unwanted["kind"]], unwanted["metadata"]["name"])
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            return False
        return True


def _change(each: Object, what: What) -> Change:
    return Change(str(each["kind"]).lower(), str(each["metadata"]["name"]), what)


def _said(found: Object) -> tuple[object, ...]:
    """Returns what files say of an object."""
    metadata = found["metadata"]
    return found["spec"], metadata.get("labels"), metadata.get("annotations")
