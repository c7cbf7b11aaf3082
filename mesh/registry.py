# SPDX-License-Identifier: Apache-2.0
"""Finds network functions and stack modules: by entry point, `pkg.mod:Class` or `file.py:Class`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from mesh.errors import ModuleMissing, NFMissing, did_you_mean, place_of
from mesh.module import ModuleInfo
from mesh.nf import NF

__all__ = ["Registry"]

NF_GROUP = "mesh.nfs"
MODULE_GROUP = "mesh.stack_modules"


@dataclass(frozen=True, slots=True)
class Registry:
    """What is installed: a value that is passed in, never a global.

    Attributes:
        nfs: name → loader of the class.
        modules_by_name: name → loader of the module's INFO.
    """

    nfs: Mapping[str, Callable[[], Any]]
    modules_by_name: Mapping[str, Callable[[], Any]]

    @classmethod
    def installed(cls) -> Registry:
        """Reads the entry points of all installed distributions; loads none of them."""
        return cls(
            _loaders(entry_points(group=NF_GROUP)), _loaders(entry_points(group=MODULE_GROUP))
        )

    def nf_names(self) -> tuple[str, ...]:
        """Returns the names of the installed NFs, sorted."""
        return tuple(sorted(self.nfs))

    def nf(self, reference: str) -> type[NF]:
        """Returns an NF class.

        Args:
            reference: an installed name, `pkg.mod:Class` or `path/to/file.py:Class`; with a file
                that holds one NF the class may be left out.

        Raises:
            NFMissing: no such name, file or class, or its import failed (cause kept).
        """
        if reference in self.nfs:
            found = _call(self.nfs[reference], reference)
        elif ".py" in reference:
            found = _from_file(reference)
        elif ":" in reference:
            found = _from_module(reference)
        else:
            hint = did_you_mean(reference, self.nfs)
            known = ", ".join(self.nf_names()) or "none"
            raise NFMissing(f"no NF {reference!r} is installed{hint or f' (installed: {known})'}")
        if not (isinstance(found, type) and issubclass(found, NF)):
            raise NFMissing(f"{reference!r} is no subclass of mesh.NF")
        return found

    def module(self, name: str) -> ModuleInfo:
        """Returns a stack module, or raises ModuleMissing with the closest name."""
        if name not in self.modules_by_name:
            hint = did_you_mean(name, self.modules_by_name)
            raise ModuleMissing(f"no stack module {name!r} is installed{hint}")
        try:
            found = self.modules_by_name[name]()
        except (ImportError, AttributeError) as error:
            raise ModuleMissing(f"stack module {name!r} does not load: {error}") from error
        if not isinstance(found, ModuleInfo):
            raise ModuleMissing(f"entry point {name!r} of {MODULE_GROUP} is no ModuleInfo")
        return found

    def modules(self) -> tuple[ModuleInfo, ...]:
        """Returns all installed stack modules, sorted by name."""
        return tuple(self.module(name) for name in sorted(self.modules_by_name))


def _loaders(points: Iterable[EntryPoint]) -> dict[str, Callable[[], Any]]:
    return {point.name: point.load for point in points}


def _call(loader: Callable[[], Any], reference: str) -> Any:
    try:
        return loader()
    except (Exception, SystemExit) as error:
        why = str(error) if isinstance(error, Exception) else f"it exits ({error})"
        raise NFMissing(f"NF {reference!r} does not load: {why}{place_of(error)}") from error


def _from_module(reference: str) -> Any:
    module_name, _, attribute = reference.partition(":")
    module = _call(lambda: importlib.import_module(module_name), reference)
    return _attribute(module, attribute, reference)


def _from_file(reference: str) -> Any:
    head, _, attribute = reference.rpartition(":")
    if attribute.endswith(".py") or not head:
        head, attribute = reference, ""
    path = Path(head).resolve()
    if not path.is_file():
        raise NFMissing(f"NF {reference!r}: there is no file {path}")
    module = _call(lambda: _import_file(path), reference)
    if attribute:
        return _attribute(module, attribute, reference)
    own = [v for v in vars(module).values() if _is_own_nf(v, module.__name__)]
    if len(own) != 1:
        names = ", ".join(cls.__name__ for cls in own) or "none"
        raise NFMissing(f"NF {reference!r}: name the class, as in {path.name}:Class (has: {names})")
    return own[0]


def _is_own_nf(value: Any, module_name: str) -> bool:
    return isinstance(value, type) and issubclass(value, NF) and value.__module__ == module_name


def _import_file(path: Path) -> Any:
    name = f"nfmesh_file_{path.stem}_{abs(hash(str(path))):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _attribute(module: Any, name: str, reference: str) -> Any:
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise NFMissing(f"NF {reference!r}: no class {name!r} there{did_you_mean(name, known)}")
    return getattr(module, name)
