# SPDX-License-Identifier: Apache-2.0
"""Updates of a function that are interrupted, cannot end, or are refused before they begin."""

import time

import pytest

pytest.importorskip("kubernetes")

from kube_rig import Rig, condition, function, until

from mesh.kube.api import FUNCTIONS

NO_IMAGE = {"reason": "ImagePullBackOff", "message": "no such image"}


@pytest.fixture
def rig():
    with Rig(operators=2) as found:
        yield found


def stack_of(rig):
    return rig.nodes.stacks["node-1"]


def images(rig, name="scan"):
    return [pod["spec"]["containers"][0]["image"] for pod in rig.pods(name)]


def begin_roll(rig):
    """Has a function attached, and its next image on the way, which does not start yet."""
    rig.apply(function("scan", image="one:1", updateStrategy={"type": "RollingUpdate"}))
    rig.wait("scan", "Attached")
    rig.nodes.stuck["scan"] = NO_IMAGE
    rig.change("scan", image="two:2")
    return rig.wait("scan", "ImagePullFailed")


def end_roll(rig):
    rig.nodes.stuck.clear()
    rig.nodes.look()
    until(lambda: images(rig) == ["two:2"], "the old pod to leave")
    return rig.wait("scan", "Attached")


def test_image_that_never_starts_leaves_the_old_pod_at_work(rig):
    found = begin_roll(rig)
    assert found["status"]["readyReplicas"] == 1
    attached = [row["pod"] for row in found["status"]["nodes"] if row["attached"]]
    assert sorted(images(rig)) == ["one:1", "two:2"]
    rig.change("scan", image="one:1")
    until(lambda: images(rig) == ["one:1"])
    found = rig.wait("scan", "Attached")
    assert [row["pod"] for row in found["status"]["nodes"]] == attached, "it never left"
    assert stack_of(rig).removed == []


def test_update_outlives_its_operator(rig):
    begin_roll(rig)
    for operator in rig.operators:
        operator.stop()
    rig.operators = [rig.start_operator("another")]
    until(lambda: rig.operators[0].leads)
    end_roll(rig)
    assert stack_of(rig).removed == []


def test_update_goes_on_when_another_operator_takes_over(rig):
    begin_roll(rig)
    first = next(operator for operator in rig.operators if operator.leads)
    first.stop()
    rig.operators.remove(first)
    until(lambda: rig.operators[0].leads)
    end_roll(rig)
    assert stack_of(rig).removed == []


def test_update_outlives_minutes_without_a_server(rig):
    begin_roll(rig)
    rig.kube.is_away = True
    rig.kube.hang_up()
    for operator in rig.operators:
        operator.leader._clock = lambda: time.monotonic() + 300
    until(lambda: not any(operator.leads for operator in rig.operators), "nobody to lead")
    assert stack_of(rig).entries.keys() == {"scan"}, "what runs goes on"
    rig.nodes.stuck.clear()
    rig.nodes.look()
    until(lambda: images(rig) == ["two:2"], "the cluster to roll on by itself")
    rig.kube.is_away = False
    found = rig.wait("scan", "Attached")
    until(lambda: len(rig.get("scan")["status"]["nodes"]) == 1)
    assert condition(found, "Degraded")["status"] == "False"
    assert stack_of(rig).removed == []


# ---- refused before anything is made -----------------------------------------------------------


def test_spec_that_no_stack_would_take_makes_nothing(rig):
    stack_of(rig).refuses["scan"] = "nobody raises 'http.nonsense'"
    rig.apply(function("scan", where="nonsense"))
    found = rig.wait("scan", "GraphInvalid")
    text = "node node-1: spec.where: nobody raises 'http.nonsense'"
    assert condition(found, "Degraded")["message"] == text
    assert not rig.objects("deployments")
    assert not rig.objects("secrets")
    assert stack_of(rig).puts == []
    until(lambda: [event["message"] for event in rig.events("GraphInvalid")] == [text])


def test_change_that_no_stack_would_take_leaves_what_there_is(rig):
    rig.apply(function("scan", image="one:1", where="tcp"))
    rig.wait("scan", "Attached")
    stack_of(rig).refuses["scan"] = "no such field"
    rig.change("scan", image="two:2", where="nonsense", replicas=2)
    found = rig.wait("scan", "GraphInvalid")
    assert found["status"]["observedGeneration"] == 2
    assert found["status"]["readyReplicas"] == 1
    assert images(rig) == ["one:1"]
    assert stack_of(rig).entries["scan"]["where"] == "tcp"
    assert rig.objects("deployments")["scan"]["spec"]["replicas"] == 1
    stack_of(rig).refuses.clear()
    rig.change("scan", where="udp", replicas=1)
    until(lambda: images(rig) == ["two:2"])
    rig.wait("scan", "Attached")
    assert stack_of(rig).entries["scan"]["where"] == "udp"


def test_change_that_makes_no_sense_leaves_what_there_is(rig):
    rig.apply(function("scan", image="one:1"))
    rig.wait("scan", "Attached")
    rig.change("scan", image="two:2", ring=1000)
    found = rig.wait("scan", "Invalid")
    assert "1000 is no power of two" in condition(found, "Degraded")["message"]
    assert found["status"]["readyReplicas"] == 1
    assert images(rig) == ["one:1"]
    assert stack_of(rig).entries.keys() == {"scan"}
    assert stack_of(rig).removed == []


def test_function_that_hears_another_is_looked_at_again_when_that_comes(rig):
    stack_of(rig).refuses["second"] = "nobody raises 'first.found'"
    rig.apply(function("second", events=["first.found"]))
    rig.wait("second", "GraphInvalid")
    stack_of(rig).refuses.clear()
    rig.apply(function("first"))
    rig.wait("second", "Attached")


def test_stack_that_does_not_answer_is_not_waited_for(rig):
    stack_of(rig).is_away = True
    until(lambda: any(view.error for o in rig.operators for view in o.stacks.views().values()))
    rig.apply(function("scan"))
    until(lambda: "scan" in rig.objects("deployments"))
    rig.wait("scan", "StackUnreachable")
    stack_of(rig).is_away = False
    rig.wait("scan", "Attached")


def test_of_two_stacks_the_one_that_would_take_it_decides():
    with Rig(nodes=("node-1", "node-2")) as rig:
        stack_of(rig).refuses["scan"] = "nobody raises it here"
        rig.nodes.cordoned.add("node-1")
        rig.apply(function("scan"))
        rig.wait("scan", "Attached")
        assert rig.api.get(FUNCTIONS, "scan")["status"]["nodes"][0]["node"] == "node-2"
