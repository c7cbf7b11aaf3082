# SPDX-License-Identifier: Apache-2.0
"""A node of a real cluster on this machine: containerd and a kubelet.

One node, no registry, no proxy: images come from archives, pods talk through veth pairs (CNI ptp),
and the API server has the address of its Service, so that pods find it where they look for it.
Names of Services are those of their pods (node_names.py). What it takes from the machine (addresses
on lo, a CNI network, control groups) it gives back.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from chart_rig import CHART
from node_names import NameServer
from pod_rig import ARCHIVE
from real_kube import CONTROLLERS, FOLDER, RealKube, missing

PROGRAMS = (*CONTROLLERS, "kubelet", "containerd", "containerd-shim-runc-v2", "ctr", "runc", "ptp")
SERVICE_ADDRESS, NAMES_ADDRESS = "10.96.0.1", "10.96.0.10"
POD_NETWORK = "10.199.77.0/24"
PAUSE = "localhost/pause:test"
PATIENCE_S = 120.0
CGROUPS = Path("/sys/fs/cgroup")
NAMESPACE = "nfmesh"
RUN = Path("/var/run/nfmesh")
"""The chart's stack.runDir."""
NETWORKS = Path("/var/run/netns")
LOGS = Path("/var/log/pods")
"""Where every kubelet writes what containers say."""
PAUSE_C = "#include <unistd.h>\nint main(void) {\n    for (;;)\n        pause();\n}\n"


def why_not() -> str:
    """Returns what is missing for a node here, or nothing."""
    if os.environ.get("NFMESH_KUBE_NODE") != "1":
        return "SKIPPED: takes minutes; make kube-test runs it (NFMESH_KUBE_NODE=1)"
    if os.geteuid() != 0:
        return "SKIPPED: a node needs root"
    if text := missing((*PROGRAMS, "helm4", "kubectl")):
        return text
    if not ARCHIVE.exists():
        return f"SKIPPED: no {ARCHIVE}: run tools/kube/image.py archive"
    if LOGS.exists() or list(CGROUPS.glob("*/kubepods")):
        return "SKIPPED: a kubelet runs here, or has run: its pods shall not be disturbed"
    if len(os.sched_getaffinity(0)) < 2:
        return "SKIPPED: one core is the node's, another the network function's"
    return ""


def until(fact: Callable[[], Any], what: str, patience: float = PATIENCE_S) -> Any:
    """Waits until `fact()` is true, and returns it."""
    end = time.monotonic() + patience
    while not (found := fact()):
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.1)
    return found


class Node:
    """The cluster; use it in a `with`.

    Args:
        pages: huge pages of 2 MiB that it shall have; fewer when the machine has not so many.
        policy: of the kubelet's CPU manager, `static` or `none`.

    Attributes:
        folder: everything that it writes.
        pages: those that it has.
    """

    def __init__(self, pages: int = 0, policy: str = "static") -> None:
        self.pages, self.policy = pages, policy

    def __enter__(self) -> Node:
        if reason := why_not():
            pytest.skip(reason)
        with ExitStack() as stack:
            self.pages = stack.enter_context(_huge_pages(self.pages))
            self.folder = Path(tempfile.mkdtemp(prefix="nfmesh-node-"))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            stack.enter_context(_forwarding())
            for address in (SERVICE_ADDRESS, NAMES_ADDRESS):
                stack.enter_context(_address(address))
            stack.enter_context(NameServer(NAMES_ADDRESS, self._addresses))
            stack.callback(_remove_networks, set(NETWORKS.glob("cni-*")))
            self.kube = stack.enter_context(
                RealKube(controllers=True, address=SERVICE_ADDRESS, port=443, service_accounts=True)
            )
            self.kubeconfig = self.kube.write_kubeconfig()
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        stack.callback(_remove_traces)
        self._write_configuration()
        stack.callback(self._unmount)
        self._run(stack, "containerd", "--config", str(self.folder / "containerd.toml"))
        self._socket = self.folder / "run/containerd.sock"
        until(lambda: self._ctr("version", check=False).returncode == 0, "containerd")
        stack.callback(self._end_containers)
        pause = self.folder / "pause.tar"
        pause.write_bytes(_pause_archive(self.folder))
        for archive in (ARCHIVE, pause):
            self._ctr("images", "import", str(archive))
        self._kubelet = self._run(stack, "kubelet", *self._kubelet_arguments())
        until(self._is_ready, "a ready node")
        # What keeps pods away from a node that starts is taken off by a controller not run here.
        self.kubectl("taint", "nodes", "node-1", "node.kubernetes.io/not-ready-")

    def _write_configuration(self) -> None:
        for name in ("run", "root", "kubelet", "cni", "logs"):
            (self.folder / name).mkdir()
        (self.folder / "containerd.toml").write_text(_CONTAINERD.format(
            folder=self.folder, bin=FOLDER, pause=PAUSE))  # fmt: skip
        network = {
            "cniVersion": "0.3.1",
            "name": "nfmesh-test",
            "plugins": [
                {
                    "type": "ptp",
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "subnet": POD_NETWORK,
                        "dataDir": str(self.folder / "ipam"),
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        }
        (self.folder / "cni/10-nfmesh.conflist").write_text(json.dumps(network))
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cpuManagerPolicy": self.policy,
            "clusterDNS": [NAMES_ADDRESS],
            "clusterDomain": "cluster.local",
            # With `static` whole cores are set apart for it, but the scheduler counts this much.
            "kubeReserved": {"cpu": "100m"},
            "evictionHard": {"memory.available": "1Mi"},
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "featureGates": {"LocalStorageCapacityIsolation": False},
            "address": SERVICE_ADDRESS,
            "port": 10250,
            "healthzPort": 0,
            "imageGCHighThresholdPercent": 100,
            "volumePluginDir": str(self.folder / "kubelet/plugins"),
            "fileCheckFrequency": "1s",
            "syncFrequency": "5s",
        }
        (self.folder / "kubelet.json").write_text(json.dumps(kubelet))

    def _kubelet_arguments(self) -> list[str]:
        return [
            f"--config={self.folder}/kubelet.json",
            f"--kubeconfig={self.kubeconfig}",
            f"--root-dir={self.folder}/kubelet",
            f"--cert-dir={self.folder}/kubelet/pki",
            "--container-runtime=remote",
            f"--container-runtime-endpoint=unix://{self.folder}/run/containerd.sock",
            "--hostname-override=node-1",
            f"--node-ip={SERVICE_ADDRESS}",  # where the API server asks for logs
            f"--pod-infra-container-image={PAUSE}",
            "--v=1",
        ]

    def take_pages(self, pages: int) -> None:
        """Lets the node have more huge pages; a kubelet sees what there is when it starts."""
        self.pages = self._stack.enter_context(_huge_pages(pages))
        _end(self._kubelet)
        self._kubelet = self._run(self._stack, "kubelet", *self._kubelet_arguments())
        until(lambda: self._allocatable("hugepages-2Mi") == f"{2 * self.pages}Mi", "huge pages")

    def _allocatable(self, what: str) -> str:
        found = json.loads(self.kubectl("get", "node", "node-1", "-o", "json").stdout)
        return str(found["status"]["allocatable"].get(what))

    def _run(self, stack: ExitStack, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = stack.enter_context((self.folder / f"{program}.log").open("ab"))
        environment = {**os.environ, "PATH": f"{FOLDER}:{os.environ['PATH']}"}
        process = subprocess.Popen(
            [FOLDER / program, *arguments], stdout=log, stderr=log, env=environment
        )
        stack.callback(_end, process)  # at once: a kubelet takes its time
        return process

    def log(self, program: str) -> str:
        """Returns the end of what a program has said."""
        return (self.folder / f"{program}.log").read_text(errors="replace")[-3000:]

    def _ctr(self, *line: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        address = f"--address={self.folder}/run/containerd.sock"
        done = subprocess.run(
            [FOLDER / "ctr", address, "--namespace=k8s.io", *line],
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def _is_ready(self) -> bool:
        found = self.kubectl("get", "nodes", "-o", "json", check=False).stdout
        conditions = [
            each
            for node in (json.loads(found)["items"] if found else ())
            for each in node["status"].get("conditions", ())
        ]
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def kubectl(self, *line: str, check: bool = True, given: str | None = None) -> Any:
        """Runs kubectl."""
        done = subprocess.run(
            [FOLDER / "kubectl", f"--kubeconfig={self.kubeconfig}", *line],
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
            input=given,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def helm(self, *line: str) -> str:
        """Runs Helm; returns what it prints."""
        return self._said_by([str(FOLDER / "helm4"), *line], env=self._environment())

    def _environment(self) -> dict[str, str]:
        homes = {f"HELM_{k}_HOME": str(self.folder) for k in ("CACHE", "CONFIG", "DATA")}
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), **homes}

    def _said_by(self, line: list[str], **more: Any) -> str:
        done = subprocess.run(
            line, capture_output=True, text=True, check=False, timeout=400, **more
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.state()}"
        return done.stdout

    def _addresses(self, namespace: str, service: str) -> list[str]:
        """Returns the addresses of a Service's pods that are ready."""
        line = ("get", "endpoints", service, "-n", namespace, "-o", "json")
        found = self.kubectl(*line, check=False).stdout
        subsets = json.loads(found).get("subsets", ()) if found else ()
        return [each["ip"] for subset in subsets for each in subset.get("addresses", ())]

    def install(self, release: str, *more: str) -> str:
        """Installs the chart with the image of the archive, and waits until it is ready."""
        return self.helm(
            "install", release, str(CHART), f"--namespace={NAMESPACE}", "--create-namespace",
            "--wait", "--timeout=180s", *more,
        )  # fmt: skip

    def shell(self, line: str, folder: Path) -> str:
        """Runs a line as users type it, with helm and kubectl on their PATH; returns its output."""
        programs = self.folder / "path"
        programs.mkdir(exist_ok=True)
        for name, program in (("helm", "helm4"), ("kubectl", "kubectl")):
            if not (programs / name).exists():
                (programs / name).symlink_to(FOLDER / program)
        environment = self._environment() | {"PATH": f"{programs}:{os.environ['PATH']}"}
        return self._said_by(["sh", "-ec", line], env=environment, cwd=folder)

    def state(self) -> str:
        """Returns what there is, for messages."""
        pods = self.kubectl("get", "pods,networkfunctions", "-A", "-o", "wide", check=False)
        events = self.kubectl("get", "events", "-A", check=False).stdout[-3000:]
        logs = "".join(f"\n{name}:\n{text[-1500:]}" for name, text in self.said().items())
        return f"{pods.stdout}{pods.stderr}\n{events}{logs}\n{self.log('kubelet')[-1000:]}"

    def said(self) -> dict[str, str]:
        """Returns what containers have said, by file."""
        return {str(path.relative_to(LOGS)): path.read_text() for path in LOGS.rglob("*.log")}

    def pods(self, namespace: str, labels: str = "") -> dict[str, Any]:
        """Returns pods by name."""
        line = ["get", "pods", "-n", namespace, "-l", labels, "-o", "json"]
        found = self.kubectl(*line, check=False).stdout
        return {p["metadata"]["name"]: p for p in (json.loads(found)["items"] if found else ())}

    def processes(self, pod: dict[str, Any]) -> list[int]:
        """Returns the processes of a pod's only container, by this machine's numbers."""
        container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
        rows = self._ctr("tasks", "ps", container).stdout.splitlines()[1:]
        return [int(row.split()[0]) for row in rows]

    def metrics(self, pod: dict[str, Any], port: int) -> dict[str, float]:
        """Returns a pod's metrics by name with labels."""
        address = f"http://{pod['status']['podIP']}:{port}/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        rows = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}

    def _end_containers(self) -> None:
        names = self._ctr("tasks", "ls", "-q", check=False).stdout.split()
        for name in names:
            self._ctr("tasks", "kill", "--signal=KILL", name, check=False)
        until(lambda: "RUNNING" not in self._ctr("tasks", "ls", check=False).stdout, "no tasks")
        for name in names:
            self._ctr("tasks", "rm", "--force", name, check=False)
        for name in self._ctr("containers", "ls", "-q", check=False).stdout.split():
            self._ctr("containers", "rm", name, check=False)

    def _unmount(self) -> None:
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in reversed(mounts):
            if place.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", place], check=False)


@contextmanager
def _address(address: str) -> Iterator[None]:
    """Gives this machine the address of a Service that it has itself."""
    line = ["ip", "address", "add", f"{address}/32", "dev", "lo"]
    subprocess.run(line, check=True)
    try:
        yield
    finally:
        subprocess.run([*line[:2], "del", *line[3:]], check=True)


@contextmanager
def _huge_pages(wanted: int) -> Iterator[int]:
    """Lets the machine have huge pages; yields how many more it has."""
    place = Path("/proc/sys/vm/nr_hugepages")
    before = int(place.read_text())
    try:
        if wanted:
            place.write_text(str(before + wanted))
        yield int(place.read_text()) - before
    finally:
        place.write_text(str(before))


def _remove_networks(before: set[Path]) -> None:
    """Removes the pods' network namespaces, and with them their links and routes."""
    for path in set(NETWORKS.glob("cni-*")) - before:
        subprocess.run(["ip", "netns", "delete", path.name], check=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@contextmanager
def _forwarding() -> Iterator[None]:
    """Leaves it as it is whether this machine forwards: the pods' network turns that on."""
    place = Path("/proc/sys/net/ipv4/ip_forward")
    before = place.read_text()
    try:
        yield
    finally:
        place.write_text(before)


def _remove_traces() -> None:
    shutil.rmtree(RUN / NAMESPACE, ignore_errors=True)
    for folder in (LOGS, LOGS.with_name("containers")):
        shutil.rmtree(folder, ignore_errors=True)
    for root in CGROUPS.glob("*/kubepods"):
        for folder in sorted((p for p in root.rglob("*") if p.is_dir()), reverse=True):
            folder.rmdir()
        root.rmdir()


def _pause_archive(folder: Path) -> bytes:
    """Returns an image whose only program waits: what keeps a pod's namespaces."""
    source, program = folder / "pause.c", folder / "pause"
    source.write_text(PAUSE_C)
    subprocess.run(["cc", "-static", "-Os", "-o", program, source], check=True)
    return _image(PAUSE, {"pause": program.read_bytes()}, {"Entrypoint": ["/pause"]})


def _image(name: str, programs: dict[str, bytes], config: dict[str, Any]) -> bytes:
    """Returns an image of some programs as an archive of `docker save`, the shorter one."""
    layer = _tar(programs)
    described = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    return _tar(
        {
            "config.json": json.dumps(described).encode(),
            "layer.tar": layer,
            "manifest.json": json.dumps(manifest).encode(),
        }
    )


def _tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


_CONTAINERD = """
version = 2
root = "{folder}/root"
state = "{folder}/run"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{folder}/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
disable_apparmor = true
disable_cgroup = false
tolerate_missing_hugetlb_controller = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{bin}/runc"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{bin}"
conf_dir = "{folder}/cni"
"""
