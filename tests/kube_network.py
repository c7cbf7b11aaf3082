# SPDX-License-Identifier: Apache-2.0
"""Who may talk to whom under NetworkPolicies, as the API defines it: a model, no network.

A pod that no policy of a direction selects is free in that direction; one that is selected may do
what some rule of those policies allows. Both ends must agree. A node may always reach its own pods.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Document = Mapping[str, Any]
NAME_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Pod:
    """One end: a pod, or with an address something outside of the cluster's network.

    Attributes:
        namespace: that it is in.
        labels: its own.
        namespace_labels: those of its namespace, beside its name.
        address: of what is no pod.
    """

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""


class Policies:
    """The NetworkPolicies of a cluster."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._all = [each for each in documents if each["kind"] == "NetworkPolicy"]

    def allow(self, source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
        """Says whether a connection comes about."""
        way = (port, protocol)
        return self._lets(source, "egress", target, way) and self._lets(
            target, "ingress", source, way
        )

    def selecting(self, pod: Pod, direction: str) -> list[Document]:
        """Returns the policies that govern a direction of a pod."""
        return [p for p in self._all if not pod.address and _governs(p, pod, direction)]

    def _lets(self, pod: Pod, direction: str, peer: Pod, way: tuple[int, str]) -> bool:
        policies = self.selecting(pod, direction)
        rules = (rule for policy in policies for rule in _rules(policy, direction))
        return not policies or any(_matches(namespace, r, peer, way) for namespace, r in rules)


def _governs(policy: Document, pod: Pod, direction: str) -> bool:
    spec = policy["spec"]
    types = spec.get("policyTypes", ["Ingress", *(["Egress"] if "egress" in spec else [])])
    return (
        policy["metadata"]["namespace"] == pod.namespace
        and direction.title() in types
        and _selected(spec["podSelector"], pod.labels)
    )


def _rules(policy: Document, direction: str) -> Iterator[tuple[str, Document]]:
    """Yields the policy's rules, with `peers` for what is said of the other end."""
    key = "to" if direction == "egress" else "from"
    for rule in policy["spec"].get(direction) or ():
        yield policy["metadata"]["namespace"], {"ports": rule.get("ports"), "peers": rule.get(key)}


def _matches(namespace: str, rule: Document, peer: Pod, way: tuple[int, str]) -> bool:
    ports, peers = rule["ports"], rule["peers"]
    right_port = not ports or any(
        each.get("port", way[0]) == way[0] and each.get("protocol", "TCP") == way[1]
        for each in ports
    )
    return right_port and (not peers or any(_is_peer(namespace, each, peer) for each in peers))


def _is_peer(namespace: str, said: Document, peer: Pod) -> bool:
    if "ipBlock" in said:
        if not peer.address:
            return False
        address, block = ip_address(peer.address), said["ipBlock"]
        out = any(address in ip_network(each) for each in block.get("except", ()))
        return address in ip_network(block["cidr"]) and not out
    if peer.address:
        return False
    if "namespaceSelector" in said:
        labels = {**peer.namespace_labels, NAME_LABEL: peer.namespace}
        if not _selected(said["namespaceSelector"], labels):
            return False
    elif peer.namespace != namespace:
        return False
    return _selected(said.get("podSelector", {}), peer.labels)


def _selected(selector: Document, labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", {})
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    return all(_holds(each, labels) for each in selector.get("matchExpressions", ()))


def _holds(expression: Document, labels: Mapping[str, str]) -> bool:
    key, operator = expression["key"], expression["operator"]
    if operator in ("Exists", "DoesNotExist"):
        return (key in labels) == (operator == "Exists")
    return (labels.get(key) in expression["values"]) == (operator == "In")
