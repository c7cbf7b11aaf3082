# SPDX-License-Identifier: Apache-2.0
"""What the chart's NetworkPolicies let through, and that the model of them is right."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from chart_rig import Document, function_of, render
from kube_network import Pod, Policies
from kube_policy import pods_of

CONTROL, STACK, NF, OPERATOR, NAMES, API = 7600, 9464, 9465, 9466, 53, 6443
PORTS = (CONTROL, STACK, NF, OPERATOR, NAMES, API, 80, 22)
MONITORING = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
OUTSIDE = {
    "stranger": Pod("ns", {"app": "shop"}),
    "prometheus": Pod("monitoring", {"app": "prometheus"}),
    "api": Pod(address="203.0.113.10"),
    "names": Pod("kube-system", {"k8s-app": "kube-dns"}),
}


def pods(documents: list[Document], folder: Path, namespace: str = "ns") -> dict[str, Pod]:
    """Returns the pods of a release by component."""
    return {
        metadata["labels"]["app.kubernetes.io/component"]: Pod(namespace, metadata["labels"])
        for each in [*documents, function_of(documents, folder)]
        for metadata, _ in pods_of(each)
    }


class World:
    """A release among others, and who may reach whom."""

    def __init__(self, folder: Path, said: dict[str, Any] | None = None) -> None:
        documents = render(said=said)
        self.own = pods(documents, folder)
        self.all = dict(self.own) | OUTSIDE
        for name, where in (("other", "ns"), ("r", "elsewhere")):
            found = pods(render(release=name, namespace=where), folder, where)
            self.all |= {f"{key} of {name} in {where}": pod for key, pod in found.items()}
        self._policies = Policies(documents)

    def reachable(self, target: str) -> set[tuple[str, int]]:
        """Returns who of all may reach a pod of the release, and at which port."""
        return {
            (name, port)
            for (name, pod), port in itertools.product(self.all.items(), PORTS)
            if name != target and self._policies.allow(pod, self.all[target], port)
        }

    def reaches(self, source: str) -> set[tuple[str, int]]:
        """Returns what of all a pod of the release may reach."""
        return {
            (name, port)
            for (name, pod), port in itertools.product(self.all.items(), PORTS)
            if name != source and self._policies.allow(self.all[source], pod, port)
        }

    def may_ask_names(self, source: str) -> bool:
        return self._policies.allow(self.all[source], self.all["names"], NAMES, "UDP")


def test_only_its_operator_orders_a_stack_about(tmp_path: Path) -> None:
    world = World(tmp_path)
    orders = {who for who, port in world.reachable("stack") if port == CONTROL}
    assert orders == {"controller", "uninstall"}
    assert {port for _, port in world.reachable("stack")} == {CONTROL, STACK}


def test_metrics_are_for_whom_values_say(tmp_path: Path) -> None:
    for target, port in (("stack", STACK), ("nf", NF), ("controller", OPERATOR)):
        asked = {who for who, at in World(tmp_path).reachable(target) if at == port}
        assert {"prometheus", "stranger", "test"} <= asked, target
        world = World(tmp_path, {"networkPolicy.metricsFrom": MONITORING})
        asked = {who for who, at in world.reachable(target) if at == port}
        assert asked - {"test"} == {"prometheus"}
        assert ("test" in asked) is (target != "nf")  # `helm test` asks operator and stack


def test_network_functions_talk_to_nobody(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.reaches("nf") == set()
    assert world.reaches("stack") == set()
    assert not world.may_ask_names("nf")
    assert {port for _, port in world.reachable("nf")} == {NF}


def test_the_operator_may_be_kept_from_all_but_the_server(tmp_path: Path) -> None:
    server = [{"ipBlock": {"cidr": "203.0.113.10/32"}}]
    reached = World(tmp_path, {"networkPolicy.apiServer": server}).reaches("controller")
    assert {name for name, port in reached if port == API} == {"api"}


def test_what_network_functions_send_is_what_values_say(tmp_path: Path) -> None:
    to = {"to": [{"podSelector": {"matchLabels": {"app": "shop"}}}], "ports": [{"port": 80}]}
    assert World(tmp_path, {"networkPolicy.nfEgress": [to]}).reaches("nf") == {("stranger", 80)}


@pytest.mark.parametrize("who", ["controller", "uninstall"])
def test_the_operator_reaches_the_server_names_and_its_stacks(tmp_path: Path, who: str) -> None:
    world = World(tmp_path)
    reached = world.reaches(who)
    assert {("api", API), ("names", NAMES), ("stack", CONTROL)} <= reached
    assert world.may_ask_names(who)
    assert {name for name, port in reached if port == CONTROL} == {"stack"}
    assert {port for _, port in reached} == {API, NAMES, CONTROL}


def test_stacks_with_the_nodes_network_are_reached_by_the_nodes_address(tmp_path: Path) -> None:
    said = {
        "stack.hostNetwork": True,
        "stack.port.mode": "afpacket",
        "stack.port.interfaces": ["a"],
    }
    world = World(tmp_path, said)
    assert ("api", CONTROL) in world.reaches("controller")  # any address may be a node's


def policies(**spec: Any) -> Policies:
    metadata = {"name": "p", "namespace": "ns"}
    spec = {"podSelector": {"matchLabels": {"app": "a"}}, **spec}
    return Policies([{"kind": "NetworkPolicy", "metadata": metadata, "spec": spec}])


A, B = Pod("ns", {"app": "a"}), Pod("ns", {"app": "b"})
AWAY = Pod("away", {"app": "b"}, {"tier": "x"})
TO_B: dict[str, Any] = {"podSelector": {"matchLabels": {"app": "b"}}}
ALL_AWAY: dict[str, Any] = {"namespaceSelector": {"matchLabels": {"tier": "x"}}}


@pytest.mark.parametrize(
    ("spec", "source", "target", "passes"),
    [
        ({"policyTypes": ["Ingress"]}, B, A, False),
        ({"policyTypes": ["Ingress"]}, A, B, True),  # it governs one direction
        ({"egress": [], "ingress": [{}]}, B, A, True),
        ({"egress": [], "ingress": [{}]}, A, B, False),
        ({"ingress": [{"from": [TO_B]}]}, B, A, True),
        ({"ingress": [{"from": [TO_B]}]}, AWAY, A, False),  # of its own namespace only
        ({"ingress": [{"from": [ALL_AWAY]}]}, AWAY, A, True),
        ({"ingress": [{"from": [ALL_AWAY]}]}, B, A, False),
        ({"ingress": [{"from": [ALL_AWAY | TO_B]}]}, AWAY, A, True),
        ({"ingress": [{"from": [{"podSelector": {"matchExpressions": [
            {"key": "app", "operator": "NotIn", "values": ["b"]}]}}]}]}, B, A, False),
        ({"ingress": [{"from": [{"podSelector": {"matchExpressions": [
            {"key": "app", "operator": "Exists"}]}}]}]}, B, A, True),
        ({"ingress": [{"ports": [{"port": 80}]}]}, B, A, True),
        ({"ingress": [{"ports": [{"port": 81}]}]}, B, A, False),
        ({"ingress": [{"ports": [{"port": 80, "protocol": "UDP"}]}]}, B, A, False),
        ({"egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]}, A, Pod(address="192.0.2.7"),
         True),
        ({"egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/28"]}}]}]},
         A, Pod(address="192.0.2.7"), False),
        ({"egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}, A, B, False),
        ({"egress": [{"to": [TO_B]}]}, A, Pod(address="192.0.2.7"), False),
    ],
)  # fmt: skip
def test_the_model_is_as_the_api_says(
    spec: dict[str, Any], source: Pod, target: Pod, passes: bool
) -> None:
    assert policies(**spec).allow(source, target, 80) is passes
