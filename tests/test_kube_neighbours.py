# SPDX-License-Identifier: Apache-2.0
"""What administrators and other tenants of a namespace do to functions."""

import pytest

pytest.importorskip("kubernetes")

from fakenode import NAMESPACE
from kube_rig import Rig, condition, function, until

from mesh.kube.api import DEPLOYMENTS, FUNCTIONS

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
