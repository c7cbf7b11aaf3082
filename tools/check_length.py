# SPDX-License-Identifier: Apache-2.0
"""Checks that no file has more than 600 lines and no function more than 60.

Exceptions stand in tools/length_allow.txt with their reason.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("native", "stack_modules", "nfs", "mesh", "tests", "tools", "bench", "examples")
FILE_LINES = 600
FUNCTION_LINES = 60
C_NAME = re.compile(r"([A-Za-z_]\w*)\s*\(")


def c_functions(lines: list[str]) -> Iterator[tuple[str, int]]:
    """Yields (name, lines) of each C function: from column 0 to the closing brace in column 0.

    Relies on the layout that clang-format enforces.
    """
    start: int | None = None
    opened = False
    for number, line in enumerate(lines):
        text = line.rstrip()
        if start is None:
            if text[:1].isalpha() and "(" in text and not text.endswith((";", ":")):
                start, opened = number, "{" in text
        elif text.startswith("}"):
            name = C_NAME.search(lines[start])
            yield (name.group(1) if name else lines[start], number - start + 1)
            start = None
        elif not opened:
            opened = "{" in text
            if text.endswith(";") and not opened:
                start = None


def python_functions(text: str) -> Iterator[tuple[str, int]]:
    """Yields (name, lines) of each Python function, its docstring not counted."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            yield node.name, (node.end_lineno or node.lineno) - first.lineno + 1


def allowed() -> set[str]:
    """Returns the exceptions: "path" or "path:function"."""
    lines = (ROOT / "tools/length_allow.txt").read_text(encoding="utf-8").splitlines()
    return {line.split()[0] for line in lines if line.strip() and not line.startswith("#")}


def sources() -> Iterator[Path]:
    """Yields every C and Python file of the project."""
    for folder in FOLDERS:
        for pattern in ("*.c", "*.h", "*.py"):
            yield from sorted((ROOT / folder).rglob(pattern))


def main() -> int:
    """Prints one line per file or function that is too long and not excepted."""
    errors, seen, exceptions = [], 0, allowed()
    for path in sources():
        name = str(path.relative_to(ROOT))
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        seen += 1
        if len(lines) > FILE_LINES and name not in exceptions:
            errors.append(f"{name}: {len(lines)} lines, at most {FILE_LINES}")
        functions = python_functions(text) if path.suffix == ".py" else c_functions(lines)
        errors += [
            f"{name}: {function} has {length} lines, at most {FUNCTION_LINES}"
            for function, length in functions
            if length > FUNCTION_LINES and f"{name}:{function}" not in exceptions
        ]
    print("\n".join(errors) or f"length: {seen} files keep the limits")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
