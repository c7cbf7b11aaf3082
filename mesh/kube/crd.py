# SPDX-License-Identifier: Apache-2.0
"""CustomResourceDefinitions, made of the models: `python -m mesh.kube.crd FOLDER` writes them.

Kubernetes takes a part of OpenAPI v3 only ("structural schemas"): no references, no alternatives
with types of their own, nothing that is not said to be kept. What the models say is put into that
part; what a schema cannot say (a ring's size is a power of two) the operator checks and reports.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from mesh.kube.models import (
    GROUP,
    MAX_NAME,
    NAME,
    VERSION,
    NetworkFunctionSpec,
    ServiceChainSpec,
)

__all__ = ["crds", "row_of", "spec_schema", "write_crds"]

_HEAD = "# Generated from mesh/kube/models.py by `python -m mesh.kube.crd`; do not edit.\n"
_DROPPED = ("title", "const", "additionalProperties")


def spec_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Returns a model's schema as Kubernetes takes it."""
    schema = model.model_json_schema(by_alias=True)
    found = _structural(schema, schema.get("$defs", {}))
    found.pop("$defs", None)
    return found


def _structural(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> dict[str, Any]:
    """Puts references and "or nothing" in place, and leaves out what Kubernetes refuses."""
    if "$ref" in schema:
        target = defs[schema["$ref"].rsplit("/", 1)[1]]
        return _structural({**target, **{k: v for k, v in schema.items() if k != "$ref"}}, defs)
    if "anyOf" in schema:
        rest = {k: v for k, v in schema.items() if k not in ("anyOf", "default")}
        kind = next(each for each in schema["anyOf"] if each.get("type") != "null")
        return _structural({**kind, **rest}, defs)
    found = {k: v for k, v in schema.items() if k not in (*_DROPPED, "$defs")}
    if "properties" in schema:
        found["properties"] = {k: _structural(v, defs) for k, v in schema["properties"].items()}
    if isinstance(extra := schema.get("additionalProperties"), Mapping):
        found["additionalProperties"] = _structural(extra, defs)
    if "items" in schema:
        found["items"] = _structural(schema["items"], defs)
    if isinstance(found.get("default"), Mapping):
        found["default"] = {k: v for k, v in found["default"].items() if v is not None}
    if isinstance(found.get("description"), str):
        found["description"] = " ".join(found["description"].split())
    return found


def _conditions() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {**text, "maxLength": 64},
                "status": {**text, "enum": ["True", "False", "Unknown"]},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "lastTransitionTime": {**text, "format": "date-time"},
                "reason": {**text, "maxLength": 64, "pattern": "^[A-Za-z][A-Za-z0-9]*$"},
                "message": {**text, "maxLength": 4096},
            },
        },
    }


def _status(properties: Mapping[str, Any]) -> dict[str, Any]:
    own = {
        "observedGeneration": {"type": "integer", "format": "int64"},
        "conditions": _conditions(),
    }
    return {
        "type": "object",
        "description": "What is; written by the operator.",
        "properties": {**own, **properties},
    }


def _function_status() -> dict[str, Any]:
    text, count = {"type": "string"}, {"type": "integer", "format": "int32", "minimum": 0}
    node = {
        "node": text,
        "pod": text,
        "cores": {**text, "description": "Those that its threads may run on: 2-3."},
        "attached": {"type": "boolean", "description": "Its ring is attached to the stack."},
        "backing": {**text, "description": "What the memory that it maps lies in."},
    }
    return _status(
        {
            "replicas": {**count, "description": "Pods that there are."},
            "readyReplicas": {**count, "description": "Pods that are attached and placed."},
            "selector": {**text, "description": "Of its pods, as text, for autoscalers."},
            "cores": {**text, "description": "Of all its pods: node: cores."},
            "nodes": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["pod"],
                "items": {"type": "object", "required": ["pod"], "properties": node},
            },
        }
    )


def _chain_status() -> dict[str, Any]:
    stage = {"function": {"type": "string"}, "stage": {"type": "integer"}}
    return _status(
        {
            "path": {"type": "string", "description": "The chain in one line."},
            "stages": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["function"],
                "items": {"type": "object", "required": ["function"], "properties": stage},
            },
        }
    )


def _column(name: str, path: str, kind: str = "string", **more: Any) -> dict[str, Any]:
    return {"name": name, "jsonPath": path, "type": kind, **more}


_READY = '.status.conditions[?(@.type=="Ready")]'
_AGE = _column("Age", ".metadata.creationTimestamp", "date")


def _version(
    spec: dict[str, Any], status: dict[str, Any], columns: list[dict[str, Any]], **subresources: Any
) -> dict[str, Any]:
    name = {"type": "string", "pattern": NAME, "maxLength": MAX_NAME}
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}, **subresources},
        "additionalPrinterColumns": columns,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object", "properties": {"name": name}},
                    "spec": spec,
                    "status": status,
                },
            }
        },
    }


def _crd(kind: str, plural: str, short: str, version: dict[str, Any]) -> dict[str, Any]:
    singular = kind.lower()
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{GROUP}",
            "labels": {"app.kubernetes.io/name": "nfmesh"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": singular,
                "shortNames": [short],
                "categories": ["nfmesh"],
            },
            "versions": [version],
        },
    }


def crds() -> dict[str, dict[str, Any]]:
    """Returns the definitions by plural name."""
    functions = _version(
        spec_schema(NetworkFunctionSpec),
        _function_status(),
        [
            _column("Use", ".spec.use"),
            _column("Replicas", ".status.replicas", "integer"),
            _column("Ready", ".status.readyReplicas", "integer"),
            _column("Cores", ".status.cores"),
            _column("Status", f"{_READY}.reason"),
            _column("Message", f"{_READY}.message", priority=1),
            _AGE,
        ],
        scale={
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    )
    chains = _version(
        spec_schema(ServiceChainSpec),
        _chain_status(),
        [
            _column("Path", ".status.path"),
            _column("Where", ".spec.selector.where"),
            _column("Ready", f"{_READY}.status"),
            _column("Status", f"{_READY}.reason"),
            _column("Message", f"{_READY}.message", priority=1),
            _AGE,
        ],
    )
    return {
        "networkfunctions": _crd("NetworkFunction", "networkfunctions", "nfn", functions),
        "servicechains": _crd("ServiceChain", "servicechains", "nfc", chains),
    }


def row_of(plural: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `kubectl get` prints of an object, by column.

    >>> row_of("servicechains", {"metadata": {"name": "a"}, "status": {"path": "b → c"}})["Path"]
    'b → c'
    """
    columns = crds()[plural]["spec"]["versions"][0]["additionalPrinterColumns"]
    cells = {each["name"]: _at(each["jsonPath"], found) for each in columns}
    return {"Name": found["metadata"]["name"], **cells}


def _at(path: str, found: Any) -> Any:
    """Follows what columns use of JSONPath: fields, and the one of a list that has a type."""
    for name, kind in re.findall(r'\.(\w+)(?:\[\?\(@\.type=="(\w+)"\)\])?', path):
        found = (found or {}).get(name)
        if kind:
            found = next((each for each in found or () if each["type"] == kind), None)
    return found


class _Plain(yaml.SafeDumper):
    """YAML without anchors: definitions are read by people."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def as_yaml(crd: Mapping[str, Any]) -> str:
    """Returns a definition as the file that is committed."""
    return _HEAD + yaml.dump(crd, Dumper=_Plain, sort_keys=False, width=100, allow_unicode=True)


def write_crds(folder: Path) -> list[Path]:
    """Writes the definitions, one file each, and returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for plural, crd in crds().items():
        path = folder / f"{plural}.yaml"
        path.write_text(as_yaml(crd))
        written.append(path)
    return written


if __name__ == "__main__":
    for file in write_crds(Path(sys.argv[1] if len(sys.argv) > 1 else "deploy/helm/nfmesh/crds")):
        sys.stdout.write(f"{file}\n")
