# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API server for tests: one process, no files, errors on demand.

It does what the operator relies on, the way a real server does it (`test_kube_contract.py` runs
against both): versions and conflicts, generations, the status and scale subresources, selectors,
merge and JSON patches, watches with bookmarks and "expired", finalizers, owners, the schemas of
CustomResourceDefinitions with their defaults and pruning, and who may do what. It has no
controllers: `fakenode.py` plays those.

    with FakeKube() as kube:
        kube.fail("PATCH", "networkfunctions/.*", status=500, times=3)
        kube.compact()          # versions before now are forgotten: 410
        kube.hang_up()          # every watch breaks
        kube.is_away = True     # connections are closed unanswered
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from fakekube_rules import (
    Refusal,
    applied,
    as_base64,
    check,
    chooser,
    json_patch,
    merge,
    now,
    without_status,
)

CORE = ("pods", "secrets", "events", "configmaps")
KINDS = {"pods": "Pod", "secrets": "Secret", "events": "Event", "configmaps": "ConfigMap",
         "deployments": "Deployment", "leases": "Lease",
         "poddisruptionbudgets": "PodDisruptionBudget",
         "customresourcedefinitions": "CustomResourceDefinition"}  # fmt: skip
BOOKMARK_S = 0.5


class Resource:
    """One kind of objects: its name, and the definition of a custom one."""

    def __init__(self, group, version, plural, kind, version_spec=None):
        self.group, self.version, self.plural, self.kind = group, version, plural, kind
        self.spec = version_spec or {}
        self.schema = self.spec.get("schema", {}).get("openAPIV3Schema")
        subresources = self.spec.get("subresources", {"status": {}} if version_spec is None else {})
        self.has_status, self.scale = "status" in subresources, subresources.get("scale")
        self.objects = {}

    @property
    def api_version(self):
        return f"{self.group}/{self.version}" if self.group else self.version


class FakeKube:
    """The server; `url` is where it is."""

    def __init__(self, tokens=None):
        self.tokens = tokens
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = self.oldest = 100
        self.log = []
        self.faults = []
        self.requests = Counter()
        self.is_away = self.is_dry = False
        self.said = {}
        self.hangups = 0
        self.ids = itertools.count(1)
        self.resources = {}
        for plural in CORE:
            self._add(Resource("", "v1", plural, KINDS[plural]))
        for group, version, plural in (
            ("apps", "v1", "deployments"),
            ("policy", "v1", "poddisruptionbudgets"),
            ("coordination.k8s.io", "v1", "leases"),
            ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
        ):
            self._add(Resource(group, version, plural, KINDS[plural]))

    def _add(self, resource):
        self.resources[resource.group, resource.plural] = resource

    # ---- what tests do -----------------------------------------------------------------------

    def __enter__(self):
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.kube = self
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self.thread.start()
        return self

    def __exit__(self, *_):
        with self.lock:
            self.is_away = True
        self.hang_up()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def define(self, crd):
        """Registers a CustomResourceDefinition."""
        names, version = crd["spec"]["names"], crd["spec"]["versions"][0]
        resource = Resource(
            crd["spec"]["group"], version["name"], names["plural"], names["kind"], version
        )
        self._add(resource)

    def fail(self, method, path, times=1, *, status=500, reason="InternalError", after=False):
        """Lets requests fail: `status` 0 closes the connection; `after`: it was done, though."""
        with self.lock:
            self.faults.append([method, re.compile(path), times, status, reason, after])

    def compact(self):
        """Forgets all versions before now."""
        with self.lock:
            self.oldest = self.version
            self.log.clear()

    def hang_up(self):
        """Breaks all watches."""
        with self.changed:
            self.hangups += 1
            self.changed.notify_all()

    def count(self, *methods, path=""):
        """Returns how many requests came: `count("POST", "PATCH", path="deployments")`."""
        with self.lock:
            return sum(n for (m, p), n in self.requests.items() if m in methods and path in p)

    def writes(self):
        """Returns how many requests came that write, without those for leases."""
        with self.lock:
            found = self.requests.items()
            return sum(n for (m, p), n in found if m not in ("GET", "WATCH") and "leases" not in p)

    # ---- requests ----------------------------------------------------------------------------

    def resolve(self, path):
        """Returns (resource, namespace, name, subresource) of a path."""
        parts = path.strip("/").split("/")
        group = "" if parts[0] == "api" else parts[1]
        rest = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = ""
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        resource = self.resources.get((group, rest[0])) if rest else None
        if resource is None:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        name, sub = (*rest[1:], "", "")[:2]
        return resource, namespace, name, sub

    def check_token(self, header, verb, resource):
        """Refuses who is nobody (401), and who may not (403)."""
        if self.tokens is None:
            return
        token = (header or "").removeprefix("Bearer ")
        if token not in self.tokens:
            raise Refusal(401, "Unauthorized", "Unauthorized")
        allowed = self.tokens[token]
        if allowed != "*" and verb not in allowed.get(resource, ()):
            text = f'{resource} is forbidden: User "test" cannot {verb} resource "{resource}"'
            raise Refusal(403, "Forbidden", text)

    def fault(self, method, path):
        with self.lock:
            for fault in self.faults:
                if fault[0] == method and fault[2] and fault[1].search(path):
                    fault[2] -= 1
                    return fault
        return None

    def get(self, resource, namespace, name):
        found = resource.objects.get((namespace, name))
        if found is None:
            text = f'{resource.plural}.{resource.group} "{name}" not found'.replace(". ", " ")
            raise Refusal(404, "NotFound", text)
        return found

    def list(self, resource, namespace, query):
        with self.lock:
            chosen = chooser(query)
            items = [o for (ns, _), o in sorted(resource.objects.items())
                     if (not namespace or ns == namespace) and chosen(o)]  # fmt: skip
            return {"kind": f"{resource.kind}List", "apiVersion": resource.api_version,
                    "metadata": {"resourceVersion": str(self.version)},
                    "items": copy.deepcopy(items)}  # fmt: skip

    def create(self, resource, namespace, body):
        with self.lock:
            metadata = body.setdefault("metadata", {})
            if "name" not in metadata and "generateName" in metadata:
                metadata["name"] = f"{metadata['generateName']}{next(self.ids):05x}"
            name = metadata.get("name")
            if not name:
                raise Refusal(422, "Invalid", "name or generateName is required")
            if (namespace, name) in resource.objects:
                text = f'{resource.plural}.{resource.group} "{name}" already exists'
                raise Refusal(409, "AlreadyExists", text)
            if resource.schema and resource.has_status:
                body.pop("status", None)
            self._admit(resource, body)
            metadata |= {
                "uid": f"uid-{next(self.ids)}",
                "generation": 1,
                "creationTimestamp": now(),
            }
            if namespace:
                metadata["namespace"] = namespace
            metadata.pop("deletionTimestamp", None)
            if resource.plural == "secrets" and "stringData" in body:
                body.setdefault("data", {}).update(
                    {k: as_base64(v) for k, v in body.pop("stringData").items()}
                )
            if resource.plural == "customresourcedefinitions":
                self.define(body)
            return self._store(resource, body, "ADDED")

    def update(self, resource, namespace, name, change, sub=""):
        """Puts the result of `change(copy)` in the place of an object."""
        with self.lock:
            old = self.get(resource, namespace, name)
            new = change(copy.deepcopy(old))
            self._check_version(resource, old, new)
            for key in ("uid", "creationTimestamp", "generation", "deletionTimestamp", "namespace"):
                if key in old["metadata"]:
                    new["metadata"][key] = old["metadata"][key]
                else:
                    new["metadata"].pop(key, None)
            new |= {"kind": resource.kind, "apiVersion": resource.api_version}
            new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
            if sub == "status":
                status = {"status": new["status"]} if "status" in new else {}
                new = {**{k: v for k, v in old.items() if k != "status"}, **status}
            elif resource.has_status:
                new.pop("status", None)
                new |= {"status": old["status"]} if "status" in old else {}
            self._admit(resource, new)
            if new == old:
                return old
            if without_status(new) != without_status(old):
                new["metadata"]["generation"] = old["metadata"]["generation"] + 1
            stored = self._store(resource, new, "MODIFIED")
            gone = None if self.is_dry else self._collect(resource, namespace, name)
            return gone or stored

    def apply(self, resource, namespace, name, body, manager):
        """Makes an object, or lets it say what a manager of fields says."""
        with self.lock:
            key = (resource.plural, namespace, name, manager)
            last = self.said.get(key, {})
            if (namespace, name) in resource.objects:
                done = self.update(resource, namespace, name, lambda old: applied(old, body, last))
            else:
                done = self.create(resource, namespace, copy.deepcopy(body))
            if not self.is_dry:
                self.said[key] = body
            return done

    def delete(self, resource, namespace, name):
        with self.lock:
            old = self.get(resource, namespace, name)
            if "deletionTimestamp" in old["metadata"] and resource.plural != "pods":
                return old
            new = copy.deepcopy(old)
            graceful = resource.plural == "pods" and new.get("spec", {}).get("nodeName")
            if new["metadata"].get("finalizers") or (
                graceful and "deletionTimestamp" not in old["metadata"]
            ):
                new["metadata"]["deletionTimestamp"] = now()
                new["metadata"]["deletionGracePeriodSeconds"] = 30 if graceful else 0
                return self._store(resource, new, "MODIFIED")
            return self._remove(resource, namespace, name)

    def _collect(self, resource, namespace, name):
        found = resource.objects[namespace, name]
        metadata = found["metadata"]
        leaves = "deletionTimestamp" in metadata and not metadata.get("finalizers")
        if leaves and resource.plural != "pods":
            return self._remove(resource, namespace, name)
        return None

    def _remove(self, resource, namespace, name):
        old = copy.deepcopy(resource.objects.pop((namespace, name)))
        self.version += 1
        old["metadata"]["resourceVersion"] = str(self.version)
        self._note(resource, "DELETED", old)
        uid = old["metadata"]["uid"]
        for other in list(self.resources.values()):
            for (ns, each), found in list(other.objects.items()):
                owners = found["metadata"].get("ownerReferences", ())
                if any(owner["uid"] == uid for owner in owners) and (ns, each) in other.objects:
                    self.delete(other, ns, each)
        return old

    def _store(self, resource, body, kind):
        if self.is_dry:
            return body
        self.version += 1
        body = copy.deepcopy(body)
        body |= {"kind": resource.kind, "apiVersion": resource.api_version}
        body["metadata"]["resourceVersion"] = str(self.version)
        metadata = body["metadata"]
        resource.objects[metadata.get("namespace", ""), metadata["name"]] = body
        self._note(resource, kind, body)
        return copy.deepcopy(body)

    def _note(self, resource, kind, body):
        self.log.append((self.version, resource.plural, kind, copy.deepcopy(body)))
        self.changed.notify_all()

    def _check_version(self, resource, old, new):
        asked = new["metadata"].get("resourceVersion")
        if asked and asked != old["metadata"]["resourceVersion"]:
            text = (
                f'Operation cannot be fulfilled on {resource.plural} "{old["metadata"]["name"]}": '
                "the object has been modified; please apply your changes to the latest version"
            )
            raise Refusal(409, "Conflict", text)

    def _admit(self, resource, body):
        if resource.schema is None:
            return
        name = body["metadata"].get("name", "")
        problems = []
        for key in [k for k in body if k not in resource.schema["properties"]]:
            del body[key]
        check(body, resource.schema, "", problems)
        if problems:
            text = f'{resource.kind}.{resource.group} "{name}" is invalid: {"; ".join(problems)}'
            raise Refusal(422, "Invalid", text)

    # ---- watches -----------------------------------------------------------------------------

    def watch(self, resource, namespace, query):
        """Yields (type, object); None now and then, while nothing happens."""
        chosen = chooser(query)
        at = int(query.get("resourceVersion") or 0)
        until = time.monotonic() + float(query.get("timeoutSeconds", 60))
        hangups, sent = self.hangups, set()
        bookmarked = time.monotonic()
        while time.monotonic() < until:
            with self.changed:
                if at < self.oldest:
                    text = f"too old resource version: {at} ({self.oldest})"
                    yield "ERROR", Refusal(410, "Expired", text).body()
                    return
                events = [e for e in self.log if e[0] > at and e[1] == resource.plural]
                now_at = self.version
                if not events and self.hangups == hangups:
                    self.changed.wait(min(0.2, max(0.01, until - time.monotonic())))
                if self.hangups != hangups:
                    return
            for version, _, kind, body in events:
                at = version
                if namespace and body["metadata"].get("namespace") != namespace:
                    continue
                uid = body["metadata"]["uid"]
                if chosen(body):
                    sent.add(uid)
                    yield kind, body
                elif uid in sent and kind != "DELETED":
                    sent.discard(uid)
                    yield "DELETED", body
            if not events and time.monotonic() - bookmarked > BOOKMARK_S:
                bookmarked, at = time.monotonic(), max(at, now_at)
                if query.get("allowWatchBookmarks") == "true":
                    yield "BOOKMARK", {"kind": resource.kind, "apiVersion": resource.api_version,
                                       "metadata": {"resourceVersion": str(at)}}  # fmt: skip


# ---- HTTP ------------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """A client that went away is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        """Says nothing."""

    def handle_any(self):
        kube = self.server.kube
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        verb = "WATCH" if query.get("watch") == "true" else self.command
        with kube.lock:
            kube.requests[verb, url.path] += 1
        fault = kube.fault(verb, url.path)
        if kube.is_away or (fault and fault[3] == 0 and not fault[5]):
            self.close_connection = True
            return
        try:
            if fault and not fault[5]:
                raise Refusal(fault[3], fault[4], "as the test wants it")
            if query.get("dryRun") == "All":
                answer = self.serve_dry(kube, verb, url.path, query, body)
            else:
                answer = self.serve(kube, verb, url.path, query, body)
        except Refusal as refusal:
            self.answer(refusal.code, refusal.body())
            return
        if fault and fault[3]:
            self.answer(fault[3], Refusal(fault[3], fault[4], "done, though").body())
        elif fault:
            self.close_connection = True
        elif answer is not None:
            self.answer(201 if self.command == "POST" else 200, answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def serve_dry(self, kube, *request):
        with kube.lock:
            kube.is_dry = True
            try:
                return self.serve(kube, *request)
            finally:
                kube.is_dry = False

    def serve(self, kube, verb, path, query, body):
        if path == "/version":
            return {"major": "1", "minor": "20", "gitVersion": "v1.20.2-fake"}
        resource, namespace, name, sub = kube.resolve(path)
        words = {"GET": "get" if name else "list", "POST": "create", "PUT": "update"}
        words |= {"PATCH": "patch", "DELETE": "delete", "WATCH": "watch"}
        asked = f"{resource.plural}/{sub}" if sub else resource.plural
        kube.check_token(self.headers.get("Authorization"), words[verb], asked)
        if sub == "scale":
            return self.scale(kube, resource, namespace, name, body)
        if sub and not (sub == "status" and resource.has_status):
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        if verb == "WATCH":
            return self.stream(kube.watch(resource, namespace, query))
        if verb == "GET":
            with kube.lock:
                if name:
                    return copy.deepcopy(kube.get(resource, namespace, name))
            return kube.list(resource, namespace, query)
        if verb == "POST":
            return kube.create(resource, namespace, body)
        if verb == "DELETE":
            return kube.delete(resource, namespace, name)
        if self.headers.get("Content-Type") == "application/apply-patch+yaml":
            return kube.apply(resource, namespace, name, body, query["fieldManager"])
        change = (lambda _: body) if verb == "PUT" else self.patcher(body)
        return kube.update(resource, namespace, name, change, sub)

    def patcher(self, body):
        kind = self.headers.get("Content-Type", "")
        if kind == "application/merge-patch+json":
            return lambda old: merge(old, body)
        if kind == "application/json-patch+json":
            return lambda old: json_patch(old, body)
        raise Refusal(415, "UnsupportedMediaType", f"not known here: {kind}")

    def scale(self, kube, resource, namespace, name, body):
        if resource.scale is None:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        if body is not None:
            wanted = {"spec": {"replicas": body["spec"]["replicas"]}}
            kube.update(resource, namespace, name, lambda old: merge(old, wanted))
        with kube.lock:
            found = copy.deepcopy(kube.get(resource, namespace, name))
        status = found.get("status", {})
        return {"kind": "Scale", "apiVersion": "autoscaling/v1",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"replicas": found["spec"]["replicas"]},
                "status": {"replicas": status.get("replicas", 0),
                           "selector": status.get("selector", "")}}  # fmt: skip

    def answer(self, code, body):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, events):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        hangups = self.server.kube.hangups
        for kind, body in events:
            line = json.dumps({"type": kind, "object": body}).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
        if self.server.kube.hangups != hangups:
            self.close_connection = True  # without the last chunk: it broke
        else:
            self.wfile.write(b"0\r\n\r\n")
