# SPDX-License-Identifier: Apache-2.0
"""From a NetworkFunction to its Deployment and its token. Pure.

The pod is what the kubelet's static CPU manager pins: every resource's request is its limit, cores
are whole numbers, and there is one container, so that nothing else runs on them; probes are HTTP
requests to a control-plane thread, not processes. It has no capability, no writable root, no
account, no huge pages of the mesh's (it maps the stack's memory, by descriptors it gets through a
socket in the run folder).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mesh.kube.api import DEPLOYMENTS, FUNCTIONS, Kind, Object
from mesh.kube.models import GROUP, NetworkFunctionSpec
from mesh.kube.settings import OperatorSettings

__all__ = [
    "FUNCTION_LABEL",
    "INSTANCE_LABEL",
    "REVISION_LABEL",
    "deployment",
    "labels_of",
    "owner_of",
    "pod_marks",
    "secret_name",
    "selector_of",
    "token_digest",
    "token_secret",
]

FUNCTION_LABEL = f"{GROUP}/network-function"
REVISION_LABEL = f"{GROUP}/revision"
TOKEN_ANNOTATION = f"{GROUP}/token"
RESTARTED = "kubectl.kubernetes.io/restartedAt"
INSTANCE_LABEL = "app.kubernetes.io/instance"
TOKEN_FILE = "/etc/nfmesh/token"
SCRATCH = "64Mi"


def labels_of(name: str, settings: OperatorSettings) -> dict[str, str]:
    """Labels by which a function's objects are found."""
    return {
        "app.kubernetes.io/name": "nfmesh",
        INSTANCE_LABEL: settings.release,
        "app.kubernetes.io/component": "nf",
        FUNCTION_LABEL: name,
    }


def selector_of(name: str, settings: OperatorSettings) -> str:
    """The same labels as text, as autoscalers want it."""
    return ",".join(f"{key}={value}" for key, value in labels_of(name, settings).items())


def secret_name(name: str) -> str:
    """Name of the Secret with a function's token."""
    return f"{name}-nf-token"


def owner_of(function: Object, kind: Kind = FUNCTIONS) -> Object:
    """Says that an object belongs to another: it goes with it."""
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "name": function["metadata"]["name"],
        "uid": function["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def token_secret(function: Object, token: str, settings: OperatorSettings) -> Object:
    """Returns the Secret that holds a function's token."""
    name = function["metadata"]["name"]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret_name(name),
            "labels": labels_of(name, settings),
            "ownerReferences": [owner_of(function)],
        },
        "type": "Opaque",
        "stringData": {"token": token},
    }


def token_digest(token: str) -> str:
    """Returns what a stack knows a token by."""
    return hashlib.sha256(token.encode()).hexdigest()


def pod_marks(token: str, made: Object | None) -> dict[str, str]:
    """Returns annotations that stand for what pods see only when they begin.

    Args:
        token: of the function.
        made: its Deployment; what `kubectl rollout restart` wrote there stays, lest the next change
            of anything else restarts the pods once more.
    """
    marks = {TOKEN_ANNOTATION: token_digest(token)[:16]}
    template = (made or {}).get("spec", {}).get("template") or {}
    restarted = ((template.get("metadata") or {}).get("annotations") or {}).get(RESTARTED)
    return marks | ({RESTARTED: str(restarted)} if restarted else {})


def deployment(
    function: Object,
    spec: NetworkFunctionSpec,
    settings: OperatorSettings,
    replicas: int,
    marks: Mapping[str, str],
) -> Object:
    """Returns a function's Deployment.

    Args:
        function: the object.
        spec: its spec, checked.
        settings: of the release.
        replicas: pods that there shall be.
        marks: annotations of its pods; others make other pods.
    """
    name = function["metadata"]["name"]
    labels = labels_of(name, settings)
    pod = _pod_spec(name, spec, settings)
    annotations = {
        **settings.nf.annotations,
        "kubectl.kubernetes.io/default-container": "nf",
        **marks,
    }
    revision = _digest([pod, settings.nf.labels, annotations])
    pod["affinity"] = _affinity(name, revision, settings)
    return {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": DEPLOYMENTS.name,
        "metadata": {"name": name, "labels": labels, "ownerReferences": [owner_of(function)]},
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": 600,
            "selector": {"matchLabels": labels},
            "strategy": _strategy(spec),
            "template": {
                "metadata": {
                    "labels": {**settings.nf.labels, **labels, REVISION_LABEL: revision},
                    "annotations": annotations,
                },
                "spec": pod,
            },
        },
    }


def _strategy(spec: NetworkFunctionSpec) -> Object:
    if spec.update_strategy.type == "Recreate":
        return {"type": "Recreate"}
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def _pod_spec(name: str, spec: NetworkFunctionSpec, settings: OperatorSettings) -> Object:
    nf = settings.nf
    pod: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": nf.termination_grace_period_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": nf.user,
            "runAsGroup": nf.group,
            "fsGroup": nf.group,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(name, spec, settings)],
        "volumes": _volumes(name, spec, settings),
    }
    if nf.se_linux_options:
        pod["securityContext"]["seLinuxOptions"] = nf.se_linux_options
    if node_selector := {**nf.node_selector, **spec.node_selector}:
        pod["nodeSelector"] = node_selector
    if nf.tolerations:
        pod["tolerations"] = nf.tolerations
    if nf.priority_class_name:
        pod["priorityClassName"] = nf.priority_class_name
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": each} for each in settings.image_pull_secrets]
    return pod


def _container(name: str, spec: NetworkFunctionSpec, settings: OperatorSettings) -> Object:
    port, run = settings.nf.health_port, settings.stack.run_dir
    args = ["nf", "--name", name, "--run-dir", run, "--token-file", TOKEN_FILE]
    resources = _resources(spec, settings)
    return {
        "name": "nf",
        "image": spec.image or settings.image,
        "imagePullPolicy": spec.image_pull_policy or settings.image_pull_policy,
        "command": ["nfmesh"],
        "args": [*args, "--health-port", str(port), "--use", spec.use],
        "env": [{"name": "HOME", "value": "/tmp"}],
        "ports": [{"name": "metrics", "containerPort": port, "protocol": "TCP"}],
        "resources": {"requests": resources, "limits": dict(resources)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "startupProbe": _probe("/healthz", port, periodSeconds=1, failureThreshold=120),
        "readinessProbe": _probe("/readyz", port, periodSeconds=2, failureThreshold=3),
        "livenessProbe": _probe("/healthz", port, periodSeconds=10, failureThreshold=6),
        "volumeMounts": _mounts(spec, settings),
    }


def _probe(path: str, port: int, **times: int) -> Object:
    return {"httpGet": {"path": path, "port": port, "scheme": "HTTP"}, "timeoutSeconds": 3, **times}


def _resources(spec: NetworkFunctionSpec, settings: OperatorSettings) -> dict[str, str]:
    amounts = {
        "cpu": str(spec.cores) if spec.cores else settings.nf.shared_cpu,
        "memory": spec.memory,
    }
    pages = spec.hugepages.amounts if spec.hugepages else {}
    return amounts | {f"hugepages-{size}": amount for size, amount in pages.items()}


def _volumes(name: str, spec: NetworkFunctionSpec, settings: OperatorSettings) -> list[Object]:
    token = {
        "secretName": secret_name(name),
        "items": [{"key": "token", "path": "token"}],
        "defaultMode": 0o440,
    }
    volumes: list[Object] = [
        {"name": "run", "hostPath": {"path": settings.stack.host_run_dir, "type": "Directory"}},
        {"name": "token", "secret": token},
        {"name": "tmp", "emptyDir": {"sizeLimit": SCRATCH}},
    ]
    if spec.files:
        volumes.append({"name": "files", "configMap": {"name": spec.files.name}})
    for size in spec.hugepages.amounts if spec.hugepages else ():
        volume = {"name": f"huge-{size.lower()}", "emptyDir": {"medium": f"HugePages-{size}"}}
        volumes.append(volume)
    return volumes


def _mounts(spec: NetworkFunctionSpec, settings: OperatorSettings) -> list[Object]:
    mounts: list[Object] = [
        {"name": "run", "mountPath": settings.stack.run_dir, "readOnly": True},
        {"name": "token", "mountPath": TOKEN_FILE, "subPath": "token", "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if spec.files:
        mounts.append({"name": "files", "mountPath": "/etc/nfmesh/files", "readOnly": True})
    for size in spec.hugepages.amounts if spec.hugepages else ():
        mounts.append({"name": f"huge-{size.lower()}", "mountPath": f"/dev/hugepages-{size}"})
    return mounts


def _affinity(name: str, revision: str, settings: OperatorSettings) -> Object:
    """Beside a stack, and not beside a pod of its own revision: an update may overlap."""
    here = {"topologyKey": "kubernetes.io/hostname"}
    own = {FUNCTION_LABEL: name, INSTANCE_LABEL: settings.release, REVISION_LABEL: revision}
    stack = {"labelSelector": {"matchLabels": settings.stack.selector}, **here}
    same = {"labelSelector": {"matchLabels": own}, **here}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    return {"podAffinity": {required: [stack]}, "podAntiAffinity": {required: [same]}}


def _digest(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_owned(found: Object, owner: Object) -> bool:
    """True when an object belongs to this very object, not to a namesake before it."""
    uid = owner["metadata"]["uid"]
    references = found["metadata"].get("ownerReferences") or []
    return any(each.get("uid") == uid for each in references)


def same_as(actual: Any, wanted: Any) -> bool:
    """True when all of `wanted` is in `actual`, which a server has filled with its defaults."""
    if isinstance(wanted, Mapping):
        if not isinstance(actual, Mapping):
            return not wanted and actual is None
        return all(same_as(actual.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        if not isinstance(actual, list):
            return not wanted and actual is None
        return len(actual) == len(wanted) and all(map(same_as, actual, wanted))
    if actual == wanted:
        return True
    if isinstance(wanted, str) and isinstance(actual, str):
        return _amount(actual) == _amount(wanted) is not None
    return False


_UNITS = {"m": 0.001, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    f"{letter}i": 1024.0**power for power, letter in enumerate("KMGT", 1)
}


def _amount(text: str) -> float | None:
    """Reads a quantity; servers write 1024Mi as 1Gi."""
    digits = text.rstrip("miKMGTk")
    unit = text[len(digits) :]
    if not digits.replace(".", "", 1).isdigit() or unit not in _UNITS:
        return None
    return float(digits) * _UNITS[unit]
