# SPDX-License-Identifier: Apache-2.0
"""Makes one NetworkFunction be as its object says; says in its status how far that is.

Theory of operation: `reconcile` looks at the object and at all that belongs to it, does what is
missing, and writes the status when it differs. It is called whenever something may have changed,
remembers nothing that it cannot find out again, and does nothing when all is as wanted. In order:
our finalizer, the token's Secret, the Deployment, the wishes to the stacks, the status.

A stack is told of a function while a pod of it is on its node, before that pod attaches. When the
pod is gone, the stack keeps the function (and its fail policy) until its successor elsewhere is
attached, the function is deleted, or fewer pods are wanted.

Writes are few: three to make a function, one for its status. So the first status waits a little,
unless something is wrong, the longer the more functions come at once: most are ready before.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from mesh.conditions import Trouble, news_of
from mesh.errors import ApiError
from mesh.kube.api import CHAINS, DEPLOYMENTS, FUNCTIONS, SECRETS, Api, Object
from mesh.kube.manifests import entry_of
from mesh.kube.models import GROUP, NetworkFunctionSpec
from mesh.kube.recorder import Recorder
from mesh.kube.render import (
    deployment,
    is_owned,
    same_as,
    secret_name,
    selector_of,
    token_secret,
)
from mesh.kube.status import (
    Facts,
    cores_of,
    function_status,
    same_status,
    with_conditions,
)
from mesh.kube.wiring import Stacks, View, Wish
from mesh.kube.world import World

__all__ = ["FINALIZER", "Functions", "Later"]

log = logging.getLogger("nfmesh.operator")

FINALIZER = f"{GROUP}/attached"
FIRST_STATUS_S, MORE_S, MOST_S = 5.0, 0.1, 30.0
LEAVE_S = 60.0
TOKEN_BYTES = 32
CONFLICT, NOT_FOUND = 409, 404


class Later(Exception):
    """Something has to come first; look again after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"again in {seconds} s")
        self.seconds = seconds


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
    now: Callable[[], str] = lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Functions:
    """Reconciles NetworkFunctions. Several threads may do so, each with another name."""

    def __init__(self, tools: Tools) -> None:
        self._api, self._world, self._stacks = tools.api, tools.world, tools.stacks
        self._recorder, self._clock, self._now = tools.recorder, tools.clock, tools.now
        self._settings = tools.world.settings
        self._lock = threading.Lock()
        self._tokens: dict[str, str] = {}
        self._since: dict[str, float] = {}
        self._unlike: dict[str, Object] = {}

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
            token = self._token(found)
            made = self._deployment(found, spec)
        except _Taken as taken:
            return self._report(self._facts(found, spec, None, taken.trouble), found)
        self._wire(name, spec, token)
        trouble = self._refusal(name)
        return self._report(self._facts(found, spec, made, trouble), found)

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

    def _token(self, found: Object) -> str:
        """Returns the function's token; makes its Secret when there is none."""
        uid, name = found["metadata"]["uid"], found["metadata"]["name"]
        with self._lock:
            if uid in self._tokens:
                return self._tokens[uid]
        token = None
        if self._world.store(DEPLOYMENTS).get(name) is not None:
            token = self._read_token(found)
        if token is None:
            token = secrets.token_hex(TOKEN_BYTES)
            try:
                self._api.create(SECRETS, token_secret(found, token, self._settings))
            except ApiError as error:
                if error.status != CONFLICT:
                    raise
                token = self._read_token(found)
        if token is None:
            raise Later(1.0)
        with self._lock:
            self._tokens[uid] = token
        return token

    def _read_token(self, found: Object) -> str | None:
        name = found["metadata"]["name"]
        try:
            secret = self._api.get(SECRETS, secret_name(name))
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise
        _check_owner(secret, found, "Secret")
        text = (secret.get("data") or {}).get("token", "")
        token = base64.b64decode(text).decode(errors="replace").strip()
        if not token:
            text = f"Secret {secret_name(name)!r} has no token: delete it, it is made again"
            raise _Taken(Trouble("SecretInvalid", text))
        return token

    def _deployment(self, found: Object, spec: NetworkFunctionSpec) -> Object:
        name, uid = found["metadata"]["name"], found["metadata"]["uid"]
        store = self._world.store(DEPLOYMENTS)
        wanted = deployment(found, spec, self._settings, self.wanted(spec))
        actual = store.get(name)
        if actual is None:
            try:
                actual = self._api.create(DEPLOYMENTS, wanted)
            except ApiError as error:
                if error.status != CONFLICT:
                    raise
                actual = self._api.get(DEPLOYMENTS, name)
            store.put(actual)
        _check_owner(actual, found, "Deployment")
        if _is_as(actual, wanted) or self._unlike.get(uid) == wanted:
            return actual
        metadata = {**actual["metadata"]}
        metadata["labels"] = {**(metadata.get("labels") or {}), **wanted["metadata"]["labels"]}
        after = self._api.replace(DEPLOYMENTS, {**wanted, "metadata": metadata})
        store.put(after)
        if not _is_as(after, wanted):
            log.warning("deployment %s: the server keeps it otherwise than it was told", name)
            self._unlike[uid] = wanted
        return after

    # ---- the stacks ------------------------------------------------------------------------

    def _wire(self, name: str, spec: NetworkFunctionSpec, token: str) -> None:
        place = self._world.arrangement().places.get(name)
        digest = hashlib.sha256(token.encode()).hexdigest()
        wish = Wish(entry_of(name, spec, place), digest)
        pods = self._world.pods_of(name)
        nodes = {pod.node for pod in pods if pod.node}
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
        if left and _age_s(metadata["deletionTimestamp"]) < LEAVE_S:
            return 1.0
        if left or any(view.error for view in views.values()):
            text = "deleted though not every stack could be told; what is left there goes later"
            self._recorder.warning(found, "StackUnreachable", text)
        rest = [each for each in finalizers if each != FINALIZER]
        body = {"metadata": {"finalizers": rest, "resourceVersion": metadata["resourceVersion"]}}
        try:
            self._api.patch(FUNCTIONS, name, body)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
        return None

    def _forget(self, name: str) -> None:
        self._stacks.unwant(name)
        self._world.forget(FUNCTIONS, name)
        uids = {found["metadata"]["uid"] for found in self._world.store(FUNCTIONS)}
        with self._lock:
            for known in (self._tokens, self._since, self._unlike):
                for uid in [uid for uid in known if uid not in uids]:
                    del known[uid]

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
            rolling=made is not None and _is_rolling(made),
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
        name = found["metadata"]["name"]
        self._stacks.unwant(name)
        nothing = NetworkFunctionSpec(use="none", replicas=0)
        return self._report(self._facts(found, nothing, None, trouble), found)

    def _report(self, facts: Facts, found: Object) -> float | None:
        """Writes the status when it says something else than before."""
        status, old = function_status(facts), found.get("status")
        if same_status(status, old):
            return None
        ready, _, degraded = status["conditions"]
        is_soon = ready["status"] != "True" and facts.stacks > 0
        if not old and is_soon and degraded["status"] != "True":
            uid = found["metadata"]["uid"]
            with self._lock:
                since = self._since.setdefault(uid, self._clock())
                patience = FIRST_STATUS_S + MORE_S * len(self._since)
            left = since + min(patience, MOST_S) - self._clock()
            if left > 0:
                return left
        with self._lock:
            self._since.pop(found["metadata"]["uid"], None)
        after = self._patched(
            found, {"status": with_conditions(status, old, self._now())}, "status"
        )
        self._tell(after, status, old)
        return None

    def _tell(self, found: Object, status: Object, old: Object | None) -> None:
        news = news_of(status["conditions"], (old or {}).get("conditions"))
        if news is not None:
            say = self._recorder.warning if news.kind == "Warning" else self._recorder.normal
            say(found, news.reason, news.text)


class _Taken(Exception):
    """A name that the function needs is somebody else's."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.text)
        self.trouble = trouble


def _check_owner(found: Object, owner: Object, what: str) -> None:
    """Refuses what is not ours.

    Raises:
        Later: it was made for a namesake that is gone, and goes soon.
        _Taken: it is somebody else's.
    """
    if is_owned(found, owner):
        return
    references = found["metadata"].get("ownerReferences") or ()
    if any(each.get("kind") == FUNCTIONS.name for each in references):
        raise Later(1.0)
    name = found["metadata"]["name"]
    text = f"there is a {what} {name!r} that is not this function's: rename one of them"
    raise _Taken(Trouble("NameTaken", text))


def _is_as(actual: Object, wanted: Object) -> bool:
    labels = wanted["metadata"]["labels"]
    return same_as(actual.get("spec"), wanted["spec"]) and same_as(
        actual["metadata"].get("labels"), labels
    )


def _is_rolling(made: Object) -> bool:
    """True while pods of an older revision are there beside those of the newest."""
    status = made.get("status") or {}
    if int(status.get("observedGeneration") or 0) < int(made["metadata"].get("generation") or 0):
        return bool(status)
    return int(status.get("replicas") or 0) > int(status.get("updatedReplicas") or 0)


def _phase(view: View, name: str) -> str:
    seen = view.attachments.get(name)
    return seen.phase if seen is not None and not view.error else ""


def _age_s(stamp: str) -> float:
    at = datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return (datetime.now(UTC) - at).total_seconds()


def affected_chains(world: World, name: str) -> Iterable[str]:
    """Yields the chains that name a function."""
    for chain in world.store(CHAINS):
        if name in ((chain.get("spec") or {}).get("functions") or ()):
            yield chain["metadata"]["name"]
