# SPDX-License-Identifier: Apache-2.0
"""Budgets: how many pods of a function may be evicted at a time."""

import pytest

pytest.importorskip("kubernetes")

from fakenode import NAMESPACE
from kube_rig import Rig, function, until

from mesh.kube.api import BUDGETS, FUNCTIONS

NODES = ("node-1", "node-2", "node-3")


@pytest.fixture
def rig():
    with Rig(NODES) as found:
        yield found


def budgets(rig):
    return rig.objects("poddisruptionbudgets")


def test_function_with_several_pods_has_a_budget_of_its_own(rig):
    rig.apply(function("pair", replicas=2), function("single"), function("each", everyNode=True))
    for name in ("pair", "single", "each"):
        rig.wait(name, "Attached")
    found = until(lambda: budgets(rig).get("pair"))
    assert found["spec"]["maxUnavailable"] == 1
    assert found["spec"]["selector"]["matchLabels"]["nfmesh.io/network-function"] == "pair"
    assert list(budgets(rig)) == ["pair"]
    rig.change("pair", everyNode=True)
    rig.wait_gone("poddisruptionbudgets", "pair")
    rig.change("single", replicas=2)
    until(lambda: list(budgets(rig)) == ["single"])
    rig.api.delete(BUDGETS, "single")
    until(lambda: list(budgets(rig)) == ["single"])
    rig.api.delete(FUNCTIONS, "single")
    rig.wait_gone("poddisruptionbudgets", "single")


@pytest.mark.parametrize(("most", "left"), [(0, []), (2, ["three"])])
def test_values_that_change_reach_what_is_there(rig, most, left):
    rig.apply(function("pair", replicas=2), function("three", replicas=3))
    until(lambda: set(budgets(rig)) == {"pair", "three"})
    rig.operators.pop().stop()
    more = rig.settings.model_copy(
        update={"budget": rig.settings.budget.model_copy(update={"max_unavailable": most})}
    )
    rig.operators.append(rig.start_operator("another", more))
    until(lambda: list(budgets(rig)) == left)
    until(lambda: all(each["spec"]["maxUnavailable"] == most for each in budgets(rig).values()))


def test_budget_of_somebody_else_is_not_touched(rig):
    theirs = {"metadata": {"name": "pair"}, "spec": {"minAvailable": 7}}
    rig.kube.create(rig.nodes._of("poddisruptionbudgets"), NAMESPACE, theirs)
    rig.apply(function("pair", replicas=2))
    rig.wait("pair", "Attached")
    rig.change("pair", replicas=3)
    until(lambda: rig.get("pair")["status"]["readyReplicas"] == 3)
    assert budgets(rig)["pair"]["spec"] == {"minAvailable": 7}


def test_functions_come_up_where_there_are_no_budgets(monkeypatch):
    monkeypatch.setattr("mesh.kube.operator.BUDGETS_S", 0.05)
    with Rig(NODES, operators=0) as rig:
        del rig.kube.resources["policy", "poddisruptionbudgets"]
        rig.operators.append(rig.start_operator("me"))
        rig.apply(function("pair", replicas=2))
        rig.wait("pair", "Attached")
        assert rig.operators[0].is_ready
