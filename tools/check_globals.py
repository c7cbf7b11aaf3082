# SPDX-License-Identifier: Apache-2.0
"""Checks that no object of the data plane has mutable globals: .data and .bss are empty.

Usage: check_globals.py BUILD_DIR (a build without sanitizers; they add data of their own).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def mutable_bytes(obj: Path) -> dict[str, int]:
    """Returns the writable sections of an object file that are not empty.

    .data.rel.ro holds constant pointer tables: read-only after relocation, so it passes.
    """
    out = subprocess.run(
        ["size", "-A", str(obj)], check=True, capture_output=True, text=True
    ).stdout
    rows = (line.split() for line in out.splitlines())
    return {
        row[0]: int(row[1])
        for row in rows
        if len(row) == 3
        and row[0].startswith((".data", ".bss", ".tdata", ".tbss"))
        and not row[0].startswith(".data.rel.ro")
        and int(row[1]) > 0
    }


def main() -> int:
    """Prints one line per offending object; the exit status says whether there was one."""
    build = Path(sys.argv[1] if len(sys.argv) > 1 else "build/python")
    objects = sorted(p for p in build.rglob("*.o") if p.name != "_native.c.o")
    if not objects:
        print(f"{build}: no object files; run make setup", file=sys.stderr)
        return 2
    bad = {obj: found for obj in objects if (found := mutable_bytes(obj))}
    for obj, found in bad.items():
        print(f"{obj}: mutable globals: {found}")
    if not bad:
        print(f"globals: none in {len(objects)} objects")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
