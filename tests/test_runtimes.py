# SPDX-License-Identifier: Apache-2.0
"""One file, two runtimes: the same tests over a mesh of this host and over clusters.

The mesh is one of processes that replay a capture again and again; the clusters have the operator,
over the tests' own API server and over a real one with controllers and scheduler.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, suppress
from functools import partial

import pytest
import yaml

pytest.importorskip("kubernetes")

from cluster_rig import Cluster
from fakekube_rules import check
from fakenode import NAMESPACE
from joining_rig import site, until
from kube_rig import Rig, condition
from real_kube import CONTROLLERS, need
from test_local_runtime import nfmesh

from mesh.control.tool import ask
from mesh.errors import MeshError, SpecError
from mesh.kube.api import FUNCTIONS
from mesh.kube.crd import crds
from mesh.kube.manifests import read_manifests
from mesh.runtime.cluster import KubernetesRuntime
from mesh.runtime.local import LocalRuntime

ON_NODES = ("node-1", "node-2")


class Host:
    """A mesh of this host."""

    def __init__(self, stack):
        self.node = stack.enter_context(site())
        self.node.start()
        self.runtime = LocalRuntime(partial(ask, self.node.run))

    def force(self, manifests):
        """Asks for something that will not do."""
        with suppress(SpecError):
            self.runtime.start(manifests)

    def refuses(self, name, text):
        """A mesh composes by itself."""


class InCluster:
    """A cluster: the runtime of a user, and nodes whose stacks refuse what they are told to."""

    def __init__(self, api, stacks):
        self.api, self.stacks = api, stacks
        self.runtime = KubernetesRuntime(api)

    def force(self, manifests):
        """Makes objects as who does not ask this runtime."""
        for each in manifests.objects:
            self.api.create(FUNCTIONS, each)

    def refuses(self, name, text):
        """Lets nodes compose what they are said to."""
        for stack in self.stacks():
            stack.refuses.pop(name, None)
            if text:
                stack.refuses[name] = text


def made_world(kind, stack):
    if kind == "host":
        return Host(stack)
    if kind == "fake cluster":
        rig = stack.enter_context(Rig(ON_NODES))
        return InCluster(rig.api, rig.nodes.stacks.values)
    need(CONTROLLERS)
    cluster = Cluster(stack)
    return InCluster(cluster.api, cluster.kubelets.stacks.values)


@pytest.fixture(scope="module", params=["host", "fake cluster", "cluster"])
def world(request):
    with ExitStack() as stack:
        yield made_world(request.param, stack)


@pytest.fixture
def runtime(world):
    return world.runtime


@pytest.fixture
def file(tmp_path):
    """Writes functions as a user does, and returns what they are read as."""

    def write(**functions):
        objects = [
            {
                "apiVersion": FUNCTIONS.api_version,
                "kind": "NetworkFunction",
                "metadata": {"name": name},
                "spec": {"cores": 0, **spec},
            }
            for name, spec in functions.items()
        ]
        path = tmp_path / "nf.yaml"
        path.write_text(yaml.safe_dump_all(objects))
        return read_manifests(path)

    return write


def shown(runtime, name):
    return next((each for each in runtime.status() if each["metadata"]["name"] == name), None)


def comes_to(runtime, name, reason):
    """Waits until a function is as the test wants it."""
    found = [None]

    def there():
        found[0] = shown(runtime, name) or {}
        return condition(found[0], "Ready").get("reason") == reason and found[0]

    try:
        return until(there, f"{name} to be {reason}")
    except AssertionError as error:
        raise AssertionError(f"{error}: {found[0].get('status')}") from error


def problems_of(status):
    """Checks a status as an API server does."""
    version = crds()["networkfunctions"]["spec"]["versions"][0]
    found = []
    check(status, version["schema"]["openAPIV3Schema"]["properties"]["status"], "status", found)
    return found


def told(runtime, name):
    """Returns what events say of a function."""
    return {
        (each["type"], each["reason"])
        for each in runtime.events()
        if each["involvedObject"]["name"] == name
    }


def lines(changes):
    return [f"{each.kind}/{each.name}: {each.what}" for each in changes]


# ---- planning -----------------------------------------------------------------------------------


def test_a_plan_says_what_would_be_created_and_changes_nothing(runtime, file):
    wanted = file(web={"use": "http_log"}, names={"use": "dns_log", "where": "udp port 53"})
    expected = ["networkfunction/web: created", "networkfunction/names: created"]
    assert lines(runtime.plan(wanted)) == expected
    assert lines(runtime.plan(wanted)) == expected
    assert shown(runtime, "web") is None


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"use": "http_log", "where": "tcp prt 80"}, "spec.where"),
        ({"use": "syn_scan", "config": {"limits": 3}}, "spec.config.limits"),
        ({"use": "http_log", "subscriptions": {"no_such": {}}}, "spec.subscriptions"),
    ],
)
def test_what_does_not_compose_is_refused_with_its_place(runtime, file, spec, place):
    good = {"use": "dns_log"}
    for attempt in (runtime.plan, runtime.start):
        with pytest.raises(SpecError) as error:
            attempt(file(good=good, wrong=spec))
        assert error.value.path == f"NetworkFunction wrong: {place}"
    assert shown(runtime, "good") is None, "all of a file or nothing"
    runtime.stop(file(wrong=spec))


def test_a_wrong_value_is_refused_with_its_place_before_anybody_is_asked(file):
    with pytest.raises(SpecError, match=r"nf.yaml.spec.cores: "):
        file(wrong={"use": "http_log", "cores": 1.5})


# ---- running ------------------------------------------------------------------------------------


def test_what_is_started_becomes_ready_changes_and_goes(runtime, file):
    wanted = {"use": "http_log", "where": "tcp port 80"}
    assert lines(runtime.start(file(web=wanted))) == ["networkfunction/web: created"]
    found = comes_to(runtime, "web", "Attached")
    status = found["status"]
    assert (status["replicas"], status["readyReplicas"]) == (1, 1)
    [row] = status["nodes"]
    assert row["attached"] is True
    assert row["node"]
    assert row["cores"] == status["cores"]
    assert row["backing"]
    assert {each["type"]: each["status"] for each in status["conditions"]} == {
        "Ready": "True",
        "Progressing": "False",
        "Degraded": "False",
    }
    assert found["spec"]["where"] == "tcp port 80"
    assert not problems_of(status)
    assert lines(runtime.start(file(web=wanted))) == ["networkfunction/web: unchanged"]
    wanted["where"] = "tcp port 8080"
    assert lines(runtime.plan(file(web=wanted))) == ["networkfunction/web: configured"]
    assert shown(runtime, "web")["spec"]["where"] == "tcp port 80"
    assert lines(runtime.start(file(web=wanted))) == ["networkfunction/web: configured"]
    assert comes_to(runtime, "web", "Attached")["spec"]["where"] == "tcp port 8080"
    del wanted["where"]
    assert lines(runtime.start(file(web=wanted))) == ["networkfunction/web: configured"]
    assert "where" not in comes_to(runtime, "web", "Attached")["spec"]
    assert lines(runtime.stop(file(web=wanted))) == ["networkfunction/web: deleted"]
    until(lambda: shown(runtime, "web") is None, "it to be gone")
    assert lines(runtime.stop(file(web=wanted))) == ["networkfunction/web: not found"]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a core for the mesh, one for the NF")
def test_cores_are_its_own_and_are_said(runtime, file):
    before = file(before={"use": "dns_log", "cores": 1})
    runtime.start(before)
    comes_to(runtime, "before", "Attached")
    runtime.stop(before)
    wanted = file(pinned={"use": "flow_counter", "cores": 1})
    runtime.start(wanted)  # its core is free as soon as the other one has ended
    status = comes_to(runtime, "pinned", "Attached")["status"]
    assert status["cores"].isdigit(), "one core"
    runtime.stop(wanted)


# ---- what does not fit --------------------------------------------------------------------------


def test_a_graph_error_is_a_condition_and_an_event_until_it_is_mended(world, runtime, file):
    world.refuses("bad", "where: no filter")
    world.force(file(bad={"use": "http_log", "where": "tcp prt 80"}))
    found = comes_to(runtime, "bad", "GraphInvalid")
    assert condition(found, "Degraded")["status"] == "True"
    assert "where" in condition(found, "Ready")["message"]
    until(lambda: ("Warning", "GraphInvalid") in told(runtime, "bad"), "the event")
    world.refuses("bad", "")
    mended = file(bad={"use": "http_log", "where": "tcp port 80"})
    runtime.start(mended)
    comes_to(runtime, "bad", "Attached")
    both = {("Warning", "GraphInvalid"), ("Normal", "Attached")}
    until(lambda: told(runtime, "bad") == both, "the other event")
    runtime.stop(mended)


def test_too_few_cores_are_a_condition_and_an_event(world, runtime, file):
    greedy = file(greedy={"use": "flow_counter", "cores": 1000})
    world.force(greedy)
    found = comes_to(runtime, "greedy", "InsufficientCpu")
    assert "Insufficient cpu" in condition(found, "Degraded")["message"]
    until(lambda: told(runtime, "greedy") == {("Warning", "InsufficientCpu")}, "the event")
    runtime.stop(greedy)
    assert shown(runtime, "greedy") is None


def test_a_chain_of_nobody_is_refused(runtime, tmp_path):
    path = tmp_path / "chain.yaml"
    chain = {"apiVersion": FUNCTIONS.api_version, "kind": "ServiceChain"}
    path.write_text(
        yaml.safe_dump({**chain, "metadata": {"name": "way"}, "spec": {"functions": ["nobody"]}})
    )
    with pytest.raises(SpecError, match=r"ServiceChain way: .*nobody"):
        runtime.plan(read_manifests(path))


# ---- the command, in a cluster -------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path):
    with Rig(ON_NODES) as rig:
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "other",
            "clusters": [{"name": "fake", "cluster": {"server": rig.kube.url}}],
            "users": [{"name": "me", "user": {}}],
            "contexts": [{"name": name, "context": {"cluster": "fake", "user": "me",
                          "namespace": space}}
                         for name, space in (("test", NAMESPACE), ("other", "elsewhere"))],
        }  # fmt: skip
        rig.kubeconfig = tmp_path / "kubeconfig"
        rig.kubeconfig.write_text(json.dumps(config))
        yield rig


def test_the_command_takes_the_same_file_to_a_cluster(cluster, file, tmp_path):
    file(web={"use": "http_log"}, names={"use": "dns_log"})
    path, to = tmp_path / "nf.yaml", ("--context", "test")

    def kubectl_like(*words):
        done = nfmesh(*words, *to, KUBECONFIG=str(cluster.kubeconfig))
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    assert kubectl_like("apply", "-f", str(path), "--dry-run") == [
        "networkfunction/web: created (dry run)",
        "networkfunction/names: created (dry run)",
    ]
    assert kubectl_like("apply", "-f", str(path)) == [
        "networkfunction/web: created",
        "networkfunction/names: created",
    ]
    cluster.wait("names", "Attached")
    head, *rows = kubectl_like("status")
    assert head.split() == ["name", "use", "replicas", "ready", "cores", "status", "message", "age"]
    assert [row.split()[0] for row in rows] == ["names", "web"]
    assert kubectl_like("delete", "-f", str(path))[1] == "networkfunction/names: deleted"
    assert kubectl_like("status", "--events") == ["no events"]


def test_a_cluster_without_the_chart_says_so(cluster, file):
    cluster.kube.resources.pop((FUNCTIONS.group, FUNCTIONS.plural))
    with pytest.raises(MeshError, match="helm install"):
        KubernetesRuntime(cluster.api).plan(file(web={"use": "http_log"}))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--on", "host", "--namespace", "a"), "--on host"),
        (("--mesh", "a", "--context", "b"), "--mesh"),
    ],
)
def test_options_that_contradict_each_other_are_refused(file, tmp_path, words, text):
    file(web={"use": "http_log"})
    done = nfmesh("apply", "-f", str(tmp_path / "nf.yaml"), *words)
    assert (done.returncode, text in done.stderr) == (2, True)
