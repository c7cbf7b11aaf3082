# SPDX-License-Identifier: Apache-2.0
"""What a Kubernetes API server does with bodies: patches, selectors, schemas. For `fakekube.py`."""

import base64
import copy
import json
import re
from datetime import UTC, datetime


class Refusal(Exception):
    """An answer that is not what was asked for."""

    def __init__(self, code, reason, message):
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    def body(self):
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }


def now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def merge(old, patch):
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    new = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        else:
            new[key] = merge(new.get(key), value)
    return new


def applied(old, body, last):
    """Server-side apply by one manager: what it said before and says no more goes."""
    return merge(_without(old, last, body), body)


def _without(old, last, body):
    new = dict(old)
    for key, value in last.items():
        if isinstance(value, dict) and isinstance(new.get(key), dict):
            new[key] = _without(new[key], value, body.get(key, {}))
            if not new[key] and key not in body:
                del new[key]
        elif key not in body:
            new.pop(key, None)
    return new


def json_patch(old, steps):
    """RFC 6902: add, replace, remove, test."""
    for step in steps:
        *way, last = [p.replace("~1", "/").replace("~0", "~") for p in step["path"].split("/")[1:]]
        place = old
        for part in way:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if isinstance(place, list):
            last = len(place) if last == "-" else int(last)
        present = last < len(place) if isinstance(place, list) else last in place
        if step["op"] == "test" and (not present or place[last] != step["value"]):
            raise Refusal(422, "Invalid", f"testing value {step['path']} failed")
        if step["op"] in ("replace", "remove") and not present:
            raise Refusal(422, "Invalid", f"no such path {step['path']}")
        if step["op"] == "add" and isinstance(place, list):
            place.insert(last, step["value"])
        elif step["op"] in ("add", "replace"):
            place[last] = step["value"]
        elif step["op"] == "remove":
            del place[last]
    return old


def chooser(query):
    terms = re.split(r",(?![^(]*\))", query.get("labelSelector", ""))
    fields = [f.split("=") for f in query.get("fieldSelector", "").split(",") if f]

    def chosen(body):
        labels = body["metadata"].get("labels", {})
        for field, value in ((f[0], f[-1]) for f in fields):
            found = body
            for part in field.split("."):
                found = found.get(part, {}) if isinstance(found, dict) else {}
            if (found or "") != value:
                return False
        return all(_holds(term.strip(), labels) for term in terms if term.strip())

    return chosen


def _holds(term, labels):
    if match := re.fullmatch(r"(\S+)\s+(in|notin)\s+\((.*)\)", term):
        values = [v.strip() for v in match[3].split(",")]
        return (labels.get(match[1]) in values) == (match[2] == "in")
    if "!=" in term:
        key, value = term.split("!=")
        return labels.get(key) != value
    if "=" in term:
        key, value = re.split("==?", term)
        return labels.get(key) == value
    return term[1:] not in labels if term.startswith("!") else term in labels


_TYPES = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict,
          "number": (int, float)}  # fmt: skip


def check(value, schema, path, problems):
    """Checks a value against a structural schema; sets defaults and drops unknown fields."""
    kind = schema.get("type")
    if kind and (not isinstance(value, _TYPES[kind]) or (kind != "boolean" and value is True)):
        problems.append(f'{path}: Invalid value: "{type(value).__name__}": must be of type {kind}')
        return
    problems += [f"{path}: Invalid value: {json.dumps(value)}: {text}"
                 for text in _wrong(value, schema)]  # fmt: skip
    if kind == "array":
        for i, each in enumerate(value):
            check(each, schema.get("items", {}), f"{path}[{i}]", problems)
    if kind != "object":
        return
    known = schema.get("properties", {})
    for key, sub in known.items():
        if "default" in sub and value.get(key) is None:
            value[key] = copy.deepcopy(sub["default"])
        elif key not in value and key in schema.get("required", ()):
            problems.append(f"{path}.{key}: Required value".lstrip("."))
    for key in list(value):
        place = f"{path}.{key}".lstrip(".")
        if key in known:
            check(value[key], known[key], place, problems)
        elif "additionalProperties" in schema:
            check(value[key], schema["additionalProperties"], place, problems)
        elif known and path and path != "metadata" and not _keeps(schema):
            del value[key]


def _keeps(schema):
    return schema.get("x-kubernetes-preserve-unknown-fields")


def _wrong(value, schema):
    size = len(value) if isinstance(value, str | list) else 0
    if "enum" in schema and value not in schema["enum"]:
        yield f"supported values: {schema['enum']}"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"should match '{schema['pattern']}'"
    if value.__class__ in (int, float):
        if value < schema.get("minimum", value):
            yield f"should be greater than or equal to {schema['minimum']}"
        if value > schema.get("maximum", value):
            yield f"should be less than or equal to {schema['maximum']}"
    if size < max(schema.get("minLength", 0), schema.get("minItems", 0)):
        yield "too short"
    if size > min(schema.get("maxLength", size), schema.get("maxItems", size)):
        yield "too long"
    if schema.get("x-kubernetes-list-type") == "set" and len(set(map(str, value))) != size:
        yield "Duplicate value"


def without_status(body):
    return {key: value for key, value in body.items() if key not in ("metadata", "status")}


def as_base64(text):
    return base64.b64encode(text.encode()).decode()
