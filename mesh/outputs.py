# SPDX-License-Identifier: Apache-2.0
"""Files that NFs write, opened for them by the user who runs the mesh.

An NF may be a user who could not make a file where that one wants it. So an NF names the options
that are files (`NF.writes`); the supervisor opens what they say with its own rights and hands over
descriptors that append, and NFs need no right to any folder. Nothing changes its owner.

What is opened is what was named: a new file, or an ordinary one that belongs to this user already.
A link as the file itself is refused, and so are links on the way that others have made.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mesh.errors import SpecError, system_text
from mesh.fdpass import Handle
from mesh.nf import NF

__all__ = ["PREFIX", "Outputs", "check_apart", "open_output", "output_paths"]

PREFIX = "file/"
NO_FILES = ("", "-")
"""What an option says that names no file: nothing, or standard output."""
_ROOT = 0


def output_paths(cls: type[NF], options: Mapping[str, Any], out: str | Path) -> tuple[str, ...]:
    """Returns the files that an NF with these options writes."""
    values = {option.name: option.default for option in cls.options()} | dict(options)
    named = [values.get(name) for name in cls.writes]
    return tuple(str(Path(out, str(value))) for value in named if value not in (None, *NO_FILES))


def check_apart(read: Iterable[str], written: Iterable[str], shared: Iterable[str] = ()) -> None:
    """Checks that nothing is emptied that is read, under whatever names.

    Args:
        read: captures.
        written: captures; each has one writer.
        shared: files that NFs append to.

    Raises:
        SpecError: names the file.
    """
    sources = {_identity(path) for path in read} - {None}
    taken = set(sources)
    for path, is_shared in [*((p, False) for p in written), *((p, True) for p in shared)]:
        found = _identity(path)
        if found in sources:
            raise SpecError(path, "is read by this mesh, and would be emptied; name another file")
        if found in taken and not is_shared:
            raise SpecError(path, "is written by two ports; name another file for one of them")
        if found is not None and not is_shared:
            taken.add(found)


def _identity(path: str) -> tuple[int, int] | str | None:
    """What two names of one file have in common; None for devices and pipes."""
    try:
        found = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def open_output(path: str) -> int:
    """Opens a file to append to, empty.

    Returns:
        A descriptor; the caller closes it.

    Raises:
        SpecError: it cannot be written, or it is not this user's alone.
    """
    try:
        folder = _folder_of(path)
        try:
            return _open_in(folder, path)
        finally:
            os.close(folder)
    except OSError as error:
        text = f"{system_text(error)}; make the folder, or name another file or folder for output"
        raise SpecError(path, text) from error


def _folder_of(path: str) -> int:
    """Walks to the folder of a file, and trusts no link but one's own and root's."""
    full = os.path.abspath(path)
    at = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in Path(full).parts[1:-1]:
        found = os.stat(name, dir_fd=at, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode) and found.st_uid not in (_ROOT, os.geteuid()):
            os.close(at)
            raise SpecError(path, f"{name!r} on the way is a link of user {found.st_uid}")
        follow = 0 if stat.S_ISLNK(found.st_mode) else os.O_NOFOLLOW
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | follow
        try:
            following = os.open(name, flags, dir_fd=at)
        finally:
            os.close(at)
        at = following
    return at


def _open_in(folder: int, path: str) -> int:
    name = os.path.basename(path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder)
    except FileExistsError:
        pass
    before = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(before.st_mode):
        raise SpecError(path, "is there, and no ordinary file; name another")
    fd = os.open(name, flags, dir_fd=folder)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
        os.close(fd)
        whose = "has another name as well" if found.st_nlink != 1 else f"is user {found.st_uid}'s"
        raise SpecError(path, f"is there and {whose}; remove it, or name another")
    os.ftruncate(fd, 0)
    return fd


class Outputs:
    """The files that the NFs of a mesh write; they stay open while an NF is started again."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def open(self, names: Sequence[str]) -> None:
        """Opens those of `names` that are files and not open yet.

        Raises:
            SpecError: one cannot be written.
        """
        for name in names:
            if name.startswith(PREFIX) and name not in self._fds:
                self._fds[name] = open_output(name.removeprefix(PREFIX))

    def handles(self, names: Sequence[str]) -> dict[str, Handle]:
        """Returns those of `names` that are files, as their NF gets them."""
        return {n: Handle(n, self._fds[n], 0, "file") for n in names if n in self._fds}

    def keep(self, names: Container[str]) -> None:
        """Closes all but `names`."""
        for name in [name for name in self._fds if name not in names]:
            os.close(self._fds.pop(name))

    def close(self) -> None:
        """Closes all files."""
        self.keep(())
