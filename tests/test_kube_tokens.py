# SPDX-License-Identifier: Apache-2.0
"""Tokens of functions: Secrets that go, change, or are wrong."""

import base64
import hashlib

import pytest

pytest.importorskip("kubernetes")

from kube_rig import Rig, condition, function, until

from mesh.kube.api import FUNCTIONS, SECRETS

SECRET = "scan-nf-token"


@pytest.fixture
def rig(monkeypatch):
    monkeypatch.setattr("mesh.kube.owned.FRESH_S", 0.0)
    with Rig() as found:
        found.apply(function("scan"))
        found.wait("scan", "Attached")
        yield found


def token(rig):
    secret = rig.objects("secrets").get(SECRET)
    return base64.b64decode(secret["data"]["token"]).decode() if secret else None


def write(rig, text):
    data = {"token": base64.b64encode(text.encode()).decode()}
    rig.api.patch(SECRETS, SECRET, {"data": data})


def known(rig):
    return rig.nodes.stacks["node-1"].tokens["scan"]


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def touch(rig):
    """Gives the operator a reason to look."""
    rig.api.patch(FUNCTIONS, "scan", {"metadata": {"annotations": {"touched": "yes"}}})


def uids(rig):
    return {pod["metadata"]["uid"] for pod in rig.pods("scan")}


def test_secret_that_was_deleted_is_made_with_another_token(rig):
    first, pods = token(rig), uids(rig)
    rig.api.delete(SECRETS, SECRET)
    touch(rig)
    until(lambda: token(rig) not in (None, first), "another Secret")
    until(lambda: known(rig) == digest(token(rig)), "the stack to be told")
    until(lambda: uids(rig) and not uids(rig) & pods, "pods that see it")
    rig.wait("scan", "Attached")


def test_token_that_somebody_wrote_is_taken_over(rig):
    pods = uids(rig)
    mine = "a token of my own, long enough"
    write(rig, mine + "\n")
    touch(rig)
    until(lambda: known(rig) == digest(mine), "the stack to be told")
    until(lambda: uids(rig) and not uids(rig) & pods, "pods that see it")
    rig.wait("scan", "Attached")


def test_token_that_is_none_is_said_and_nothing_else_changes(rig):
    first, pods = known(rig), uids(rig)
    write(rig, "short")
    touch(rig)
    found = rig.wait("scan", "SecretInvalid")
    assert "5 bytes, 16 to 1024 are wanted" in condition(found, "Degraded")["message"]
    assert (known(rig), uids(rig)) == (first, pods)
    rig.api.delete(SECRETS, SECRET)
    touch(rig)
    rig.wait("scan", "Attached")


def test_pod_that_waits_for_its_secret_gets_it_without_anybody_looking(rig, monkeypatch):
    monkeypatch.setattr("mesh.kube.functions.COMING_S", 0.05)
    rig.nodes.stuck["scan"] = {"reason": "ContainerCreating"}
    rig.change("scan", image="two:2")
    until(lambda: [pod["status"]["phase"] for pod in rig.pods("scan")] == ["Pending"])
    first = token(rig)
    rig.api.delete(SECRETS, SECRET)
    until(lambda: token(rig) not in (None, first), "another Secret")
    rig.nodes.stuck.clear()
    rig.nodes.look()
    rig.wait("scan", "Attached")


def test_operator_that_is_new_reads_the_token_that_is_there(rig):
    first, pods = token(rig), uids(rig)
    rig.operators[0].stop()
    rig.operators = [rig.start_operator("another")]
    rig.change("scan", where="tcp")
    until(lambda: rig.nodes.stacks["node-1"].entries["scan"].get("where") == "tcp")
    assert (token(rig), known(rig), uids(rig)) == (first, digest(first), pods)
