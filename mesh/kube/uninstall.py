# SPDX-License-Identifier: Apache-2.0
"""Deletes a release's custom resources, and waits until the operator has let them go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from mesh.kube.api import CHAINS, FUNCTIONS, Api, Kind, Object, unless_gone
from mesh.kube.functions import FINALIZER
from mesh.kube.leader import RENEW_S, Leader
from mesh.kube.render import INSTANCE_LABEL
from mesh.kube.settings import OperatorSettings

__all__ = ["uninstall"]

log = logging.getLogger("nfmesh.operator")
PATIENCE_S = 60.0
LOOK_S = 1.0


def uninstall(
    api: Api,
    settings: OperatorSettings,
    patience_s: float = PATIENCE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Deletes the objects of a release; who does not go in time loses our finalizer.

    Objects without a label are their users': they stay, and only lose the finalizer, which nobody
    would take off later. So that no operator puts it on again, its Lease is taken for that.

    Args:
        api: the server.
        settings: say which release.
        patience_s: seconds for the operator to let them go in order.
        sleep: waits.

    Returns:
        How many had to be let go without the operator.
    """
    for kind in (CHAINS, FUNCTIONS):
        for found in _own(api, settings, kind):
            if "deletionTimestamp" not in found["metadata"]:
                with unless_gone():
                    api.delete(kind, _name(found))
    until = time.monotonic() + patience_s
    while (left := list(_own(api, settings, FUNCTIONS))) and time.monotonic() < until:
        log.info("%d network functions are leaving", len(left))
        sleep(LOOK_S)
    for found in left:
        rest = [each for each in found["metadata"].get("finalizers", ()) if each != FINALIZER]
        body = {"metadata": {"finalizers": rest}}
        log.warning("%s is let go though its stacks were not told", _name(found))
        with unless_gone():
            api.patch(FUNCTIONS, _name(found), body)
    _let_adopted_go(api, settings, sleep)
    return len(left)


def _let_adopted_go(api: Api, settings: OperatorSettings, sleep: Callable[[float], None]) -> None:
    def held() -> list[Object]:
        return [
            found
            for found in api.list(FUNCTIONS).get("items") or ()
            if INSTANCE_LABEL not in (found["metadata"].get("labels") or {})
            and FINALIZER in found["metadata"].get("finalizers", ())
        ]

    if not settings.adopt_unlabelled or not held():
        return
    Leader(api, settings.lease_name, "uninstall").seize()
    sleep(RENEW_S + LOOK_S)
    for found in held():
        rest = [each for each in found["metadata"]["finalizers"] if each != FINALIZER]
        log.info("%s stays, and can be deleted without an operator", _name(found))
        with unless_gone():
            api.patch(FUNCTIONS, _name(found), {"metadata": {"finalizers": rest}})


def _own(api: Api, settings: OperatorSettings, kind: Kind) -> Iterator[Object]:
    for found in api.list(kind).get("items") or ():
        label = (found["metadata"].get("labels") or {}).get(INSTANCE_LABEL)
        if label == settings.release:
            yield found


def _name(found: Object) -> str:
    return str(found["metadata"]["name"])
