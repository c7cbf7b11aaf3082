# SPDX-License-Identifier: Apache-2.0
"""An operator over a fake API server with fake nodes, and ways to wait for what it makes of it."""

from contextlib import ExitStack

from fakekube import FakeKube
from fakenode import NAMESPACE, STACK_LABELS, Nodes
from kubernetes.client import Configuration
from patience import PATIENCE_S, until

from mesh.kube.api import CHAINS, FUNCTIONS, Api
from mesh.kube.crd import crds
from mesh.kube.operator import Operator
from mesh.kube.settings import OperatorSettings

BUDGET = {"version": "v1beta1"}
"""Of an API server 1.20, real or played."""


def settings(**more):
    stack = {"selector": STACK_LABELS, "hostRunDir": "/var/run/nfmesh/edge/one",
             "runDir": "/var/run/nfmesh/one"}  # fmt: skip
    return OperatorSettings.model_validate(
        {"release": "one", "image": "nfmesh:1", "controlSecret": "one-control",
         "leaseName": "one-operator", "stack": stack, "pollS": 0.05, **more}
    )  # fmt: skip


def api_of(url, token=None, namespace=NAMESPACE, authority=None):
    configuration = Configuration(host=url)
    configuration.ssl_ca_cert = authority
    if token:
        configuration.api_key["authorization"] = token
        configuration.api_key_prefix["authorization"] = "Bearer"
    return Api(configuration, namespace)


def function(name, labels=None, **spec):
    metadata = {"name": name, **({"labels": labels} if labels else {})}
    return {"apiVersion": FUNCTIONS.api_version, "kind": "NetworkFunction", "metadata": metadata,
            "spec": {"use": "syn_scan", **spec}}  # fmt: skip


def chain(name, *functions, where=None):
    selector = {"where": where} if where else {}
    return {"apiVersion": CHAINS.api_version, "kind": "ServiceChain", "metadata": {"name": name},
            "spec": {"functions": list(functions), "selector": selector}}  # fmt: skip


def condition(found, kind):
    conditions = found.get("status", {}).get("conditions", ())
    return next((each for each in conditions if each["type"] == kind), {})


class Rig:
    """A whole cluster of one process; use it in a `with`."""

    def __init__(self, nodes=("node-1",), cores=8, operators=1, **config):
        self.settings = settings(**config)
        self.kube = FakeKube()
        for crd in crds().values():
            self.kube.define(crd)
        self.stack = ExitStack()
        self.names, self.cores, self.n = nodes, cores, operators

    def __enter__(self):
        self.stack.enter_context(self.kube)
        self.nodes = self.stack.enter_context(Nodes(self.kube, self.names, self.cores))
        self.api = self._api()
        self.operators = [self.start_operator(f"operator-{i}") for i in range(self.n)]
        return self

    def __exit__(self, *exc_info):
        for operator in self.operators:
            self.kube.hang_up()
            operator.stop()
        return self.stack.__exit__(*exc_info)

    def _api(self):
        api = api_of(self.kube.url)
        self.stack.callback(api.close)
        return api

    def start_operator(self, me, of=None):
        operator = Operator(self._api(), of or self.settings, self.nodes.connect, me)
        operator.start()
        return operator

    def settings_of(self, release):
        """Settings of another release, whose stacks are the same."""
        names = {"leaseName": f"{release}-operator", "controlSecret": f"{release}-control"}
        return settings(release=release, **names)

    def apply(self, *objects):
        for each in objects:
            kind = CHAINS if each["kind"] == "ServiceChain" else FUNCTIONS
            self.api.create(kind, each)

    def change(self, name, **spec):
        self.api.patch(FUNCTIONS, name, {"spec": spec})

    def get(self, name, kind=FUNCTIONS):
        return self.api.get(kind, name)

    def objects(self, plural):
        with self.kube.lock:
            resource = next(r for (_, p), r in self.kube.resources.items() if p == plural)
            return {name: found for (_, name), found in resource.objects.items()}

    def events(self, reason):
        return [e for e in self.objects("events").values() if e["reason"] == reason]

    def pods(self, name):
        return [p for p in self.objects("pods").values()
                if p["metadata"]["labels"].get("nfmesh.io/network-function") == name]  # fmt: skip

    def wait(self, name, reason, kind=FUNCTIONS, patience=PATIENCE_S):
        """Waits until a condition has a reason, and returns the object."""

        def there():
            found = self.objects(kind.plural).get(name)
            if found and condition(found, "Ready").get("reason") == reason:
                return found
            return None

        try:
            return until(there, patience=patience)
        except AssertionError as error:
            found = self.objects(kind.plural).get(name) or {}
            raise AssertionError(f"{name} is never {reason}: {found.get('status')}") from error

    def wait_gone(self, plural, name):
        until(lambda: name not in self.objects(plural), f"{plural} {name} gone")
