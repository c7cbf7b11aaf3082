# SPDX-License-Identifier: Apache-2.0
"""Makes one NetworkFunction be as its object says; says in its status how far that is.

Theory of operation: `reconcile` looks at the object and at all that belongs to it, does what is
missing, and writes the status when it differs. It is called whenever something may have changed,
remembers nothing that it cannot find out again, and does nothing when all is as wanted. In order:
our finalizer, the stacks' word that they would take it, the token's Secret and the Deployment
(`owned.py`), the wishes to the stacks, the status, the budget (`budgets.py`). A spec that no stack
would take goes no further: what was made of an earlier one stays as it is.

A stack is told of a function while a pod of it is on its node, before that pod attaches. When the
pod is gone, the stack keeps the function (and its fail policy) until its successor elsewhere is
attached, the function is deleted, or fewer pods are wanted.

Writes are few: three to make a function, one for its status. So the first status waits a little,
unless something is wrong, the longer the more functions come at once: most are ready before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mesh.conditions import Trouble, news_of, stamp_of
from mesh.kube.agent import View, Wish
from mesh.kube.api import CHAINS, DEPLOYMENTS, FUNCTIONS, Api, Object, unless_gone
from mesh.kube.budgets import Budgets
from mesh.kube.manifests import entry_of
from mesh.kube.models import GROUP, NetworkFunctionSpec
from mesh.kube.owned import Elsewhere, Later, Owned, Taken, is_rolling, refusal_of
from mesh.kube.recorder import Recorder
from mesh.kube.render import deployment, pod_marks, selector_of, token_digest
from mesh.kube.status import Facts, cores_of, function_status, same_status, with_conditions
from mesh.kube.wiring import Stacks
from mesh.kube.world import World

__all__ = ["FINALIZER", "Functions", "Tools"]

FINALIZER = f"{GROUP}/attached"
FIRST_STATUS_S, MORE_S, MOST_S = 5.0, 0.1, 30.0
LEAVE_S = 60.0
CHECKING_S = 5.0
COMING_S = 30.0
"""Between two looks at a function whose pods are placed and do not run: a Secret may be gone; and
at one that waits for what is not watched."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What reconciling works with.

    Attributes:
        clock: monotonic seconds.
        now: the time, as Kubernetes writes it.
    """

    api: Api
    world: World
    stacks: Stacks
    recorder: Recorder
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], str] = lambda: stamp_of(time.time())


class Functions:
    """Reconciles NetworkFunctions. Several threads may do so, each with another name."""

    def __init__(self, tools: Tools) -> None:
        self._api, self._world, self._stacks = tools.api, tools.world, tools.stacks
        self._recorder, self._clock, self._now = tools.recorder, tools.clock, tools.now
        self._settings = tools.world.settings
        deployments = tools.world.store(DEPLOYMENTS)
        self._owned = Owned(tools.api, deployments, self._settings, tools.clock)
        self._budgets = Budgets(tools.api, tools.world.budgets, self._settings)
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        self._leaving: dict[str, float] = {}

    def reconcile(self, name: str) -> float | None:
        """Makes a function be as its object says.

        Returns:
            Seconds after which to look again; None: when something changes.

        Raises:
            ApiError: the server refused, or does not answer.
            Later: something has to come first.
        """
        found = self._world.store(FUNCTIONS).get(name)
        if found is None or not self._world.is_mine(found):
            self._forget(name)
            return None
        if "deletionTimestamp" in found["metadata"]:
            return self._let_go(found)
        parsed = self._world.parsed(FUNCTIONS, found)
        if not isinstance(spec := parsed.spec, NetworkFunctionSpec):
            text = str(parsed.error) if parsed.error else "no spec"
            return self._report_invalid(found, Trouble("Invalid", text))
        found = self._hold(found)
        try:
            made, trouble = self._carry_out(found, spec)
        except Elsewhere as elsewhere:
            self._recorder.warning(found, "OtherRelease", str(elsewhere))
            return COMING_S
        pause = self._report(self._facts(found, spec, made, trouble), found)
        if trouble is None:
            self._budgets.keep(found, spec)
        waits = trouble is not None and trouble.reason in ("NameTaken", "SecretInvalid")
        is_coming = any(pod.node and pod.phase != "Running" for pod in self._world.pods_of(name))
        return COMING_S if pause is None and (waits or is_coming) else pause

    def _carry_out(
        self, found: Object, spec: NetworkFunctionSpec
    ) -> tuple[Object | None, Trouble | None]:
        """Makes what belongs to a function, and tells the stacks.

        Returns:
            Its Deployment, None while there is none; what keeps the spec from being carried out.
        """
        name = found["metadata"]["name"]
        made = self._world.store(DEPLOYMENTS).get(name)
        entry = entry_of(name, spec, self._world.arrangement().places.get(name))
        unfit = self._stacks.check(name, entry)
        if unfit is None:
            raise Later(CHECKING_S)
        if unfit:
            return made, Trouble("GraphInvalid", unfit)
        try:
            token = self._owned.token(found)
            marks = pod_marks(token, made)
            wanted = deployment(found, spec, self._settings, self.wanted(spec), marks)
            made = self._owned.deployment(found, wanted)
        except Taken as taken:
            return None, taken.trouble
        self._wire(name, spec, Wish(entry, token_digest(token)))
        return made, self._refusal(name)

    def wanted(self, spec: NetworkFunctionSpec) -> int:
        """Returns how many pods a function shall have."""
        if spec.every_node:
            return len({pod.node for pod in self._world.stack_pods()})
        return spec.replicas

    # ---- what belongs to it ----------------------------------------------------------------

    def _hold(self, found: Object) -> Object:
        """Puts our finalizer on the object, so that stacks let it go before it is gone."""
        metadata = found["metadata"]
        finalizers = list(metadata.get("finalizers") or ())
        if FINALIZER in finalizers:
            return found
        body = {
            "metadata": {
                "finalizers": [*finalizers, FINALIZER],
                "resourceVersion": metadata["resourceVersion"],
            }
        }
        return self._patched(found, body)

    def _patched(self, found: Object, body: Object, subresource: str = "") -> Object:
        after = self._api.patch(FUNCTIONS, found["metadata"]["name"], body, subresource)
        self._world.store(FUNCTIONS).put(after)
        return after

    # ---- the stacks ------------------------------------------------------------------------

    def _wire(self, name: str, spec: NetworkFunctionSpec, wish: Wish) -> None:
        nodes = {pod.node for pod in self._world.pods_of(name) if pod.node}
        for node in nodes:
            self._stacks.want(node, name, wish)
        wanted = self.wanted(spec)
        views = self._stacks.views()
        attached = sum(
            1 for node in nodes if node in views and _phase(views[node], name) == "attached"
        )
        if wanted == 0 or attached >= wanted:
            left = [node for node in self._stacks.having(name) if node not in nodes]
            self._stacks.unwant(name, left)

    def _refusal(self, name: str) -> Trouble | None:
        for node, view in self._stacks.views().items():
            if name in view.refused:
                return Trouble("GraphInvalid", f"node {node}: {view.refused[name]}")
        return None

    def _let_go(self, found: Object) -> float | None:
        """Lets the stacks remove a function that is being deleted, then lets the object go."""
        metadata = found["metadata"]
        name = metadata["name"]
        finalizers = list(metadata.get("finalizers") or ())
        if FINALIZER not in finalizers:
            return None
        self._stacks.unwant(name)
        views = self._stacks.views()
        left = [node for node in self._stacks.having(name) if not views[node].error]
        with self._lock:
            until = self._leaving.setdefault(metadata["uid"], self._clock() + LEAVE_S)
        if left and self._clock() < until:
            return 1.0
        if left or any(view.error for view in views.values()):
            text = "deleted though not every stack could be told; what is left there goes later"
            self._recorder.warning(found, "StackUnreachable", text)
        rest = [each for each in finalizers if each != FINALIZER]
        body = {"metadata": {"finalizers": rest, "resourceVersion": metadata["resourceVersion"]}}
        with unless_gone():
            self._api.patch(FUNCTIONS, name, body)
        return None

    def _forget(self, name: str) -> None:
        self._stacks.unwant(name)
        self._world.forget(FUNCTIONS, name)
        uids = {found["metadata"]["uid"] for found in self._world.store(FUNCTIONS)}
        self._owned.keep_only(uids)
        with self._lock:
            for times in (self._since, self._leaving):
                for uid in times.keys() - uids:
                    del times[uid]

    # ---- the status ------------------------------------------------------------------------

    def _facts(
        self,
        found: Object,
        spec: NetworkFunctionSpec,
        made: Object | None,
        trouble: Trouble | None,
    ) -> Facts:
        name = found["metadata"]["name"]
        views = self._stacks.views()
        pods = self._world.pods_of(name)
        nodes = {pod.node for pod in pods}
        return Facts(
            spec=spec,
            generation=int(found["metadata"].get("generation", 1)),
            selector=selector_of(name, self._settings),
            wanted=self.wanted(spec),
            pods=pods,
            stacks=len(views),
            stack_trouble=self._world.stack_trouble(),
            seen={
                node: view.attachments[name]
                for node, view in views.items()
                if node in nodes and name in view.attachments and not view.error
            },
            neighbours=self._neighbours(name, {n: v for n, v in views.items() if n in nodes}),
            unreachable={node: view.error for node, view in views.items() if view.error},
            trouble=trouble,
            refused=refusal_of(made) if made is not None else "",
            rolling=made is not None and is_rolling(made),
        )

    def _neighbours(
        self, name: str, views: Mapping[str, View]
    ) -> dict[str, dict[str, frozenset[int]]]:
        """Finds the cores of other functions that have some of their own."""
        pinned = {other for other, spec in self._world.functions().items() if spec.cores}
        return {
            node: {
                other: cores_of(seen.cpus)
                for other, seen in view.attachments.items()
                if other != name and other in pinned and seen.phase == "attached"
            }
            for node, view in views.items()
        }

    def _report_invalid(self, found: Object, trouble: Trouble) -> float | None:
        """Says what is wrong; what an earlier spec made goes on, lest a typo opens a hole."""
        nothing = NetworkFunctionSpec(use="none", replicas=0)
        return self._report(self._facts(found, nothing, None, trouble), found)

    def _report(self, facts: Facts, found: Object) -> float | None:
        """Writes the status when it says something else than before."""
        status, old = function_status(facts), found.get("status")
        if same_status(status, old):
            return None
        ready, _, degraded = status["conditions"]
        is_on_its_way = ready["status"] != "True" and degraded["status"] != "True"
        uid = found["metadata"]["uid"]
        if not old and is_on_its_way and facts.stacks and (left := self._patience(uid)) > 0:
            return left
        with self._lock:
            self._since.pop(uid, None)
        after = self._patched(
            found, {"status": with_conditions(status, old, self._now())}, "status"
        )
        self._tell(after, status, old)
        return None

    def _patience(self, uid: str) -> float:
        """Returns how many seconds a first status may still wait for better news."""
        with self._lock:
            since = self._since.setdefault(uid, self._clock())
            patience = FIRST_STATUS_S + MORE_S * len(self._since)
        return since + min(patience, MOST_S) - self._clock()

    def _tell(self, found: Object, status: Object, old: Object | None) -> None:
        news = news_of(status["conditions"], (old or {}).get("conditions"))
        if news is not None:
            say = self._recorder.warning if news.kind == "Warning" else self._recorder.normal
            say(found, news.reason, news.text)


def _phase(view: View, name: str) -> str:
    seen = view.attachments.get(name)
    return seen.phase if seen is not None and not view.error else ""


def affected_chains(world: World, name: str) -> Iterable[str]:
    """Yields the chains that name a function."""
    for chain in world.store(CHAINS):
        if name in ((chain.get("spec") or {}).get("functions") or ()):
            yield chain["metadata"]["name"]
