# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API server, in plain dicts.

The official client finds the server, speaks TLS and keeps the credentials fresh; paths and bodies
are made here, because its models would cost a few hundred milliseconds and tens of megabytes to
say what a dict says, and would refuse fields of newer servers.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from mesh.errors import ApiError, ProcessError
from mesh.kube.models import GROUP, VERSION

if TYPE_CHECKING:
    import urllib3

__all__ = [
    "BUDGETS",
    "CHAINS",
    "CONFLICT",
    "DEPLOYMENTS",
    "EVENTS",
    "FUNCTIONS",
    "INVALID",
    "LEASES",
    "NOT_FOUND",
    "PODS",
    "SECRETS",
    "Api",
    "Kind",
    "Object",
    "Watch",
    "budgets_of",
    "unless_gone",
]

Object = dict[str, Any]
"""An object as the server has it."""
NOT_FOUND, CONFLICT, INVALID = 404, 409, 422
"""Status of an `ApiError`: no such object, another was faster, the object breaks its schema."""
CONNECT_S, READ_S = 5.0, 30.0
WATCH_S = 240
"""A watch is asked to end after this; the server says sooner when it likes."""
WATCH_GRACE_S = 30.0
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"
MANAGER = "nfmesh"
"""Who says what is applied, to tell it from what autoscalers and others say."""
_TEXT_LIMIT = 1000
"""Characters of what the server says: it repeats a wrong value as long as it is."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of objects, and where the server has them."""

    group: str
    version: str
    plural: str
    name: str

    @property
    def api_version(self) -> str:
        """As in an object's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Returns the path of all objects, of one, or of a part of one."""
        root = f"/apis/{self.group}" if self.group else "/api"
        parts = [f"{root}/{self.version}/namespaces", namespace, self.plural, name, subresource]
        return "/".join(quote(part, safe="/") for part in parts if part)


FUNCTIONS = Kind(GROUP, VERSION, "networkfunctions", "NetworkFunction")
CHAINS = Kind(GROUP, VERSION, "servicechains", "ServiceChain")
DEPLOYMENTS = Kind("apps", "v1", "deployments", "Deployment")
PODS = Kind("", "v1", "pods", "Pod")
SECRETS = Kind("", "v1", "secrets", "Secret")
EVENTS = Kind("", "v1", "events", "Event")
BUDGETS = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease")


def budgets_of(version: str) -> Kind:
    """Returns the kind as a version of its group has it: `v1`, and before 1.21 `v1beta1`."""
    return replace(BUDGETS, version=version)


class Api:
    """One namespace of a server. Safe to use from several threads.

    Args:
        configuration: of the official client: host, TLS, credentials.
        namespace: all requests are about it.
    """

    def __init__(self, configuration: Any, namespace: str) -> None:
        from kubernetes.client import ApiClient

        configuration.retries = False
        configuration.keep_alive = True  # else a watch notices minutes late that its server is gone
        self.namespace = namespace
        self._configuration = configuration
        self._client = ApiClient(configuration)
        self._pool: urllib3.PoolManager = self._client.rest_client.pool_manager
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()

    @classmethod
    def connect(
        cls, namespace: str = "", kubeconfig: str | None = None, context: str | None = None
    ) -> Api:
        """Connects as the pod that this runs in, else as the user's kubeconfig says.

        Args:
            namespace: "": the pod's own, or the kubeconfig's.
            kubeconfig: path; None: the usual places.
            context: of the kubeconfig; None: its current one.

        Raises:
            ProcessError: the client is not installed, or there is no cluster to be found.
        """
        try:
            from kubernetes import client, config
        except ImportError as error:
            text = "the Kubernetes client is not installed: pip install 'nfmesh[kubernetes]'"
            raise ProcessError(text) from error
        configuration = client.Configuration()
        try:
            if kubeconfig is None and context is None:
                try:
                    config.load_incluster_config(client_configuration=configuration)
                    return cls(configuration, namespace or _own_namespace())
                except config.ConfigException:
                    pass
            config.load_kube_config(kubeconfig, context, client_configuration=configuration)
            known, active = config.list_kube_config_contexts(kubeconfig)
            active = next((each for each in known if each["name"] == context), active)
        except (config.ConfigException, OSError) as error:
            raise ProcessError(f"no cluster to talk to: {error}") from error
        default = str((active or {}).get("context", {}).get("namespace", "default"))
        return cls(configuration, namespace or default)

    def close(self) -> None:
        """Closes the connections."""
        self._pool.clear()

    def statistics(self) -> dict[str, int]:
        """Returns numbers of requests, as `POST secrets` → 3."""
        with self._lock:
            return dict(self._requests)

    # ---- requests ------------------------------------------------------------------------

    def get(self, kind: Kind, name: str) -> Object:
        """Returns one object."""
        return self._request("GET", kind, name)

    def find(self, kind: Kind, name: str) -> Object | None:
        """Returns one object, None when there is none."""
        try:
            return self.get(kind, name)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            return None

    def list(self, kind: Kind, selector: str = "", fields: str = "") -> Object:
        """Returns all objects, as the server's list: `items`, and the version in `metadata`.

        Args:
            kind: of the objects.
            selector: of labels.
            fields: of fields, as in `involvedObject.kind=Pod`.
        """
        query = {"labelSelector": selector, "fieldSelector": fields}
        return self._request("GET", kind, query={k: v for k, v in query.items() if v})

    def create(self, kind: Kind, body: Object) -> Object:
        """Makes an object and returns it."""
        return self._request("POST", kind, body=body)

    def replace(self, kind: Kind, body: Object) -> Object:
        """Replaces an object, in the version that the body names, and returns it."""
        return self._request("PUT", kind, body["metadata"]["name"], body=body)

    def patch(self, kind: Kind, name: str, body: Object, subresource: str = "") -> Object:
        """Merges `body` into an object (null removes), and returns it."""
        return self._request("PATCH", kind, name, subresource, body=body)

    def apply(self, kind: Kind, body: Object, *, dry_run: bool = False) -> Object:
        """Makes an object, or lets the server merge what a file says, and returns it.

        What the file said before and says no more is taken away; what others said stays.
        """
        query = {"fieldManager": MANAGER, "force": "true"}
        if dry_run:
            query["dryRun"] = "All"
        return self._request("PATCH", kind, body["metadata"]["name"], body=body, query=query)

    def delete(self, kind: Kind, name: str) -> Object:
        """Deletes an object, and what it owns, in the background."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        return self._request("DELETE", kind, name, body=body)

    def watch(self, kind: Kind, version: str, selector: str = "") -> Watch:
        """Returns what happens from a version on, once the server has agreed to tell it.

        Raises:
            ApiError: status 410: list again.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_S),
        }
        if selector:
            query["labelSelector"] = selector
        response = self._send("GET", kind.path(self.namespace), query, None, WATCH_S)
        if response.status >= 300:
            try:
                raise _refusal(response)
            finally:
                response.close()
        return Watch(response, kind.plural)

    def _request(
        self,
        method: str,
        kind: Kind,
        name: str = "",
        subresource: str = "",
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Object:
        with self._lock:
            self._requests[f"{method} {kind.plural}{'/' if subresource else ''}{subresource}"] += 1
        path = kind.path(self.namespace, name, subresource)
        response = self._send(method, path, query or {}, body, 0.0)
        try:
            if response.status >= 300:
                raise _refusal(response)
            found = json.loads(response.data)
        except ValueError as error:
            raise ApiError(f"{method} {path}: an answer that is no JSON") from error
        except _transport_errors() as error:
            raise ApiError(f"{method} {path}: {error}") from error
        finally:
            response.release_conn()
        if not isinstance(found, dict):
            raise ApiError(f"{method} {path}: an answer that is no object")
        return found

    def _send(
        self, method: str, path: str, query: Mapping[str, str], body: Object | None, wait_s: float
    ) -> urllib3.BaseHTTPResponse:
        import urllib3

        url = f"{self._configuration.host}{path}"
        if query:
            url = f"{url}?{urlencode(query)}"
        headers = {"Accept": "application/json", "User-Agent": "nfmesh"}
        for setting in self._configuration.auth_settings().values():
            if setting.get("in") == "header" and setting.get("value"):
                headers[setting["key"]] = setting["value"]
        data = None
        if body is not None:
            merge = APPLY if "fieldManager" in query else MERGE
            headers["Content-Type"] = merge if method == "PATCH" else "application/json"
            data = json.dumps(body, separators=(",", ":")).encode()
        read = wait_s + WATCH_GRACE_S if wait_s else READ_S
        try:
            return self._pool.request(
                method,
                url,
                body=data,
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_S, read=read),
                retries=False,
                preload_content=False,
            )
        except _transport_errors() as error:
            raise ApiError(f"{method} {path}: {error}") from error


@contextmanager
def unless_gone() -> Iterator[None]:
    """Lets it pass that the object is not there."""
    try:
        yield
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise


class Watch:
    """What happens to objects, as {type, object}; ends when the server ends it. Close it."""

    def __init__(self, response: urllib3.BaseHTTPResponse, what: str) -> None:
        self._response, self._what = response, what

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it."""
        self._response.close()

    def __iter__(self) -> Iterator[Object]:
        """Yields what happens.

        Raises:
            ApiError: also for an `ERROR` that came in the stream; status 410: list again.
        """
        try:
            for line in _lines(self._response):
                event = json.loads(line)
                if event.get("type") == "ERROR":
                    raise _from_status(event.get("object") or {}, self._response.headers)
                yield event
        except ValueError as error:
            raise ApiError(f"a watch of {self._what} that is no JSON") from error
        except _transport_errors() as error:
            raise ApiError(f"the watch of {self._what} broke: {error}") from error


def _transport_errors() -> tuple[type[Exception], ...]:
    import urllib3

    return (urllib3.exceptions.HTTPError, OSError)


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Yields lines as they come."""
    rest = b""
    for chunk in response.stream(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line.strip())


def _refusal(response: urllib3.BaseHTTPResponse) -> ApiError:
    raw = response.data
    try:
        status = json.loads(raw)
    except ValueError:
        status = {"message": raw[:_TEXT_LIMIT].decode(errors="replace")}
    if not isinstance(status, dict):
        status = {"message": str(status)[:_TEXT_LIMIT]}
    status.setdefault("code", response.status)
    return _from_status(status, response.headers)


def _from_status(status: Mapping[str, Any], headers: Mapping[str, str]) -> ApiError:
    wait = headers.get("Retry-After", "")
    return ApiError(
        str(status.get("message") or "refused without a word")[:_TEXT_LIMIT],
        status=int(status.get("code") or 0),
        reason=str(status.get("reason") or ""),
        retry_after_s=float(wait) if wait.isdigit() else 0.0,
    )


def _own_namespace() -> str:
    path = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError as error:
        raise ProcessError("set POD_NAMESPACE: in which namespace am I?") from error
