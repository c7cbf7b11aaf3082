# SPDX-License-Identifier: Apache-2.0
"""What the operator relies on of an API server: the same tests against the fake and a real one."""

import json
import ssl
import urllib.error
import urllib.request

import pytest

pytest.importorskip("kubernetes")

from fakekube import FakeKube
from fakenode import STACK_LABELS, Stack
from kube_rig import BUDGET, condition, function, settings, until
from kubernetes.client import Configuration
from patience import PATIENCE_S
from real_kube import CONTROL, RealKube, need

from mesh.errors import ApiError
from mesh.kube.api import CHAINS, DEPLOYMENTS, EVENTS, FUNCTIONS, LEASES, PODS, SECRETS, Api
from mesh.kube.crd import crds
from mesh.kube.operator import Operator
from mesh.kube.reflector import Reflector

NAMESPACE = "edge"
RULES = {
    "networkfunctions": ["get", "list", "watch", "patch"],
    "networkfunctions/status": ["patch"],
    "secrets": ["get", "create"],
}


class Server:
    """Either server: its address, and raw requests of another kind than the operator's."""

    def __init__(self, url, tokens, authority=None):
        self.url, self.tokens, self.apis = url, tokens, []
        self.authority = authority

    def api(self, user="admin"):
        configuration = Configuration(host=self.url)
        configuration.ssl_ca_cert = self.authority
        configuration.api_key["authorization"] = self.tokens[user]
        configuration.api_key_prefix["authorization"] = "Bearer"
        self.apis.append(Api(configuration, NAMESPACE))
        return self.apis[-1]

    def raw(self, method, path, body=None, kind="application/json"):
        headers = {"Authorization": f"Bearer {self.tokens['admin']}", "Content-Type": kind}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        context = ssl._create_unverified_context()
        with urllib.request.urlopen(request, timeout=PATIENCE_S, context=context) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="module", params=["fake", "real"])
def server(request):
    if request.param == "fake":
        tokens = {"admin": "a", "operator": "o"}
        with FakeKube({"a": "*", "o": RULES}) as kube:
            for crd in crds().values():
                kube.define(crd)
            yield from serving(Server(kube.url, tokens))
        return
    need(CONTROL)
    with RealKube() as kube:
        kube.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        for crd in crds().values():
            kube.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        grant(kube)
        tokens = {"admin": "admin-token", "operator": "operator-token"}
        found = Server(kube.url, tokens, str(kube.authority))
        until(lambda: served(found.api()), "the custom resources")
        yield from serving(found)


def serving(found):
    yield found
    for api in found.apis:
        api.close()


def grant(kube):
    root = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}"
    rules = [{"apiGroups": ["nfmesh.io", ""], "resources": [resource], "verbs": verbs}
             for resource, verbs in RULES.items()]  # fmt: skip
    kube.request("POST", f"{root}/roles", {"metadata": {"name": "operator"}, "rules": rules})
    group = "rbac.authorization.k8s.io"
    kube.request("POST", f"{root}/rolebindings", {
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "operator"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "operator"}],
    })  # fmt: skip


def served(api):
    try:
        api.list(FUNCTIONS)
        api.list(CHAINS)
    except ApiError:
        return False
    return True


@pytest.fixture
def api(server):
    return server.api()


@pytest.fixture
def name(request):
    return request.node.name.split("[")[0].removeprefix("test_").replace("_", "-")[:40].strip("-")


def refused(status, call, *args):
    with pytest.raises(ApiError) as caught:
        call(*args)
    assert caught.value.status == status
    return caught.value


def test_created_object_has_an_identity(api, name):
    found = api.create(FUNCTIONS, function(name) | {"status": {"replicas": 7}})
    metadata = found["metadata"]
    assert metadata["generation"] == 1
    assert metadata["uid"]
    assert metadata["resourceVersion"].isdigit()
    assert metadata["creationTimestamp"].endswith("Z")
    assert "status" not in found
    assert api.get(FUNCTIONS, name) == found


def test_second_of_a_name_is_refused(api, name):
    api.create(FUNCTIONS, function(name))
    assert refused(409, api.create, FUNCTIONS, function(name)).reason == "AlreadyExists"


def test_missing_object_is_404(api):
    assert refused(404, api.get, FUNCTIONS, "nobody").reason == "NotFound"
    refused(404, api.patch, FUNCTIONS, "nobody", {"spec": {}})


def test_defaults_are_filled_in_and_unknown_fields_dropped(api, name):
    spec = api.create(FUNCTIONS, function(name, nonsense=1, config={"any": {"thing": 1}}))["spec"]
    assert (spec["cores"], spec["memory"], spec["fail"]) == (1, "256Mi", "closed")
    assert spec["updateStrategy"] == {"type": "Recreate"}
    assert "nonsense" not in spec
    assert spec["config"] == {"any": {"thing": 1}}


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"cores": 1.5}, "spec.cores"),
        ({"cores": "2"}, "spec.cores"),
        ({"memory": "much"}, "spec.memory"),
        ({"fail": "ajar"}, "spec.fail"),
        ({"stage": 999}, "spec.stage"),
        ({"use": None}, "spec.use"),
        ({"events": ["http.request", "http.request"]}, "spec.events"),
        ({"subscriptions": {"a": {"where": ""}}}, "spec.subscriptions.a.where"),
    ],
)
def test_wrong_values_are_refused_with_their_path(api, spec, place):
    body = function("wrong", **spec)
    body["spec"] = {key: value for key, value in body["spec"].items() if value is not None}
    error = refused(422, api.create, FUNCTIONS, body)
    assert place in error.text


def test_names_are_checked(api):
    error = refused(422, api.create, FUNCTIONS, function("1st"))
    assert "metadata.name" in error.text


def test_old_version_is_a_conflict(api, name):
    first = api.create(FUNCTIONS, function(name))
    second = api.patch(FUNCTIONS, name, {"spec": {"cores": 2}})
    assert refused(409, api.replace, FUNCTIONS, first).reason == "Conflict"
    version = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}}
    refused(409, api.patch, FUNCTIONS, name, version | {"spec": {"cores": 3}})
    assert api.replace(FUNCTIONS, second | {"spec": {"use": "nat"}})["spec"]["use"] == "nat"


def test_generation_counts_changes_of_the_spec_only(api, name):
    api.create(FUNCTIONS, function(name))
    labelled = api.patch(FUNCTIONS, name, {"metadata": {"labels": {"a": "b"}}})
    assert labelled["metadata"]["generation"] == 1
    changed = api.patch(FUNCTIONS, name, {"spec": {"cores": 2}})
    assert changed["metadata"]["generation"] == 2
    reported = api.patch(FUNCTIONS, name, {"status": {"replicas": 1}}, "status")
    assert reported["metadata"]["generation"] == 2


def test_change_that_changes_nothing_has_no_version(api, name):
    before = api.create(FUNCTIONS, function(name))
    after = api.patch(FUNCTIONS, name, {"spec": {"cores": 1}})
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_status_and_the_rest_are_apart(api, name):
    api.create(FUNCTIONS, function(name))
    body = {"spec": {"cores": 5}, "status": {"replicas": 1}}
    assert api.patch(FUNCTIONS, name, body, "status")["spec"]["cores"] == 1
    found = api.patch(FUNCTIONS, name, {"spec": {"cores": 4}, "status": {"replicas": 9}})
    assert (found["spec"]["cores"], found["status"]["replicas"]) == (4, 1)


def test_status_is_checked_too(api, name):
    api.create(FUNCTIONS, function(name))
    condition = {"type": "Ready", "status": "Perhaps", "reason": "A", "message": "",
                 "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip
    body = {"status": {"conditions": [condition]}}
    assert "status.conditions" in refused(422, api.patch, FUNCTIONS, name, body, "status").text


def test_null_removes_and_lists_are_replaced(api, name):
    api.create(FUNCTIONS, function(name, where="tcp", events=["a", "b"]))
    found = api.patch(FUNCTIONS, name, {"spec": {"where": None, "events": ["c"]}})
    assert "where" not in found["spec"]
    assert found["spec"]["events"] == ["c"]


def test_apply_takes_back_what_it_said_and_leaves_what_others_said(api, name):
    made = api.apply(FUNCTIONS, function(name, where="tcp", stage=3, config={"a": 1, "b": 2}))
    assert (made["spec"]["where"], made["spec"]["fail"]) == ("tcp", "closed")
    same = api.apply(FUNCTIONS, function(name, where="tcp", stage=3, config={"a": 1, "b": 2}))
    assert same["spec"] == made["spec"]
    api.patch(FUNCTIONS, name, {"spec": {"replicas": 3}, "metadata": {"finalizers": ["x.io/y"]}})
    spec = api.apply(FUNCTIONS, function(name, where="udp", config={"b": 4}))["spec"]
    assert (spec["where"], spec["config"], spec["replicas"]) == ("udp", {"b": 4}, 3)
    assert "stage" not in spec
    api.patch(FUNCTIONS, name, {"metadata": {"finalizers": None}})
    refused(422, api.apply, FUNCTIONS, function(name, cores=1.5))


def test_dry_run_answers_as_if_and_changes_nothing(api, name):
    tried = api.apply(FUNCTIONS, function(name, where="tcp"), dry_run=True)
    assert tried["spec"]["cores"] == 1
    refused(404, api.get, FUNCTIONS, name)
    made = api.apply(FUNCTIONS, function(name, where="tcp"))
    tried = api.apply(FUNCTIONS, function(name, where="udp"), dry_run=True)
    assert tried["spec"]["where"] == "udp"
    assert api.get(FUNCTIONS, name) == made
    refused(422, lambda: api.apply(FUNCTIONS, function(name, cores=1.5), dry_run=True))


def test_json_patch(server, api, name):
    api.create(FUNCTIONS, function(name, share=["a"]))
    path = FUNCTIONS.path(NAMESPACE, name)
    steps = [{"op": "test", "path": "/spec/cores", "value": 1},
             {"op": "replace", "path": "/spec/cores", "value": 3},
             {"op": "add", "path": "/spec/share/-", "value": "b"}]  # fmt: skip
    found = server.raw("PATCH", path, steps, "application/json-patch+json")
    assert (found["spec"]["cores"], found["spec"]["share"]) == (3, ["a", "b"])
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.raw("PATCH", path, steps[:1], "application/json-patch+json")
    caught.value.close()
    assert caught.value.code == 422


def test_scale_is_what_an_autoscaler_writes(server, api, name):
    api.create(FUNCTIONS, function(name))
    api.patch(FUNCTIONS, name, {"status": {"replicas": 1, "selector": "a=b"}}, "status")
    path = FUNCTIONS.path(NAMESPACE, name, "scale")
    assert server.raw("GET", path)["status"] == {"replicas": 1, "selector": "a=b"}
    body = {"spec": {"replicas": 4}}
    server.raw("PATCH", path, body, "application/merge-patch+json")
    assert api.get(FUNCTIONS, name)["spec"]["replicas"] == 4


def test_selectors(api, name):
    for letter in "ab":
        labels = {"set": name, "letter": letter}
        api.create(FUNCTIONS, function(f"{name}-{letter}", labels=labels))

    def names(selector):
        items = api.list(FUNCTIONS, selector)["items"]
        return sorted(each["metadata"]["name"][-1] for each in items)

    assert names(f"set={name}") == ["a", "b"]
    assert names(f"set={name},letter=a") == ["a"]
    assert names(f"set={name},letter!=a") == ["b"]
    assert names(f"set={name},letter in (a,b)") == ["a", "b"]
    assert names(f"set={name},letter notin (a)") == ["b"]
    assert names(f"set={name},!other") == ["a", "b"]


def test_finalizer_holds_a_deleted_object(api, name):
    body = function(name)
    body["metadata"]["finalizers"] = ["nfmesh.io/attached"]
    api.create(FUNCTIONS, body)
    api.delete(FUNCTIONS, name)
    held = api.get(FUNCTIONS, name)
    assert held["metadata"]["deletionTimestamp"].endswith("Z")
    api.patch(FUNCTIONS, name, {"metadata": {"finalizers": []}})
    refused(404, api.get, FUNCTIONS, name)


def test_watch_tells_what_happens_from_a_version_on(api, name):
    begin = api.list(FUNCTIONS)["metadata"]["resourceVersion"]
    api.create(FUNCTIONS, function(name, labels={"watched": name}))
    api.patch(FUNCTIONS, name, {"spec": {"cores": 2}})
    api.patch(FUNCTIONS, name, {"metadata": {"labels": {"watched": None}}})
    with api.watch(FUNCTIONS, begin, f"watched={name}") as watch:
        events = iter(watch)
        seen = [next(events) for _ in range(3)]
    assert [event["type"] for event in seen] == ["ADDED", "MODIFIED", "DELETED"]
    assert seen[1]["object"]["spec"]["cores"] == 2
    assert seen[0]["object"]["kind"] == "NetworkFunction"


def test_versions_that_are_forgotten_are_410(api):
    with pytest.raises(ApiError) as caught, api.watch(FUNCTIONS, "1") as watch:
        next(iter(watch))
    assert caught.value.status == 410


def test_bookmarks_move_the_version(server, name):
    api = server.api()
    version = api.list(SECRETS)["metadata"]["resourceVersion"]
    api.create(FUNCTIONS, function(name))  # another kind: the version goes on
    path = SECRETS.path(NAMESPACE)
    query = f"?watch=true&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds=2"
    headers = {"Authorization": f"Bearer {server.tokens['admin']}"}
    request = urllib.request.Request(server.url + path + query, headers=headers)
    context = ssl._create_unverified_context()
    with urllib.request.urlopen(request, timeout=PATIENCE_S, context=context) as answer:
        events = [json.loads(line) for line in answer]
    kinds = {event["type"] for event in events}
    assert kinds <= {"BOOKMARK"}
    if kinds:  # a server may do without
        last = events[-1]["object"]["metadata"]["resourceVersion"]
        assert int(last) >= int(version)


def test_reflector_has_what_the_server_has(api, name):
    changes = []
    api.create(FUNCTIONS, function(f"{name}-1", labels={"set": name}))
    reflector = Reflector(api, FUNCTIONS, lambda a, b: changes.append((a, b)), f"set={name}")
    reflector.start()
    assert reflector.wait_synced(PATIENCE_S)
    api.create(FUNCTIONS, function(f"{name}-2", labels={"set": name}))
    until(lambda: len(reflector.store) == 2)
    api.delete(FUNCTIONS, f"{name}-1")
    until(lambda: len(reflector.store) == 1)
    until(lambda: len(changes) == 3, "the last one to be told")
    reflector.stop()


def test_secrets_take_text_and_give_base64(api, name):
    body = {"metadata": {"name": name}, "stringData": {"token": "abc"}}
    assert api.create(SECRETS, body)["data"] == {"token": "YWJj"}


def test_leases_are_replaced_in_the_version_that_was_read(api, name):
    spec = {"holderIdentity": "me", "leaseDurationSeconds": 30,
            "renewTime": "2026-01-01T00:00:00.000000Z"}  # fmt: skip
    lease = api.create(LEASES, {"metadata": {"name": name}, "spec": spec})
    api.replace(LEASES, lease | {"spec": spec | {"holderIdentity": "you"}})
    refused(409, api.replace, LEASES, lease)


def test_rights_are_those_that_were_given(server, api, name):
    operator = server.api("operator")
    api.create(FUNCTIONS, function(name))
    operator.patch(FUNCTIONS, name, {"status": {"replicas": 1}}, "status")
    assert refused(403, operator.create, FUNCTIONS, function("more")).reason == "Forbidden"
    refused(403, operator.list, DEPLOYMENTS)
    refused(403, operator.list, SECRETS)


@pytest.fixture
def stack(server, api):
    """A stack on a node, and an operator that sees it."""
    containers = [{"name": "stack", "image": "nfmesh:1"}]
    pod = {"metadata": {"name": "stack-node-1", "labels": STACK_LABELS},
           "spec": {"nodeName": "node-1", "containers": containers}}  # fmt: skip
    api.create(PODS, pod)
    api.patch(PODS, "stack-node-1", {"status": {"phase": "Running", "podIP": "10.0.0.1"}}, "status")
    found = Stack(4)
    config = settings(adoptUnlabelled=False, budget=BUDGET)
    operator = Operator(server.api(), config, lambda _: found.connect(), "contract")
    operator.start()
    yield found
    operator.stop()


def test_spec_that_no_stack_would_take_is_a_condition_an_event_and_no_pod(api, stack, name):
    stack.refuses[name] = "unknown event 'http.nonsense'"
    labels = {"app.kubernetes.io/instance": "one"}
    api.create(FUNCTIONS, function(name, labels=labels, events=["http.nonsense"]))

    def reason():
        return condition(api.get(FUNCTIONS, name), "Degraded").get("reason")

    until(lambda: reason() == "GraphInvalid")
    text = f"node node-1: spec.where: {stack.refuses[name]}"
    assert condition(api.get(FUNCTIONS, name), "Degraded")["message"] == text
    until(lambda: text in [event["message"] for event in api.list(EVENTS)["items"]])
    refused(404, api.get, DEPLOYMENTS, name)
    refused(404, api.get, SECRETS, f"{name}-nf-token")
    stack.refuses.clear()
    api.patch(FUNCTIONS, name, {"spec": {"events": None}})
    until(lambda: reason() == "AsWanted")
    assert api.get(DEPLOYMENTS, name)["spec"]["replicas"] == 1
    api.delete(FUNCTIONS, name)
    until(lambda: not api.list(FUNCTIONS, "app.kubernetes.io/instance=one")["items"])
