# SPDX-License-Identifier: Apache-2.0
"""A real controller process whose supervisor and processes are played: no memory, no packets."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time

import msgpack
from patience import PATIENCE_S

from mesh._ffi import ABI_VERSION
from mesh.control import messages as m
from mesh.control.client import Control, Settings
from mesh.control.stats import NFStats, RingStats, WorkerStats
from mesh.control.tool import TOOL_KEY, ask
from mesh.control.wire import HostPart, from_wire
from mesh.errors import ProcessError


class Fake:
    """A process of the mesh that does at once what it is told."""

    def __init__(self, host, name, role):
        self.name, self.role, self.host = name, role, host
        self.key = host.keys[name]
        self.said = []
        self.position = 1
        register = m.Register(role=role, pid=os.getpid(), abi=ABI_VERSION)
        self.control = Control(
            Settings(
                f"ipc://{host.run}/control",
                name,
                self.key,
                register,
                self.stats,
                silence_s=PATIENCE_S,  # so what is heard twice is the controller's doing
            )
        )

    def stats(self):
        if self.role == "worker":
            ring = RingStats(ring="ring/syn_scan/w0", entries=64, head=9, tail=2)
            ports = []
            return WorkerStats(statistics={"packets": 7}, rings=[ring], ports=ports)
        return NFStats(events=3, handlers={"watch": 3}) if self.role == "nf" else None

    def work(self):
        while (body := self.control.poll()) is not None:
            self.said.append(body)
            if isinstance(body, m.PlanPart):
                more = {"effective_from": self.position} if self.role == "worker" else {}
                self.control.send(m.Ready(revision=body.revision, **more))
            elif isinstance(body, m.Hold):
                self.control.send(m.Held(revision=body.revision))
            elif isinstance(body, m.Go):
                self.control.send(m.Attached(revision=body.revision))
            elif isinstance(body, m.Drain) and self.role == "nf":
                self.control.send(m.Result(report={"name": self.name, "results": {"n": 1}}))
                self.control.send(m.Drained())
            elif isinstance(body, m.Drain):
                self.control.send(m.Eof(source="x", seconds=1, statistics={}, counters={}))

    def heard(self, kind):
        return [body for body in self.said if isinstance(body, kind)]


class FakeHost:
    """A supervisor without memory and processes: it starts the real controller."""

    def __init__(self, run, arguments=()):
        self.run, self.arguments = run, arguments
        self.keys = {"supervisor": secrets.token_bytes(32)}
        self.tool = secrets.token_bytes(32)
        (run / TOOL_KEY).write_bytes(self.tool)
        self.fakes = {}
        self.process = None
        self.start()
        self.supervisor = self.add("supervisor", "supervisor")

    def start(self):
        out, into = os.pipe()
        os.write(into, msgpack.packb({"supervisor": self.keys["supervisor"], "tool": self.tool}))
        os.close(into)
        command = [sys.executable, "-m", "mesh.control.controller", "--run", str(self.run)]
        command += ["--key-fd", str(out), *self.arguments]
        self.process = subprocess.Popen(command, pass_fds=(out,), stderr=subprocess.PIPE)
        os.close(out)

    def add(self, name, role):
        """Tells the controller the key, as a supervisor does before it starts a process."""
        if name != "supervisor":
            self.keys[name] = secrets.token_bytes(32)
            keys = {each: key for each, key in self.keys.items() if each != "supervisor"}
            self.supervisor.control.send(m.Keys(keys=keys))
            time.sleep(0.05)
        self.fakes[name] = Fake(self, name, role)
        return self.fakes[name]

    def work(self):
        for fake in list(self.fakes.values()):
            fake.work()
        for plan in self.supervisor.heard(m.PlanPart):
            for child in from_wire(HostPart, plan.part).children:
                if child.name not in self.fakes and child.place == "process":
                    self.add(child.name, child.role)

    def status(self, patience=PATIENCE_S):
        self.work()
        return ask(self.run, m.Status(), patience)

    def is_state(self, state):
        ended = self.process.poll()
        assert ended is None, f"the controller has ended ({ended}): {self.process.stderr.read()}"
        with contextlib.suppress(ProcessError):
            return self.status(patience=1.0)["state"] == state

    def ask(self, body):
        """Asks while the fakes go on working."""
        found = []

        def asking():
            try:
                found.append(ask(self.run, body, PATIENCE_S))
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=asking)
        thread.start()
        while thread.is_alive():
            self.work()
            time.sleep(0.005)
        thread.join()
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def close(self):
        for fake in self.fakes.values():
            fake.control.close(0)
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=PATIENCE_S)[1].decode()
