# SPDX-License-Identifier: Apache-2.0
"""PodDisruptionBudgets of functions: how many pods of one may be evicted at a time.

Theory of operation. Each function with several pods has a budget of its own. One for all would let
a function that is broken, or waits for a core, keep every node of the cluster from being drained.
A function with no more pods than may be away needs none; nor does one with a pod on every node: its
pod has nowhere else to go, and a drained node would wait for it for ever.

Functions come up without: a server that does not serve budgets, or gives no right to them, is no
reason to do nothing at all.
"""

from __future__ import annotations

from mesh.kube.api import Api, Kind, Object, unless_gone
from mesh.kube.models import NetworkFunctionSpec
from mesh.kube.reflector import Reflector
from mesh.kube.render import is_owned, labels_of, owner_of, same_as
from mesh.kube.settings import OperatorSettings

__all__ = ["Budgets", "budget"]


def budget(
    function: Object, spec: NetworkFunctionSpec, settings: OperatorSettings, kind: Kind
) -> Object | None:
    """Returns a function's budget; None: it needs none. Pure."""
    most = settings.budget.max_unavailable
    if spec.every_node or most == 0 or spec.replicas <= most:
        return None
    name = function["metadata"]["name"]
    labels = labels_of(name, settings)
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {"name": name, "labels": labels, "ownerReferences": [owner_of(function)]},
        "spec": {"maxUnavailable": most, "selector": {"matchLabels": labels}},
    }


class Budgets:
    """Keeps budgets as they are wanted.

    Args:
        api: the server.
        copies: of the budgets that are there.
        settings: of the release.
    """

    def __init__(self, api: Api, copies: Reflector, settings: OperatorSettings) -> None:
        self._api, self._copies, self._settings = api, copies, settings

    def keep(self, function: Object, spec: NetworkFunctionSpec) -> None:
        """Makes, changes or deletes a function's budget; somebody else's of that name stays.

        Raises:
            ApiError: the server refused, or does not answer.
        """
        if not self._copies.is_synced:
            return
        kind, store = self._copies.kind, self._copies.store
        wanted = budget(function, spec, self._settings, kind)
        actual = store.get(function["metadata"]["name"])
        if actual is None:
            if wanted is not None:
                store.put(self._api.create(kind, wanted))
        elif not is_owned(actual, function):
            pass
        elif wanted is None:
            with unless_gone():
                self._api.delete(kind, actual["metadata"]["name"])
        elif not same_as(actual["spec"], wanted["spec"]):
            store.put(self._api.replace(kind, {**wanted, "metadata": actual["metadata"]}))
