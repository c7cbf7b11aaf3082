# SPDX-License-Identifier: Apache-2.0
"""Checks that each header compiles alone, as C and (the public ones) as C++.

nfm_abi.h is declarations only, read by C through nfm.h and by cffi as it is: it must hold no
preprocessor line and must parse.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent.parent
ABI = ROOT / "native/include/nfm/nfm_abi.h"
C = ["-std=gnu11", "-Wall", "-Wextra", "-Werror"]
CPP = ["-x", "c++", "-std=c++17", "-Wall", "-Werror"]


def compile_alone(header: Path, flags: list[str]) -> str:
    """Returns the compiler's words about a file that includes only |header|; empty when good."""
    paths = [f"-I{ROOT / 'native/include'}", f"-I{ROOT / 'native/src'}", f"-I{header.parent}"]
    with tempfile.NamedTemporaryFile("w", suffix=".c") as unit:
        unit.write(f'#include "{header}"\n')
        unit.flush()
        command = [os.environ.get("CC", "cc"), "-fsyntax-only", *flags, *paths, unit.name]
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def abi_errors() -> list[str]:
    """Returns why cffi could not read the ABI header."""
    text = ABI.read_text(encoding="utf-8")
    errors = [
        f"{ABI}:{number}: preprocessor line in the ABI header"
        for number, line in enumerate(text.splitlines(), 1)
        if line.lstrip().startswith("#")
    ]
    try:
        FFI().cdef(text)
    except Exception as error:
        errors.append(f"{ABI}: cffi cannot read it: {error}")
    return errors


def main() -> int:
    """Prints the compiler's words per failing header; the exit status says whether one failed."""
    public = sorted(p for p in (ROOT / "native/include").rglob("*.h") if p != ABI)
    private = sorted((ROOT / "native/src").rglob("*.h"))
    private += sorted((ROOT / "stack_modules").rglob("*.h"))
    errors = abi_errors()
    for header in public + private:
        errors += filter(None, [compile_alone(header, C)])
    for header in public:
        errors += filter(None, [compile_alone(header, CPP)])
    print("\n".join(errors) or f"headers: {len(public) + len(private)} compile alone")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
