# SPDX-License-Identifier: Apache-2.0
"""The chart against a real API server: installed twice, upgraded, rolled back, uninstalled."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chart_rig import CHART, CI_VALUES, Document, program, render
from patience import PATIENCE_S
from real_kube import RealKube

RELEASES = (("edge", "one"), ("edge", "two"), ("core", "one"))
"""Namespace and release: two beside each other, and one of the same name elsewhere."""


class Cluster:
    """Helm and kubectl on an API server, which runs no pods."""

    def __init__(self, kube: RealKube) -> None:
        self.config = kube.write_kubeconfig()
        self.folder = Path(kube.folder)

    def helm(self, *line: str) -> str:
        environment = {**os.environ, "KUBECONFIG": str(self.config)}
        environment |= {f"HELM_{k}_HOME": str(self.folder) for k in ("CACHE", "CONFIG", "DATA")}
        return self._run(program("helm4"), *line, env=environment)

    def kubectl(self, *line: str) -> str:
        return self._run(program("kubectl"), f"--kubeconfig={self.config}", *line)

    def _run(self, *line: str, **more: Any) -> str:
        done = subprocess.run(
            line, capture_output=True, text=True, check=False, timeout=PATIENCE_S, **more
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, namespace: str, kind: str, name: str) -> Document:
        return dict(json.loads(self.kubectl("get", "-n", namespace, kind, name, "-o", "json")))

    def may(self, namespace: str, verb: str, what: str) -> bool:
        """Whether the operator of release `one` may do something."""
        who = f"system:serviceaccount:{namespace}:one-nfmesh-operator"
        line = ("auth", "can-i", verb, what, "-n", namespace, "--as", who)
        done = subprocess.run(
            [program("kubectl"), f"--kubeconfig={self.config}", *line],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        return done.stdout.strip() == "yes"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    program("helm4")
    with RealKube() as kube:
        found = Cluster(kube)
        for namespace, release in RELEASES:
            adopt = f"--set=operator.adoptUnlabelled={str(release == 'one').lower()}"
            line = ("install", release, str(CHART), "-n", namespace, "--create-namespace", adopt)
            found.helm(*line, f"--set-json=nfs.{release}-log={json.dumps({'use': 'http_log'})}")
        yield found


def test_releases_stand_beside_each_other(cluster: Cluster) -> None:
    for namespace, release in RELEASES:
        found = cluster.get(namespace, "daemonset", f"{release}-nfmesh-stack")
        volumes = found["spec"]["template"]["spec"]["volumes"]
        run = next(each for each in volumes if each["name"] == "run")
        assert run["hostPath"]["path"] == f"/var/run/nfmesh/{namespace}/{release}"
        function = cluster.get(namespace, "networkfunction", f"{release}-log")
        assert function["spec"]["cores"] == 1  # a default of the definition
        budget = cluster.get(namespace, "poddisruptionbudget", f"{release}-nfmesh-controller")
        assert budget["spec"]["maxUnavailable"] == 1


def test_an_upgrade_and_its_way_back(cluster: Cluster) -> None:
    def stack() -> Document:
        return cluster.get("core", "daemonset", "one-nfmesh-stack")

    before = stack()
    line = ("--reuse-values", "--set=image.tag=next", "--set=stack.port.replay.speed=2")
    cluster.helm("upgrade", "one", str(CHART), "-n", "core", *line)
    container = stack()["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "nfmesh:next"
    with pytest.raises(AssertionError, match="stack/cpus"):
        cluster.helm("upgrade", "one", str(CHART), "-n", "core", *line, "--set=stack.cpus=0.5")
    cluster.helm("rollback", "one", "1", "-n", "core")
    assert stack()["spec"] == before["spec"]
    assert stack()["metadata"]["uid"] == before["metadata"]["uid"]


def test_definitions_are_renewed_as_the_readme_says(cluster: Cluster, tmp_path: Path) -> None:
    (command,) = re.findall(r"`kubectl (apply \S+ .*)-f crds/`", (CHART / "README.md").read_text())
    for path in (CHART / "crds").iterdir():
        text = path.read_text()
        changed = text.replace("description: Request and limit.", "description: Both of them.")
        (tmp_path / path.name).write_text(changed)
    cluster.kubectl(*command.split(), "-f", str(tmp_path))
    name = "networkfunctions.nfmesh.io"
    assert "Both of them." in cluster.kubectl("get", "crd", name, "-o", "json")
    assert cluster.get("edge", "networkfunction", "one-log")["spec"]["use"] == "http_log"


def test_its_notes_say_what_works(cluster: Cluster) -> None:
    notes = cluster.helm("get", "notes", "one", "-n", "core")
    (line,) = [row for row in notes.splitlines() if "get networkfunctions" in row]
    assert "one-log" in cluster.kubectl(*line.split()[1:])


def test_the_operator_may_what_it_does_and_nothing_else(cluster: Cluster) -> None:
    may = ("create deployments.apps", "patch networkfunctions.nfmesh.io/status", "get secrets",
           "create events", "update leases.coordination.k8s.io/one-nfmesh-operator")  # fmt: skip
    may_not = ("list secrets", "get nodes", "create pods", "create networkfunctions.nfmesh.io",
               "update leases.coordination.k8s.io/another", "get configmaps",
               "delete deployments.apps", "update networkfunctions.nfmesh.io", "patch secrets",
               "create roles.rbac.authorization.k8s.io")  # fmt: skip

    def asked(text: str) -> bool:
        verb, _, what = text.partition(" ")
        if what.startswith("leases"):
            resource, _, name = what.partition("/")
            what = f"{resource}/{name}"
        return cluster.may("core", verb, what)

    assert [text for text in may if not asked(text)] == []
    assert [text for text in may_not if asked(text)] == []


def test_the_server_takes_what_every_file_of_values_makes(cluster: Cluster, tmp_path: Path) -> None:
    own = {"apps/v1", "batch/v1", "v1", "networking.k8s.io/v1", "nfmesh.io/v1alpha1",
           "rbac.authorization.k8s.io/v1", "scheduling.k8s.io/v1"}  # fmt: skip
    path = tmp_path / "objects.json"
    for values in CI_VALUES:
        items = [
            each
            for each in render(values, release=values.stem, namespace="edge")
            if each["apiVersion"] in own
        ]
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        cluster.kubectl("create", "--dry-run=server", "--validate=true", "-f", str(path))


def test_nothing_of_a_release_is_left_and_all_of_the_others(cluster: Cluster) -> None:
    cluster.helm("uninstall", "two", "-n", "edge", "--no-hooks")
    kinds = "daemonset,deployment,service,configmap,networkpolicy,role,pdb,networkfunction"
    left = json.loads(cluster.kubectl("get", kinds, "-n", "edge", "-o", "json"))["items"]
    releases = {each["metadata"]["labels"].get("app.kubernetes.io/instance") for each in left
                if "labels" in each["metadata"]}  # fmt: skip
    assert releases == {"one"}
    classes = cluster.kubectl("get", "priorityclass", "-o", "name").split()
    ours = [each for each in classes if "nfmesh" in each]
    assert len(ours) == 4
