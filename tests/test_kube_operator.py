# SPDX-License-Identifier: Apache-2.0
"""The operator over a fake API server with fake nodes: what it makes of custom resources."""

import base64
import hashlib

import pytest

pytest.importorskip("kubernetes")

from fakenode import NAMESPACE, STACK_LABELS
from kube_rig import Rig, chain, condition, function, until
from patience import PATIENCE_S

from mesh.kube.api import CHAINS, FUNCTIONS


@pytest.fixture
def rig():
    with Rig() as found:
        yield found


def test_function_becomes_a_pod_that_is_attached(rig):
    rig.apply(function("scan", cores=2, memory="512Mi", config={"limit": 9}))
    found = rig.wait("scan", "Attached")
    status = found["status"]
    assert condition(found, "Ready")["status"] == "True"
    assert condition(found, "Degraded")["status"] == "False"
    assert (status["replicas"], status["readyReplicas"]) == (1, 1)
    assert status["cores"] == "0,1"
    assert status["nodes"][0]["backing"] == "huge_2m"
    assert status["observedGeneration"] == found["metadata"]["generation"]
    stack = rig.nodes.stacks["node-1"]
    assert stack.entries["scan"]["config"] == {"limit": 9}
    secret = rig.objects("secrets")["scan-nf-token"]
    token = base64.b64decode(secret["data"]["token"])
    assert stack.tokens["scan"] == hashlib.sha256(token).hexdigest()


def test_pod_is_guaranteed_and_has_no_rights(rig):
    rig.apply(function("scan", cores=2, hugepages={"2Mi": "64Mi"}, files={"name": "rules"}))
    rig.wait("scan", "Attached")
    spec = rig.pods("scan")[0]["spec"]
    (container,) = spec["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["resources"]["limits"]["cpu"] == "2"
    assert container["resources"]["limits"]["hugepages-2Mi"] == "64Mi"
    context = container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert all("httpGet" in container[f"{kind}Probe"] for kind in ("startup", "liveness"))
    paths = [v["hostPath"]["type"] for v in spec["volumes"] if "hostPath" in v]
    assert paths == ["Directory"]


def test_writes_are_few_and_then_none(rig, monkeypatch):
    for name in ("FIRST_STATUS_S", "MOST_S"):  # a first status waits until all has come
        monkeypatch.setattr(f"mesh.kube.functions.{name}", PATIENCE_S)
    rig.apply(*(function(f"f{i}") for i in range(6)))
    for i in range(6):
        rig.wait(f"f{i}", "Attached")
    operator = rig.operators[0].api
    until(lambda: not any(rig.operators[0].queue.statistics()[n] for n in ("waiting", "in_hand")))
    writes = _writes(operator)
    assert writes <= 6 * 4
    for found in rig.objects("networkfunctions").values():
        rig.operators[0].queue.add((FUNCTIONS.name, found["metadata"]["name"]))
    looked = rig.operators[0].statistics()["reconciles"]
    until(lambda: rig.operators[0].statistics()["reconciles"] >= looked + 6)
    assert _writes(operator) == writes


def _writes(api):
    return sum(
        n
        for what, n in api.statistics().items()
        if not what.startswith("GET") and "leases" not in what
    )


def test_changes_of_what_is_heard_go_to_the_stack_and_not_to_the_pod(rig):
    rig.apply(function("scan"))
    rig.wait("scan", "Attached")
    pod = rig.pods("scan")[0]["metadata"]["uid"]
    rig.change("scan", where="tcp port 80")
    stack = rig.nodes.stacks["node-1"]
    until(lambda: stack.entries["scan"].get("where") == "tcp port 80")
    assert rig.pods("scan")[0]["metadata"]["uid"] == pod


def test_another_image_replaces_the_pod(rig):
    rig.apply(function("scan"))
    rig.wait("scan", "Attached")
    before = rig.pods("scan")[0]["metadata"]["uid"]
    rig.change("scan", image="other:2")
    until(lambda: [p["metadata"]["uid"] for p in rig.pods("scan")] not in ([before], []))
    until(lambda: _settled(rig, "scan", 1))
    assert rig.pods("scan")[0]["spec"]["containers"][0]["image"] == "other:2"
    assert rig.nodes.stacks["node-1"].removed == []


def test_rolling_update_overlaps_where_cores_allow(rig):
    rig.apply(function("scan", updateStrategy={"type": "RollingUpdate"}))
    rig.wait("scan", "Attached")
    rig.change("scan", image="other:2")
    until(lambda: [p["spec"]["containers"][0]["image"] for p in rig.pods("scan")] == ["other:2"])
    rig.wait("scan", "Attached")


def test_rolling_update_without_cores_says_so():
    with Rig(cores=1) as rig:
        rig.apply(function("scan", updateStrategy={"type": "RollingUpdate"}))
        rig.wait("scan", "Attached")
        rig.change("scan", image="other:2")
        found = rig.wait("scan", "InsufficientCpu")
        assert "use updateStrategy Recreate" in condition(found, "Degraded")["message"]
        rig.change("scan", updateStrategy={"type": "Recreate"})
        rig.wait("scan", "Attached")


def test_deleted_function_leaves_stacks_before_it_is_gone(rig):
    rig.apply(function("scan"))
    rig.wait("scan", "Attached")
    rig.api.delete(FUNCTIONS, "scan")
    rig.wait_gone("networkfunctions", "scan")
    assert rig.nodes.stacks["node-1"].removed == ["scan"]
    for plural, name in (("deployments", "scan"), ("secrets", "scan-nf-token")):
        rig.wait_gone(plural, name)
    until(lambda: not rig.pods("scan"))


def test_scaling_down_to_nothing_and_up_again(rig):
    rig.apply(function("scan"))
    rig.wait("scan", "Attached")
    rig.change("scan", replicas=0)
    until(lambda: "scan" not in rig.nodes.stacks["node-1"].entries)
    found = until(lambda: _settled(rig, "scan", 0))
    assert "cores" not in found["status"]
    rig.change("scan", replicas=1)
    until(lambda: _settled(rig, "scan", 1))


def _settled(rig, name, ready):
    found = rig.get(name)
    status = found.get("status", {})
    current = status.get("observedGeneration") == found["metadata"]["generation"]
    is_ready = condition(found, "Ready").get("status") == "True"
    return found if current and is_ready and status["readyReplicas"] == ready else None


def test_one_pod_per_node_and_every_node():
    with Rig(nodes=("node-1", "node-2")) as rig:
        rig.apply(function("scan", replicas=2), function("all", everyNode=True, cores=0))
        found = rig.wait("scan", "Attached")
        assert {row["node"] for row in found["status"]["nodes"]} == {"node-1", "node-2"}
        found = rig.wait("all", "Attached")
        assert found["status"]["readyReplicas"] == 2


def test_function_that_moves_stays_in_its_stack_until_its_successor_is_attached():
    with Rig(nodes=("node-1", "node-2")) as rig:
        rig.apply(function("scan", mode="inline", fail="closed"))
        found = rig.wait("scan", "Attached")
        node = found["status"]["nodes"][0]["node"]
        other = {"node-1": "node-2", "node-2": "node-1"}[node]
        rig.nodes.cordoned.update((node, other))
        rig.kube.delete(rig.nodes._of("pods"), "edge", rig.pods("scan")[0]["metadata"]["name"])
        rig.wait("scan", "InsufficientCpu")
        assert "scan" in rig.nodes.stacks[node].entries
        rig.nodes.cordoned.discard(other)
        rig.nodes.remove_stack(node)  # any change wakes the scheduler
        until(lambda: "scan" in rig.nodes.stacks[other].entries)
        rig.wait("scan", "Attached")


# ---- what is wrong -----------------------------------------------------------------------------


def test_graph_error_is_a_condition_and_an_event_and_heals(rig):
    stack = rig.nodes.stacks["node-1"]
    stack.refuses["scan"] = "nobody raises 'http.nonsense'"
    rig.apply(function("scan", where="nonsense"))
    found = rig.wait("scan", "GraphInvalid")
    assert "nobody raises" in condition(found, "Degraded")["message"]
    until(lambda: [e["type"] for e in rig.events("GraphInvalid")] == ["Warning"])
    del stack.refuses["scan"]
    rig.change("scan", where="tcp")
    rig.wait("scan", "Attached")
    until(lambda: rig.events("Attached"))


def test_spec_that_passes_the_schema_and_is_wrong_is_a_condition(rig):
    rig.apply(function("scan", ring=1000))
    found = rig.wait("scan", "Invalid")
    assert "1000 is no power of two" in condition(found, "Ready")["message"]
    assert "scan" not in rig.objects("deployments")
    rig.change("scan", ring=1024)
    rig.wait("scan", "Attached")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"reason": "ImagePullBackOff", "message": "no such image"}, "ImagePullFailed"),
        ({"reason": "CrashLoopBackOff", "message": "back-off"}, "CrashLoop"),
        ({"reason": "CreateContainerConfigError", "message": "no key"}, "ContainerFailed"),
    ],
)
def test_pods_that_never_start_say_why(rig, state, reason):
    rig.nodes.stuck["scan"] = state
    rig.apply(function("scan"))
    found = rig.wait("scan", reason)
    assert condition(found, "Degraded")["status"] == "True"
    until(lambda: len(rig.events(reason)) == 1)


def test_too_few_cores_say_so(rig):
    rig.apply(function("scan", cores=9))
    found = rig.wait("scan", "InsufficientCpu")
    assert "Insufficient cpu" in condition(found, "Ready")["message"]


def test_cores_that_are_not_its_own_are_degraded(rig):
    rig.nodes.stacks["node-1"].cpus["scan"] = "0-7"
    rig.apply(function("scan"))
    found = rig.wait("scan", "CoresShared")
    assert (
        "is the CPU manager policy of that kubelet static?" in condition(found, "Ready")["message"]
    )
    assert found["status"]["nodes"][0]["attached"] is True
    assert found["status"]["readyReplicas"] == 0


def test_cores_of_another_function_are_degraded(rig):
    rig.nodes.stacks["node-1"].cpus |= {"one": "3", "two": "3"}
    rig.apply(function("one"), function("two"))
    found = rig.wait("two", "CoresShared")
    assert "cores 3 are also those of 'one'" in condition(found, "Ready")["message"]


def test_pod_without_guarantee_is_degraded(rig):
    rig.nodes.qos["scan"] = "Burstable"
    rig.apply(function("scan"))
    rig.wait("scan", "NotGuaranteed")


def test_function_that_shares_cores_is_ready_without_any(rig):
    rig.apply(function("scan", cores=0))
    found = rig.wait("scan", "Attached")
    assert found["status"]["cores"] == "0-7"


def test_error_in_the_function_itself(rig):
    rig.nodes.stacks["node-1"].errors["scan"] = ("start", "ValueError: limit")
    rig.apply(function("scan"))
    found = rig.wait("scan", "StartFailed")
    assert "ValueError: limit" in condition(found, "Ready")["message"]


def test_name_that_is_taken_is_a_condition_and_nothing_of_others_is_touched(rig):
    theirs = {"metadata": {"name": "scan"}, "spec": {"replicas": 3, "template": {"metadata": {
        "labels": {"nfmesh.io/revision": "x"}}}, "strategy": {"type": "Recreate"}}}  # fmt: skip
    rig.nodes.cordoned.add("node-1")
    theirs["spec"]["replicas"] = 0
    rig.kube.create(rig.nodes._of("deployments"), "edge", theirs)
    rig.apply(function("scan"))
    found = rig.wait("scan", "NameTaken")
    assert "Deployment 'scan' that is not this function's" in condition(found, "Ready")["message"]
    assert rig.objects("deployments")["scan"]["spec"] == theirs["spec"]


def test_objects_of_another_release_are_left_alone(rig):
    rig.apply(function("theirs", labels={"app.kubernetes.io/instance": "two"}), function("ours"))
    rig.wait("ours", "Attached")
    assert "finalizers" not in rig.get("theirs")["metadata"]
    assert "theirs" not in rig.objects("deployments")


# ---- stacks that come and go -------------------------------------------------------------------


def test_without_a_stack_it_waits_for_one(rig):
    rig.nodes.remove_stack("node-1")
    until(lambda: not rig.operators[0].stacks.nodes())
    rig.apply(function("scan"))
    rig.wait("scan", "WaitingForStack")
    rig.nodes.add_stack("node-1")
    rig.wait("scan", "Attached")


def test_stack_that_finds_no_devices_is_said(rig):
    rig.nodes.remove_stack("node-1")
    no = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
          "message": "0/1 nodes are available: 1 Insufficient intel.com/sriov_dpdk."}  # fmt: skip
    pod = {"metadata": {"name": "stack-node-1", "labels": dict(STACK_LABELS)},
           "spec": {}, "status": {"phase": "Pending", "conditions": [no]}}  # fmt: skip
    rig.apply(function("scan"))
    rig.wait("scan", "WaitingForStack")
    rig.nodes.idle.add("stack-node-1")
    rig.kube.create(rig.nodes._of("pods"), NAMESPACE, pod)
    found = rig.wait("scan", "InsufficientDevices")
    assert "no stack is up: 0/1 nodes" in condition(found, "Degraded")["message"]


def test_stack_that_forgot_all_is_told_again(rig):
    rig.apply(function("scan"))
    rig.wait("scan", "Attached")
    stack = rig.nodes.stacks["node-1"]
    with stack.lock:
        stack.entries.clear()
    until(lambda: "scan" in stack.entries)
    rig.wait("scan", "Attached")


def test_stack_that_does_not_answer_is_said_and_heals(rig):
    rig.apply(function("scan"))
    rig.wait("scan", "Attached")
    rig.nodes.stacks["node-1"].is_away = True
    rig.wait("scan", "StackUnreachable")
    rig.nodes.stacks["node-1"].is_away = False
    rig.wait("scan", "Attached")


def test_functions_that_nobody_knows_are_removed_from_a_stack(rig):
    stack = rig.nodes.stacks["node-1"]
    with stack.lock:
        stack.entries["stranger"] = {"name": "stranger"}
    until(lambda: stack.removed == ["stranger"])


# ---- chains ------------------------------------------------------------------------------------


def test_chain_gives_stages_and_filters(rig):
    rig.apply(chain("web", "fw", "lb", where="tcp port 443"), function("lb"), function("fw"))
    found = rig.wait("web", "InPlace", CHAINS)
    assert found["status"]["path"] == "fw → lb"
    stages = {row["function"]: row["stage"] for row in found["status"]["stages"]}
    entries = rig.nodes.stacks["node-1"].entries
    until(lambda: {n: e.get("stage") for n, e in entries.items()} == stages)
    assert stages["fw"] < stages["lb"]
    assert {e["where"] for e in entries.values()} == {"tcp port 443"}


def test_chain_with_a_cycle_or_an_unknown_function_says_so(rig):
    rig.apply(function("a"), function("b"), chain("c1", "a", "b"))
    rig.wait("c1", "InPlace", CHAINS)
    rig.apply(chain("c2", "b", "a"), chain("c3", "a", "nobody"))
    assert "older chain" in condition(rig.wait("c2", "Cycle", CHAINS), "Ready")["message"]
    rig.wait("c3", "UnknownFunction", CHAINS)
    rig.apply(function("nobody"))
    rig.wait("c3", "InPlace", CHAINS)
    rig.api.delete(CHAINS, "c1")
    rig.wait("c2", "InPlace", CHAINS)
