# SPDX-License-Identifier: Apache-2.0
"""One host as a cluster's node: custom resources, conditions, the unit of systemd."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from joining_rig import OFFICE, Site, site
from patience import PATIENCE_S

from mesh.control.functions import Seen, function_of
from mesh.errors import SpecError
from mesh.kube.manifests import local_entries, read_manifests

ROOT = Path(__file__).resolve().parent.parent
FUNCTIONS = """
apiVersion: nfmesh.io/v1alpha1
kind: NetworkFunction
metadata: {name: web}
spec: {use: http_log, where: tcp port 80, cores: 0}
---
apiVersion: nfmesh.io/v1alpha1
kind: NetworkFunction
metadata: {name: count}
spec: {use: flow_counter, cores: 0, image: "elsewhere/nf:1", nodeSelector: {zone: a}}
"""


def nfmesh(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "mesh.cli", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "nf.yaml"
    path.write_text(FUNCTIONS)
    return path


# ---- conditions ---------------------------------------------------------------------------------

RUNNING = {"role": "nf", "state": "running", "phase": "attached", "restarts": 0, "failed": ""}
ATTACHED = {"phase": "attached", "error": "", "error_where": "", "cores": [2]}


def said(row=None, attachment=None):
    """Returns reason of Ready, and which conditions hold."""
    entry = {"name": "nf", "use": "http_log", "deadline_ms": 5}
    made = function_of("nf", Seen(entry, row or {}, attachment))
    assert made["spec"] == {"use": "http_log", "deadlineMs": 5, "cores": 0}
    found = made["status"]["conditions"]
    assert made["status"]["readyReplicas"] == int(found[0]["status"] == "True")
    holds = {each["type"] for each in found if each["status"] == "True"}
    assert [each["type"] for each in found] == ["Ready", "Progressing", "Degraded"]
    assert all(each["reason"].isalpha() and each["message"] for each in found)
    return found[0]["reason"], holds


@pytest.mark.parametrize(
    ("change", "reason", "holds"),
    [
        ({}, "Attached", {"Ready"}),
        ({"cores_asked": [1], "cores": [1]}, "Attached", {"Ready"}),
        ({"cores_asked": [1], "cores": [0, 1]}, "CoresShared", {"Degraded"}),
        ({"phase": "ready"}, "Starting", {"Progressing"}),
        ({"phase": "draining"}, "Draining", {"Progressing"}),
        ({"state": "waiting", "restarts": 2}, "CrashLoop", {"Degraded"}),
        ({"state": "failed", "last_exit": "exit status 3"}, "CrashLoop", {"Degraded"}),
        ({"failed": "start: no licence"}, "StartFailed", {"Degraded"}),
        ({"failed": "exit: given up: killed by SIGSEGV"}, "CrashLoop", {"Degraded"}),
        ({"failed": "host: Insufficient cpu: asked 2"}, "InsufficientCpu", {"Degraded"}),
        ({"failed": "plan: unknown event"}, "GraphInvalid", {"Degraded"}),
    ],
)
def test_an_nf_of_this_host_has_the_conditions_of_its_resource(change, reason, holds):
    assert said({**RUNNING, **change}) == (reason, holds)


@pytest.mark.parametrize(
    ("change", "reason", "holds"),
    [
        ({}, "Attached", {"Ready"}),
        ({"phase": "away"}, "Starting", {"Progressing"}),
        ({"phase": "undeclared"}, "Attaching", {"Progressing"}),
        ({"phase": "starting"}, "Attaching", {"Progressing"}),
        (
            {"phase": "undeclared", "error": "x", "error_where": "plan"},
            "GraphInvalid",
            {"Degraded"},
        ),
        ({"phase": "away", "error": "x", "error_where": "start"}, "StartFailed", {"Degraded"}),
    ],
)
def test_so_has_one_that_joins(change, reason, holds):
    assert said(None, {**ATTACHED, **change}) == (reason, holds)


def test_cores_are_what_the_kernel_lets_it_run_on_else_what_it_says_itself():
    entry = {"name": "nf", "use": "http_log"}
    row = {**RUNNING, "cores": []}  # the supervisor has not looked since it started
    status = function_of("nf", Seen(entry, row, cpus="2-3", backing={"a": "huge_2m"}))["status"]
    assert status["cores"] == "2-3"
    expected = {"pod": "nf", "attached": True, "cores": "2-3", "backing": "huge_2m"}
    assert status["nodes"] == [expected]
    status = function_of("nf", Seen(entry, {**row, "cores": [1]}, cpus="2-3"))["status"]
    assert status["cores"] == "1"


# ---- custom resources on one host ---------------------------------------------------------------


def test_a_file_of_resources_is_run_like_a_spec(file):
    done = nfmesh("run", str(file), "--pcap", str(OFFICE), "--in-process", "--json")
    assert done.returncode == 0, done.stderr
    found = {nf["name"]: nf for nf in json.loads(done.stdout)["nfs"]}
    assert set(found) == {"web", "count"}
    assert found["count"]["events"] > 0


def test_cores_are_counted_and_replicas_are_of_one_node(file):
    file.write_text(FUNCTIONS.replace("cores: 0, image", "cores: 2, image"))
    manifests = read_manifests(file)
    assert manifests is not None
    assert [entry.get("cores") for entry in local_entries(manifests)] == [None, 2]
    file.write_text(FUNCTIONS.replace("cores: 0, image", "replicas: 3, image"))
    manifests = read_manifests(file)
    assert manifests is not None
    with pytest.raises(SpecError, match="3 replicas on one host"):
        local_entries(manifests)


@pytest.fixture(scope="module")
def node():
    with site() as made:
        made.start(nfs=[{"use": "dns_log"}])
        yield made


def nfmesh_at(node: Site, *words: str) -> subprocess.CompletedProcess[str]:
    return nfmesh(*words, NFMESH_RUN=str(node.run.parent))


def apply(node: Site, *words: str) -> subprocess.CompletedProcess[str]:
    return nfmesh_at(node, "apply", *words, "--mesh", node.run.name)


def test_applying_resources_adds_changes_and_leaves_the_rest(node, file):
    done = apply(node, "-f", str(file))
    assert done.returncode == 0, done.stderr
    assert "networkfunction/web: created, from packet" in done.stdout
    shown = json.loads(nfmesh_at(node, "status", "--json").stdout)["functions"]
    ready = {each["metadata"]["name"] for each in shown if each["status"]["readyReplicas"]}
    assert ready == {"web", "count", "dns_log"}
    file.write_text(FUNCTIONS.replace("port 80", "port 8080"))
    tried = apply(node, "-f", str(file), "--dry-run").stdout.splitlines()
    assert tried == ["networkfunction/web: configured (dry run)",
                     "networkfunction/count: unchanged (dry run)"]  # fmt: skip
    table = nfmesh_at(node, "status", "--events").stdout
    assert "networkfunction/web" in table
    assert "Attached" in table
    gone = nfmesh_at(node, "delete", "-f", str(file), "--mesh", node.run.name)
    assert "networkfunction/count: deleted, heard until packet" in gone.stdout


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("use: http_log", "use: no_such_nf", "no_such_nf"),
        ("where: tcp port 80", "where: tcp prt 80", "where"),
        ("cores: 0}", "cores: 4096}", "spec.cores"),
        ("kind: NetworkFunction", "kind: NetworkFunktion", "NetworkFunktion"),
        ("name: web", "nam: web", "metadata.name"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place_and_nothing_changes(
    node, file, before, after, text
):
    revision = node.status()["revision"]
    file.write_text(FUNCTIONS.partition("---")[0].replace(before, after))
    done = apply(node, "-f", str(file))
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert node.status()["revision"] == revision


def test_too_few_cores_are_said_as_schedulers_say_it(node, file):
    n = len(os.sched_getaffinity(0)) + 1
    file.write_text(FUNCTIONS.partition("---")[0].replace("cores: 0", f"cores: {n}"))
    file.write_text(file.read_text().replace("name: web", "name: greedy"))
    done = apply(node, "-f", str(file))
    assert done.returncode == 2
    assert f"Insufficient cpu: asked {n}, free" in done.stderr


# ---- the unit -----------------------------------------------------------------------------------


def test_the_unit_runs_the_stack_as_the_command_takes_it():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "deploy/systemd/nfmesh@.service")
    words = unit["Service"]["ExecStart"].split()
    assert words[1:3] == ["nfmesh", "stack"]
    known = nfmesh("stack", "--help").stdout
    assert all(word in known for word in words if word.startswith("--"))
    assert unit["Service"]["KillMode"] == "mixed"
