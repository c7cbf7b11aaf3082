# SPDX-License-Identifier: Apache-2.0
"""The rights that the chart gives the operator are all that it needs, and it needs all of them."""

import logging

import pytest

pytest.importorskip("kubernetes")

from chart_rig import render
from kube_rig import Rig, api_of, chain, function, until

from mesh.kube.api import BUDGETS, CHAINS
from mesh.kube.control_keys import control_keys
from mesh.kube.operator import Operator
from mesh.kube.uninstall import uninstall

WRITES = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
NEVER_SENT = {("update", "networkfunctions/finalizers")}
"""Some servers ask for it of whoever makes an object that belongs to another."""


@pytest.fixture
def rights():
    """Resource → verbs, as the chart's Role has them."""
    (role,) = [each for each in render() if each["kind"] == "Role"]
    found = {}
    for rule in role["rules"]:
        for resource in rule["resources"]:
            found.setdefault(resource, set()).update(rule["verbs"])
    return found


@pytest.fixture
def rig(rights):
    with Rig(("node-1", "node-2"), operators=0) as found:
        found.kube.tokens = {"": "*", "operator": rights}
        yield found


def test_they_are_what_it_needs(rig, rights, caplog, monkeypatch):
    monkeypatch.setattr("mesh.kube.leader.RENEW_S", 0.05)
    monkeypatch.setattr("mesh.kube.uninstall.LOOK_S", 0.05)
    monkeypatch.setattr("mesh.kube.recorder.AGAIN_S", 0.0)
    caplog.set_level(logging.DEBUG, "nfmesh.operator")
    api = api_of(rig.kube.url, "operator")
    control_keys(api, rig.settings)
    operator = Operator(api, rig.settings, rig.nodes.connect, "me")
    rig.operators.append(operator)
    operator.start()
    _live(rig)
    uninstall(api, rig.settings)
    rig.wait_gone("networkfunctions", "scan")
    assert [text for text in caplog.messages if "forbidden" in text] == []
    used = {(WRITES[method], resource) for method, _, resource
            in (key.partition(" ") for key in api.statistics()) if method in WRITES}  # fmt: skip
    given = {(verb, resource) for resource, verbs in rights.items() for verb in verbs
             if verb in WRITES.values()}  # fmt: skip
    assert given - used == NEVER_SENT


def _live(rig):
    """A function and a chain that come, fail twice the same way, change, and are the release's."""
    labels = {"app.kubernetes.io/instance": "one"}
    rig.apply(function("scan", labels=labels, mode="inline"), chain("edge", "scan"))
    rig.api.patch(CHAINS, "edge", {"metadata": {"labels": labels}})
    rig.wait("scan", "Attached")
    for _ in range(2):
        for stack in rig.nodes.stacks.values():
            stack.refuses["scan"] = "nobody raises it"
        rig.change("scan", where="tcp")
        rig.wait("scan", "GraphInvalid")
        for stack in rig.nodes.stacks.values():
            stack.refuses.clear()
        rig.change("scan", where="udp")
        rig.wait("scan", "Attached")
    rig.change("scan", replicas=2)
    until(lambda: "scan" in rig.objects("poddisruptionbudgets"))
    rig.api.patch(BUDGETS, "scan", {"spec": {"maxUnavailable": 2}})
    until(lambda: rig.objects("poddisruptionbudgets")["scan"]["spec"]["maxUnavailable"] == 1)
    rig.change("scan", replicas=1)
    rig.wait_gone("poddisruptionbudgets", "scan")
    rig.change("scan", image="other:2")
    until(lambda: [p["spec"]["containers"][0]["image"] for p in rig.pods("scan")] == ["other:2"])
    rig.wait("edge", "InPlace", CHAINS)
    until(lambda: any(event["count"] > 1 for event in rig.events("GraphInvalid")))
