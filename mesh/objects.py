# SPDX-License-Identifier: Apache-2.0
"""The shared memory of one mesh: who made it owns it, so it outlives the processes that map it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from mesh._ffi import check, native
from mesh.errors import CapacityError, NativeError, system_text
from mesh.fdpass import Handle
from mesh.native_worker import domain_config, worker_config

__all__ = [
    "OBJECT_NAMES",
    "Objects",
    "SharedObject",
    "backing_word",
    "cursor_size",
    "log_size",
    "worker_object_names",
]

OBJECT_NAMES = ("header", "packets", "records", "fields", "flows")
"""By enum nfm_object."""
HUGE_BYTES = 1 << 20
"""An object from half a huge page on is tried on huge pages first (native/src/base/object.c)."""


@dataclass(frozen=True, slots=True)
class SharedObject:
    """One memfd of ours, or an eventfd.

    Attributes:
        name: "w0/packets", "ring/<nf>/w0", …
        size: bytes.
        backing: "huge_1g", "huge_2m" or "ordinary"; "eventfd" is none.
        fd: writable.
        read_only_fd: a descriptor of the same memory that cannot be mapped writable.
    """

    name: str
    size: int
    backing: str
    fd: int
    read_only_fd: int


_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""Who may write an object may neither cut it nor keep others from mapping it."""


class Objects:
    """All shared objects of a supervisor.

    Args:
        owner: user that they belong to; None: this one.
    """

    def __init__(self, owner: int | None = None) -> None:
        self._owner = owner
        self._objects: dict[str, SharedObject] = {}
        self._sparse: set[str] = set()

    def __contains__(self, name: object) -> bool:
        return name in self._objects

    def __iter__(self) -> Iterator[SharedObject]:
        return iter(self._objects.values())

    def __getitem__(self, name: str) -> SharedObject:
        return self._objects[name]

    def create(self, name: str, size: int) -> SharedObject:
        """Makes an object, or returns the one of this name that is there already.

        Raises:
            CapacityError: no memory for it.
            NativeError: the system refuses, for instance another descriptor.
        """
        found = self._objects.get(name)
        if found is not None:
            if found.size < size:
                raise CapacityError(f"{name} has {found.size} bytes, {size} are needed now")
            return found
        ffi, lib = native()
        info, error = ffi.new("nfm_object_info *"), ffi.new("nfm_error *")
        with _remedied():
            check(lib.nfm_object_create(f"nfmesh:{name}".encode(), size, info, error), name, error)
        return self._add(name, int(info.size), backing_word(info.backing), int(info.fd))

    def create_sparse(self, name: str, size: int) -> SharedObject:
        """Makes an object of ordinary pages that takes memory only where it is written."""
        found = self._objects.get(name)
        if found is not None:
            return found
        try:
            fd = os.memfd_create(f"nfmesh:{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise CapacityError(f"{name}: {system_text(error)}") from error
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        self._sparse.add(name)
        return self._add(name, size, "ordinary", fd)

    def _add(self, name: str, size: int, backing: str, fd: int) -> SharedObject:
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        read_only = int(lib.nfm_object_read_only(fd, error))
        if read_only < 0:
            os.close(fd)
            with _remedied():
                check(int(error.code) or int(lib.NFM_E_IO), name, error)
        if self._owner is not None:
            os.fchown(fd, self._owner, -1)
        made = SharedObject(name, size, backing, fd, read_only)
        self._objects[name] = made
        return made

    def create_worker(self, worker: str, config: Mapping[str, int]) -> tuple[SharedObject, ...]:
        """Makes the objects of a worker for these sizes (see `mesh.native_worker`)."""
        ffi, lib = native()
        sizes, error = ffi.new("uint64_t[]", lib.NFM_OBJ_COUNT), ffi.new("nfm_error *")
        row = worker_config(config)
        check(lib.nfm_worker_object_sizes(row, sizes, error), f"sizes of {worker}", error)
        names = worker_object_names(worker)
        return tuple(self.create(name, int(size)) for name, size in zip(names, sizes, strict=True))

    def create_inbox(self, prefix: str, config: Mapping[str, int]) -> tuple[SharedObject, ...]:
        """Makes the objects of a domain's inbox for these sizes."""
        ffi, lib = native()
        sizes, error = ffi.new("uint64_t[]", lib.NFM_OBJ_COUNT), ffi.new("nfm_error *")
        rc = lib.nfm_domain_object_sizes(domain_config(config), sizes, error)
        check(rc, f"sizes of {prefix}", error)
        names = worker_object_names(prefix)
        return tuple(self.create(name, int(size)) for name, size in zip(names, sizes, strict=True))

    def create_ring(self, name: str, entries: int) -> SharedObject:
        """Makes a ring of `entries` places, a power of two."""
        return self.create(name, int(native().lib.nfm_ring_object_size(entries)))

    def create_answers(self, name: str) -> SharedObject:
        """Makes the ring in which a module's process answers its worker."""
        lib = native().lib
        return self.create(name, int(lib.nfm_answers_object_size(int(lib.NFM_ANSWERS_MIN))))

    def create_handover(self, name: str) -> SharedObject:
        """Makes the ring in which a worker hands over to another one."""
        return self.create(name, int(native().lib.nfm_handover_object_size()))

    def create_bell(self, name: str) -> SharedObject:
        """Makes what wakes a worker that sleeps: an eventfd, which has no memory."""
        found = self._objects.get(name)
        if found is not None:
            return found
        try:
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            read_only_fd = os.dup(fd)
        except OSError as error:
            raise CapacityError(f"{name}: {system_text(error)}") from error
        self._objects[name] = SharedObject(name, 0, "eventfd", fd, read_only_fd)
        return self._objects[name]

    def handle(self, name: str, *, writable: bool) -> Handle:
        """Returns an object as a process may have it."""
        found = self._objects[name]
        fd = found.fd if writable else found.read_only_fd
        return Handle(name, fd, found.size, found.backing)

    def remove(self, name: str) -> None:
        """Lets go of an object; its memory is free when nobody maps it any more."""
        found = self._objects.pop(name)
        self._sparse.discard(name)
        os.close(found.fd)
        os.close(found.read_only_fd)

    def close(self) -> None:
        """Lets go of all objects."""
        for name in list(self._objects):
            self.remove(name)

    @property
    def notices(self) -> tuple[str, ...]:
        """Steps down from huge pages, in one line."""
        tried = [o for o in self if o.size >= HUGE_BYTES and o.name not in self._sparse]
        down = [o for o in tried if o.backing == "ordinary"]
        if not down:
            return ()
        mib = -(-sum(o.size for o in down) // (1 << 20))
        text = (
            f"no huge pages for {len(down)} objects of {mib} MiB: ordinary pages instead; "
            f"reserve some with: sysctl vm.nr_hugepages={-(-mib // 2)}"
        )
        return (text,)


@contextmanager
def _remedied() -> Iterator[None]:
    """Says how to mend what the library could not have."""
    try:
        yield
    except NativeError as error:
        if os.strerror(errno.EMFILE) not in str(error):
            raise
        too_many = OSError(errno.EMFILE, str(error))
        raise CapacityError(system_text(too_many)) from error


def worker_object_names(worker: str) -> tuple[str, ...]:
    """Returns the names of a worker's objects in the order of enum nfm_object.

    >>> worker_object_names("w0")[:2]
    ('w0/header', 'w0/packets')
    """
    return tuple(f"{worker}/{name}" for name in OBJECT_NAMES)


def log_size(capacity: int) -> int:
    """Returns the bytes of a log object for so many bytes of entries.

    Raises:
        ValueError: not a power of two, or less than 64 KiB.
    """
    size = int(native().lib.nfm_log_object_size(capacity))
    if size == 0:
        raise ValueError(f"a log has a power of two of bytes, 65536 or more, not {capacity}")
    return size


def cursor_size() -> int:
    """Returns the bytes of a cursor object."""
    return int(native().lib.nfm_log_cursor_size())


def backing_word(backing: int) -> str:
    """Says what memory an object lies on (enum nfm_backing)."""
    lib = native().lib
    words = {
        lib.NFM_BACKING_HUGE_1G: "huge_1g",
        lib.NFM_BACKING_HUGE_2M: "huge_2m",
        lib.NFM_BACKING_ORDINARY: "ordinary",
        lib.NFM_BACKING_PRIVATE: "private",
    }
    return words.get(backing, "none")
