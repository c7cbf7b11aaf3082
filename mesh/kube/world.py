# SPDX-License-Identifier: Apache-2.0
"""What the operator knows: copies of the API server's objects, and what follows from them.

Specs are parsed once per generation, and chains are arranged once per change of any of them; both
are asked for at every look at an object.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mesh.conditions import Trouble
from mesh.errors import SpecError
from mesh.kube.api import CHAINS, DEPLOYMENTS, FUNCTIONS, PODS, Api, Kind, Object, budgets_of
from mesh.kube.chains import Arrangement, arrange
from mesh.kube.models import NetworkFunctionSpec, ServiceChainSpec, parse_object
from mesh.kube.pods import PodFacts, pod_facts, trouble_of
from mesh.kube.reflector import Changed, Reflector, Store
from mesh.kube.render import FUNCTION_LABEL, INSTANCE_LABEL
from mesh.kube.settings import OperatorSettings

__all__ = ["Parsed", "World"]

Heard = Callable[[Kind, Object | None, Object | None], None]


@dataclass(frozen=True, slots=True)
class Parsed:
    """An object's spec, or what is wrong with it."""

    spec: NetworkFunctionSpec | ServiceChainSpec | None
    error: SpecError | None


class World:
    """Copies of all objects of one release, kept up to date.

    Args:
        api: the server.
        settings: of the release.
        heard: called for each difference with the kind, the object before and after.
    """

    def __init__(self, api: Api, settings: OperatorSettings, heard: Heard) -> None:
        self.settings = settings
        own = f"{INSTANCE_LABEL}={settings.release}"
        stack = settings.stack.selector

        def reflector(kind: Kind, selector: str = "") -> Reflector:
            changed: Changed = lambda before, after: heard(kind, before, after)  # noqa: E731
            return Reflector(api, kind, changed, selector)

        pods = reflector(PODS, own if stack.get(INSTANCE_LABEL) == settings.release else "")
        self.reflectors = {
            FUNCTIONS: reflector(FUNCTIONS),
            CHAINS: reflector(CHAINS),
            DEPLOYMENTS: reflector(DEPLOYMENTS, own),
            PODS: pods,
        }
        self.budgets = reflector(budgets_of(settings.budget.version), own)
        self.reflectors[self.budgets.kind] = self.budgets
        self._parsed: dict[tuple[str, str], tuple[tuple[str, int], Parsed]] = {}
        self._arranged: tuple[object, Arrangement] | None = None
        self._pods: tuple[int, dict[str, list[PodFacts]], list[PodFacts]] | None = None
        self._lock = threading.Lock()

    def store(self, kind: Kind) -> Store:
        """Returns the copies of one kind."""
        return self.reflectors[kind].store

    @property
    def is_synced(self) -> bool:
        """True once all kinds have been listed that nothing goes without."""
        return all(each.is_synced for each in self.needed())

    def needed(self) -> list[Reflector]:
        """Returns the copies that nothing goes without."""
        return [each for each in self.reflectors.values() if each is not self.budgets]

    def is_mine(self, found: Object) -> bool:
        """True for objects of this release."""
        label = (found["metadata"].get("labels") or {}).get(INSTANCE_LABEL)
        if label is None:
            return self.settings.adopt_unlabelled
        return bool(label == self.settings.release)

    def parsed(self, kind: Kind, found: Object) -> Parsed:
        """Returns an object's spec."""
        metadata = found["metadata"]
        key = (kind.plural, metadata["name"])
        version = (str(metadata.get("uid", "")), int(metadata.get("generation", 0)))
        with self._lock:
            known = self._parsed.get(key)
        if known is not None and known[0] == version:
            return known[1]
        try:
            parsed = Parsed(parse_object(found), None)
        except SpecError as error:
            parsed = Parsed(None, error)
        with self._lock:
            self._parsed[key] = (version, parsed)
        return parsed

    def forget(self, kind: Kind, name: str) -> None:
        """Drops what was kept of an object that is gone."""
        with self._lock:
            self._parsed.pop((kind.plural, name), None)

    def functions(self) -> dict[str, NetworkFunctionSpec]:
        """Returns the specs of all functions that are right and stay."""
        return {
            found["metadata"]["name"]: spec
            for found in self._staying(FUNCTIONS)
            if isinstance(spec := self.parsed(FUNCTIONS, found).spec, NetworkFunctionSpec)
        }

    def arrangement(self) -> Arrangement:
        """Returns what all chains together say."""
        chains = sorted(self._staying(CHAINS), key=_age)
        key = (
            tuple(_version(found) for found in chains),
            tuple(sorted(_version(found) for found in self._staying(FUNCTIONS))),
        )
        with self._lock:
            if self._arranged is not None and self._arranged[0] == key:
                return self._arranged[1]
        specs = [
            (found["metadata"]["name"], spec)
            for found in chains
            if isinstance(spec := self.parsed(CHAINS, found).spec, ServiceChainSpec)
        ]
        found = arrange(specs, self.functions())
        with self._lock:
            self._arranged = (key, found)
        return found

    def pods_of(self, name: str) -> list[PodFacts]:
        """Returns a function's pods that are not over."""
        return self._read_pods()[0].get(name, [])

    def stack_pods(self) -> list[PodFacts]:
        """Returns the stack pods that are on a node and have an address."""
        return [pod for pod in self._read_pods()[1] if pod.node and pod.ip]

    def stack_trouble(self) -> Trouble | None:
        """Says why a stack pod does not come up: huge pages, devices, an image; None: nothing."""
        found = (trouble_of(pod) for pod in self._read_pods()[1] if not pod.is_leaving)
        return next((trouble for trouble in found if trouble is not None), None)

    def _read_pods(self) -> tuple[dict[str, list[PodFacts]], list[PodFacts]]:
        store = self.store(PODS)
        serial = store.serial
        with self._lock:
            if self._pods is not None and self._pods[0] == serial:
                return self._pods[1], self._pods[2]
        functions: dict[str, list[PodFacts]] = {}
        stacks: list[PodFacts] = []
        for pod in store:
            labels = pod["metadata"].get("labels") or {}
            facts = pod_facts(pod)
            if facts.is_over:
                continue
            name = labels.get(FUNCTION_LABEL)
            if name is not None and labels.get(INSTANCE_LABEL) == self.settings.release:
                functions.setdefault(name, []).append(facts)
            elif _has(labels, self.settings.stack.selector):
                stacks.append(facts)
        with self._lock:
            self._pods = (serial, functions, stacks)
        return functions, stacks

    def _staying(self, kind: Kind) -> list[Object]:
        return [
            found
            for found in self.store(kind)
            if self.is_mine(found) and "deletionTimestamp" not in found["metadata"]
        ]


def _has(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def _age(found: Object) -> tuple[str, str]:
    metadata = found["metadata"]
    return str(metadata.get("creationTimestamp", "")), metadata["name"]


def _version(found: Object) -> tuple[str, str, int]:
    metadata = found["metadata"]
    return metadata["name"], str(metadata.get("uid", "")), int(metadata.get("generation", 0))
