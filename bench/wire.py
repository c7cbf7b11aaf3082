# SPDX-License-Identifier: Apache-2.0
"""Three hosts in a row on veth: what the one in the middle lets through, a mesh or a Linux bridge.

left l0 ---- m0 [middle] m1 ---- r0 right
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench.measure import ROOT, BenchError, Result, build, options, say

SECONDS = 3
PATIENCE_S = 60.0
NEEDS = ("ip", "nft", "ethtool", "nsenter", "unshare", "taskset")
RULES = "policy drop\nudp dport 9 accept\ntcp dport 5201 accept\nicmp type echo-request accept\n"
NFT = """
table bridge wire {{
  chain forward {{
    type filter hook forward priority 0; policy drop;
    ether type arp accept
    {replies}
    udp dport 9 accept
    tcp dport 5201 accept
    icmp type echo-request accept
  }}
}}
"""
REPLIES = (
    "ct state established,related accept",
    "tcp sport 5201 accept\nicmp type echo-reply accept",
)
"""Statefully; else, where the kernel has no connection tracking for bridges, packet by packet."""


def why_not() -> str | None:
    """Returns what is missing, or None."""
    missing = [program for program in NEEDS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} missing"
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        return "network namespaces need root"
    return None


class Host:
    """A network namespace, kept by a process that sleeps."""

    def __init__(self) -> None:
        own = os.readlink("/proc/self/ns/net")
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
        self.pid = self._holder.pid
        wait_until(lambda: os.readlink(f"/proc/{self.pid}/ns/net") != own, "a namespace")
        self.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        self.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        self.run("ip", "link", "set", "lo", "up")

    def command(self, *command: str) -> list[str]:
        """Returns a command line that runs `command` in here."""
        return ["nsenter", "-t", str(self.pid), "-n", *command]

    def run(self, *command: str, given: str = "") -> str:
        """Runs a command to its end; returns what it printed."""
        line = self.command(*command)
        done = subprocess.run(line, input=given, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"{' '.join(command)}: {done.stdout[-300:]}{done.stderr[-300:]}")
        return done.stdout

    def ip(self, text: str) -> None:
        """Runs ip(8)."""
        self.run("ip", *text.split())

    def received(self, interface: str) -> int:
        """Packets that an interface has received."""
        found = json.loads(self.run("ip", "-s", "-j", "link", "show", interface))
        return int(found[0]["stats64"]["rx"]["packets"])

    def close(self) -> None:
        """Ends the holder: the namespace goes when nothing runs in it."""
        self._holder.kill()
        self._holder.wait()


class Wire:
    """The hosts; `left` is 10.9.0.1, `right` 10.9.0.2."""

    def __init__(self, stack: ExitStack) -> None:
        self.left, self.middle, self.right = (self._host(stack) for _ in range(3))
        for host, end, port, number in ((self.left, "l0", "m0", 1), (self.right, "r0", "m1", 2)):
            self.middle.ip(f"link add {port} type veth peer name {end} netns {host.pid}")
            self.middle.ip(f"link set {port} up")
            host.ip(f"addr add 10.9.0.{number}/24 dev {end}")
            host.ip(f"link set {end} up")

    @staticmethod
    def _host(stack: ExitStack) -> Host:
        made = Host()
        stack.callback(made.close)
        return made

    def blast(self, counter: Host, interface: str) -> Result:
        """Sends short packets from the left; what `interface` of a host has received of them."""
        program = [str(build() / "nfm-blast"), *options(interface="l0", seconds=SECONDS)]
        before = counter.received(interface)
        sent = json.loads(self.left.run("taskset", "-c", "0", *program))
        time.sleep(0.2)  # what is still on its way
        got = counter.received(interface) - before
        return {"packets": got, "sent": sent["packets"], "wall_ns": sent["wall_ns"]}

    def stream(self) -> Result:
        """A TCP stream from left to right."""
        server = subprocess.Popen(
            self.right.command("iperf3", "-s", "-1"), stdout=subprocess.DEVNULL
        )
        try:
            listens = lambda: "5201" in self.right.run("ss", "-Hltn")  # noqa: E731
            wait_until(listens, "iperf3")
            out = self.left.run("iperf3", "-c", "10.9.0.2", "-t", str(SECONDS), "-J")
        finally:
            server.kill()
            server.wait()
        return {"bits_per_s": json.loads(out)["end"]["sum_received"]["bits_per_second"]}

    @contextmanager
    def bridged(self, steers: bool = False) -> Iterator[None]:
        """A Linux bridge with nftables in the middle.

        It works in the sender's time; with `steers` the kernel hands packets to the other core.
        """
        self._steer(2 if steers else 0)
        self.middle.ip("link add br0 type bridge")
        self.middle.ip("link set br0 up")
        for port in ("m0", "m1"):
            self.middle.ip(f"link set {port} master br0")
        self._filter()
        try:
            self._wait_for_ping()
            yield
        finally:
            self.middle.run("nft", "flush", "ruleset")
            self.middle.ip("link del br0")
            self._steer(0)

    def _steer(self, cores: int) -> None:
        """Says by which cores packets are received: a mask; 0: by the sender's."""
        for port in ("m0", "m1"):
            path = f"/sys/class/net/{port}/queues/rx-0/rps_cpus"
            text = f"mount -t sysfs sysfs /sys && echo {cores:x} > {path}"
            self.middle.run("unshare", "-m", "sh", "-c", text)

    def _filter(self) -> None:
        for replies in REPLIES:
            try:
                self.middle.run("nft", "-f", "-", given=NFT.format(replies=replies))
                return
            except BenchError:
                if replies == REPLIES[-1]:
                    raise
            say("no connection tracking for bridges in this kernel: nftables keeps no state")

    @contextmanager
    def meshed(self) -> Iterator[None]:
        """A mesh with the firewall in the middle."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o755)
            (folder / "rules").write_text(RULES)
            line = [sys.executable, "-m", "mesh.cli", "run", "--in", "m0", "--out", "m1"]
            line += ["--nf", "firewall", "--set", f"firewall.rules={folder}/rules"]
            line += ["--worker-cores", "1", "--json", "--name", f"wire-{os.getpid()}"]
            environment = {**os.environ, "NFMESH_RUN": str(folder / "run")}
            with (folder / "out").open("w") as out:
                run = subprocess.Popen(
                    self.middle.command(*line), stdout=out, stderr=out, env=environment, cwd=ROOT
                )
                try:
                    self._wait_for_ping()
                    yield
                except BenchError as error:
                    raise BenchError(f"{error}\n{(folder / 'out').read_text()[-500:]}") from error
                finally:
                    run.send_signal(signal.SIGINT)
                    run.wait()

    def _wait_for_ping(self) -> None:
        line = self.left.command("ping", "-c", "1", "-W", "1", "10.9.0.2")
        wait_until(
            lambda: subprocess.run(line, capture_output=True, check=False).returncode == 0,
            "a ping through the middle",
        )


def wait_until(fact: Callable[[], bool], what: str) -> None:
    """Waits for a fact.

    Raises:
        BenchError: it does not come true.
    """
    end = time.monotonic() + PATIENCE_S
    while not fact():
        if time.monotonic() > end:
            raise BenchError(f"waited in vain: {what}")
        time.sleep(0.02)


def contest() -> dict[str, Result]:
    """One run of all: what the sender alone does, then both contestants by turns."""
    with ExitStack() as stack:
        wire = Wire(stack)
        found = {"sender": wire.blast(wire.middle, "m0")}
        has_iperf = shutil.which("iperf3") is not None
        if not has_iperf:
            say("iperf3 is not installed: left out")
        steered = partial(wire.bridged, steers=True)
        contestants: dict[str, Callable[[], AbstractContextManager[None]]]
        contestants = {"bridge": wire.bridged, "bridge-2-cores": steered, "mesh": wire.meshed}
        for name, middle in contestants.items():
            with middle():
                found[f"{name}-64"] = wire.blast(wire.right, "r0")
                if has_iperf:
                    found[f"{name}-gso"] = wire.stream()
    return found
