# SPDX-License-Identifier: Apache-2.0
"""The status of ServiceChains: where their functions are in line, and what is wrong."""

from __future__ import annotations

from mesh.conditions import Trouble, condition, is_ready
from mesh.kube.api import CHAINS, FUNCTIONS, Object
from mesh.kube.chains import Place
from mesh.kube.functions import Tools
from mesh.kube.models import ServiceChainSpec
from mesh.kube.status import same_status, with_conditions

__all__ = ["Chains"]


class Chains:
    """Reconciles ServiceChains: they have nothing but a status; functions do what chains say."""

    def __init__(self, tools: Tools) -> None:
        self._api, self._world = tools.api, tools.world
        self._recorder, self._now = tools.recorder, tools.now

    def reconcile(self, name: str) -> None:
        """Writes a chain's status when it differs."""
        found = self._world.store(CHAINS).get(name)
        if found is None or not self._world.is_mine(found):
            self._world.forget(CHAINS, name)
            return
        if "deletionTimestamp" in found["metadata"]:
            return
        status, old = self._status(name, found), found.get("status")
        if same_status(status, old):
            return
        body = {"status": with_conditions(status, old, self._now())}
        after = self._api.patch(CHAINS, name, body, "status")
        self._world.store(CHAINS).put(after)
        degraded = status["conditions"][1]
        before = {each["type"]: each for each in (old or {}).get("conditions") or ()}
        said = before.get("Degraded", {}).get("message")
        if degraded["status"] == "True" and said != degraded["message"]:
            self._recorder.warning(after, degraded["reason"], degraded["message"])

    def _status(self, name: str, found: Object) -> Object:
        parsed = self._world.parsed(CHAINS, found)
        if not isinstance(spec := parsed.spec, ServiceChainSpec):
            return _status(found, "", [], Trouble("Invalid", str(parsed.error)), None)
        arrangement = self._world.arrangement()
        trouble = arrangement.problems.get(name)
        path = " → ".join(spec.functions)
        places = {each: arrangement.places[each] for each in spec.functions
                  if each in arrangement.places}  # fmt: skip
        waits = None if trouble else self._waits_for(spec)
        return _status(found, path, _stages(places), trouble, waits)

    def _waits_for(self, spec: ServiceChainSpec) -> Trouble | None:
        for name in spec.functions:
            function = self._world.store(FUNCTIONS).get(name) or {}
            conditions = (function.get("status") or {}).get("conditions") or ()
            if not is_ready(conditions):
                return Trouble("WaitingForFunction", f"{name!r} is not ready")
        return None


def _stages(places: dict[str, Place]) -> list[Object]:
    return [{"function": name, "stage": place.stage} for name, place in places.items()]


def _status(
    found: Object,
    path: str,
    stages: list[Object],
    trouble: Trouble | None,
    waits: Trouble | None,
) -> Object:
    generation = int(found["metadata"].get("generation", 1))
    ready = trouble or waits or Trouble("InPlace", "all functions are in line and ready")
    wrong = trouble or Trouble("AsWanted", "nothing is wrong")
    more = {"observedGeneration": generation}
    return {
        "observedGeneration": generation,
        "path": path or None,
        "stages": stages,
        "conditions": [
            condition("Ready", trouble is None and waits is None, ready, **more),
            condition("Degraded", trouble is not None, wrong, **more),
        ],
    }
