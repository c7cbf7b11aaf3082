# SPDX-License-Identifier: Apache-2.0
"""What this machine offers to a mesh, and how to get what is missing.

Each probe looks at one thing without changing it and returns findings; a `Host` says where to look,
so that tests show any machine.
"""

from __future__ import annotations

import ctypes.util
import os
import platform
import resource
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from mesh._ffi import ABI_VERSION, native
from mesh.errors import MeshError

__all__ = ["Finding", "Host", "examine"]

State = Literal["good", "missing", "bad"]
LEAST_KERNEL = (5, 6)
"""pidfd_open with waitid came with 5.4, memfd sealing of huge pages with 4.16; 5.6 is tested."""
LEAST_FILES = 1024
MFD_HUGETLB = 4
CAPABILITIES = {"net_admin": 12, "net_raw": 13, "ipc_lock": 14, "sys_admin": 21, "sys_nice": 23}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what; state: "good", "missing" (the mesh does without, or something optional is not
            there) or "bad" (a mesh cannot run).
        found: what is there.
        remedy: what to do, or "".
    """

    topic: str
    state: State
    found: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Host:
    """Where to look: the roots of /proc and /sys, and what the system's calls say."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    release: str = platform.release()
    library: Callable[[str], str | None] = ctypes.util.find_library

    def read(self, *names: str | Path) -> str:
        """Returns a small file's text without blanks around it, "" when there is none."""
        try:
            return Path(*names).read_text().strip()
        except OSError:
            return ""


def examine(host: Host | None = None) -> list[Finding]:
    """Looks at everything, in the order of importance."""
    where = host or Host()
    probes = (
        *(_native, _kernel, _cores, _memfd, _huge_pages, _memlock, _files, _shared_memory),
        *(_users, _capabilities, _namespaces, _isolation, _libraries, _packages),
    )
    return [finding for probe in probes for finding in probe(where)]


def _native(host: Host) -> list[Finding]:
    try:
        native()
    except MeshError as error:
        return [Finding("library", "bad", str(error), "reinstall nfmesh")]
    return [Finding("library", "good", f"libnfm, ABI {ABI_VERSION}")]


def _kernel(host: Host) -> list[Finding]:
    numbers = host.release.split("-")[0].split(".")[:2]
    try:
        found = tuple(int(number) for number in numbers)
    except ValueError:
        return [Finding("kernel", "missing", f"{host.release}: not known")]
    if found < LEAST_KERNEL:
        least = ".".join(map(str, LEAST_KERNEL))
        return [Finding("kernel", "bad", host.release, f"use Linux {least} or newer")]
    return [Finding("kernel", "good", host.release)]


def _cores(host: Host) -> list[Finding]:
    usable = sorted(os.sched_getaffinity(0))
    text = f"{len(usable)} usable: {_ranges(usable)}"
    if len(usable) < 2:
        remedy = "give it two or more: one for the worker, one for each NF"
        return [Finding("cores", "missing", text, remedy)]
    return [Finding("cores", "good", text)]


def _ranges(numbers: list[int]) -> str:
    """Writes numbers as ranges.

    >>> _ranges([0, 1, 2, 5])
    '0-2,5'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def _memfd(host: Host) -> list[Finding]:
    found = []
    for topic, flags in (("memfd", 0), ("memfd on huge pages", MFD_HUGETLB)):
        try:
            os.close(os.memfd_create("nfmesh-doctor", os.MFD_CLOEXEC | flags))
            found.append(Finding(topic, "good", "can be made"))
        except OSError as error:
            state: State = "missing" if flags else "bad"
            remedy = "a kernel with CONFIG_HUGETLBFS" if flags else "allow memfd_create (seccomp?)"
            found.append(Finding(topic, state, error.strerror or str(error), remedy))
    return found


def _huge_pages(host: Host) -> list[Finding]:
    found = []
    for kib, name, pages in ((1048576, "1 GiB", 1), (2048, "2 MiB", 512)):
        folder = host.sys / "kernel/mm/hugepages" / f"hugepages-{kib}kB"
        total, free = host.read(folder / "nr_hugepages"), host.read(folder / "free_hugepages")
        if not total:
            text, remedy = "not known to this kernel", ""
        elif total == "0":
            text, remedy = "none reserved", f"echo {pages} > {folder}/nr_hugepages"
        else:
            text = f"{free} of {total} free"
            remedy = "" if free != "0" else f"reserve more: {folder}/nr_hugepages"
        state: State = "good" if not remedy and total not in ("", "0") else "missing"
        found.append(Finding(f"huge pages of {name}", state, text, remedy))
    thp = host.read(host.sys / "kernel/mm/transparent_hugepage/shmem_enabled")
    chosen = thp.partition("[")[2].partition("]")[0]
    if chosen:
        good = chosen in ("always", "within_size", "advise", "force")
        remedy = "" if good else "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled"
        state = "good" if good else "missing"
        found.append(Finding("huge pages for shared memory", state, chosen, remedy))
    return found


def _memlock(host: Host) -> list[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return [Finding("locked memory", "good", "unlimited")]
    text = f"at most {soft >> 10} KiB"
    return [Finding("locked memory", "missing", text, "AF_XDP and DPDK want: ulimit -l unlimited")]


def _files(host: Host) -> list[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < LEAST_FILES:
        return [Finding("open files", "missing", f"{soft}", f"ulimit -n {min(hard, 65536)}")]
    return [Finding("open files", "good", f"{soft}")]


def _shared_memory(host: Host) -> list[Finding]:
    meminfo = dict(
        line.split(":", 1) for line in host.read(host.proc / "meminfo").splitlines() if ":" in line
    )
    available = meminfo.get("MemAvailable", "").split()
    if not available:
        return []
    mib = int(available[0]) >> 10
    if mib < 512:
        remedy = "lower worker.n_small and worker.fields_size in the spec"
        return [Finding("memory", "missing", f"{mib} MiB available", remedy)]
    return [Finding("memory", "good", f"{mib} MiB available")]


def _users(host: Host) -> list[Finding]:
    if os.geteuid() == 0:
        return [Finding("user", "good", "root: each NF may be a user of its own")]
    remedy = "as root each NF gets a user of its own, which the kernel keeps from writing packets"
    return [Finding("user", "missing", f"uid {os.geteuid()}: NFs share it", remedy)]


def _capabilities(host: Host) -> list[Finding]:
    lines = host.read(host.proc / "self/status").splitlines()
    words = [line.split()[1] for line in lines if line.startswith("CapEff:")]
    mask = int(words[0], 16) if words else 0
    have = [name for name, bit in CAPABILITIES.items() if mask >> bit & 1]
    lack = [name for name in CAPABILITIES if name not in have]
    text = f"has {', '.join(have) or 'none'}; lacks {', '.join(lack) or 'none'}"
    if {"net_raw", "net_admin"} <= set(have):
        return [Finding("capabilities", "good", text)]
    remedy = "live ports need net_raw and net_admin; captures need none"
    return [Finding("capabilities", "missing", text, remedy)]


def _namespaces(host: Host) -> list[Finding]:
    limit = host.read(host.proc / "sys/user/max_net_namespaces")
    if limit and limit != "0":
        return [Finding("network namespaces", "good", f"up to {limit}")]
    remedy = "tests with virtual links need them: sysctl user.max_net_namespaces=1024"
    return [Finding("network namespaces", "missing", limit or "not known", remedy)]


def _isolation(host: Host) -> list[Finding]:
    isolated = host.read(host.sys / "devices/system/cpu/isolated")
    if isolated:
        return [Finding("isolated cores", "good", isolated)]
    remedy = "for the last microseconds of latency: isolcpus=... nohz_full=... on the kernel's line"
    return [Finding("isolated cores", "missing", "none", remedy)]


def _libraries(host: Host) -> list[Finding]:
    found = []
    for topic, name, what in (
        ("DPDK", "rte_eal", "apt-get install dpdk libdpdk-dev; ports of kind dpdk need it"),
        ("libxdp", "xdp", "apt-get install libxdp1; ports of kind afxdp need it"),
        ("Vectorscan", "hs", "apt-get install libvectorscan5; searching many patterns needs it"),
        ("libpcap", "pcap", "apt-get install libpcap0.8"),
    ):
        file = host.library(name)
        found.append(
            Finding(topic, "good", file) if file else Finding(topic, "missing", "none", what)
        )
    return found


def _packages(host: Host) -> list[Finding]:
    found = []
    for name in ("pyzmq", "msgpack", "pydantic", "numpy", "prometheus-client"):
        try:
            found.append(Finding(name, "good", version(name)))
        except PackageNotFoundError:
            found.append(Finding(name, "bad", "not installed", f"pip install {name}"))
    if not hasattr(socket, "send_fds"):
        found.append(Finding("SCM_RIGHTS", "bad", "not in this Python", "use Python 3.11 or newer"))
    return found
