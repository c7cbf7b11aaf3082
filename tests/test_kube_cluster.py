# SPDX-License-Identifier: Apache-2.0
"""The operator in a cluster whose API server, controllers and scheduler are real ones.

Only kubelets and stacks are played: what becomes of a NetworkFunction here, a Deployment controller
made, the scheduler placed, and the garbage collector removed.
"""

from contextlib import ExitStack

import pytest

pytest.importorskip("kubernetes")

from cluster_rig import Cluster
from fakenode import NAMESPACE
from kube_rig import chain, condition, function, until
from real_kube import CONTROLLERS, FOLDER, need

from mesh.kube.api import CHAINS, DEPLOYMENTS, FUNCTIONS, PODS, SECRETS, budgets_of


@pytest.fixture(scope="module")
def cluster():
    need(CONTROLLERS)
    with ExitStack() as stack:
        yield Cluster(stack)


@pytest.fixture
def function_of(cluster):
    """Creates functions and deletes them in the end."""
    names = []

    def create(name, **spec):
        names.append(name)
        return cluster.api.create(FUNCTIONS, function(name, **spec))

    yield create
    for name in names:
        if not cluster.gone(FUNCTIONS, name):
            cluster.api.delete(FUNCTIONS, name)
    for name in names:
        until(lambda n=name: cluster.gone(FUNCTIONS, n) and not cluster.images(n))


def test_function_is_placed_beside_a_stack_and_attached(cluster, function_of):
    function_of("scan", replicas=2)
    found = cluster.wait("scan", "Attached")
    assert {row["node"] for row in found["status"]["nodes"]} == {"node-1", "node-2"}
    deployment = cluster.api.get(DEPLOYMENTS, "scan")
    assert deployment["metadata"]["generation"] == 1, "written once"
    pod = cluster.api.list(PODS, "nfmesh.io/network-function=scan")["items"][0]
    assert pod["status"]["qosClass"] == "Guaranteed"


def test_scheduler_says_what_is_short(cluster, function_of):
    function_of("big", cores=5)
    assert (
        "Insufficient cpu" in condition(cluster.wait("big", "InsufficientCpu"), "Ready")["message"]
    )
    function_of("huge", hugepages={"2Mi": "128Mi"})
    cluster.wait("huge", "InsufficientHugepages")
    function_of("picky", nodeSelector={"rack": "none"})
    cluster.wait("picky", "Unschedulable")


def test_autoscaler_scales_a_function(cluster, function_of):
    function_of("scan", cores=0)
    cluster.wait("scan", "Attached")
    target = {"apiVersion": FUNCTIONS.api_version, "kind": FUNCTIONS.name, "name": "scan"}
    spec = {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 2}
    path = f"/apis/autoscaling/v1/namespaces/{NAMESPACE}/horizontalpodautoscalers"
    cluster.kube.request("POST", path, {"metadata": {"name": "scan"}, "spec": spec})
    try:
        until(lambda: cluster.api.get(FUNCTIONS, "scan")["spec"]["replicas"] == 2)
        until(lambda: cluster.api.get(FUNCTIONS, "scan")["status"]["readyReplicas"] == 2)
    finally:
        cluster.kube.request("DELETE", f"{path}/scan", {})


def test_quota_that_refuses_pods_is_said(cluster, function_of):
    cluster.kubectl("create", "quota", "few", "--hard=requests.cpu=1m")
    try:
        function_of("scan")
        found = cluster.wait("scan", "PodRefused")
        assert "exceeded quota: few" in condition(found, "Degraded")["message"]
    finally:
        cluster.kubectl("delete", "quota", "few")


def test_node_is_drained_though_functions_are_broken_and_on_every_node(cluster, function_of):
    function_of("scan")
    function_of("pair", replicas=2, cores=0)
    function_of("each", everyNode=True, cores=0)
    function_of("broken", replicas=2, cores=5)
    for name in ("scan", "pair", "each"):
        cluster.wait(name, "Attached")
    cluster.wait("broken", "InsufficientCpu")
    (scan,) = cluster.api.get(FUNCTIONS, "scan")["status"]["nodes"]
    budgets = cluster.api.list(budgets_of("v1beta1"))["items"]
    assert {each["metadata"]["name"] for each in budgets} == {"pair", "broken"}
    try:
        cluster.kubectl("drain", scan["node"], "--ignore-daemonsets", "--delete-emptydir-data")
        until(lambda: cluster.nodes("scan") not in ([], [scan["node"]]))
        cluster.wait("scan", "Attached")
    finally:
        cluster.kubectl("uncordon", scan["node"])
    cluster.wait("pair", "Attached")


def test_restart_by_kubectl_renews_the_pods(cluster, function_of):
    function_of("scan", updateStrategy={"type": "RollingUpdate"}, replicas=2)
    cluster.wait("scan", "Attached")
    before = cluster.pods("scan")
    cluster.kubectl("rollout", "restart", "deployment/scan")
    cluster.kubectl("rollout", "status", "deployment/scan", "--timeout=110s")
    until(lambda: len(cluster.pods("scan")) == 2)
    assert not before & cluster.pods("scan")
    cluster.wait("scan", "Attached")


@pytest.mark.parametrize("strategy", ["Recreate", "RollingUpdate"])
def test_another_image_is_rolled_out(cluster, function_of, strategy):
    function_of("scan", updateStrategy={"type": strategy})
    cluster.wait("scan", "Attached")
    cluster.api.patch(FUNCTIONS, "scan", {"spec": {"image": "other:2"}})
    until(lambda: cluster.images("scan") == ["other:2"])
    until(lambda: _is_ready(cluster.api.get(FUNCTIONS, "scan"), 2))


def _is_ready(found, generation):
    status = found["status"]
    ready = condition(found, "Ready")["status"] == "True"
    return ready and status["observedGeneration"] == generation and len(status["nodes"]) == 1


def test_what_belongs_to_a_deleted_function_is_collected(cluster, function_of):
    function_of("scan")
    cluster.wait("scan", "Attached")
    cluster.api.delete(FUNCTIONS, "scan")
    until(lambda: cluster.gone(FUNCTIONS, "scan"))
    until(lambda: cluster.gone(DEPLOYMENTS, "scan"))
    until(lambda: cluster.gone(SECRETS, "scan-nf-token"))
    until(lambda: not cluster.images("scan"))
    assert all("scan" not in stack.entries for stack in cluster.kubelets.stacks.values())


def test_chains_and_what_kubectl_shows(cluster, function_of):
    if not (FOLDER / "kubectl").exists():
        pytest.skip(f"SKIPPED: no kubectl in {FOLDER}; get it with: make kube")
    function_of("fw", cores=2)
    function_of("lb")
    cluster.api.create(CHAINS, chain("web", "fw", "lb", where="tcp port 443"))
    cluster.wait("web", "InPlace", CHAINS)
    table = [line.split() for line in cluster.kubectl("get", "nfn").splitlines()]
    assert table[0] == ["NAME", "USE", "REPLICAS", "READY", "CORES", "STATUS", "AGE"]
    assert table[1][:4] == ["fw", "syn_scan", "1", "1"]
    assert table[1][5] == "Attached"
    assert "fw → lb" in cluster.kubectl("get", "nfc")
    cluster.kubectl("scale", "nfn", "lb", "--replicas=2")
    until(lambda: cluster.api.get(FUNCTIONS, "lb")["status"].get("readyReplicas") == 2)
    cluster.api.delete(CHAINS, "web")


@pytest.fixture
def ended_server(cluster):
    """What a test starts ends with it: for the last one of this module."""
    yield
    cluster.kube.stop_api()


@pytest.mark.usefixtures("ended_server")
def test_api_server_that_was_killed_is_found_again(cluster, function_of):
    function_of("one")
    cluster.wait("one", "Attached")
    cluster.kube.stop_api()
    until(lambda: not cluster.operator.is_ready, "not ready without a server")
    cluster.kube.start_api()
    function_of("two")
    cluster.wait("two", "Attached")
    cluster.wait("one", "Attached")
    until(lambda: cluster.operator.is_ready)
