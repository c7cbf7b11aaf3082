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
from chart_rig import ROOT

CACHE = Path(os.environ.get("NFMESH_KUBE", "/var/cache/nfmesh-kube"))
ARCHIVE = CACHE / "image" / "nfmesh.oci.tar"
IMAGE = f"docker.io/library/nfmesh:{version('nfmesh')}"
"""That of the chart's default values."""
USER = "64001:64000"
_LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096")
"""A root that may not raise limits has no others to give."""
_TRUSTED = "/etc/ssl/certs/ca-certificates.crt"


def lacking(*programs: str) -> str:
    """Returns what is missing for containers, or nothing."""
    if os.geteuid() != 0:
        return "containers of this test need root"
    missing = " ".join(each for each in programs if shutil.which(each) is None)
    line = f"no {missing}: apt-get install --no-install-recommends {missing}"
    return line if missing else ""


def why_not() -> str:
    """Returns what is missing for containers of the archive, or nothing."""
    there = "" if ARCHIVE.exists() else f"no {ARCHIVE}: run tools/kube/image.py archive"
    return lacking("podman", "runc") or there


class Containers:
    """Runs containers of the archive's image with podman; use it in a `with`.

    Images and containers are in a storage of its own, which goes with it.

    Args:
        network: `none`, or `host` for those that are asked over HTTP.
    """

    image = IMAGE

    def __init__(self, network: str = "none") -> None:
        self.network = network

    def why_not(self) -> str:
        """Returns what is missing, or nothing."""
        return why_not()

    def fill(self) -> None:
        """Gets the image into the storage."""
        self.call("load", "--quiet", "--input", str(ARCHIVE))

    def __enter__(self) -> Self:
        if reason := self.why_not():
            pytest.skip(reason)
        self.folder = Path(tempfile.mkdtemp(prefix="nfmesh-pod-"))
        self._podman = [
            "podman",
            f"--root={self.folder}/root",
            f"--runroot={self.folder}/run",
            f"--tmpdir={self.folder}/tmp",
            "--runtime=runc",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
        ]
        try:
            self.fill()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.call("rm", "--all", "--force", "--time=2", check=False)
        self.call("rmi", "--all", "--force", check=False)
        subprocess.run(["umount", "-l", f"{self.folder}/root/overlay"], stderr=-3, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(
        self, *line: str, check: bool = True, patience_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Runs podman."""
        done = subprocess.run(
            [*self._podman, *line], capture_output=True, text=True, check=False, timeout=patience_s
        )
        assert not check or done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done

    def run(
        self, *arguments: str, options: tuple[str, ...] = (), user: str = USER
    ) -> subprocess.CompletedProcess[str]:
        """Runs a container to its end, as little as a pod of the chart may do.

        Args:
            arguments: of nfmesh, or of another entry point that is among the options.
            options: further ones of podman run.
            user: that it runs as.
        """
        return self.call("run", "--rm", *self._confined(user), *options, self.image, *arguments,
                          check=False)  # fmt: skip

    def start(
        self, name: str, *arguments: str, options: tuple[str, ...] = (), user: str = USER
    ) -> None:
        """Starts a container that stays."""
        more = ("--detach", f"--name={name}")
        self.call("run", *more, *self._confined(user), *options, self.image, *arguments)

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


class Built(Containers):
    """Those of the image that podman builds of deploy/Dockerfile, which takes minutes.

    No registry is asked: the base image is made here. It trusts whom this machine trusts, which
    matters where packages of Python come through a proxy.
    """

    image = "localhost/nfmesh:built"

    def why_not(self) -> str:
        """Returns what is missing, or nothing."""
        if os.environ.get("NFMESH_KUBE_DOCKERFILE") != "1":
            return "takes minutes; NFMESH_KUBE_DOCKERFILE=1 runs it"
        return lacking("podman", "runc", "mmdebstrap")

    def fill(self) -> None:
        """Makes the base image of Debian's packages, and builds."""
        base, name = self.folder / "base.tar", "docker.io/library/debian:bookworm"
        pip = r'printf "[global]\ncert = /etc/ca-certificates.crt\n" >"$1/etc/pip.conf"'
        hooks = (f"--customize-hook=copy-in {_TRUSTED} /etc", f"--customize-hook={pip}")
        line = ["mmdebstrap", "--quiet", "--variant=minbase", *hooks, "bookworm", str(base)]
        subprocess.run(line, check=True)
        self.call("import", str(base), name)
        base.unlink()
        self.call(
            "build", "--pull=never", "--network=host", "--isolation=chroot",
            f"--file={ROOT}/deploy/Dockerfile", f"--tag={self.image}", str(ROOT), patience_s=3600,
        )  # fmt: skip
