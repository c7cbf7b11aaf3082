# SPDX-License-Identifier: Apache-2.0
"""The chart on a node: containerd, a kubelet with the static CPU manager, pods that share memory.

What `make kube-test` shows comes from here (`pytest -s`): the core of a network function's pod,
what the stack's memory lies in, events per second, and the table of network functions.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_rig import NAMESPACE, Node, until

pytestmark = pytest.mark.timeout(1200)  # a cluster comes and goes in it
PAGES = 400
SECOND = """
apiVersion: nfmesh.io/v1alpha1
kind: NetworkFunction
metadata: {{name: {name}, namespace: nfmesh}}
spec: {{use: dns_log, cores: {cores}}}
"""


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node(pages=PAGES) as found:
        values = {
            "stack.sharedCpu": "400m",  # of the two cores one is the node's, one the function's
            "stack.hugepages": {"2Mi": "640Mi"} if found.pages >= PAGES else {},
            "stack.port.replay.speed": 400,
            "nf.sharedCpu": "100m",
            "operator.cpu": "200m",
            "nfs.http-log": {"use": "http_log", "cores": 1},
        }
        found.install("edge", *(f"--set-json={k}={json.dumps(v)}" for k, v in values.items()))
        yield found


def function(node: Node, name: str) -> dict[str, Any]:
    line = ("get", "networkfunction", name, "-n", NAMESPACE, "-o", "json")
    return dict(json.loads(node.kubectl(*line).stdout))


def ready(node: Node, name: str) -> dict[str, Any]:
    """Returns a function's condition Ready."""
    conditions = function(node, name).get("status", {}).get("conditions", ())
    return next((dict(each) for each in conditions if each["type"] == "Ready"), {})


def wait_ready(node: Node, name: str) -> dict[str, Any]:
    try:
        until(lambda: ready(node, name).get("status") == "True", f"{name} is Ready")
    except AssertionError as error:
        raise AssertionError(f"{error}: {ready(node, name)}\n{node.state()}") from error
    return function(node, name)


def only_pod(node: Node, labels: str) -> dict[str, Any]:
    (pod,) = node.pods(NAMESPACE, labels).values()
    return dict(pod)


def nf_pod(node: Node, name: str) -> dict[str, Any]:
    return only_pod(node, f"nfmesh.io/network-function={name}")


def stack_pod(node: Node) -> dict[str, Any]:
    return only_pod(node, "app.kubernetes.io/component=stack")


def status_of(pid: int) -> dict[str, str]:
    """Returns what the kernel says of a process."""
    rows = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {key: value.strip() for key, _, value in rows}


def memory_of(pid: int) -> dict[str, tuple[str, str]]:
    """Returns the shared objects that a process maps: name → rights and inode."""
    pattern = r"^\S+ (\S+) \S+ \S+ (\d+) +/memfd:nfmesh:(\S+)"
    text = Path(f"/proc/{pid}/maps").read_text()
    return {name: (how, inode) for how, inode, name in re.findall(pattern, text, re.MULTILINE)}


def worker(node: Node) -> int:
    """Returns the stack's worker."""
    pids = node.processes(stack_pod(node))
    return next(pid for pid in pids if status_of(pid)["Name"].startswith("worker"))


def show(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def test_a_function_has_a_core_that_nobody_else_may_use(node: Node) -> None:
    found = wait_ready(node, "http-log")
    pod = nf_pod(node, "http-log")
    assert pod["status"]["qosClass"] == "Guaranteed"
    lists = {status_of(pid)["Cpus_allowed_list"] for pid in node.processes(pod)}
    assert lists == {found["status"]["nodes"][0]["cores"]}
    (core,) = lists
    assert core.isdecimal()
    others = [
        status_of(pid)["Cpus_allowed_list"]
        for each in node.pods(NAMESPACE).values()
        if each["metadata"]["name"] != pod["metadata"]["name"]
        for pid in node.processes(each)
    ]
    assert others
    assert core not in {part for text in others for part in text.split(",")}
    show(f"\nCpus_allowed_list of http-log's pod: {core}; of the others: {sorted(set(others))}")


def test_the_first_process_of_a_stack_keeps_its_memory(node: Node) -> None:
    pod = stack_pod(node)
    assert pod["status"]["qosClass"] == "Guaranteed"
    (first,) = [pid for pid in node.processes(pod) if status_of(pid)["NSpid"].split()[-1] == "1"]
    kept = {os.readlink(each) for each in Path(f"/proc/{first}/fd").iterdir()}
    assert any("memfd:nfmesh:w0/packets" in name for name in kept)
    assert first != worker(node)


def test_its_memory_is_the_stacks_and_it_cannot_write_there(node: Node) -> None:
    theirs = memory_of(worker(node))
    (pid,) = node.processes(nf_pod(node, "http-log"))
    mine = memory_of(pid)
    for name in ("w0/packets", "w0/records", "w0/fields", "w0/flows"):
        assert mine[name][1] == theirs[name][1], name
        assert (mine[name][0], theirs[name][0]) == ("r--s", "rw-s"), name
    status = status_of(pid)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["Uid"].split() == ["64001"] * 4


def test_what_its_memory_lies_in_is_said(node: Node) -> None:
    numbers = node.metrics(stack_pod(node), 9464)
    rows = [name for name in numbers if name.startswith("nfmesh_object_bytes")]
    backing = dict(
        re.search(r'backing="(\w+)",object="([^"]+)"', row).groups()[::-1] for row in rows
    )
    free = int(re.search(r"HugePages_Free: +(\d+)", Path("/proc/meminfo").read_text())[1])
    if node.pages >= PAGES:
        assert backing["w0/packets"] == "huge_2m"
        assert free < node.pages
    assert function(node, "http-log")["status"]["nodes"][0]["backing"]
    used = (node.pages - free) * 2
    show(f"\nhuge pages of the stack: {used} MiB; w0/packets lies in {backing['w0/packets']}")


def test_events_come(node: Node) -> None:
    def heard() -> float:
        numbers = node.metrics(stack_pod(node), 9464)
        rows = (v for k, v in numbers.items() if k.startswith("nfmesh_ring_tail_total"))
        return sum(rows)

    first, begin = heard(), time.monotonic()
    last = until(lambda: (now := heard()) > first + 20000 and now, "twenty thousand events")
    show(f"\nevents delivered into the pod: {(last - first) / (time.monotonic() - begin):.0f} 1/s")


def test_a_second_function_joins_while_packets_flow(node: Node) -> None:
    before = nf_pod(node, "http-log")["metadata"]["uid"]
    node.kubectl("apply", "-f", "-", given=SECOND.format(name="dns-log", cores=0))
    wait_ready(node, "dns-log")
    assert ready(node, "http-log")["status"] == "True"
    assert nf_pod(node, "http-log")["metadata"]["uid"] == before
    show("\n" + node.kubectl("get", "networkfunctions", "-n", NAMESPACE).stdout)


def test_a_third_one_waits_for_a_core_and_says_so(node: Node) -> None:
    node.kubectl("apply", "-f", "-", given=SECOND.format(name="pinned", cores=1))
    try:
        until(lambda: ready(node, "pinned").get("reason") == "InsufficientCpu", "a reason")
        assert "cpu" in ready(node, "pinned")["message"]
    finally:
        node.kubectl("delete", "networkfunction", "pinned", "-n", NAMESPACE)


def test_functions_join_the_next_stack_by_themselves(node: Node) -> None:
    old = stack_pod(node)["metadata"]["name"]
    pod = nf_pod(node, "http-log")
    inode = memory_of(worker(node))["w0/packets"][1]
    node.kubectl("delete", "pod", old, "-n", NAMESPACE)

    def joined() -> bool:
        stacks = node.pods(NAMESPACE, "app.kubernetes.io/component=stack")
        if set(stacks) == {old} or len(stacks) != 1:
            return False
        (pid,) = node.processes(nf_pod(node, "http-log"))
        seen = memory_of(pid).get("w0/packets")
        return seen is not None and seen[1] != inode

    until(joined, "memory of the new stack")
    wait_ready(node, "http-log")
    again = nf_pod(node, "http-log")
    assert again["metadata"]["uid"] == pod["metadata"]["uid"]
    assert again["status"]["containerStatuses"][0]["restartCount"] == 0


def test_helm_tests_upgrades_and_rolls_back(node: Node) -> None:
    assert "Succeeded" in node.helm("test", "edge", "-n", NAMESPACE)
    chart = str(Path(__file__).resolve().parent.parent / "deploy/helm/nfmesh")
    line = ("--reuse-values", "--set=operator.log=debug", "--wait", "--timeout=120s")
    node.helm("upgrade", "edge", chart, "-n", NAMESPACE, *line)
    node.helm("rollback", "edge", "1", "-n", NAMESPACE, "--wait", "--timeout=120s")
    wait_ready(node, "http-log")


def test_nothing_is_left_of_it(node: Node) -> None:
    node.kubectl("delete", "networkfunction", "dns-log", "-n", NAMESPACE)  # it is not the release's
    node.helm("uninstall", "edge", "-n", NAMESPACE, "--wait", "--timeout=180s")
    try:
        until(lambda: not node.pods(NAMESPACE), "no pods", patience=60)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{node.state()}") from error
    left = node.kubectl(
        "get", "networkfunctions,deployments,secrets", "-n", NAMESPACE, "-o", "name"
    )
    ours = [
        name for name in left.stdout.split() if "default-token" not in name and "helm" not in name
    ]
    assert ours == []
