# SPDX-License-Identifier: Apache-2.0
"""The operator with a real stack and real NFs, as processes of this host; the cluster is played.

`kube_host.py` says what runs here.
"""

import base64
import json
import logging

import pytest

pytest.importorskip("kubernetes")

from joining_rig import probe, site
from kube_host import HostRig, start
from kube_rig import condition, function, until

from mesh.kube.api import FUNCTIONS


@pytest.fixture(scope="module")
def place():
    with site() as made:
        start(made)
        yield made


@pytest.fixture
def rig(place):
    with HostRig({"node-1": place}) as made:
        yield made
    place.leave()


def test_function_runs_on_its_core_and_hears(rig):
    rig.apply(function("counter", use="flow_counter"))
    found = rig.wait("counter", "Attached")
    (row,) = found["status"]["nodes"]
    assert row["attached"] is True
    assert row["cores"] == rig.row("counter")["cpus_allowed_list"]
    assert row["backing"]
    assert found["status"]["cores"].isdigit()
    rig.place.hears("counter")

    rig.change("counter", where="tcp port 80")
    pod = rig.pods("counter")[0]["metadata"]["uid"]
    until(lambda: _where(rig, "counter") == "tcp port 80", "its filter")
    assert rig.pods("counter")[0]["metadata"]["uid"] == pod

    rig.api.delete(FUNCTIONS, "counter")
    until(lambda: not rig.row("counter"), "the stack to forget it")
    rig.wait_gone("networkfunctions", "counter")


def _where(rig, name):
    rows = [row for row in rig.place.status()["subscriptions"] if row["nf"] == name]
    return rows[0]["where"] if rows else None


def test_function_that_nobody_pins_is_said_to_share_cores(rig):
    rig.host.unpinned.add("counter")
    rig.apply(function("counter", use="flow_counter"))
    found = rig.wait("counter", "CoresShared")
    assert (
        "is the CPU manager policy of that kubelet static?" in condition(found, "Ready")["message"]
    )


def test_filter_that_is_wrong_is_said_and_mended(rig):
    rig.apply(function("counter", use="flow_counter", cores=0, where="prot 6"))
    found = rig.wait("counter", "GraphInvalid")
    assert "prot" in condition(found, "Degraded")["message"]
    rig.change("counter", where="tcp")
    rig.wait("counter", "Attached")


def test_rolling_update_hands_over_from_pod_to_pod(rig):
    rolling = {"type": "RollingUpdate"}
    rig.apply(function("roller", use="flow_counter", cores=0, updateStrategy=rolling))
    rig.wait("roller", "Attached")
    first = rig.pods("roller")[0]["metadata"]["name"]
    rig.change("roller", image="other:2")
    until(lambda: first not in rig.host.pods, "the first pod to leave")
    until(lambda: rig.row("roller").get("restarts") == 1, "the second to attach")
    found = rig.wait("roller", "Attached")
    assert rig.host.removed == [], "the stack kept its ring and its policy"
    assert first not in [row["pod"] for row in found["status"]["nodes"]]
    rig.place.hears("roller")


def test_functions_attach_again_to_a_stack_that_was_killed():
    with site() as place:  # its second stack is this test's own
        start(place)
        with HostRig({"node-1": place}) as rig:
            rig.apply(function("counter", use="flow_counter", cores=0))
            rig.wait("counter", "Attached")
            place.kill_stack()
            rig.wait("counter", "StackUnreachable")
            start(place)
            rig.wait("counter", "Attached")
            place.hears("counter")


def test_tokens_and_keys_are_said_nowhere(rig, caplog):
    caplog.set_level(logging.DEBUG)
    place, guess = rig.place, "what somebody guessed who knows no token"
    rig.apply(function("counter", use="flow_counter", cores=0))
    rig.wait("counter", "Attached")
    wrong = place.folder / "wrong.token"
    wrong.write_text(guess)
    wrong.chmod(0o644)
    before = place.status()["refused"].get("descriptors.token", 0)
    stranger = place.join("counter", "flow_counter", wrong)
    until(lambda: place.status()["refused"].get("descriptors.token", 0) > before, "it")
    rig.change("counter", where="prot 6")
    rig.wait("counter", "GraphInvalid")

    (secret,) = rig.objects("secrets").values()
    token = base64.b64decode(secret["data"]["token"]).decode()
    hidden = [guess, token, secret["data"]["token"]]
    hidden += [(place.folder / "keys" / name).read_text() for name in ("server.key", "client.key")]
    (pod,) = rig.host.pods
    said = {
        "operator": caplog.text + json.dumps(rig.operators[0].statistics()),
        "objects": json.dumps(
            [rig.objects(kind) for kind in ("networkfunctions", "deployments", "pods", "events")]
        ),
        "status": json.dumps(place.status()),
        "metrics": probe(place.stack_port, "/metrics")[1],
        "stack": (place.folder / "stack.log").read_text(),
        "NF": rig.host.pods[pod].log.read_text() + stranger.log.read_text(),
        "command": " ".join(rig.host.words(pod)),
        "kept": (place.run / "desired.json").read_text(),
    }
    assert "wrong token for counter" in said["stack"]
    for where, text in said.items():
        assert text
        assert not [word for word in hidden if word.strip() in text], where
