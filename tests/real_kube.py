# SPDX-License-Identifier: Apache-2.0
"""A real API server (and, where asked for, controllers and scheduler) for tests.

The programs are those that `make kube` puts into NFMESH_KUBE (/var/cache/nfmesh-kube); tests that
need them are skipped where they are absent, with the command that gets them.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from free_port import free_port
from patience import PATIENCE_S

FOLDER = Path(os.environ.get("NFMESH_KUBE", "/var/cache/nfmesh-kube")) / "bin"
CONTROL = ("etcd", "kube-apiserver")
CONTROLLERS = (*CONTROL, "kube-controller-manager", "kube-scheduler")
START_S = 240.0
USERS = {"admin-token": ("admin", "system:masters"), "operator-token": ("operator", "operators")}


def missing(programs):
    """Returns why a test cannot run here, "" when it can."""
    absent = [name for name in programs if not (FOLDER / name).exists()]
    return f"SKIPPED: no {absent[0]} in {FOLDER}; get it with: make kube" if absent else ""


def need(programs):
    """Skips the test where programs are absent."""
    if text := missing(programs):
        pytest.skip(text)


class RealKube:
    """etcd and kube-apiserver on free ports of this host; use it in a `with`.

    Args:
        controllers: also run the controller manager and the scheduler.
        address: that the API server listens on: nodes of other namespaces want another.
        port: of the API server; None takes a free one.
        service_accounts: pods get accounts and their tokens, as they have them in every cluster.
    """

    def __init__(self, controllers=False, address="127.0.0.1", port=None, service_accounts=False):
        need(CONTROLLERS if controllers else CONTROL)
        self.controllers, self.address = controllers, address
        self.folder = Path(tempfile.mkdtemp(prefix="nfmesh-kube-"))
        self.stack = ExitStack()
        self.stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.port, self.etcd_port = port or free_port(), free_port()
        self.off = () if service_accounts else ("--disable-admission-plugins=ServiceAccount",)
        self.url = f"https://{address}:{self.port}"

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *exc_info):
        self.stack.close()

    def _start(self):
        self._make_keys()
        peer = free_port()
        self._run("etcd", "--data-dir", self.folder / "etcd", "--unsafe-no-fsync",
                  "--listen-client-urls", f"http://127.0.0.1:{self.etcd_port}",
                  "--advertise-client-urls", f"http://127.0.0.1:{self.etcd_port}",
                  "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                  "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                  "--initial-cluster", f"default=http://127.0.0.1:{peer}",
                  "--log-level", "error")  # fmt: skip
        self.start_api()
        if self.controllers:
            self.write_kubeconfig()
            self._run("kube-controller-manager", "--kubeconfig", self.kubeconfig,
                      "--service-account-private-key-file", self.folder / "sa.key",
                      "--root-ca-file", self.folder / "certs/apiserver.crt",
                      "--use-service-account-credentials=false", "--leader-elect=false",
                      "--controllers=*,-nodeipam,-nodelifecycle,-cloud-node-lifecycle,-route,-service",
                      "--concurrent-deployment-syncs=20", "--concurrent-replicaset-syncs=20",
                      "--kube-api-qps=200", "--kube-api-burst=400",
                      "--horizontal-pod-autoscaler-sync-period=1s",
                      "--port=0", f"--secure-port={free_port()}")  # fmt: skip
            self._run("kube-scheduler", "--kubeconfig", self.kubeconfig, "--leader-elect=false",
                      "--kube-api-qps=200", "--kube-api-burst=400",
                      "--port=0", f"--secure-port={free_port()}")  # fmt: skip

    def start_api(self):
        """Starts the API server (again), and waits until it is ready."""
        self.api = self._run(
            "kube-apiserver", "--etcd-servers", f"http://127.0.0.1:{self.etcd_port}",
            "--bind-address", self.address, f"--secure-port={self.port}",
            "--advertise-address", self.address if self.address != "0.0.0.0" else "127.0.0.1",
            "--cert-dir", self.folder / "certs", "--token-auth-file", self.folder / "tokens.csv",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-signing-key-file", self.folder / "sa.key",
            "--service-account-key-file", self.folder / "sa.pub",
            "--authorization-mode=RBAC", "--allow-privileged=true",
            *self.off, "--service-cluster-ip-range=10.96.0.0/16",
            "--kubelet-preferred-address-types=InternalIP",
            "--endpoint-reconciler-type=none", "--max-requests-inflight=2000",
        )  # fmt: skip
        until = time.monotonic() + START_S
        while True:
            try:
                self.request("GET", "/readyz", timeout=5)
                self.request("GET", "/api/v1/namespaces/default", timeout=5)
                return
            except (OSError, ValueError):
                assert self.api.poll() is None, (
                    f"kube-apiserver ended:\n{self.log('kube-apiserver')}"
                )
                assert time.monotonic() < until, "kube-apiserver is never ready"
                time.sleep(0.1)

    def stop_api(self):
        """Kills the API server; etcd keeps what it had."""
        self.api.send_signal(signal.SIGKILL)
        self.api.wait()

    def request(self, method, path, body=None, token="admin-token", timeout=PATIENCE_S, kind=None):
        """Sends a request as one of USERS and returns the parsed answer."""
        import ssl

        context = ssl._create_unverified_context()
        headers = {"Authorization": f"Bearer {token}"}
        headers["Content-Type"] = kind or "application/json"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            error.close()
            raise
        return json.loads(text) if text[:1] == b"{" else {"text": text.decode()}

    @property
    def authority(self):
        """The certificate that the server's is signed with."""
        return self.folder / "certs/apiserver.crt"

    @property
    def kubeconfig(self):
        return self.folder / "kubeconfig"

    def write_kubeconfig(self, token="admin-token", path=None):
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": self.url, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }  # fmt: skip
        path = path or self.kubeconfig
        path.write_text(json.dumps(config))
        return path

    def log(self, program):
        text = (self.folder / f"{program}.log").read_text(errors="replace")
        return text[-3000:]

    def _make_keys(self):
        key, public = self.folder / "sa.key", self.folder / "sa.pub"
        quiet = {"check": True, "capture_output": True}
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], **quiet)
        subprocess.run(["openssl", "rsa", "-in", key, "-pubout", "-out", public], **quiet)
        rows = [f'{token},{user},{user},"{group}"' for token, (user, group) in USERS.items()]
        (self.folder / "tokens.csv").write_text("\n".join(rows) + "\n")

    def _run(self, program, *args):
        log = self.stack.enter_context((self.folder / f"{program}.log").open("ab"))
        process = subprocess.Popen(
            [FOLDER / program, *map(str, args)], stdout=log, stderr=log, cwd=self.folder
        )
        self.stack.callback(_end, process)
        return process


def _end(process):
    if process.poll() is None:
        process.kill()
    process.wait()
