# SPDX-License-Identifier: Apache-2.0
"""A stack and NFs that join it, each a program of its own; NFs in namespaces of their own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from free_port import free_port
from patience import PATIENCE_S, until

from mesh.control import messages as m
from mesh.control.keys import ClientKeys, write_keys
from mesh.control.remote import Remote
from mesh.control.tool import ask
from mesh.errors import MeshError

OFFICE = Path(__file__).parent / "captures" / "office.pcap"
NFMESH = [sys.executable, "-P", "-m", "mesh.cli"]
NF_UID = 64900
"""Whom NFs run as in these tests, when those run as root."""
LOOP = {"pcap": str(OFFICE), "replay": {"loop": True, "speed": 50}}


def namespaces() -> list[str]:
    """Returns how to run a program in namespaces of its own, as far as this system allows."""
    own = ["unshare", "--mount", "--ipc", "--net", "--uts"]
    own += [] if os.geteuid() == 0 else ["--user", "--map-current-user"]
    for line in ([*own, "--pid", "--fork", "--kill-child=SIGKILL"], own):
        if (
            shutil.which("unshare")
            and not subprocess.run([*line, "true"], capture_output=True, check=False).returncode
        ):
            return line
    return []


class Joined:
    """An NF's program."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int) -> None:
        self.process, self.log, self.port = process, log, port

    @property
    def pid(self) -> int:
        """Of the NF, not of what made its namespaces."""
        kids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        found = kids.read_text().split()
        return int(found[0]) if found else self.process.pid

    def kill(self) -> None:
        """Ends it at once; what made its namespaces ends with it."""
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.process.wait(PATIENCE_S)

    def end(self) -> int:
        """Ends it in order."""
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


class Site:
    """A node: one stack at a time, and NFs that join it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run" / "edge"
        self.run.parent.mkdir(mode=0o755)
        write_keys(folder / "keys")
        self.stack: subprocess.Popen[bytes] | None = None
        self.joined: list[Joined] = []
        self._remote: Remote | None = None
        self._apart = namespaces()

    # ---- the stack ---------------------------------------------------------------------------

    def start(self, **spec: Any) -> None:
        """Starts a stack and waits until it runs."""
        listen = {"control": "tcp://127.0.0.1:*", "keys": str(self.folder / "keys")}
        plain = {"ports": [LOOP], "listen": listen, **spec}
        (self.folder / "stack.json").write_text(json.dumps(plain))
        words = ["stack", "--config", str(self.folder / "stack.json"), "--run-dir", str(self.run)]
        log = (self.folder / "stack.log").open("ab")
        port = free_port()
        self.stack = subprocess.Popen(
            [*NFMESH, *words, "--health-port", str(port)], stdout=log, stderr=log
        )
        log.close()
        self.stack_port = port
        until(lambda: self._died() or probe(port, "/readyz")[0] == 200, "the stack")
        self._remote = None

    def _died(self) -> bool:
        assert self.stack is not None
        assert self.stack.poll() is None, (self.folder / "stack.log").read_text()
        return False

    def kill_stack(self) -> None:
        """Ends the stack at once, with all its processes."""
        assert self.stack is not None
        self.stack.kill()
        self.stack.wait(PATIENCE_S)
        self._hang_up()

    def end_stack(self) -> int:
        """Ends the stack in order."""
        assert self.stack is not None
        self.stack.terminate()
        self._hang_up()
        return self.stack.wait(PATIENCE_S)

    @property
    def remote(self) -> Remote:
        """The stack over the network."""
        if self._remote is None:
            listen = until(
                lambda: (s := self.status()["listen"]) and s["is_open"] and s, "the door"
            )
            address = listen["state"].rpartition(" ")[2]
            self._remote = Remote(address, ClientKeys.read(self.folder / "keys"), PATIENCE_S)
        return self._remote

    def status(self) -> dict[str, Any]:
        """Returns what the stack knows, asked on this host."""
        return ask(self.run, m.Status(), PATIENCE_S)

    def phase(self, name: str) -> str:
        """Returns how far an NF is; "" while nobody knows."""
        try:
            found: str = self.status()["attachments"][name]["phase"]
        except (MeshError, KeyError):
            return ""
        return found

    def events(self, name: str) -> int:
        """Returns how many entries an NF has had."""
        found: int = self.status()["nfs"].get(name, {}).get("events", 0)
        return found

    def hears(self, name: str) -> None:
        """Waits until an NF is attached and hears more than it had."""
        until(lambda: self.phase(name) == "attached", f"{name} to attach")
        before = self.events(name)
        until(lambda: self.events(name) > before, f"{name} to hear something")

    # ---- NFs ---------------------------------------------------------------------------------

    def token(self, name: str) -> Path:
        """Returns the file with an NF's token."""
        path = self.folder / f"{name}.token"
        if not path.exists():
            path.write_text(f"token of {name} {'x' * 20}\n")
            path.chmod(0o644)
        return path

    def put(self, name: str, use: str, **entry: Any) -> Mapping[str, Any]:
        """Lets the stack expect an NF."""
        digest = hashlib.sha256(self.token(name).read_bytes().strip()).hexdigest()
        return self.remote.put_nf({"name": name, "use": use, **entry}, digest)

    def code(self, name: str, body: str) -> str:
        """Writes an NF's file; returns how it is named in its own container."""
        path = self.folder / f"{name}.py"
        path.write_text("import os, time\nfrom mesh import *\n" + textwrap.dedent(body))
        path.chmod(0o644)
        return str(path)

    def join(self, name: str, use: str, token: Path | None = None) -> Joined:
        """Starts an NF's program in namespaces of its own."""
        port = 0 if "--net" in self._apart else free_port()
        words = ["nf", "--name", name, "--use", use, "--run-dir", str(self.run)]
        words += ["--token-file", str(token or self.token(name)), "--health-port", str(port)]
        return self.program([*NFMESH, *words], name, port)

    def program(self, words: Sequence[str], name: str, port: int = 0) -> Joined:
        """Starts a program as an NF's container has it."""
        path = self.folder / f"{name}.log"
        user = [] if os.geteuid() else ["setpriv", f"--reuid={NF_UID}", f"--regid={NF_UID}"]
        user += ["--clear-groups"] if user else []
        with path.open("ab") as log:
            process = subprocess.Popen([*self._apart, *user, *words], stdout=log, stderr=log)
        made = Joined(process, path, port)
        self.joined.append(made)
        return made

    def leave(self) -> None:
        """Ends all NFs and lets the stack forget them."""
        for each in self.joined:
            each.kill()
        self.joined.clear()
        for name in self.status()["attachments"]:
            self.remote.remove_nf(name)

    # ---- the end -----------------------------------------------------------------------------

    def _hang_up(self) -> None:
        if self._remote is not None:
            self._remote.close()
        self._remote = None

    def close(self) -> None:
        """Ends everything."""
        self._hang_up()
        for each in self.joined:
            each.kill()
        if self.stack is not None and self.stack.poll() is None:
            self.stack.kill()
            self.stack.wait(PATIENCE_S)


@contextmanager
def site() -> Iterator[Site]:
    """Makes a node in a folder that every user can enter."""
    folder = Path(tempfile.mkdtemp(prefix="nfmj"))
    folder.chmod(0o755)
    made = Site(folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def probe(port: int, path: str) -> tuple[int, str]:
    """Asks a probe's path; (0, "") when nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""
