# SPDX-License-Identifier: Apache-2.0
"""The custom resources `NetworkFunction` and `ServiceChain`, as a user writes them.

    apiVersion: nfmesh.io/v1alpha1
    kind: NetworkFunction
    metadata: {name: edge-firewall}
    spec:
      use: firewall
      config: {rules: [{action: drop, where: tcp port 23}]}
      mode: inline
      stage: 10
      fail: closed
      cores: 1
      memory: 512Mi

These models are the one source: the CRDs' OpenAPI schemas are made of them (`mesh/kube/crd.py`),
the operator reads objects through them, and on one host they read the same file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from mesh.bounds import PowerOfTwo, refusal
from mesh.errors import SpecError, place_text
from mesh.words import OWN_DOMAIN

__all__ = [
    "GROUP",
    "KINDS",
    "VERSION",
    "ChainSelector",
    "ConfigMapRef",
    "Hugepages",
    "NetworkFunctionSpec",
    "ServiceChainSpec",
    "SubscriptionChange",
    "UpdateStrategy",
    "parse_object",
]

GROUP, VERSION = "nfmesh.io", "v1alpha1"
MAX_NAME = 52
"""A Deployment's pods have longer names than the Deployment."""
NAME = r"^[a-z]([a-z0-9-]*[a-z0-9])?$"

_Name = Annotated[str, Field(pattern=NAME, max_length=MAX_NAME)]
_Word = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=64)]
_Event = Annotated[str, Field(min_length=1, max_length=128)]
_Filter = Annotated[str, Field(min_length=1, max_length=4096)]
_Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Ki|Mi|Gi|Ti)$", max_length=16)]
_Label = Annotated[str, Field(max_length=253)]


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True
    )


class SubscriptionChange(_Model):
    """Changes one subscription of the class."""

    events: Annotated[
        list[_Event] | None,
        Field(
            max_length=256,
            description="Instead of its own; an empty list: it hears nothing.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = None
    where: Annotated[_Filter | None, Field(description="Filter instead of its own.")] = None


class Hugepages(_Model):
    """Huge pages of an NF's own, mounted at /dev/hugepages-SIZE. The mesh's memory needs none."""

    two_mib: Annotated[
        _Quantity | None, Field(alias="2Mi", description="Of 2 MiB: an amount such as 64Mi.")
    ] = None
    one_gib: Annotated[
        _Quantity | None, Field(alias="1Gi", description="Of 1 GiB: an amount such as 2Gi.")
    ] = None

    @property
    def amounts(self) -> dict[str, str]:
        """Size of a page → amount, those that are asked for."""
        found = {"2Mi": self.two_mib, "1Gi": self.one_gib}
        return {size: amount for size, amount in found.items() if amount is not None}


class ConfigMapRef(_Model):
    """A ConfigMap whose files the NF reads."""

    name: Annotated[str, Field(min_length=1, max_length=253, description="Of the ConfigMap.")]


class UpdateStrategy(_Model):
    """What happens when the image, the configuration or the resources change."""

    type: Annotated[
        Literal["Recreate", "RollingUpdate"],
        Field(
            description="Recreate: the old pod leaves first, as its cores must be free for the "
            "new one. RollingUpdate: the new pod attaches before the old one drains; where a node "
            "has no cores left for both, the status says so."
        ),
    ] = "Recreate"


class NetworkFunctionSpec(_Model):
    """One network function: what runs, what it hears, and what it is given."""

    use: Annotated[
        str,
        Field(
            min_length=1,
            max_length=256,
            pattern=r"^[A-Za-z_/][A-Za-z0-9_./-]*(:[A-Za-z_][A-Za-z0-9_.]*)?$",
            description="Installed name (nfmesh nfs), package.module:Class or /file.py:Class of "
            "the image.",
        ),
    ]
    image: Annotated[
        str | None,
        Field(min_length=1, max_length=512, description="Without it: the image of the release."),
    ] = None
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    config: Annotated[
        dict[str, Any],
        Field(
            description="Options of the class.",
            json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
        ),
    ] = {}
    files: Annotated[
        ConfigMapRef | None, Field(description="Mounted read-only at /etc/nfmesh/files.")
    ] = None

    events: Annotated[
        list[_Event] | None,
        Field(
            min_length=1,
            max_length=256,
            description="What its only subscription hears.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = None
    where: Annotated[
        _Filter | None, Field(description="Filter that narrows what it hears, as in udp port 53.")
    ] = None
    subscriptions: Annotated[
        dict[str, SubscriptionChange], Field(description="Changes by subscription.")
    ] = {}
    mode: Annotated[
        Literal["observe", "inline"] | None,
        Field(description="Beside or in the way of packets; without it: as the class says."),
    ] = None
    stage: Annotated[
        int | None, Field(ge=0, le=255, description="Place in line of an inline NF.")
    ] = None
    fail: Annotated[
        Literal["open", "closed"],
        Field(description="Packets that it does not judge in time: pass, or are dropped."),
    ] = "closed"
    deadline_ms: Annotated[
        int, Field(ge=0, le=60_000, description="For judging a packet; 0: as long as it takes.")
    ] = 100
    poll: Annotated[
        Literal["adaptive", "busy"],
        Field(description="When there is nothing: sleep soon, or never, on cores of its own."),
    ] = "adaptive"
    delivery: Annotated[
        Literal["lossy", "blocking"] | None,
        Field(description="When it is slow: count what it misses, or wait for it."),
    ] = None
    domain: Annotated[
        _Word, Field(description="NFs of one domain share memory; of another, see nothing of it.")
    ] = OWN_DOMAIN
    share: Annotated[
        list[_Word],
        Field(
            max_length=64,
            description="Other domains that may hear what it publishes.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = []
    ring: Annotated[
        Annotated[int, Field(ge=64, le=1 << 20), PowerOfTwo] | None,
        Field(description="Entries of its ring, a power of two."),
    ] = None
    hold: Annotated[
        int | None, Field(ge=0, le=4096, description="Entries that it may keep at once.")
    ] = None

    replicas: Annotated[
        int, Field(ge=0, le=10_000, description="Pods, each on a node of its own.")
    ] = 1
    every_node: Annotated[
        bool, Field(description="A pod on each node that has a stack; replicas is not looked at.")
    ] = False
    cores: Annotated[
        int,
        Field(
            ge=0,
            le=1024,
            description="Cores of its own (the kubelet's static CPU manager pins it to them); "
            "0: it shares the node's.",
        ),
    ] = 1
    memory: Annotated[_Quantity, Field(description="Request and limit.")] = "256Mi"
    hugepages: Hugepages | None = None
    node_selector: Annotated[
        dict[str, _Label], Field(description="Labels that its nodes have.")
    ] = {}
    update_strategy: UpdateStrategy = UpdateStrategy()


class ChainSelector(_Model):
    """The traffic that takes a chain."""

    where: Annotated[
        _Filter | None,
        Field(description="Filter on headers, as in tcp port 443; without it: all traffic."),
    ] = None


class ServiceChainSpec(_Model):
    """Network functions in order, and the traffic that passes them."""

    functions: Annotated[
        list[_Name],
        Field(
            min_length=1,
            max_length=64,
            description="Names of NetworkFunctions, first to last.",
            json_schema_extra={"x-kubernetes-list-type": "atomic"},
        ),
    ]
    selector: Annotated[ChainSelector, Field(description="Traffic that takes this chain.")] = (
        ChainSelector()
    )


KINDS: Mapping[str, type[NetworkFunctionSpec] | type[ServiceChainSpec]] = {
    "NetworkFunction": NetworkFunctionSpec,
    "ServiceChain": ServiceChainSpec,
}


def parse_object(data: Mapping[str, Any]) -> NetworkFunctionSpec | ServiceChainSpec:
    """Checks an object of either kind and returns its spec.

    Raises:
        SpecError: names the place, as in `spec.cores`.
    """
    kind = str(data.get("kind"))
    if kind not in KINDS:
        raise SpecError("kind", f"{kind!r} is none of {', '.join(KINDS)}")
    if data.get("apiVersion") != f"{GROUP}/{VERSION}":
        raise SpecError("apiVersion", f"{data.get('apiVersion')!r} is not {GROUP}/{VERSION}")
    model = KINDS[kind]
    try:
        return model.model_validate(data.get("spec") or {})
    except ValidationError as error:
        place, text = refusal(error, model.model_json_schema())
        raise SpecError(place_text(place, "spec"), text) from error
