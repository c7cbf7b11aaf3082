# SPDX-License-Identifier: Apache-2.0
"""What C compilers need to build NFs and stack modules outside of this repository.

cc -shared -fPIC mine.c $(python -m mesh.sdk) -o mine.so
"""

from __future__ import annotations

from pathlib import Path

import mesh
from mesh.errors import StateError

__all__ = ["flags", "include_dir", "library_dir"]


def include_dir() -> Path:
    """Returns the folder of `nfm/nfm.h` and `nfm/module.h`, as installed with this package."""
    return _holding("include/nfm/nfm.h") / "include"


def library_dir() -> Path:
    """Returns the folder of libnfm.so, to which what calls its functions must be linked."""
    return _holding("libnfm.so")


def flags() -> list[str]:
    """Returns the options for compiler and linker, in this order, behind the sources."""
    library = library_dir()
    return [f"-I{include_dir()}", f"-L{library}", "-lnfm", f"-Wl,-rpath,{library}"]


def _holding(name: str) -> Path:
    for folder in mesh.__path__:
        if (Path(folder) / name).is_file():
            return Path(folder)
    raise StateError(f"{name} is not installed beside the package; install nfmesh with pip")


if __name__ == "__main__":
    print(*flags())
