# SPDX-License-Identifier: Apache-2.0
"""The folder of a running mesh: its sockets and its lock, gone when it ends.

One instance per name: the lock is held as long as the supervisor lives, and the kernel lets it go
when the supervisor dies in whatever way, so what lies in an unlocked folder is left over. Whoever
makes or removes a run folder holds the lock of the folder above it meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.errors import ProcessError

__all__ = ["VARIABLE", "RunFolder", "base_folder", "running"]

VARIABLE = "NFMESH_RUN"
"""Environment variable that says where run folders are."""
KEPT = "kept"
"""File that says: this folder outlives its mesh."""
KEPT_FILES = ("lock", KEPT, "desired.json", "history.json")
"""What stays in such a folder; the stack that follows reads the last two."""
MAX_SOCKET_PATH = 100
"""sockaddr_un has room for 108 bytes."""


def base_folder() -> Path:
    """Returns where run folders are.

    What NFMESH_RUN says; else /run/nfmesh for root, the user's runtime folder, or /tmp.
    """
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).absolute()
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() == 0:
        return Path("/run/nfmesh")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime) / "nfmesh"
    return Path(f"/tmp/nfmesh-{os.getuid()}")


def running(base: Path | None = None) -> tuple[str, ...]:
    """Returns the names of the meshes that run."""
    folder = base or base_folder()
    return tuple(sorted(path.name for path in folder.glob("*") if _is_locked(path / "lock")))


class RunFolder:
    """Makes and locks a run folder; `close` removes it.

    Args:
        name: of the mesh.
        base: of all run folders; default is `base_folder()`.
        gid: group of the mesh's processes, which may enter it; None: this user only.
        is_kept: the folder itself stays when the mesh ends, and everybody may enter it: NFs of
            other containers have it mounted.

    Attributes:
        path: of the folder.
        notices: what was found, one line each.

    Raises:
        ProcessError: a mesh of this name runs, or the folder cannot be made.
    """

    def __init__(
        self,
        name: str,
        base: Path | None = None,
        gid: int | None = None,
        *,
        is_kept: bool = False,
    ) -> None:
        folder = base or base_folder()
        _check_name(name)
        self._is_kept = is_kept
        self.path = folder / name
        self.notices: list[str] = []
        if len(str(self.path)) > MAX_SOCKET_PATH - len("/control"):
            raise ProcessError(f"{self.path} is too long for a socket; choose a shorter name")
        try:
            folder.mkdir(mode=0o755 if gid is not None else 0o700, parents=True, exist_ok=True)
            self._check_owner(folder, gid)
            with _locked(folder):
                self.path.mkdir(mode=0o700, exist_ok=True)
                self._check_is_ours()
                self._lock = self._take_lock(name)
                self._clear()
                self._clear_siblings()
            if is_kept:
                (self.path / KEPT).touch(0o600)
                self.path.chmod(0o755)
            elif gid is not None:
                os.chown(self.path, -1, gid)
                self.path.chmod(0o2710)
        except OSError as error:
            text = f"{self.path}: {error.strerror or error}; set {VARIABLE} to a folder of yours"
            raise ProcessError(text) from error

    def _check_owner(self, folder: Path, gid: int | None) -> None:
        link = folder.lstat()
        if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, os.geteuid()):
            raise ProcessError(f"{folder} is a link of user {link.st_uid}; remove it")
        status = folder.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            text = f"{folder} is not this user's alone: others could take its sockets"
            raise ProcessError(f"{text}; set {VARIABLE} to a folder of yours")
        if gid is not None and not status.st_mode & 0o001:
            text = f"{folder}: NFs run as users of their own, who cannot enter it"
            raise ProcessError(f"{text}; chmod o+x it, or set {VARIABLE} to another folder")

    def _check_is_ours(self) -> None:
        """Refuses a folder of something else: it would be emptied."""
        if any(self.path.iterdir()) and not _is_run_folder(self.path):
            text = f"{self.path} is no run folder, and is not empty: it would be emptied"
            raise ProcessError(f"{text}; name a folder that is not there")

    def _take_lock(self, name: str) -> int:
        path = self.path / "lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            text = f"a mesh {name!r} runs already (pid {pid}); give this one another name"
            raise ProcessError(f"{text}, or end it with: nfmesh stop {name}") from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return fd

    def _clear(self) -> None:
        """Removes what a mesh of this name left that did not end well."""
        kept = KEPT_FILES if self._is_kept else ("lock",)
        left = sorted(path for path in self.path.iterdir() if path.name not in kept)
        for path in left:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        if left:
            names = ", ".join(path.name for path in left)
            self.notices.append(f"removed what an earlier instance left: {names}")

    def _clear_siblings(self) -> None:
        """Removes the folders of other meshes that did not end well."""
        dead = sorted(path for path in self.path.parent.iterdir() if _is_dead(path))
        for path in dead:
            shutil.rmtree(path)
        if dead:
            names = ", ".join(path.name for path in dead)
            self.notices.append(f"removed the run folders of meshes that have died: {names}")

    def close(self) -> None:
        """Removes the folder, or what is in it, and lets the lock go."""
        with _locked(self.path.parent):
            if self._is_kept:
                self._clear()
            else:
                shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps others from making and removing run folders meanwhile."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _check_name(name: str) -> None:
    if name in ("", ".", "..") or "/" in name or not name.isprintable():
        text = f"{name!r} is no name of a mesh: it is that of its run folder, without slashes"
        raise ProcessError(text)


def _is_run_folder(path: Path) -> bool:
    """True for a folder with the lock of a mesh; an empty one's died in its first moment."""
    lock = path / "lock"
    if path.is_symlink() or lock.is_symlink() or not lock.is_file():
        return False
    pid = lock.read_bytes()[:32].strip()
    return pid.isdigit() or not pid


def _is_dead(path: Path) -> bool:
    """True for a run folder whose mesh is gone; whatever else lies here is not ours to remove."""
    if (path / KEPT).exists() or not _is_run_folder(path) or _is_locked(path / "lock"):
        return False
    lock = path / "lock"
    return lock.stat().st_uid == os.geteuid() and bool(lock.read_bytes().strip())


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
