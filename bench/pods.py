# SPDX-License-Identifier: Apache-2.0
"""Worker to NF in two containers, and as two plain processes of the same programs.

`python -m bench.pods ROUNDS` prints events per second of both, round by round in turn. Plain ones
run in the unpacked image by chroot, so that interpreter and libraries are the same; what differs is
what a container is: namespaces, control groups, seccomp, a read-only root. And milliseconds from
the NF's imports to its first event, as it says itself, for each time that its container was killed
and started again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pod_rig import ARCHIVE, Containers, why_not

from bench.measure import BenchError
from bench.rivals_python import capture
from bench.table_pods import SKIPPED

PACKETS = 200_000
WARM_S, WINDOW_S, PATIENCE_S = 2.0, 4.0, 60.0
PORT, NF_PORT = 19464, 19465
RESTARTS = 5
TOKEN = "the token of this bench"
STACK = ("stack", "--config=/bench/stack.json", "--run-dir=/bench/run", f"--health-port={PORT}")
JOIN = ("nf", "--name=count", "--use=flow_counter", "--run-dir=/bench/run",
        "--token-file=/bench/token", f"--health-port={NF_PORT}")  # fmt: skip


def prepare(folder: Path) -> None:
    """Writes what both variants read: a capture in a loop, and an NF that must hear all of it."""
    shutil.copy(capture(PACKETS), folder / "capture.pcap")
    nf = {
        "name": "count",
        "use": "flow_counter",
        "place": "pod",
        "token": hashlib.sha256(TOKEN.encode()).hexdigest(),
        "delivery": "blocking",
    }
    port = {"pcap": "/bench/capture.pcap", "replay": {"loop": True, "speed": 0}}
    spec = {"ports": [port], "nfs": [nf], "worker_cores": [0]}
    (folder / "stack.json").write_text(json.dumps(spec))
    (folder / "token").write_text(TOKEN)
    (folder / "run").mkdir(mode=0o755)


@contextmanager
def in_containers(folder: Path) -> Iterator[Containers]:
    """Runs both in containers, as the chart's pods are."""
    with Containers(network="host") as containers:
        shared = (f"--volume={folder}:/bench",)
        containers.start("stack", *STACK, options=shared, user="0:0")
        containers.start("nf", *JOIN, options=(f"{shared[0]}:ro", "--cpuset-cpus=1"))
        yield containers


@contextmanager
def as_processes(folder: Path, root: Path) -> Iterator[None]:
    """Runs both as processes in the unpacked image."""
    with ExitStack() as stack:
        for place, source in (("bench", folder), ("proc", "/proc"), ("dev", "/dev")):
            (root / place).mkdir(exist_ok=True)
            subprocess.run(["mount", "--bind", str(source), str(root / place)], check=True)
            stack.callback(subprocess.run, ["umount", "-l", str(root / place)], check=True)
        for line in (STACK, ("--", *JOIN)):
            pinned = ("taskset", "-c", "1") if line[0] == "--" else ()
            words = [*pinned, "chroot", str(root), "/opt/nfmesh/bin/nfmesh", *line[bool(pinned) :]]
            process = subprocess.Popen(words, env={"HOME": "/tmp", "PATH": os.environ["PATH"]})
            stack.callback(process.wait)
            stack.callback(process.terminate)
        yield


def unpack(root: Path) -> None:
    """Unpacks the image's layers, in order."""
    with tarfile.open(ARCHIVE) as outer:

        def blob(entry: dict[str, str]) -> str:
            return f"blobs/{entry['digest'].replace(':', '/')}"

        index = json.load(outer.extractfile("index.json"))
        manifest = json.load(outer.extractfile(blob(index["manifests"][0])))
        for each in manifest["layers"]:
            with tarfile.open(fileobj=outer.extractfile(blob(each))) as layer:
                layer.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
                layer.extractall(root)


def metric(name: str, port: int = PORT) -> float:
    """Returns the sum of a metric's rows; 0 while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


def heard() -> float:
    """Returns how many entries the NF has passed."""
    return metric("nfmesh_ring_tail_total")


def restarts(containers: Containers, n: int) -> Iterator[float]:
    """Kills the NF and starts it again; yields milliseconds from its imports to an event."""
    for _ in range(n):
        containers.call("kill", "--signal=KILL", "nf")
        containers.call("wait", "nf")
        containers.call("start", "nf")
        _until(lambda: metric("nfmesh_nf_first_event_ms", NF_PORT) > 0)
        yield metric("nfmesh_nf_first_event_ms", NF_PORT)


def rate() -> float:
    """Returns events per second of what runs, once it runs."""
    _until(lambda: heard() > 0)
    time.sleep(WARM_S)
    first, begin = heard(), time.monotonic()
    time.sleep(WINDOW_S)
    last, end = heard(), time.monotonic()
    return (last - first) / (end - begin)


def _until(fact: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not fact():
        if time.monotonic() > end:
            raise BenchError("no event ever reached the NF")
        time.sleep(0.05)


def main() -> None:
    """Measures in turn, and prints a line of JSON."""
    if reason := why_not():
        print(reason, file=sys.stderr)
        sys.exit(SKIPPED)
    found: dict[str, list[float]] = {"containers": [], "processes": [], "restart": []}
    with tempfile.TemporaryDirectory(prefix="nfmesh-bench-") as temporary:
        Path(temporary).chmod(0o755)  # the NF is another user
        root, folder = Path(temporary) / "root", Path(temporary) / "bench"
        root.mkdir()
        unpack(root)
        for _ in range(int(sys.argv[1])):
            for name, run in (("containers", in_containers), ("processes", as_processes)):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(mode=0o755)
                prepare(folder)
                with run(folder, root) if run is as_processes else run(folder) as containers:
                    found[name].append(rate())
                    if containers is not None:
                        found["restart"] += restarts(containers, RESTARTS)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
