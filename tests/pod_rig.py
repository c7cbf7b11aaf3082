# SPDX-License-Identifier: Apache-2.0
"""Containers of nfmesh's image, for tests: podman with storage of its own, without any network."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Self

import pytest

CACHE = Path(os.environ.get("NFMESH_KUBE", "/var/cache/nfmesh-kube"))
ARCHIVE = CACHE / "image" / "nfmesh.oci.tar"
IMAGE = f"docker.io/library/nfmesh:{version('nfmesh')}"
"""That of the chart's default values."""
USER = "64001:64000"
_LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096")
"""A root that may not raise limits has no others to give."""


def why_not() -> str:
    """Returns what is missing for containers, or nothing."""
    if os.geteuid() != 0:
        return "containers of this test need root"
    for program in ("podman", "runc"):
        if shutil.which(program) is None:
            return f"no {program}: apt-get install --no-install-recommends podman runc"
    return "" if ARCHIVE.exists() else f"no {ARCHIVE}: run tools/kube/image.py archive"


class Storage:
    """Podman with images and containers of its own; use it in a `with`."""

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="nfmesh-pod-"))
        self._podman = [
            "podman",
            f"--root={self._folder}/root",
            f"--runroot={self._folder}/run",
            f"--tmpdir={self._folder}/tmp",
            "--runtime=runc",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
        ]
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.call("rm", "--all", "--force", "--time=2", check=False)
        self.call("rmi", "--all", "--force", check=False)
        subprocess.run(["umount", "-l", f"{self._folder}/root/overlay"], stderr=-3, check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(
        self, *line: str, check: bool = True, patience_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Runs podman."""
        done = subprocess.run(
            [*self._podman, *line], capture_output=True, text=True, check=False, timeout=patience_s
        )
        assert not check or done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done


class Containers(Storage):
    """Runs containers of the image; use it in a `with`.

    Args:
        network: `none`, or `host` for those that are asked over HTTP.
    """

    def __init__(self, network: str = "none") -> None:
        self.network = network

    def __enter__(self) -> Self:
        if reason := why_not():
            pytest.skip(reason)
        super().__enter__()
        self.call("load", "--quiet", "--input", str(ARCHIVE))
        return self

    def run(
        self, *arguments: str, options: tuple[str, ...] = (), user: str = USER
    ) -> subprocess.CompletedProcess[str]:
        """Runs a container to its end, as little as a pod of the chart may do.

        Args:
            arguments: of nfmesh, or of another entry point that is among the options.
            options: further ones of podman run.
            user: that it runs as.
        """
        return self.call("run", "--rm", *self._confined(user), *options, IMAGE, *arguments,
                          check=False)  # fmt: skip

    def start(
        self, name: str, *arguments: str, options: tuple[str, ...] = (), user: str = USER
    ) -> None:
        """Starts a container that stays."""
        more = ("--detach", f"--name={name}")
        self.call("run", *more, *self._confined(user), *options, IMAGE, *arguments)

    def logs(self, name: str) -> str:
        """Returns what a container has said."""
        done = self.call("logs", name, check=False)
        return done.stdout + done.stderr

    def stop(self, name: str) -> int:
        """Ends a container as a kubelet does; returns its status."""
        self.call("stop", "--time=20", name)
        return int(self.call("inspect", "--format={{.State.ExitCode}}", name).stdout)

    def kill(self, name: str) -> None:
        """Removes a container at once."""
        self.call("rm", "--force", "--time=0", name)

    def _confined(self, user: str) -> tuple[str, ...]:
        return (
            *_LIMITS, f"--user={user}", "--cap-drop=ALL", "--security-opt=no-new-privileges",
            "--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:mode=1777",
            f"--network={self.network}",
        )  # fmt: skip
