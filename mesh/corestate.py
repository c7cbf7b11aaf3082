# SPDX-License-Identifier: Apache-2.0
"""Which cores the meshes of this host have given away, in a file that outlives them.

Theory of operation: one file for all meshes of a user (or of root), beside their run folders, with
a lock and a checksum. What a mesh notes there others do not give away as long as it runs; a mesh
that is started again finds what its processes had, so they get the same cores. What meshes noted
that are gone is theirs to find, but nobody keeps it free for them. A file that is damaged is as
good as none, and said.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mesh.errors import ProcessError, system_text
from mesh.whole_file import write_whole

__all__ = ["CoreState"]

FILE = "cores.json"
MAX_BYTES = 1 << 20
MAX_GONE = 256
"""Meshes that are gone and remembered."""
Cores = dict[str, tuple[int, ...]]


class CoreState:
    """The file.

    Args:
        folder: of all run folders.
        mesh: whose processes these are.

    Attributes:
        notices: what was wrong with it.
    """

    def __init__(self, folder: Path, mesh: str) -> None:
        self._path, self.mesh = folder / FILE, mesh
        self.notices: list[str] = []

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other meshes from giving cores away meanwhile.

        Raises:
            ProcessError: the file cannot be made.
        """
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(self._path.with_suffix(".lock"), flags, 0o600)
        except OSError as error:
            raise ProcessError(f"{self._path}: {system_text(error)}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def before(self) -> Cores:
        """Returns what this mesh's processes had."""
        return self._load().get(self.mesh, {})

    def taken(self, running: Collection[str]) -> set[int]:
        """Returns the cores of other meshes that run."""
        return {
            cpu
            for mesh, processes in self._load().items()
            if mesh != self.mesh and mesh in running
            for cores in processes.values()
            for cpu in cores
        }

    def save(self, processes: Mapping[str, tuple[int, ...]], running: Collection[str]) -> None:
        """Notes what this mesh's processes have.

        Raises:
            ProcessError: it cannot be written.
        """
        known = self._load()
        known.pop(self.mesh, None)
        gone = [mesh for mesh in known if mesh not in running]
        for mesh in gone[: max(0, len(gone) - MAX_GONE)]:
            del known[mesh]
        known[self.mesh] = dict(processes)
        body = json.dumps(known, sort_keys=False)
        text = json.dumps({"version": 1, "meshes": body, "checksum": zlib.crc32(body.encode())})
        try:
            write_whole(self._path, text)
        except OSError as error:
            raise ProcessError(f"{self._path}: {system_text(error)}") from error

    def _load(self) -> dict[str, Cores]:
        try:
            with self._path.open("rb") as file:
                raw = file.read(MAX_BYTES)
        except OSError:
            return {}
        try:
            data = json.loads(raw)
            body = data["meshes"]
            if data["version"] != 1 or zlib.crc32(body.encode()) != data["checksum"]:
                raise ValueError("the checksum is another")
            return {
                str(mesh): {str(name): _cores(cores) for name, cores in processes.items()}
                for mesh, processes in json.loads(body).items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            text = f"{self._path} is damaged ({error}): cores are given away anew"
            if text not in self.notices:
                self.notices.append(text)
            return {}


def _cores(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(isinstance(each, int) for each in value):
        raise ValueError("cores that are no list of numbers")
    return tuple(value)
