# SPDX-License-Identifier: Apache-2.0
"""Makes what of the chart is made of something else: `python tools/kube/chart.py [--check]`.

- `values.schema.json` of `values.schema.yaml` beside this file and of the project's models: a
  stack's spec, its ports, network functions and chains are defined in mesh/ and nowhere else.
- `files/dashboard.json` of the panels in `dashboard.yaml` beside this file.
- The table of values in the chart's README.md, of the comments ("# -- ...") in values.yaml.

`--check` changes nothing and fails when one of them is not as it would be made.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from mesh.kube.crd import spec_schema
from mesh.kube.models import MAX_NAME, NAME, NetworkFunctionSpec, ServiceChainSpec
from mesh.spec import json_schema

HERE = Path(__file__).resolve().parent
CHART = HERE.parent.parent / "deploy" / "helm" / "nfmesh"
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
OF_STACK = (
    *("worker", "modules", "domains", "events", "checksums", "patience"),
    *("worker_cores", "worker_poll"),
)
"""Keys of a spec that `stack.spec` may have; the others are the chart's or the command line's."""
_SILENT = ("title", "default", "description", "format")


def schema_text() -> str:
    """Returns values.schema.json."""
    schema = yaml.safe_load((HERE / "values.schema.yaml").read_text())
    spec = _close(json_schema())
    definitions = {f"spec.{name}": each for name, each in spec.pop("$defs").items()}
    known = {key: spec["properties"][key] for key in OF_STACK}
    schema["$defs"] |= _pointed(definitions) | {
        "networkFunctions": _objects(NetworkFunctionSpec),
        "serviceChains": _objects(ServiceChainSpec),
        "stackSpec": {
            "type": "object",
            "additionalProperties": False,
            "properties": _pointed(known),
        },
        "stackPorts": {"type": "array", "items": {"$ref": "#/$defs/spec.PortSpec"}},
        **{f"{kind}Options": _options(definitions, kind) for kind in ("afpacket", "afxdp", "dpdk")},
    }
    return json.dumps(schema, indent=1) + "\n"


def _objects(model: type[BaseModel]) -> dict[str, Any]:
    """A map of names to specs. Of wrong keys Helm tells the place, of propertyNames it does not."""
    name = NAME.replace("*", f"{{0,{MAX_NAME - 2}}}")
    return {
        "type": "object",
        "additionalProperties": False,
        "patternProperties": {name: _close(spec_schema(model))},
    }


def _options(definitions: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What may be said of a kind of port, without what the chart says itself."""
    said = definitions[f"spec.{kind.capitalize()}Spec"]["anyOf"][1]
    properties = {
        key: each
        for key, each in said["properties"].items()
        if key not in ("interface", "device", "resource")
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _close(schema: Any) -> Any:
    """Refuses what is not known, and drops what only people or Kubernetes read."""
    if isinstance(schema, list):
        return [_close(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {
        key: {name: _close(each) for name, each in value.items()}
        if key in ("properties", "$defs")
        else _close(value)
        for key, value in schema.items()
        if key not in _SILENT and not key.startswith("x-kubernetes-")
    }
    if found.get("type") == "object" and {"properties", "patternProperties"} & found.keys():
        found.setdefault("additionalProperties", False)
    return found


def _pointed(schema: Any) -> Any:
    """Points references at where the definitions are now."""
    if isinstance(schema, list):
        return [_pointed(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: value.replace("#/$defs/", "#/$defs/spec.") if key == "$ref" else _pointed(value)
        for key, value in schema.items()
    }


def described(text: str) -> Iterator[tuple[str, str]]:
    """Yields values with a comment: path and comment, in the order of the file."""
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("# -- "):
            comment = [bare[5:]]
        elif bare.startswith("#") and comment:
            comment.append(bare[1:].strip())
        elif found := re.match(r"( *)([A-Za-z0-9_.-]+):", line):
            depth = len(found[1])
            path = [*(each for each in path if each[0] < depth), (depth, found[2])]
            if comment:
                yield ".".join(key for _, key in path), " ".join(comment)
            comment = []
        elif not bare:
            comment = []


def table(text: str) -> str:
    """Returns the values as a table in Markdown."""
    values = yaml.safe_load(text)
    rows = ["| Value | Default | What it is |", "|---|---|---|"]
    for path, comment in described(text):
        default = values
        for key in path.split("."):
            default = default[key]
        shown = json.dumps(default).replace("|", "\\|")
        rows.append(f"| `{path}` | `{shown}` | {comment.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def dashboard_text() -> str:
    """Returns Grafana's dashboard: two panels side by side."""
    panels: list[dict[str, Any]] = []
    top = left = 0
    for entry in yaml.safe_load((HERE / "dashboard.yaml").read_text()):
        if "row" in entry:
            top, left = top + (8 if left else 0), 0
            place = {"x": 0, "y": top, "w": 24, "h": 1}
            panels.append({"type": "row", "title": entry["row"], "gridPos": place})
            top += 1
            continue
        panels.append(_panel(entry, {"x": left, "y": top, "w": 12, "h": 8}))
        top, left = (top + 8, 0) if left else (top, 12)
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    board = {
        "title": "nfmesh",
        "uid": "nfmesh",
        "tags": ["nfmesh"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": panels,
    }
    return json.dumps(board, indent=1) + "\n"


def _panel(entry: Mapping[str, Any], place: Mapping[str, int]) -> dict[str, Any]:
    where = 'namespace=~"$namespace", node=~"$node"'
    targets = [
        {
            "refId": chr(65 + n),
            "expr": q["expr"].replace("$where", where),
            "legendFormat": q["legend"],
        }
        for n, q in enumerate(entry["of"])
    ]
    return {
        "type": "timeseries",
        "title": entry["title"],
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "gridPos": dict(place),
        "fieldConfig": {"defaults": {"unit": entry["unit"], "min": 0}, "overrides": []},
        "targets": targets,
    }


def _variables() -> list[dict[str, Any]]:
    """What is chosen at the dashboard's head."""
    asked = {
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }
    label = "label_values(nfmesh_worker_packets_total"
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        {"name": "namespace", **asked, "query": f"{label}, namespace)"},
        {"name": "node", **asked, "query": f'{label}{{namespace=~"$namespace"}}, node)'},
    ]


def readme_text(before: str) -> str:
    """Returns README.md with the table of today's values."""
    head, _, rest = before.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table((CHART / 'values.yaml').read_text())}\n{END}{tail}"


def main(arguments: list[str]) -> int:
    """Writes, or checks."""
    readme = CHART / "README.md"
    made = {
        CHART / "values.schema.json": schema_text(),
        CHART / "files" / "dashboard.json": dashboard_text(),
        readme: readme_text(readme.read_text()),
    }
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        name = path.relative_to(CHART.parent.parent.parent)
        if "--check" in arguments:
            print(f"{name}: stale; run: python tools/kube/chart.py", file=sys.stderr)
        else:
            path.write_text(made[path])
            print(name)
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
