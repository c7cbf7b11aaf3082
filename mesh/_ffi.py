# SPDX-License-Identifier: Apache-2.0
"""The seam to the C library: the only importer of `mesh._native`, loaded when first asked for."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from mesh.errors import CapacityError, NativeError, StateError

ABI_VERSION = 4
"""The ABI that this Python code was written for (NFM_ABI_VERSION in nfm.h)."""


class Native(NamedTuple):
    """The cffi handles: `ffi` makes and casts C data, `lib` holds functions and constants."""

    ffi: Any
    lib: Any


@functools.cache
def native() -> Native:
    """Loads the C library once.

    Raises:
        NativeError: the extension is missing or was built for another ABI.
    """
    try:
        from mesh._native import ffi, lib
    except ImportError as error:
        text = f"the native library is not there; install nfmesh with pip ({error})"
        raise NativeError(-8, "mesh._native", text) from error
    found = int(lib.nfm_abi_version())
    if found != ABI_VERSION:
        text = f"library has ABI {found}, this package needs {ABI_VERSION}; reinstall nfmesh"
        raise NativeError(int(lib.NFM_E_ABI), "mesh._native", text)
    return Native(ffi, lib)


def check(rc: int, where: str, error: Any = None) -> int:
    """Turns a native status into an exception: the only place that does.

    Args:
        rc: what the C function returned.
        where: the call, or the file or object that it was about.
        error: the `nfm_error *` that was passed along, or None.

    Returns:
        rc, when it is not negative.

    Raises:
        CapacityError: out of memory or a limit was reached.
        StateError: the call came in the wrong order.
        NativeError: anything else.
    """
    if rc >= 0:
        return rc
    ffi, lib = native()
    text = text_of(error) or ffi.string(lib.nfm_strerror(rc)).decode()
    if rc in (lib.NFM_E_NOMEM, lib.NFM_E_LIMIT):
        raise CapacityError(f"{where}: {text}")
    if rc == lib.NFM_E_STATE:
        raise StateError(f"{where}: {text}")
    raise NativeError(rc, where, text)


def check_pointer(pointer: Any, where: str, error: Any) -> Any:
    """Returns a pointer that is not NULL, or raises what `error` says (see `check`)."""
    if pointer != native().ffi.NULL:
        return pointer
    check(int(error.code) or int(native().lib.NFM_E_INVAL), where, error)
    return pointer


def text_of(error: Any) -> str:
    """Returns the one line in an `nfm_error *`, or "" when there is none."""
    if error is None:
        return ""
    raw: bytes = native().ffi.string(error.text)
    return raw.decode("utf-8", "replace")
