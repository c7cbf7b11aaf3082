# SPDX-License-Identifier: Apache-2.0
"""What a process of the mesh gives up before it does anything else: the child's side of isolation.

Its user and groups were set before it was executed, or are set here where that user could not have
executed it. Then it ties its life to the supervisor's, can gain no privileges any more, and drops
every capability. Its descriptors are those it was given: the supervisor closes all others.
"""

from __future__ import annotations

import ctypes
import os
import signal

from mesh.errors import ProcessError

__all__ = ["become", "confine", "give_up_privileges", "keep_private", "read_token"]

_PR_SET_PDEATHSIG, _PR_GET_DUMPABLE, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 1, 3, 4, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_MAX_CAPABILITY = 63
TOKEN_BYTES = 32


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def become(uid: int, gid: int) -> None:
    """Makes this process another user's, in no group but `gid`, for good.

    Raises:
        ProcessError: this process may not.
    """
    _drop_bounding(ctypes.CDLL(None, use_errno=True))
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise ProcessError(f"cannot become user {uid}: {error.strerror}") from error


def confine(parent: int, *, keep_capabilities: bool = False, is_private: bool = False) -> None:
    """Ties this process to its supervisor and takes its privileges away, for good.

    Args:
        parent: pid of the supervisor: it dies, this process is killed. (The kernel forgets this
            when a process changes its user, so that comes before.)
        keep_capabilities: for workers, whose ports may need them.
        is_private: no process of the same user may trace this one or open its descriptors.

    Raises:
        ProcessError: the supervisor is gone already, or the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _prctl(libc, _PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ProcessError(f"the supervisor (pid {parent}) is gone")
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    _prctl(libc, _PR_SET_DUMPABLE, 0 if is_private else 1)
    if not keep_capabilities:
        _drop_capabilities(libc)


def give_up_privileges() -> None:
    """Takes this process' capabilities away and lets it gain none: for who has no supervisor."""
    libc = ctypes.CDLL(None, use_errno=True)
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    _drop_capabilities(libc)


def keep_private(is_private: bool) -> bool:
    """Lets no process of the same user trace this one, open its descriptors or read its memory.

    Returns:
        Whether it was so before.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    was_private = bool(libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 0)
    _prctl(libc, _PR_SET_DUMPABLE, 0 if is_private else 1)
    return was_private


def read_token(fd: int) -> bytes:
    """Reads the token that the supervisor left in a pipe, once."""
    with os.fdopen(fd, "rb") as pipe:
        token = pipe.read(TOKEN_BYTES)
    if len(token) != TOKEN_BYTES:
        raise ProcessError("no token from the supervisor: this program is started by nfmesh run")
    return token


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise ProcessError(f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def _drop_bounding(libc: ctypes.CDLL) -> None:
    for capability in range(_MAX_CAPABILITY + 1):
        if libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) != 0:
            break  # past the last one, or not allowed: then there is nothing to drop


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    _drop_bounding(libc)
    libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0)
    header, data = _CapHeader(_CAPABILITY_VERSION_3, 0), (_CapData * 2)()
    if libc.capset(ctypes.byref(header), ctypes.byref(data)) != 0:
        raise ProcessError(f"capset: {os.strerror(ctypes.get_errno())}")
