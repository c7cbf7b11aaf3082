# SPDX-License-Identifier: Apache-2.0
"""Native network functions: loads their shared libraries and holds their state."""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mesh._ffi import native
from mesh.errors import NFMissing
from mesh.nf import NF, NativeCode, NativeHandle

__all__ = ["load"]


def load(cls: type[NF], options: Mapping[str, Any]) -> tuple[NativeHandle, Any, Callable[[], None]]:
    """Loads an NF's library and makes its state.

    Args:
        cls: a class with `native` set.
        options: handed to `init` as JSON text.

    Returns:
        The handle for the NF, its process function as `nfm_process_fn`, and what frees the state.

    Raises:
        NFMissing: no library, no symbol, or `init` returned NULL.
    """
    code = cls.native
    if code is None:
        raise NFMissing("has no native code", nf=cls.name)
    library = _open(cls, code)
    process = _symbol(cls, library, code.process)
    address = ctypes.cast(process, ctypes.c_void_p).value
    state = _init(cls, library, code, options)
    handle = NativeHandle(library, state)
    return handle, native().ffi.cast("nfm_process_fn", address), _fini(cls, library, code, state)


def library_path(cls: type[NF], code: NativeCode) -> Path:
    """Returns where the library is: the path given, or beside the NF's Python file."""
    given = Path(code.library)
    if given.suffix == ".so":
        return given
    module = sys.modules[cls.__module__]
    package = sys.modules.get(cls.__module__.rpartition(".")[0])
    folders = [Path(folder) for folder in getattr(package, "__path__", ())]
    if module.__file__ is not None:
        folders.append(Path(module.__file__).parent)
    tried = [folder / f"{code.library}.so" for folder in folders]
    for path in tried:
        if path.is_file():
            return path
    places = ", ".join(str(path.parent) for path in tried)
    raise NFMissing(f"{code.library}.so is not in {places}; build the project", nf=cls.name)


def _open(cls: type[NF], code: NativeCode) -> ctypes.CDLL:
    path = library_path(cls, code)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NFMissing(f"{path} does not load: {error}", nf=cls.name) from error


def _symbol(cls: type[NF], library: ctypes.CDLL, name: str) -> Any:
    try:
        return getattr(library, name)
    except AttributeError as error:
        raise NFMissing(f"its library has no function {name}", nf=cls.name) from error


def _init(cls: type[NF], library: ctypes.CDLL, code: NativeCode, options: Mapping[str, Any]) -> int:
    if code.init is None:
        return 0
    init = _symbol(cls, library, code.init)
    init.restype, init.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    state = init(json.dumps(dict(options), default=str).encode())
    if not state:
        raise NFMissing(f"{code.init} refused its configuration", nf=cls.name)
    return int(state)


def _fini(cls: type[NF], library: ctypes.CDLL, code: NativeCode, state: int) -> Callable[[], None]:
    if code.fini is None:
        return lambda: None
    fini = _symbol(cls, library, code.fini)
    fini.restype, fini.argtypes = None, [ctypes.c_void_p]
    return lambda: fini(state)
