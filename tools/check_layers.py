# SPDX-License-Identifier: Apache-2.0
"""Checks which C folder may include which; ARCHITECTURE.md draws the same picture."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# folder of native/src -> folders it may include from besides itself and <nfm/...>.
BELOW = {
    "base": set(),
    "wire": {"base"},
    "io": {"base"},
    "flow": {"base", "wire"},
    "event": {"base", "wire", "flow"},
    "stack": {"base", "wire", "flow", "event"},
    "engine": {"base", "wire", "flow", "event", "stack", "io"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def includes(path: Path) -> list[str]:
    """Returns the names that a C file includes with quotation marks."""
    return INCLUDE.findall(path.read_text(encoding="utf-8"))


def core_errors(path: Path) -> list[str]:
    """Returns what is wrong with the includes of one file of native/src."""
    folder = path.relative_to(ROOT / "native/src").parts[0]
    if folder not in BELOW:
        return [f"{path}: native/src/{folder} is not a layer of tools/check_layers.py"]
    errors = []
    for name in includes(path):
        top = name.split("/")[0] if "/" in name else folder
        if top not in BELOW[folder] | {folder, "nfm"}:
            errors.append(f'{path}: layer {folder} must not include "{name}"')
    return errors


def plugin_errors(path: Path, header: str) -> list[str]:
    """Returns the includes of a plug-in other than |header|, its own files, or shared ones.

    Shared ones lie beside the plug-ins' folders: `nfs/session_map.h`.
    """
    folders = (path.parent, path.parent.parent)
    return [
        f'{path}: may include "{header}", its own files and shared ones, not "{name}"'
        for name in includes(path)
        if name != header and not any((folder / name).is_file() for folder in folders)
    ]


def main() -> int:
    """Prints one line per broken rule; the exit status says whether there was one."""
    errors: list[str] = []
    core = sorted((ROOT / "native/src").rglob("*.[ch]"))
    for path in core:
        errors += core_errors(path)
    plugins = 0
    for folder, header in (("stack_modules", "nfm/module.h"), ("nfs", "nfm/nfm.h")):
        for path in sorted((ROOT / folder).glob("*/*.[ch]")):
            errors += plugin_errors(path, header)
            plugins += 1
    print("\n".join(errors) or f"layers: {len(core)} core and {plugins} plug-in files keep them")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
