# SPDX-License-Identifier: Apache-2.0
"""What administrators and other tenants of a namespace do to functions."""

import threading

import pytest

pytest.importorskip("kubernetes")

import fakenode
from fakenode import NAMESPACE
from kube_rig import Rig, condition, function, until
from patience import PATIENCE_S

from mesh.kube.api import DEPLOYMENTS, FUNCTIONS
from mesh.kube.render import RESTARTED

INSTANCE = "app.kubernetes.io/instance"


@pytest.fixture
def rig(monkeypatch):
    monkeypatch.setattr("mesh.kube.functions.COMING_S", 0.05)
    with Rig() as found:
        yield found


def test_name_that_is_given_back_is_used(rig):
    revision = {"metadata": {"labels": {"nfmesh.io/revision": "x"}}}
    theirs = {"metadata": {"name": "scan"}, "spec": {
        "replicas": 0, "template": revision, "strategy": {"type": "Recreate"}}}  # fmt: skip
    rig.kube.create(rig.nodes._of("deployments"), NAMESPACE, theirs)
    rig.apply(function("scan"))
    rig.wait("scan", "NameTaken")
    rig.api.delete(DEPLOYMENTS, "scan")
    rig.wait("scan", "Attached")


def test_two_releases_that_adopt_do_not_fight(rig):
    rig.apply(function("scan"))
    rig.wait("scan", "Attached")
    other = rig.start_operator("other", rig.settings_of("two"))
    rig.operators.append(other)
    (event,) = until(lambda: rig.events("OtherRelease"))
    assert "release 'one' makes its pods" in event["message"]
    made, found = rig.objects("deployments")["scan"], rig.get("scan")
    looked = other.statistics()["reconciles"]
    until(lambda: other.statistics()["reconciles"] > looked + 2)
    assert (rig.objects("deployments")["scan"], rig.get("scan")) == (made, found)
    assert rig.nodes.stacks["node-1"].removed == []


def test_function_that_is_given_to_another_release_says_what_is_in_its_way(rig):
    rig.operators.append(rig.start_operator("other", rig.settings_of("two")))
    rig.apply(function("scan", labels={INSTANCE: "one"}))
    rig.wait("scan", "Attached")
    rig.api.patch(FUNCTIONS, "scan", {"metadata": {"labels": {INSTANCE: "two"}}})
    found = rig.wait("scan", "NameTaken")
    assert "Deployment 'scan' is of release 'one'" in condition(found, "Degraded")["message"]
    rig.api.delete(DEPLOYMENTS, "scan")
    rig.wait("scan", "Attached")
    assert rig.objects("deployments")["scan"]["metadata"]["labels"][INSTANCE] == "two"


def test_reason_of_any_length_is_said(rig):
    rig.nodes.stacks["node-1"].errors["scan"] = ("start", "ValueError: " + "x" * 9000)
    rig.apply(function("scan"))
    message = condition(rig.wait("scan", "StartFailed"), "Ready")["message"]
    assert message.endswith("xxx…")


def test_pods_that_a_quota_or_a_policy_refuses_are_said(rig):
    rig.nodes.refused["scan"] = 'pods "scan-x" is forbidden: exceeded quota: few'
    rig.apply(function("scan"))
    found = rig.wait("scan", "PodRefused")
    assert "exceeded quota: few" in condition(found, "Degraded")["message"]
    until(lambda: rig.events("PodRefused"))
    rig.nodes.refused.clear()
    rig.nodes.look()
    rig.wait("scan", "Attached")


@pytest.mark.parametrize("strategy", ["Recreate", "RollingUpdate"])
def test_restart_by_kubectl_renews_the_pods_once(rig, strategy):
    rig.apply(function("scan", updateStrategy={"type": strategy}))
    rig.wait("scan", "Attached")
    (before,) = rig.pods("scan")
    stamp = {"annotations": {RESTARTED: "2026-01-02T03:04:05Z"}}
    rig.api.patch(DEPLOYMENTS, "scan", {"spec": {"template": {"metadata": stamp}}})
    until(lambda: _revisions(rig) not in ([], [_revision(before)]) and len(_revisions(rig)) == 1)
    (pod,) = rig.pods("scan")
    assert pod["metadata"]["annotations"][RESTARTED] == "2026-01-02T03:04:05Z"
    rig.wait("scan", "Attached")
    rig.change("scan", replicas=2)
    until(lambda: rig.objects("deployments")["scan"]["spec"]["replicas"] == 2)
    assert _revision(rig.objects("deployments")["scan"]["spec"]["template"]) == _revision(pod)


def _revision(pod):
    return pod["metadata"]["labels"]["nfmesh.io/revision"]


def _revisions(rig):
    return [_revision(pod) for pod in rig.pods("scan")]


def test_clock_of_the_server_does_not_matter_to_who_leaves(rig, monkeypatch):
    stack, may_go = rig.nodes.stacks["node-1"], threading.Event()
    remove = fakenode._Link.remove_nf
    asked = threading.Event()

    def slowly(link, name):
        asked.set()
        assert may_go.wait(PATIENCE_S)
        return remove(link, name)

    monkeypatch.setattr("fakenode._Link.remove_nf", slowly)
    monkeypatch.setattr("fakekube.now", lambda: "2001-01-01T00:00:00Z")
    rig.apply(function("scan"))
    rig.wait("scan", "Attached")
    rig.api.delete(FUNCTIONS, "scan")
    assert asked.wait(PATIENCE_S)
    looked = rig.operators[0].statistics()["reconciles"]
    rig.operators[0].queue.add((FUNCTIONS.name, "scan"))
    until(lambda: rig.operators[0].statistics()["reconciles"] > looked + 1)
    assert "scan" in rig.objects("networkfunctions")
    may_go.set()
    rig.wait_gone("networkfunctions", "scan")
    assert (stack.removed, rig.events("StackUnreachable")) == (["scan"], [])
