# SPDX-License-Identifier: Apache-2.0
"""A cluster whose API server, controllers and scheduler are real ones; kubelets are played."""

import subprocess

from fakekubelet import Kubelets
from fakenode import NAMESPACE
from kube_rig import BUDGET, api_of, condition, settings, until
from patience import PATIENCE_S
from real_kube import FOLDER, RealKube

from mesh.errors import ApiError
from mesh.kube.api import CHAINS, FUNCTIONS, PODS
from mesh.kube.crd import crds
from mesh.kube.operator import Operator


class Cluster:
    """API server, controllers, scheduler, two nodes with stacks, an operator."""

    def __init__(self, stack):
        self.kube = stack.enter_context(RealKube(controllers=True))
        self.kube.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        for crd in crds().values():
            self.kube.request(
                "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd
            )
        self.api = self._api(stack)
        until(self._served, "custom resources")
        kubelets = Kubelets(self.kube, self._api(stack), ("node-1", "node-2"), 4)
        self.kubelets = stack.enter_context(kubelets)
        self.kubelets.add_stacks()
        own = settings(budget=BUDGET)
        self.operator = Operator(self._api(stack), own, self.kubelets.connect, "test")
        self.operator.start()
        stack.callback(self.operator.stop)
        until(lambda: self.operator.leads, "an operator that leads")

    def _api(self, stack):
        api = api_of(self.kube.url, "admin-token", authority=str(self.kube.authority))
        stack.callback(api.close)
        return api

    def _served(self):
        try:
            self.api.list(FUNCTIONS)
            self.api.list(CHAINS)
        except ApiError:
            return False
        return True

    def wait(self, name, reason, kind=FUNCTIONS):
        def there():
            found = self.api.get(kind, name)
            return found if condition(found, "Ready").get("reason") == reason else None

        try:
            return until(there)
        except AssertionError as error:
            found = self.api.get(kind, name).get("status")
            raise AssertionError(f"{name} is never {reason}: {found}") from error

    def gone(self, kind, name):
        try:
            self.api.get(kind, name)
        except ApiError as error:
            return error.status == 404
        return False

    def images(self, name):
        return [pod["spec"]["containers"][0]["image"] for pod in self._pods(name)]

    def pods(self, name):
        return {pod["metadata"]["uid"] for pod in self._pods(name)}

    def nodes(self, name):
        return [pod["spec"].get("nodeName") for pod in self._pods(name)]

    def _pods(self, name):
        return self.api.list(PODS, f"nfmesh.io/network-function={name}")["items"]

    def kubectl(self, *words):
        path = self.kube.write_kubeconfig()
        command = [FOLDER / "kubectl", "--kubeconfig", path, "-n", NAMESPACE, *words]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
        return done.stdout
