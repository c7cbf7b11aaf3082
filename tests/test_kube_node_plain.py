# SPDX-License-Identifier: Apache-2.0
"""The chart on a node with nothing special: what README says, and real packets between two hosts.

left e0 ---- nfmk0 [stack's pod, with the node's network] nfmk1 ---- e0 right
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from chart_rig import CHART, ROOT
from live_rig import Here, Namespace, Server, digest, fetch, find_plugin, join, make_page
from live_rig import why_not as no_namespaces
from node_rig import NAMESPACE, Node, until

pytestmark = pytest.mark.timeout(1200)  # clusters come and go in it
LEFT, BANNED, RIGHT = "10.9.0.1", "10.9.0.3", "10.9.0.2"
ENDS = ("nfmk0", "nfmk1")
PAGES = 400
FIREWALL = {
    "use": "firewall",
    "mode": "inline",
    "fail": "closed",
    "deadlineMs": 5000,
    "cores": 0,
    "config": {"lines": ["policy drop", f"ip saddr {BANNED} reject", "tcp dport 8080 accept"]},
}
SECOND: dict[str, Any] = {
    "stack.sharedCpu": "250m",
    "operator.adoptUnlabelled": False,
    "nfs.core-log": {"use": "flow_counter", "cores": 0},
}
WIRE: dict[str, Any] = {
    "stack.sharedCpu": "900m",
    "stack.hostNetwork": True,
    "stack.port.interfaces": list(ENDS),
    "stack.port.pass": True,
    "stack.updateStrategy": "RollingUpdate",
    "nf.sharedCpu": "200m",
    "nfs.firewall": FIREWALL,
    "nfs.http-log": {"use": "http_log", "cores": 0, "config": {"path": "-"}},
}
MODES: dict[str, dict[str, Any]] = {
    "afpacket": {"stack.port.mode": "afpacket", "stack.workers": 2},
    "afxdp": {
        "stack.port.mode": "afxdp",
        "stack.port.options": {"generic": True},
        "stack.seccompProfile": "Unconfined",
    },
}
DPDK: dict[str, Any] = {
    "stack.port.mode": "dpdk",
    "stack.hugepages": {"2Mi": "640Mi"},
    "stack.ports": [{"dpdk": {"device": "net_null0,size=64", "eal": "--in-memory -m 64 --no-pci"}}],
    "nfs.flow-counter": {"use": "flow_counter", "cores": 0},
}


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node(policy="none") as found:
        yield found


@pytest.fixture(scope="module")
def pages(node: Node) -> int:
    """Huge pages, of a kubelet that is started again for them."""
    node.take_pages(PAGES)
    return node.pages


@pytest.fixture
def release(node: Node) -> Iterator[str]:
    yield "edge"
    uninstall(node, "edge")


class Hosts:
    """Two hosts, each at an interface of the node."""

    def __init__(self, stack: ExitStack) -> None:
        here = Here()
        self.left, self.right = Namespace(), Namespace()
        for host, end, addresses in (
            (self.left, ENDS[0], (f"{LEFT}/24", f"{BANNED}/24")),
            (self.right, ENDS[1], (f"{RIGHT}/24",)),
        ):
            stack.callback(host.close)
            join(here, end, host, "e0", addresses)
            stack.callback(here.works, "ip", "link", "del", end)
            host.run("ethtool", "-K", "e0", "tx", "off", "tso", "off", "gso", "off")

    def status(self, source: str) -> str:
        """Returns what HTTP says to a request from an address, or curl's number of an error."""
        line = ("curl", "-s", "-o", "/dev/null", "--interface", source, "--max-time", "20",
                "--write-out", "%{http_code} %{exitcode}")  # fmt: skip
        command = self.left.command(*line, f"http://{RIGHT}:8080/small?from={source}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    if reason := no_namespaces():
        pytest.skip(reason)
    with ExitStack() as stack:
        yield Hosts(stack)


@pytest.fixture(scope="module")
def page(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("www")
    (folder / "small").write_text("hello")
    made = make_page(folder)
    server = Server(hosts.right, made)
    yield made
    server.close()


def install(node: Node, values: dict[str, Any]) -> None:
    node.install("edge", *set_json(values))


def set_json(values: dict[str, Any]) -> list[str]:
    return [f"--set-json={key}={json.dumps(value)}" for key, value in values.items()]


def uninstall(node: Node, release: str) -> None:
    node.kubectl("delete", "networkfunctions", "--all", "-n", NAMESPACE)
    node.helm("uninstall", release, "-n", NAMESPACE, "--wait", "--timeout=180s")
    until(lambda: not node.pods(NAMESPACE), "no pods")


def conditions(node: Node, name: str) -> dict[str, str]:
    """Returns a function's conditions: type → reason of those that hold."""
    line = ("get", "networkfunction", name, "-n", NAMESPACE, "-o", "json")
    status = json.loads(node.kubectl(*line).stdout).get("status", {})
    return {e["type"]: e["reason"] for e in status.get("conditions", ()) if e["status"] == "True"}


def wait_for(node: Node, name: str, **reasons: str) -> None:
    try:
        until(lambda: reasons.items() <= conditions(node, name).items(), f"{name}: {reasons}")
    except AssertionError as error:
        raise AssertionError(f"{error}: {conditions(node, name)}\n{node.state()}") from error


def log_of(node: Node, name: str) -> list[dict[str, Any]]:
    """Returns what a function has written to its container's log."""
    line = ("logs", f"deployment/{name}", "-n", NAMESPACE)
    rows = node.kubectl(*line, check=False).stdout.splitlines()
    return [json.loads(row) for row in rows if row.startswith("{")]


def commands_of_readme() -> list[str]:
    """Returns what README has a user of a cluster type."""
    text = (ROOT / "README.md").read_text().partition("## Kubernetes")[2]
    block = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return [line for line in block[1].splitlines() if line.startswith(("helm", "kubectl"))]


def test_readme_takes_a_user_to_two_functions_on_default_values(node: Node, release: str) -> None:
    first, second = "http-log", "dns-log"
    for line in commands_of_readme():
        printed = node.shell(line, ROOT)
        show(f"$ {line}\n{printed[:2000]}")
    for name in (first, second):
        wait_for(node, name, Ready="Attached")
    show(node.kubectl("get", "networkfunctions", "-n", NAMESPACE).stdout)
    until(lambda: any(row["target"] for row in log_of(node, first)), "a request in its log")
    pods = node.pods(NAMESPACE).values()
    asked = [c["resources"]["limits"] for pod in pods for c in pod["spec"]["containers"]]
    assert {name for each in asked for name in each} == {"cpu", "memory"}
    assert "Succeeded" in node.helm("test", release, "-n", NAMESPACE)  # through Services, too
    check_second_release(node, first)


def check_second_release(node: Node, of_the_first: str) -> None:
    """Another release in the same namespace, on the same node, comes and goes."""
    node.install("core", *set_json(SECOND))
    wait_for(node, "core-log", Ready="Attached")
    wait_for(node, of_the_first, Ready="Attached")
    folders = [v["hostPath"]["path"] for pod in node.pods(NAMESPACE).values()
               for v in pod["spec"]["volumes"] if "hostPath" in v]  # fmt: skip
    assert set(folders) == {f"/var/run/nfmesh/{NAMESPACE}/{name}" for name in ("edge", "core")}
    node.helm("uninstall", "core", "-n", NAMESPACE, "--wait", "--timeout=180s")
    wait_for(node, of_the_first, Ready="Attached")


def test_packets_of_two_hosts_pass_whatever_takes_them(
    node: Node, hosts: Hosts, page: Path, release: str
) -> None:
    assert not hosts.status(LEFT).startswith("200")
    install(node, WIRE | MODES["afpacket"])
    check_wire(node, hosts, page, "afpacket")
    if find_plugin("libnfm_afxdp.so") is None:
        show("SKIPPED: this build has no AF_XDP (libxdp-dev)")
        return
    chart = (str(CHART), "-n", NAMESPACE, "--wait", "--timeout=180s")
    node.helm("upgrade", release, *chart, *set_json(WIRE | MODES["afxdp"]))
    until(lambda: "xdpgeneric" in Here().run("ip", "link", "show", ENDS[0]), "a program of XDP")
    check_wire(node, hosts, page, "afxdp")


def show(text: str) -> None:
    sys.stdout.write(f"\n{text}\n")


def check_wire(node: Node, hosts: Hosts, page: Path, mode: str) -> None:
    """What is allowed passes and is seen; what is not is refused."""
    for name in ("firewall", "http-log"):
        wait_for(node, name, Ready="Attached")
    until(lambda: hosts.status(LEFT) == "200 0", "an answer through the stack")
    assert fetch(hosts.left, RIGHT) == digest(page)
    refused = "000 7"
    assert hosts.status(BANNED) == refused
    until(lambda: seen(node) >= {f"/small?from={LEFT}", "/page"}, "requests in the log")
    assert f"/small?from={BANNED}" not in seen(node)
    show(f"{mode}: fetched {page.stat().st_size} bytes through the pod; {BANNED} is refused")


def seen(node: Node) -> set[str]:
    """Targets of the requests that http_log saw."""
    return {row["target"] for row in log_of(node, "http-log")}


def test_dpdk_finds_its_huge_pages_and_runs_in_a_pod(node: Node, pages: int, request: Any) -> None:
    if pages < PAGES:
        pytest.skip(f"SKIPPED: this machine has {pages} huge pages to spare, not {PAGES}")
    request.getfixturevalue("release")
    install(node, DPDK)
    wait_for(node, "flow-counter", Ready="Attached")
    (stack,) = node.pods(NAMESPACE, "app.kubernetes.io/component=stack").values()
    rows = node.metrics(stack, 9464)
    assert any('backing="huge_2m",object="w0/packets"' in k for k in rows)

    def taken() -> float:
        rows = node.metrics(stack, 9464).items()
        return sum(v for k, v in rows if 'counter="rx_packets",port="dpdk:net_null0' in k)

    show(f"dpdk: {until(taken, 'packets of the null device'):.0f} packets of the null device")
    line = ("patch", "networkfunction", "flow-counter", "-n", NAMESPACE, "--type=merge", "-p")
    node.kubectl(*line, json.dumps({"spec": {"cores": 1}}))
    wait_for(node, "flow-counter", Degraded="CoresShared")  # attached, on cores of others
