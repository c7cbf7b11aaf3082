# SPDX-License-Identifier: Apache-2.0
"""The operator when the API server fails, forgets, goes away; when there are two operators."""

import socket
import threading

import pytest

pytest.importorskip("kubernetes")

from fakekube import FakeKube
from fakenode import NAMESPACE
from kube_policy import findings
from kube_rig import Rig, api_of, chain, condition, function, settings, until
from patience import PATIENCE_S

from mesh.control.keys import ClientKeys
from mesh.errors import ApiError, ProcessError
from mesh.kube.api import BUDGETS, CHAINS, DEPLOYMENTS, EVENTS, FUNCTIONS, PODS, Api
from mesh.kube.budgets import budget
from mesh.kube.control_keys import control_keys
from mesh.kube.leader import GIVE_UP_S, LEASE_S, Leader
from mesh.kube.models import parse_object
from mesh.kube.recorder import AGAIN_S, Recorder
from mesh.kube.reflector import Store
from mesh.kube.render import deployment, same_as, token_secret
from mesh.kube.uninstall import uninstall
from mesh.kube.workqueue import Backoff, WorkQueue


@pytest.fixture
def rig():
    with Rig() as found:
        yield found


@pytest.fixture
def api():
    with FakeKube() as kube:
        found = api_of(kube.url)
        found.kube = kube
        yield found
        found.close()


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


# ---- the server fails --------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 409, 429, 0])
@pytest.mark.parametrize("after", [False, True])
def test_every_write_may_fail_or_be_done_unanswered(rig, status, after):
    for method, path in (("POST", "secrets"), ("POST", "deployments"),
                         ("PATCH", "networkfunctions/scan$"), ("PATCH", "/status$")):  # fmt: skip
        rig.kube.fail(method, path, status=status, after=after)
    rig.apply(function("scan"))
    rig.wait("scan", "Attached")
    assert len(rig.objects("deployments")) == 1
    assert len(rig.objects("secrets")) == 1
    assert not [f for f in rig.kube.faults if f[2]], "not all faults happened"


def test_watches_that_break_lose_nothing(rig):
    rig.apply(function("one"))
    rig.wait("one", "Attached")
    rig.kube.hang_up()
    rig.apply(function("two"))
    rig.api.delete(FUNCTIONS, "one")
    rig.wait("two", "Attached")
    rig.wait_gone("networkfunctions", "one")


@pytest.mark.parametrize("as_answer", [False, True])
def test_forgotten_versions_are_listed_again(rig, as_answer):
    rig.apply(function("one"))
    rig.wait("one", "Attached")
    rig.kube.is_away = True
    rig.kube.hang_up()
    resource = rig.kube.resources["nfmesh.io", "networkfunctions"]
    rig.kube.create(resource, NAMESPACE, function("two"))
    rig.kube.compact()
    if as_answer:
        rig.kube.fail("WATCH", "networkfunctions", status=410, reason="Expired")
    lists = rig.operators[0].statistics()["networkfunctions.lists"]
    rig.kube.is_away = False
    rig.wait("two", "Attached")
    assert rig.operators[0].statistics()["networkfunctions.lists"] > lists


def test_server_that_is_away_for_long_is_found_again(rig):
    rig.apply(function("one"))
    rig.wait("one", "Attached")
    rig.kube.is_away = True
    rig.kube.hang_up()
    operator = rig.operators[0]
    until(lambda: not operator.is_ready, "not ready while the server is away")
    assert rig.nodes.stacks["node-1"].entries.keys() == {"one"}, "what runs goes on"
    rig.kube.is_away = False
    rig.apply(function("two"))
    rig.wait("two", "Attached")
    until(lambda: operator.is_ready)
    assert operator.is_alive


def test_errors_have_the_servers_words(api):
    api.kube.fail("GET", "pods", status=503, reason="ServiceUnavailable")
    with pytest.raises(ApiError, match="as the test wants it") as caught:
        api.list(PODS)
    assert (caught.value.status, caught.value.reason) == (503, "ServiceUnavailable")
    api.kube.fail("GET", "pods", status=0)
    with pytest.raises(ApiError, match="GET /api/v1/namespaces/edge/pods: ") as caught:
        api.list(PODS)
    assert caught.value.status == 0


def test_connections_notice_a_server_that_went_without_a_word(api):
    options = api._pool.connection_pool_kw["socket_options"]
    assert (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1) in options
    api.list(PODS)


def test_object_that_goes_while_it_is_looked_at(rig):
    rig.kube.fail("POST", "deployments", times=3)
    rig.apply(function("scan"))
    until(lambda: rig.kube.count("POST", path="deployments"))
    rig.api.delete(FUNCTIONS, "scan")
    rig.wait_gone("networkfunctions", "scan")
    until(lambda: not rig.objects("deployments") and not rig.objects("secrets"))


def test_namesake_gets_things_of_its_own(rig):
    rig.apply(function("scan"))
    first = rig.wait("scan", "Attached")
    token = rig.nodes.stacks["node-1"].tokens["scan"]
    rig.api.delete(FUNCTIONS, "scan")
    rig.wait_gone("networkfunctions", "scan")
    rig.apply(function("scan"))
    second = rig.wait("scan", "Attached")
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert rig.nodes.stacks["node-1"].tokens["scan"] != token


def test_what_somebody_changed_in_the_deployment_is_put_right(rig):
    rig.apply(function("scan"))
    rig.wait("scan", "Attached")
    rig.api.patch(DEPLOYMENTS, "scan", {"spec": {"replicas": 5}})
    until(lambda: rig.objects("deployments")["scan"]["spec"]["replicas"] == 1)
    rig.api.delete(DEPLOYMENTS, "scan")
    until(lambda: "scan" in rig.objects("deployments"))
    rig.wait("scan", "Attached")


def test_deleting_while_a_stack_is_away_takes_its_time_and_ends(rig, monkeypatch):
    monkeypatch.setattr("mesh.kube.functions.LEAVE_S", 0.5)
    rig.apply(function("scan"))
    rig.wait("scan", "Attached")
    stack = rig.nodes.stacks["node-1"]
    stack.is_away = True
    rig.wait("scan", "StackUnreachable")
    rig.api.delete(FUNCTIONS, "scan")
    rig.wait_gone("networkfunctions", "scan")
    assert "scan" in stack.entries
    stack.is_away = False
    until(lambda: "scan" not in stack.entries, "what was left there goes later")


def test_slow_watch_causes_no_second_write(rig):
    rig.kube.fail("WATCH", "deployments", times=4)
    rig.kube.hang_up()
    until(lambda: rig.operators[0].statistics()["deployments.failures"] > 1)
    rig.apply(function("scan"))
    until(lambda: rig.objects("deployments"))
    for _ in range(3):
        looked = rig.operators[0].statistics()["reconciles"]
        rig.operators[0].queue.add((FUNCTIONS.name, "scan"))
        until(lambda n=looked: rig.operators[0].statistics()["reconciles"] > n)
    rig.wait("scan", "Attached")
    assert rig.kube.count("POST", path="deployments") == 1


# ---- two operators -----------------------------------------------------------------------------


def test_one_of_two_operators_leads_and_the_other_takes_over():
    with Rig(operators=2) as rig:
        first = until(lambda: next((o for o in rig.operators if o.leads), None))
        rig.apply(function("one"))
        rig.wait("one", "Attached")
        other = next(o for o in rig.operators if o is not first)
        assert not other.leads
        assert not any(key.startswith(("POST", "PATCH")) for key in other.api.statistics()
                       if "leases" not in key)  # fmt: skip
        first.stop()
        rig.operators.remove(first)
        until(lambda: other.leads)
        rig.apply(function("two"))
        rig.wait("two", "Attached")
        assert rig.nodes.stacks["node-1"].removed == []


def test_lease_is_taken_when_it_was_not_renewed(api):
    clock = Clock()
    one, two = (Leader(api, "lease", me, clock) for me in ("one", "two"))
    one.step()
    two.step()
    assert (one.leads, two.leads) == (True, False)
    clock.now += LEASE_S - 1
    two.step()
    assert not two.leads
    assert not one.leads, "who could not renew stops before another begins"
    clock.now += 2
    two.step()
    assert two.leads
    one.step()
    assert not one.leads


def test_lease_that_is_renewed_is_kept(api):
    clock = Clock()
    one, two = (Leader(api, "lease", me, clock) for me in ("one", "two"))
    for _ in range(5):
        one.step()
        two.step()
        clock.now += GIVE_UP_S / 2
        assert (one.leads, two.leads) == (True, False)
    one.release()
    two.step()
    assert two.leads


def test_of_two_that_take_a_lease_at_once_one_gets_it(api):
    clock = Clock()
    leaders = [Leader(api, "lease", f"n{i}", clock) for i in range(2)]
    leaders[0].step()
    leaders[1].step()
    clock.now += LEASE_S + 1
    api.kube.fail("PUT", "leases", status=409, reason="Conflict")
    leaders[1].step()
    assert not leaders[1].leads


def test_leader_goes_on_after_errors(api):
    leader, stopping, told = Leader(api, "lease", "me"), threading.Event(), []
    api.kube.fail("GET", "leases", times=1, status=500)

    def changed(leads):
        told.append(leads)
        stopping.set()

    thread = threading.Thread(target=leader.run, args=(stopping, changed))
    thread.start()
    thread.join(PATIENCE_S)
    assert told[:1] == [True]


def versioned(uid, version, name="one"):
    return {"metadata": {"name": name, "uid": uid, "resourceVersion": str(version)}}


def test_copies_never_go_back():
    told = []
    store = Store(lambda before, after: told.append((before, after)))
    store.put(versioned("a", 5))
    store.put(versioned("a", 4))
    store.put(versioned("a", 5))
    assert store.get("one") == versioned("a", 5)
    store.put(versioned("b", 3))
    store.remove(versioned("a", 6))
    assert store.get("one") == versioned("b", 3), "the namesake stays"
    store.remove(versioned("b", 7))
    store.put(versioned("b", 8))
    assert store.get("one") is None, "what is gone does not come back"
    assert [after for _, after in told] == [versioned("a", 5), versioned("b", 3), None]


def test_list_is_the_whole_truth():
    told = []
    store = Store(lambda before, after: told.append((before, after)))
    for name in ("one", "two"):
        store.put(versioned(name, 9, name))
    told.clear()
    store.replace([versioned("one", 9, "one"), versioned("three", 4, "three")])
    assert sorted(each["metadata"]["name"] for each in store) == ["one", "three"]
    store.replace([versioned("one", 2, "one")])
    assert store.get("one") == versioned("one", 2, "one"), "also of a server that lost something"
    assert len(told) == 4


# ---- parts -------------------------------------------------------------------------------------


def test_queue_holds_each_key_once_and_again_when_it_changed_meanwhile():
    queue = WorkQueue()
    for key in (("a", "1"), ("a", "2"), ("a", "1")):
        queue.add(key)
    assert queue.get(0) == ("a", "1")
    queue.add(("a", "1"))
    assert queue.get(0) == ("a", "2")
    assert queue.get(0) is None
    queue.done(("a", "1"))
    assert queue.get(0) == ("a", "1")


def test_queue_waits_longer_after_each_failure():
    clock = Clock()
    queue = WorkQueue(Backoff(1, 8), clock, chance=lambda: 0.0)
    pauses = []
    for _ in range(5):
        pauses.append(queue.retry(("a", "1")))
        clock.now += 100
        queue.done(queue.get(0))
    assert pauses == [1, 2, 4, 8, 8]
    queue.forget(("a", "1"))
    assert queue.retry(("a", "1")) == 1
    assert Backoff(1, 8).pause(4, 1.0) == 4.0
    assert queue.retry(("b", "1"), at_least_s=30) == 30


def test_event_is_written_once_in_a_while(api):
    clock = Clock()
    recorder = Recorder(api, "me", clock)
    about = function("scan")
    for _ in range(3):
        recorder.warning(about, "CrashLoop", "it ends")
    recorder.normal(about, "Recovered", "fine")
    assert len(api.list(EVENTS)["items"]) == 2
    clock.now += AGAIN_S + 1
    recorder.warning(about, "CrashLoop", "it ends")
    counts = {e["reason"]: e["count"] for e in api.list(EVENTS)["items"]}
    assert counts == {"CrashLoop": 2, "Recovered": 1}
    Recorder(api, "other", clock).warning(about, "CrashLoop", "it ends")
    assert len(api.list(EVENTS)["items"]) == 2


@pytest.mark.parametrize(
    ("actual", "wanted", "equal"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({}, {"a": []}, True),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"memory": "1Gi"}, {"memory": "1024Mi"}, True),
        ({"cpu": "500m"}, {"cpu": "0.5"}, True),
        ({"cpu": "2"}, {"cpu": "1"}, False),
        ({"image": "a:1"}, {"image": "a:2"}, False),
    ],
)
def test_what_a_server_filled_in_is_no_difference(actual, wanted, equal):
    assert same_as(actual, wanted) is equal


@pytest.mark.parametrize(
    "spec",
    [{}, {"cores": 0}, {"cores": 4, "hugepages": {"2Mi": "64Mi", "1Gi": "2Gi"}},
     {"files": {"name": "rules"}, "updateStrategy": {"type": "RollingUpdate"}}],
)  # fmt: skip
def test_rendered_pods_keep_the_policy(spec):
    found = function("scan", **spec)
    found["metadata"]["uid"] = "1"
    config = settings(image="registry/nfmesh:1.2")
    assert findings(deployment(found, parse_object(found), config, 1, {})) == []


@pytest.mark.parametrize("version", ["1.25.0", "1.37.0"])
def test_rendered_objects_fit_old_and_new_servers(version):
    validate = pytest.importorskip("kubernetes_validate").validate
    found = function("scan", cores=2, hugepages={"2Mi": "64Mi"}, files={"name": "rules"})
    found["metadata"]["uid"] = "1"
    for strategy in ("Recreate", "RollingUpdate"):
        found["spec"]["updateStrategy"] = {"type": strategy}
        made = deployment(found, parse_object(found), settings(nf={"labels": {"a": "b"}}), 1, {})
        validate(made, version, strict=True)
    validate(token_secret(found, "x", settings()), version, strict=True)
    found["spec"]["replicas"] = 2
    validate(budget(found, parse_object(found), settings(), BUDGETS), version, strict=True)


def test_control_keys_are_made_once(api):
    keys = control_keys(api, settings())
    assert isinstance(keys, ClientKeys)
    assert control_keys(api, settings()) == keys
    secret = api.kube.resources["", "secrets"].objects[NAMESPACE, "one-control"]
    assert set(secret["data"]) == {"server.key", "server.pub", "client.key", "client.pub"}
    del secret["data"]["client.key"]
    with pytest.raises(ProcessError, match=r"has no client.key: delete it"):
        control_keys(api, settings())


def test_keys_of_a_release_that_was_there_before_are_not_used(api):
    api.create(DEPLOYMENTS, {"metadata": {"name": "operator"}, "spec": {}})
    keys = control_keys(api, settings(), "operator")
    (owner,) = api.kube.resources["", "secrets"].objects[NAMESPACE, "one-control"]["metadata"][
        "ownerReferences"
    ]
    mine, owner["uid"] = owner["uid"], "of-one-that-is-gone"
    with pytest.raises(ApiError, match="of an operator that is gone, and goes soon"):
        control_keys(api, settings(), "operator")
    owner["uid"] = mine
    assert control_keys(api, settings(), "operator") == keys


def test_uninstall_deletes_what_is_the_releases(monkeypatch):
    monkeypatch.setattr("mesh.kube.leader.RENEW_S", 0.05)
    with Rig() as rig:
        _uninstalled(rig)


def _uninstalled(rig):
    labels = {"app.kubernetes.io/instance": "one"}
    rig.apply(function("ours", labels=labels), function("unlabelled"), chain("c", "ours"))
    rig.api.patch(CHAINS, "c", {"metadata": {"labels": labels}})
    rig.wait("ours", "Attached")
    rig.wait("unlabelled", "Attached")
    operator = rig.operators[0]

    def sleep(seconds):
        if seconds > 5:
            until(lambda: not operator.leads)

    assert uninstall(rig.api, rig.settings, sleep=sleep) == 0
    assert set(rig.objects("networkfunctions")) == {"unlabelled"}
    operator.queue.add((FUNCTIONS.name, "unlabelled"))
    assert rig.get("unlabelled")["metadata"].get("finalizers", []) == []
    rig.api.delete(FUNCTIONS, "unlabelled")
    rig.wait_gone("networkfunctions", "unlabelled")
    assert not rig.objects("servicechains")


def test_uninstall_without_an_operator_lets_go(rig):
    rig.apply(function("ours", labels={"app.kubernetes.io/instance": "one"}))
    rig.wait("ours", "Attached")
    rig.operators.pop().stop()
    assert uninstall(rig.api, rig.settings, patience_s=0.0) == 1
    assert not rig.objects("networkfunctions")


def test_without_the_client_it_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(ProcessError, match=r"pip install 'nfmesh\[kubernetes\]'"):
        Api.connect()


def test_without_a_cluster_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ProcessError, match="no cluster to talk to"):
        Api.connect(kubeconfig=str(tmp_path / "none"))


def test_conditions_keep_their_time_while_they_hold(rig):
    rig.apply(function("scan"))
    before = condition(rig.wait("scan", "Attached"), "Ready")["lastTransitionTime"]
    rig.change("scan", where="tcp")
    found = until(lambda: _seen(rig, 2))
    assert condition(found, "Ready")["lastTransitionTime"] == before


def _seen(rig, generation):
    found = rig.get("scan")
    return found if found["status"]["observedGeneration"] == generation else None
