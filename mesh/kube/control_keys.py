# SPDX-License-Identifier: Apache-2.0
"""The keys between operator and stacks: one Secret of the release, made when it is missing."""

from __future__ import annotations

import base64
import logging
import tempfile
from pathlib import Path

from mesh.control.keys import FILES, ClientKeys, make_keys
from mesh.errors import ApiError, ProcessError
from mesh.kube.api import CONFLICT, DEPLOYMENTS, SECRETS, Api, Object
from mesh.kube.render import INSTANCE_LABEL, owner_of
from mesh.kube.settings import OperatorSettings

__all__ = ["control_keys"]

log = logging.getLogger("nfmesh.operator")


def control_keys(api: Api, settings: OperatorSettings, deployment: str = "") -> ClientKeys:
    """Returns the operator's side of the keys.

    Args:
        api: the server.
        settings: name the Secret.
        deployment: this operator's own, which the Secret shall go with; "" none.

    Raises:
        ApiError: the server refused or does not answer; or the Secret is about to go.
        ProcessError: the Secret is there and is not whole.
    """
    name = settings.control_secret
    owner = api.get(DEPLOYMENTS, deployment) if deployment else None
    secret = api.find(SECRETS, name) or _made(api, settings, owner)
    if owner is not None and _is_left_over(secret, owner):
        raise ApiError(f"Secret {name!r} is of an operator that is gone, and goes soon")
    found = {key: base64.b64decode(text) for key, text in (secret.get("data") or {}).items()}
    missing = [key for key in FILES if key not in found]
    if missing:
        text = f"Secret {name!r} has no {missing[0]}: delete it, and new keys are made"
        raise ProcessError(text)
    with tempfile.TemporaryDirectory() as folder:
        for key in ("client.key", "server.pub"):
            (Path(folder) / key).write_bytes(found[key])
        return ClientKeys.read(Path(folder))


def _is_left_over(secret: Object, owner: Object) -> bool:
    """True when a Secret goes with a namesake of its owner: the release was installed anew."""
    references = secret["metadata"].get("ownerReferences") or ()
    mine = owner["metadata"]
    return any(each["name"] == mine["name"] and each["uid"] != mine["uid"] for each in references)


def _made(api: Api, settings: OperatorSettings, owner: Object | None) -> Object:
    metadata: Object = {
        "name": settings.control_secret,
        "labels": {
            "app.kubernetes.io/name": "nfmesh",
            "app.kubernetes.io/component": "controller",
            INSTANCE_LABEL: settings.release,
        },
    }
    if owner is not None:
        whose = owner_of(owner, DEPLOYMENTS)
        metadata["ownerReferences"] = [{**whose, "controller": False, "blockOwnerDeletion": False}]
    data = {key: base64.b64encode(text).decode() for key, text in make_keys().items()}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
    try:
        secret = api.create(SECRETS, body)
    except ApiError as error:
        if error.status != CONFLICT:
            raise
        return api.get(SECRETS, settings.control_secret)  # another operator was faster
    log.info("made the keys in Secret %s", settings.control_secret)
    return secret
