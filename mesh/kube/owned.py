# SPDX-License-Identifier: Apache-2.0
"""What belongs to a NetworkFunction on the API server: the Secret with its token, its Deployment.

Theory of operation. Deployments are watched. Secrets are not: whoever may watch one may read all of
a namespace. So a token is remembered, and its Secret is read again when that is older than FRESH_S
and the function is looked at. The Secret says what holds: one that was deleted is made with another
token, one that was written otherwise is taken over; either way stacks are told at once, and pods
are replaced by their Deployment, whose template has the token's digest.

What has a name that we need and is somebody else's is never touched.
"""

from __future__ import annotations

import base64
import logging
import secrets
import threading
import time
from collections.abc import Callable

from mesh.conditions import Trouble
from mesh.errors import ApiError
from mesh.kube.api import CONFLICT, DEPLOYMENTS, FUNCTIONS, SECRETS, Api, Object
from mesh.kube.reflector import Store
from mesh.kube.render import INSTANCE_LABEL, is_owned, same_as, secret_name, token_secret
from mesh.kube.settings import OperatorSettings

__all__ = ["Elsewhere", "Later", "Owned", "Taken", "is_rolling", "refusal_of"]

log = logging.getLogger("nfmesh.operator")

TOKEN_BYTES = 32
SHORTEST_TOKEN, LONGEST_TOKEN = 16, 1024
FRESH_S = 30.0


class Later(Exception):
    """Something has to come first; look again after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"again in {seconds} s")
        self.seconds = seconds


class Taken(Exception):
    """Something that the function needs is not as we could use it; nothing was touched."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.text)
        self.trouble = trouble


class Elsewhere(Exception):
    """Another release makes the function's pods; nothing was touched."""


class Owned:
    """Secrets and Deployments of functions. For several threads, each with another function.

    Args:
        api: the server.
        deployments: copies of those that are there.
        settings: of the release.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        api: Api,
        deployments: Store,
        settings: OperatorSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._deployments, self._settings = api, deployments, settings
        self._clock, self._lock = clock, threading.Lock()
        self._tokens: dict[str, tuple[str, float]] = {}
        self._unlike: dict[str, Object] = {}

    def token(self, owner: Object) -> str:
        """Returns a function's token; makes its Secret when there is none.

        Raises:
            ApiError: the server refused, or does not answer.
            Later, Taken: there is one that is not to be used.
        """
        uid, now = owner["metadata"]["uid"], self._clock()
        with self._lock:
            token, at = self._tokens.get(uid, ("", 0.0))
        if token and now - at < FRESH_S:
            return token
        is_new = not token and self._deployments.get(owner["metadata"]["name"]) is None
        found = None if is_new else self._read(owner)
        if found is None and token:
            log.warning("%s: its Secret is gone: another token", owner["metadata"]["name"])
        token = found or self._make(owner)
        with self._lock:
            self._tokens[uid] = (token, now)
        return token

    def deployment(self, owner: Object, wanted: Object) -> Object:
        """Makes a function's Deployment be as it is wanted, and returns it.

        Raises:
            ApiError: the server refused, or does not answer.
            Later, Taken, Elsewhere: there is one that is not to be used.
        """
        name, uid = owner["metadata"]["name"], owner["metadata"]["uid"]
        actual = self._deployments.get(name) or self._created(name, wanted)
        _check_owner(actual, owner, "Deployment")
        self._check_release(actual, owner)
        self._deployments.put(actual)  # others' are not watched: that one goes would not be seen
        if _is_as(actual, wanted) or self._unlike.get(uid) == wanted:
            return actual
        metadata = {**actual["metadata"]}
        metadata["labels"] = {**(metadata.get("labels") or {}), **wanted["metadata"]["labels"]}
        after = self._api.replace(DEPLOYMENTS, {**wanted, "metadata": metadata})
        self._deployments.put(after)
        if not _is_as(after, wanted):
            log.warning("deployment %s: the server keeps it otherwise than it was told", name)
            self._unlike[uid] = wanted
        return after

    def keep_only(self, uids: set[str]) -> None:
        """Forgets functions that are not among these."""
        with self._lock:
            for uid in self._tokens.keys() - uids:
                del self._tokens[uid]
            for uid in self._unlike.keys() - uids:
                del self._unlike[uid]

    def _make(self, owner: Object) -> str:
        token = secrets.token_hex(TOKEN_BYTES)
        try:
            self._api.create(SECRETS, token_secret(owner, token, self._settings))
        except ApiError as error:
            if error.status != CONFLICT:
                raise
            if (found := self._read(owner)) is None:
                raise Later(1.0) from error
            return found
        return token

    def _read(self, owner: Object) -> str | None:
        name = secret_name(owner["metadata"]["name"])
        secret = self._api.find(SECRETS, name)
        if secret is None:
            return None
        _check_owner(secret, owner, "Secret")
        text = (secret.get("data") or {}).get("token", "")
        token = base64.b64decode(text).decode(errors="replace").strip()
        if not SHORTEST_TOKEN <= len(token.encode()) <= LONGEST_TOKEN:
            size = f"has a token of {len(token.encode())} bytes"
            limits = f"{SHORTEST_TOKEN} to {LONGEST_TOKEN} are wanted"
            text = f"Secret {name!r} {size}, {limits}: delete it, it is made again"
            raise Taken(Trouble("SecretInvalid", text))
        return token

    def _created(self, name: str, wanted: Object) -> Object:
        try:
            found = self._api.create(DEPLOYMENTS, wanted)
        except ApiError as error:
            if error.status != CONFLICT:
                raise
            found = self._api.get(DEPLOYMENTS, name)
        return found

    def _check_release(self, found: Object, owner: Object) -> None:
        """Refuses what another release has made of the same function."""
        other = (found["metadata"].get("labels") or {}).get(INSTANCE_LABEL)
        if other == self._settings.release:
            return
        name = found["metadata"]["name"]
        if INSTANCE_LABEL in (owner["metadata"].get("labels") or {}):
            text = f"its Deployment {name!r} is of release {other!r}: delete it, it is made again"
            raise Taken(Trouble("NameTaken", text))
        raise Elsewhere(
            f"release {other!r} makes its pods: label it {INSTANCE_LABEL}, "
            "or set operator.adoptUnlabelled: false in all releases but one"
        )


def is_rolling(made: Object) -> bool:
    """True while pods of an older revision are there beside those of the newest."""
    status = made.get("status") or {}
    if int(status.get("observedGeneration") or 0) < int(made["metadata"].get("generation") or 0):
        return bool(status)
    return int(status.get("replicas") or 0) > int(status.get("updatedReplicas") or 0)


def refusal_of(made: Object) -> str:
    """Returns why the server takes no pod of a Deployment: a quota, a policy; "" when it does."""
    for each in (made.get("status") or {}).get("conditions") or ():
        if each.get("type") == "ReplicaFailure" and each.get("status") == "True":
            return str(each.get("message") or each.get("reason"))
    return ""


def _check_owner(found: Object, owner: Object, what: str) -> None:
    """Refuses what is not ours.

    Raises:
        Later: it was made for a namesake that is gone, and goes soon.
        Taken: it is somebody else's.
    """
    if is_owned(found, owner):
        return
    references = found["metadata"].get("ownerReferences") or ()
    if any(each.get("kind") == FUNCTIONS.name for each in references):
        raise Later(1.0)
    name = found["metadata"]["name"]
    text = f"there is a {what} {name!r} that is not this function's: rename one of them"
    raise Taken(Trouble("NameTaken", text))


def _is_as(actual: Object, wanted: Object) -> bool:
    labels = wanted["metadata"]["labels"]
    return same_as(actual.get("spec"), wanted["spec"]) and same_as(
        actual["metadata"].get("labels"), labels
    )
