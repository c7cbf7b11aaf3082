# SPDX-License-Identifier: Apache-2.0
"""What every pod of nfmesh keeps to, whoever renders it: the chart or the operator.

Pods are Guaranteed and pinned (requests equal limits, whole cores from one core up, huge pages well
formed), and have no rights that they do not need (no privileges, capabilities by component, sockets
by folder, no token of the API server but where it is used).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["against_restricted", "findings", "pods_of"]

Document = Mapping[str, Any]

CAPABILITIES = {
    "stack": {"BPF", "IPC_LOCK", "NET_ADMIN", "NET_RAW", "PERFMON", "SYS_NICE", "SYS_RESOURCE"},
}
"""Component → what it may add; all others: nothing."""
USES_API = {"controller", "uninstall"}
ROOT = {"stack"}
_UNITS = {"": 1, "m": 0.001, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_HARMLESS = "NET_BIND_SERVICE"
_HARMLESS_VOLUMES = (
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
)  # fmt: skip
_PAGE = {"hugepages-2Mi": 2 << 20, "hugepages-1Gi": 1 << 30}


def pods_of(document: Document) -> Iterator[tuple[Document, Document]]:
    """Yields metadata and spec of the pods that a document makes."""
    spec = document.get("spec", {})
    if document["kind"] == "Pod":
        yield document["metadata"], spec
    elif document["kind"] in ("Deployment", "DaemonSet", "StatefulSet", "Job"):
        yield spec["template"]["metadata"], spec["template"]["spec"]
    elif document["kind"] == "CronJob":
        yield from pods_of({"kind": "Job", "spec": spec["jobTemplate"]["spec"]})


def findings(document: Document) -> list[str]:
    """Returns what is against the policy, a line each."""
    who = f"{document['kind']} {document['metadata']['name']}"
    return [
        f"{who}: {text}"
        for metadata, pod in pods_of(document)
        for text in _pod_findings(metadata.get("labels", {}), pod)
    ]


def against_restricted(pod: Document) -> list[str]:
    """Returns what the Pod Security level `restricted` has against a pod."""
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    for volume in pod.get("volumes", ()):
        found += [kind for kind in volume if kind not in ("name", *_HARMLESS_VOLUMES)]
    security = pod.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or security.get("runAsUser") == 0:
        found.append("runAsNonRoot")
    if security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.append("seccompProfile")
    for container in [*pod.get("initContainers", ()), *pod["containers"]]:
        own = container.get("securityContext", {})
        capabilities = own.get("capabilities", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            found.append("allowPrivilegeEscalation")
        if capabilities.get("drop") != ["ALL"] or {*capabilities.get("add", ())} - {_HARMLESS}:
            found.append("capabilities")
        found += ["hostPort" for port in container.get("ports", ()) if port.get("hostPort")]
    return found


def _pod_findings(labels: Mapping[str, str], pod: Document) -> Iterator[str]:
    component = labels.get("app.kubernetes.io/component", "")
    if labels.get("app.kubernetes.io/name") != "nfmesh" or not component:
        yield "the pod has no labels by which it is chosen"
    containers = [*pod.get("initContainers", ()), *pod["containers"]]
    for key in ("hostPID", "hostIPC", "shareProcessNamespace"):
        if pod.get(key):
            yield key
    if pod.get("hostNetwork") and component != "stack":
        yield "hostNetwork"
    if pod.get("automountServiceAccountToken") is not (component in USES_API):
        yield "automountServiceAccountToken is not said, or given to who does not need it"
    security = pod.get("securityContext", {})
    if "type" not in security.get("seccompProfile", {}):
        yield "no seccomp profile"
    if component not in ROOT and not (security.get("runAsNonRoot") and security.get("runAsUser")):
        yield "may run as root"
    yield from _volume_findings(pod, containers, component)
    for container in containers:
        for text in _container_findings(container, component):
            yield f"{container['name']}: {text}"


def _container_findings(container: Document, component: str) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("privileged"):
        yield "privileged"
    if security.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "its root file system can be written to"
    capabilities = security.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"]:
        yield "does not drop ALL"
    if extra := set(capabilities.get("add", ())) - CAPABILITIES.get(component, set()):
        yield f"adds {', '.join(sorted(extra))}"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if "exec" in container.get(probe, {}):
            yield f"{probe} runs a process on a pinned core"
    if container["image"].endswith(":latest") or not re.search(r"[:@][^/]+$", container["image"]):
        yield f"image {container['image']} says no version"
    yield from _resource_findings(container.get("resources", {}))


def _resource_findings(resources: Document) -> Iterator[str]:
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    if requests != limits:
        yield "requests are not limits: not Guaranteed"
    for name in ("cpu", "memory"):
        if name not in requests:
            yield f"asks for no {name}"
    cores = _number(requests.get("cpu", 0))
    if cores >= 1 and cores != int(cores):
        yield f"cpu {requests['cpu']}: parts of a core are not pinned"
    huge = [name for name in requests if name.startswith("hugepages-")]
    for name in huge:
        if name not in _PAGE:
            yield f"{name} is no size of a page"
        elif _number(requests[name]) % _PAGE[name]:
            yield f"{name}: {requests[name]} is no number of pages"


def _volume_findings(pod: Document, containers: list[Document], component: str) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
    asked = {name for c in containers for name in c.get("resources", {}).get("requests", {})}
    huge = {name for name in asked if name.startswith("hugepages-")}
    for name, volume in volumes.items():
        path = volume.get("hostPath")
        if path is not None and path.get("type") not in ("Directory", "DirectoryOrCreate"):
            yield f"volume {name}: a hostPath that is no folder"
        medium = volume.get("emptyDir", {}).get("medium", "")
        if medium.startswith("HugePages"):
            _, _, size = medium.partition("-")
            if (f"hugepages-{size}" if size else "") not in huge and (size or len(huge) != 1):
                yield f"volume {name}: {medium} without its resource, or of which size"
    for container in containers:
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in volumes:
                yield f"{container['name']}: mounts {mount['name']}, which is not there"
            elif component == "stack" or mount.get("readOnly"):
                continue
            elif "hostPath" in volumes[mount["name"]]:
                yield f"{container['name']}: may write to {mount['mountPath']} of the node"


def _number(quantity: str | float) -> float:
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(quantity))
    assert found is not None, f"{quantity!r} is no quantity"
    return float(found[1]) * _UNITS[found[2]]
