# SPDX-License-Identifier: Apache-2.0
"""Every document of the chart fits the API and the policy; the policy finds what it is for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_rig import CHART, CI_VALUES, Document, function_of, of_kind, render
from kube_policy import against_restricted, findings, pods_of

jsonschema = pytest.importorskip("jsonschema")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

VERSIONS = list(dict.fromkeys(kubernetes_validate.utils.all_versions()))
TEXT = {"type": "string"}
OTHERS: dict[str, Any] = {
    "NetworkAttachmentDefinition": {"config": TEXT},
    "PodMonitor": {
        "selector": {"type": "object"},
        "podMetricsEndpoints": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"port": TEXT, "interval": TEXT, "relabelings": {"type": "array"}},
            },
        },
    },
    "ServiceMonitor": {
        "selector": {"type": "object"},
        "endpoints": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"port": TEXT, "interval": TEXT},
            },
        },
    },
}
"""What is used of kinds that other projects define."""


def schema_of(kind: str) -> dict[str, Any]:
    """Returns the schema of a kind that Kubernetes itself does not have."""
    for path in (CHART / "crds").glob("*.yaml"):
        crd = yaml.safe_load(path.read_text())
        if crd["spec"]["names"]["kind"] == kind:
            return dict(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    spec = {
        "type": "object",
        "additionalProperties": False,
        "required": sorted(OTHERS[kind]),
        "properties": OTHERS[kind],
    }
    return {"type": "object", "required": ["metadata", "spec"], "properties": {"spec": spec}}


def alike(**quantities: str) -> dict[str, dict[str, str]]:
    """Returns quantities as requests and as limits."""
    found = {"memory": "1Gi", **{k.replace("_", "-"): v for k, v in quantities.items()}}
    return {"requests": found, "limits": found}


@pytest.mark.parametrize(
    ("name", "version"),
    [*(("dpdk", version) for version in VERSIONS), ("afpacket", VERSIONS[-1])],
)
def test_documents_fit_the_api(name: str, version: str) -> None:
    for document in render(CHART / "ci" / f"{name}-values.yaml"):
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            jsonschema.validate(document, schema_of(document["kind"]))


def test_definitions_fit_the_api() -> None:
    for path in (CHART / "crds").glob("*.yaml"):
        for version in (VERSIONS[0], VERSIONS[-1]):
            kubernetes_validate.validate(yaml.safe_load(path.read_text()), version, strict=True)


@pytest.mark.parametrize("values", [None, *CI_VALUES], ids=lambda p: p.stem if p else "default")
def test_pods_keep_to_the_policy(values: Path | None) -> None:
    documents = render(values)
    assert [text for each in documents for text in findings(each)] == []


def test_values_reach_the_pods_of_functions(tmp_path: Path) -> None:
    labels = {"level": "s0"}
    said = {"seLinuxOptions": labels, "nf.terminationGracePeriodSeconds": 7, "stack.env.A": "b"}
    documents = render(said=said)
    made = function_of(documents, tmp_path)
    assert findings(made) == []
    pod = made["spec"]["template"]["spec"]
    stack = of_kind(documents, "DaemonSet")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 7
    assert pod["securityContext"]["seLinuxOptions"] == labels
    assert stack["securityContext"]["seLinuxOptions"] == labels
    assert {"name": "A", "value": "b"} in stack["containers"][0]["env"]


def test_the_folder_is_all_that_the_level_restricted_has_against_functions(tmp_path: Path) -> None:
    documents = render()
    found = {
        metadata["labels"]["app.kubernetes.io/component"]: against_restricted(pod)
        for each in [*documents, function_of(documents, tmp_path)]
        for metadata, pod in pods_of(each)
    }
    assert found == {
        "controller": [],
        "uninstall": [],
        "nf": ["hostPath"],
        "test": ["hostPath"],
        "stack": ["hostPath", "runAsNonRoot"],
    }


def change(path: str, value: Any) -> Callable[[Document], None]:
    """Returns what sets a place of a pod, such as `containers.0.image`."""

    def apply(document: Document) -> None:
        *way, last = path.split(".")
        at: Any = document["spec"]["template"]["spec"]
        for key in way:
            at = at[int(key)] if key.isdecimal() else at.setdefault(key, {})
        at[int(last) if last.isdecimal() else last] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("containers.0.resources.limits.cpu", "2", "not Guaranteed"),
        ("containers.0.resources", {}, "asks for no cpu"),
        ("containers.0.resources", alike(cpu="1500m"),
         "parts of a core"),
        ("containers.0.resources", alike(cpu="1", hugepages_2Mi="3Mi"),
         "no number of pages"),
        ("containers.0.securityContext.privileged", True, "privileged"),
        ("containers.0.securityContext.capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]},
         "adds SYS_ADMIN"),
        ("containers.0.securityContext.capabilities", {}, "does not drop ALL"),
        ("containers.0.securityContext.readOnlyRootFilesystem", False, "can be written to"),
        ("containers.0.securityContext.allowPrivilegeEscalation", True, "allowPrivilegeEscalation"),
        ("containers.0.livenessProbe", {"exec": {"command": ["true"]}}, "pinned core"),
        ("containers.0.image", "nfmesh", "says no version"),
        ("containers.0.image", "host:5000/nfmesh", "says no version"),
        ("volumes.0", {"name": "run", "hostPath": {"path": "/s", "type": "Socket"}}, "no folder"),
        ("volumes.1", {"name": "tmp", "emptyDir": {"medium": "HugePages-2Mi"}},
         "without its resource"),
        ("hostPID", True, "hostPID"),
        ("automountServiceAccountToken", True, "automountServiceAccountToken"),
        ("securityContext", {}, "no seccomp profile"),
    ],
)  # fmt: skip
def test_the_policy_finds(path: str, value: Any, says: str) -> None:
    document = copy.deepcopy(of_kind(render(), "DaemonSet"))
    change(path, value)(document)
    assert any(says in text for text in findings(document)), findings(document)


def test_only_stacks_are_root_and_write_to_the_node() -> None:
    document = copy.deepcopy(of_kind(render(), "DaemonSet"))
    labels = document["spec"]["template"]["metadata"]["labels"]
    labels["app.kubernetes.io/component"] = "nf"
    found = "\n".join(findings(document))
    assert "may run as root" in found
    assert "may write to" in found
