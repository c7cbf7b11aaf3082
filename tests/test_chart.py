# SPDX-License-Identifier: Apache-2.0
"""The chart: what is made of values, what is refused, and what never changes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from chart_rig import CHART, CI_VALUES, HELMS, ROOT, Document, helm, of_kind, render, template

from mesh.conditions import Reason
from mesh.control.metrics import families
from mesh.errors import SpecError
from mesh.kube.models import parse_object
from mesh.node import load_node
from mesh.options import nf_config
from mesh.registry import Registry

GOLDEN = ROOT / "tests" / "golden"


def value_files() -> list[Any]:
    return [pytest.param(None, id="default"), *(pytest.param(p, id=p.stem) for p in CI_VALUES)]


@pytest.mark.parametrize("version", HELMS)
@pytest.mark.parametrize("values", value_files())
def test_lint_finds_nothing(values: Path | None, version: str) -> None:
    more = [] if values is None else ["--values", str(values)]
    done = helm("lint", "--strict", str(CHART), *more, version=version)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", value_files())
def test_both_helms_make_the_same(values: Path | None) -> None:
    assert render(values) == render(values, version="helm3")


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"nfs": {"nat": {"use": "nat", "cores": 1.5}}}, "'/nfs/nat/cores': got number"),
        ({"nfs": {"nat": {"use": "nat", "memory": "1G"}}}, "/nfs/nat/memory"),
        ({"nfs": {"nat": {"cores": 1}}}, "/nfs/nat': missing property 'use'"),
        ({"nfs": {"nat": {"use": "nat", "wher": "tcp"}}}, "additional properties 'wher'"),
        ({"nfs": {"Nat": {"use": "nat"}}}, "/nfs': additional properties 'Nat'"),
        ({"nfs": {"nat": {"use": "nat", "hugepages": {"4Mi": "8Mi"}}}}, "/nfs/nat/hugepages"),
        ({"chains": {"a": {"functions": []}}}, "/chains/a/functions"),
        ({"stack.cpus": 1.5}, "/stack/cpus"),
        ({"stack.cpus": "2"}, "/stack/cpus"),
        ({"stack.hugepages": {"4Mi": "8Mi"}}, "/stack/hugepages"),
        ({"stack.hugepages": {"1Gi": "512Mi"}}, "/stack/hugepages/1Gi"),
        ({"stack.hugepages": {"1Gi": "1Gi", "2Mi": "2Mi"}}, "/stack/hugepages"),
        ({"stack.extraCapabilities": ["SYS_ADMIN"]}, "/stack/extraCapabilities/0"),
        ({"stack.port.mode": "pcap"}, "/stack/port/mode"),
        ({"stack.port.resources": {"sriov": 1}}, "/stack/port/resources"),
        ({"stack.port.mode": "dpdk", "stack.port.options": {"mtuu": 1}}, "/stack/port/options"),
        ({"stack.spec": {"nfs": []}}, "/stack/spec"),
        ({"stack.spec": {"domains": {"a": {"memory": {"slots": 1}}}}}, "/stack/spec/domains/a"),
        ({"stack.spec": {"domains": {"a b": {}}}}, "/stack/spec/domains': additional"),
        ({"stack.ports": [{"afpacket": {"interface": 7}}]}, "/stack/ports/0/afpacket"),
        ({"stack.extraVolumes": [{"name": "s", "hostPath": {"path": "/s", "type": "Socket"}}]},
         "/stack/extraVolumes/0/hostPath/type"),
        ({"stack.maxUnavailable": "200%"}, "/stack/maxUnavailable"),
        ({"stack.env": {"a b": "1"}}, "/stack/env': additional properties 'a b'"),
        ({"commonLabels": {"-a": "1"}}, "/commonLabels': additional properties '-a'"),
        ({"commonLabels": {"a": "b c"}}, "/commonLabels/a'"),
        ({"seLinuxOptions": {"levl": "s0"}}, "/seLinuxOptions"),
        ({"operator.replicas": 0}, "/operator/replicas"),
        ({"image.digest": "sha256:1"}, "/image/digest"),
        ({"stacks": {}}, "additional properties 'stacks'"),
        # what the schema cannot say, the templates do
        ({"stack.port.mode": "dpdk", "stack.port.resources": {"intel.com/sriov_dpdk": 1}},
         "stack.hugepages: DPDK needs huge pages"),
        ({"stack.port.mode": "dpdk", "stack.hugepages": {"1Gi": "1Gi"}},
         "stack.port.resources: name the device plugin's resource"),
        ({"stack.port.mode": "afxdp"}, "stack.port.interfaces: name the interfaces of afxdp"),
        ({"stack.port.mode": "afpacket", "stack.port.interfaces": ["a"], "stack.port.pass": True},
         "there are 1: give two"),
        ({"stack.cpus": 2, "stack.workers": 3}, "stack.workers: 3 workers want as many cores"),
        ({"stack.healthPort": 7600}, "stack.healthPort: is stack.controlPort already"),
        ({"operator.enabled": False, "nfs": {"nat": {"use": "nat"}}}, "without the operator"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_with_their_place(said: dict[str, Any], says: str) -> None:
    done = template(said=said)
    assert done.returncode != 0
    assert says in done.stderr


def test_helm_3_refuses_by_the_same_schema() -> None:
    said = {"nfs": {"nat": {"use": "nat", "cores": 1.5}, "Dns": {"use": "dns_log"}}}
    done = template(said=said, version="helm3")
    assert done.returncode != 0
    assert "nfs.nat.cores: Invalid type" in done.stderr
    assert "Additional property Dns is not allowed" in done.stderr


@pytest.mark.parametrize("name", ["replay", "dpdk"])
def test_what_is_made_is_what_was_reviewed(name: str) -> None:
    path = GOLDEN / f"chart-{name}.yaml"
    done = template(CHART / "ci" / f"{name}-values.yaml")
    assert done.returncode == 0, done.stderr
    text = "\n".join(line.rstrip() for line in done.stdout.splitlines() if line.strip()) + "\n"
    if os.environ.get("NFMESH_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text(), (
        "look at it, then: NFMESH_GOLDEN=write pytest tests/test_chart.py"
    )


def test_schema_readme_and_dashboard_are_as_they_would_be_made() -> None:
    done = subprocess.run(
        [sys.executable, "tools/kube/chart.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_value_is_described() -> None:
    readme = (CHART / "README.md").read_text()

    def leaves(value: Any, path: str) -> list[str]:
        if f"| `{path}` |" in readme:
            return []
        if isinstance(value, dict) and value:
            return [p for k, v in value.items() for p in leaves(v, f"{path}.{k}" if path else k)]
        return [path]

    assert leaves(yaml.safe_load((CHART / "values.yaml").read_text()), "") == []


def test_every_reason_of_a_condition_is_explained() -> None:
    readme = (CHART / "README.md").read_text()
    assert [reason for reason in get_args(Reason) if f"`{reason}`" not in readme] == []


@pytest.mark.parametrize("values", value_files())
def test_network_functions_are_as_the_operator_reads_them(values: Path | None) -> None:
    said = {} if values is None else yaml.safe_load(values.read_text())
    for document in (docs := render(values)):
        if document["kind"] in ("NetworkFunction", "ServiceChain"):
            parse_object(document)
    names = {each["metadata"]["name"] for each in docs if each["kind"] == "NetworkFunction"}
    assert names == set(said.get("nfs", {}))


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda p: p.stem)
def test_network_functions_of_examples_take_their_configuration(values: Path) -> None:
    registry = Registry.installed()
    for document in render(values):
        spec = document.get("spec", {})
        if document["kind"] == "NetworkFunction" and not spec["use"].startswith("/"):
            cls = registry.nf(spec["use"])
            cls(**nf_config(cls, spec.get("config", {}), document["metadata"]["name"]))


def test_default_values_need_nothing_special() -> None:
    stack = of_kind(render(), "DaemonSet")["spec"]["template"]
    container = stack["spec"]["containers"][0]
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert "add" not in container["securityContext"]["capabilities"]
    assert "k8s.v1.cni.cncf.io/networks" not in stack["metadata"]["annotations"]
    groups = {each["apiVersion"].partition("/")[0] for each in render()}
    assert groups <= {
        "v1", "apps", "batch", "policy", "networking.k8s.io", "rbac.authorization.k8s.io",
        "scheduling.k8s.io",
    }  # fmt: skip


def test_devices_huge_pages_and_networks_are_asked_for() -> None:
    documents = render(CHART / "ci" / "dpdk-values.yaml")
    template = of_kind(documents, "DaemonSet")["spec"]["template"]
    container = template["spec"]["containers"][0]
    assert container["resources"]["limits"] == {
        "cpu": "4", "memory": "2Gi", "hugepages-1Gi": "4Gi", "intel.com/sriov_dpdk": "2",
    }  # fmt: skip
    assert container["securityContext"]["capabilities"]["add"] == ["IPC_LOCK", "SYS_NICE"]
    networks = json.loads(template["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"])
    definition = of_kind(documents, "NetworkAttachmentDefinition")
    assert networks[0] == {"name": definition["metadata"]["name"], "namespace": "ns"}
    assert json.loads(definition["spec"]["config"])["vlan"] == 100
    spec = yaml.safe_load(of_kind(documents, "ConfigMap", "-stack")["data"]["stack.yaml"])
    assert [port["out"] for port in spec["ports"]] == ["second", "first"]
    assert {port["dpdk"]["resource"] for port in spec["ports"]} == {"intel.com/sriov_dpdk"}
    assert spec["workers"] == 3


@pytest.mark.parametrize("values", value_files())
def test_the_stack_reads_its_spec(values: Path | None, tmp_path: Path) -> None:
    path = tmp_path / "stack.yaml"
    path.write_text(of_kind(render(values), "ConfigMap", "-stack")["data"]["stack.yaml"])
    spec = load_node(path, {"PCIDEVICE_INTEL_COM_SRIOV_DPDK": "0000:3b:02.1,0000:3b:02.2"})
    if values is not None and values.stem.startswith("dpdk"):
        assert [port.source for port in spec.ports] == ["dpdk:0000:3b:02.1", "dpdk:0000:3b:02.2"]


def test_ports_that_share_a_resource_each_need_a_device(tmp_path: Path) -> None:
    path = tmp_path / "stack.yaml"
    documents = render(CHART / "ci" / "dpdk-values.yaml")
    path.write_text(of_kind(documents, "ConfigMap", "-stack")["data"]["stack.yaml"])
    with pytest.raises(SpecError, match=r"2 ports name intel\.com/sriov_dpdk, which has given 1"):
        load_node(path, {"PCIDEVICE_INTEL_COM_SRIOV_DPDK": "0000:3b:02.1"})


def identities(documents: list[Document], *, cluster: bool) -> set[tuple[str, str]]:
    """Kind and name of objects, those of the whole cluster or of the namespace."""
    return {
        (each["kind"], each["metadata"]["name"])
        for each in documents
        if ("namespace" not in each["metadata"]) is cluster
        and each["kind"] not in ("NetworkFunction", "ServiceChain")
    }


@pytest.mark.parametrize("values", value_files())
def test_two_releases_have_no_object_in_common(values: Path | None) -> None:
    said = {"fullnameOverride": ""}
    one, two = render(values, said, release="a"), render(values, said, release="b")
    assert not identities(one, cluster=False) & identities(two, cluster=False)
    assert not identities(one, cluster=True) & identities(two, cluster=True)
    elsewhere = render(values, said, release="a", namespace="other")
    assert not identities(one, cluster=True) & identities(elsewhere, cluster=True)


def test_releases_of_one_name_share_no_folder() -> None:
    def folder(namespace: str) -> str:
        pod = of_kind(render(namespace=namespace), "DaemonSet")["spec"]["template"]["spec"]
        return str(next(v for v in pod["volumes"] if v["name"] == "run")["hostPath"]["path"])

    assert folder("a") != folder("b")


def test_an_upgrade_changes_no_selector_and_restarts_what_its_configuration_concerns() -> None:
    before = render()
    after = render(
        said={
            "commonLabels": {"team": "x"},
            "image": {"tag": "9"},
            "stack.port.replay.speed": 2,
            "stack.podLabels": {"a": "b"},
        }
    )
    for kind in ("DaemonSet", "Deployment"):
        assert of_kind(before, kind)["spec"]["selector"] == of_kind(after, kind)["spec"]["selector"]

    def config(documents: list[Document], kind: str) -> str:
        metadata = of_kind(documents, kind)["spec"]["template"]["metadata"]
        return str(metadata["annotations"]["nfmesh.io/config"])

    assert config(before, "DaemonSet") != config(after, "DaemonSet")
    assert config(before, "DaemonSet") == config(render(said={"stack.cpus": 2}), "DaemonSet")


def test_the_operator_has_rights_in_its_namespace_only_and_no_more_than_it_uses() -> None:
    documents = render(CHART / "ci" / "dpdk-values.yaml")
    assert not [each for each in documents if each["kind"] == "ClusterRoleBinding"]
    for role in (each for each in documents if each["kind"] in ("Role", "ClusterRole")):
        for rule in role["rules"]:
            assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            if "secrets" in rule["resources"]:
                assert not {"list", "watch", "delete"} & set(rule["verbs"])
            assert role["kind"] == "Role" or rule["apiGroups"] == ["nfmesh.io"]


def test_the_budget_is_of_the_api_that_the_cluster_has() -> None:
    found = render(said={"podDisruptionBudget": {"maxUnavailable": 3}})
    assert of_kind(found, "PodDisruptionBudget")["apiVersion"] == "policy/v1"
    assert _told(found)["budget"] == {"version": "v1", "maxUnavailable": 3}
    found = render(said={"podDisruptionBudget": {"enabled": False}})
    assert not [each for each in found if each["kind"] == "PodDisruptionBudget"]
    assert _told(found)["budget"]["maxUnavailable"] == 0


def _told(documents: list[Document]) -> Document:
    """What the operator is told of a release."""
    told = of_kind(documents, "ConfigMap", "-operator")["data"]
    return dict(yaml.safe_load(told["operator.yaml"]))


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    nothing: dict[str, Any] = {
        "revision": 1, "workers": {}, "stack": [], "rings": [], "nfs": {}, "subscriptions": [],
        "processes": [], "refused": {}, "objects": [],
    }  # fmt: skip
    known = {f.name + ("_total" if f.type == "counter" else "") for f in families(nothing)}
    asked = set(re.findall(r"nfmesh_\w+", (CHART / "files" / "dashboard.json").read_text()))
    assert asked - {"nfmesh"} <= known
    assert len(asked) > 10
