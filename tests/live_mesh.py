"""`nfmesh run` between namespaces, for tests: started, looked at, stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from live_rig import PATIENCE_S, Namespace, wait_until

NFMESH = (sys.executable, "-m", "mesh.cli")


class LiveMesh:
    """A mesh that runs in a namespace.

    Args:
        where: it runs; None: here.
        arguments: of `nfmesh run`.
    """

    def __init__(self, where: Namespace | None, *arguments: str) -> None:
        folder = self._folder = Path(tempfile.mkdtemp(prefix="nfmesh-"))
        folder.chmod(0o755)  # NFs run as other users
        self.environment = {**os.environ, "NFMESH_RUN": str(folder / "run")}
        line = [*NFMESH, "run", "--name", "m", "--json", *arguments]
        self._out = (folder / "out").open("w+")
        self._err = (folder / "err").open("w+")
        self._process = subprocess.Popen(
            where.command(*line) if where is not None else line,
            stdout=self._out,
            stderr=self._err,
            env=self.environment,
        )

    def said(self) -> str:
        """Returns what it wrote to standard error."""
        return (self._folder / "err").read_text()

    def ask(self, *command: str) -> dict[str, Any] | None:
        """Runs a command about it that prints JSON; None: it failed."""
        done = subprocess.run(
            [*NFMESH, *command, "--json"],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=PATIENCE_S,
            check=False,
        )
        return dict(json.loads(done.stdout)) if done.returncode == 0 else None

    def status(self) -> dict[str, Any]:
        """Returns what `nfmesh status` knows; nothing when it does not run (yet)."""
        assert self._process.poll() is None, self.said()
        return self.ask("status", "m") or {}

    def wait_running(self) -> None:
        """Waits until packets pass."""
        wait_until(lambda: self.status().get("state") == "running", f"a mesh: {self.said()}")

    def counters(self) -> dict[str, int]:
        """Returns the worker's counters."""
        worker = self.status().get("workers", {}).get("worker-0", {})
        return dict(worker.get("counters", {}))

    def ports(self) -> list[dict[str, Any]]:
        """Returns the worker's ports."""
        worker = self.status().get("workers", {}).get("worker-0", {})
        return list(worker.get("ports", []))

    def process(self, name: str) -> dict[str, Any]:
        """Returns what is known of one of its processes."""
        rows = self.status().get("processes", [])
        return next((dict(row) for row in rows if row["name"] == name), {})

    def stop(self) -> dict[str, Any]:
        """Ends it as Ctrl-C does, and returns its report."""
        self._process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> dict[str, Any]:
        """Waits for its end and returns its report."""
        self._process.wait(timeout=PATIENCE_S)
        text = (self._folder / "out").read_text()
        assert text, self.said()
        return dict(json.loads(text))

    def close(self) -> None:
        """Makes sure that nothing is left."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._out.close()
        self._err.close()
        shutil.rmtree(self._folder)


def results(report: dict[str, Any], nf: str) -> dict[str, Any]:
    """Returns what an NF found."""
    return next(dict(each["results"]) for each in report["nfs"] if each["name"] == nf)
