# SPDX-License-Identifier: Apache-2.0
"""The documents of the root name every module of `mesh`, and no file that is gone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (
    "native",
    "stack_modules",
    "nfs",
    "mesh",
    "tests",
    "bench",
    "tools",
    "deploy",
    "examples",
)
TICKED = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"[\w.-]+\.(?:py|c|h|cmake)\b")
ELSEWHERE = {"mine.py"}
"""Files of examples."""


def test_the_map_names_every_module() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    words = {word for ticked in TICKED.findall(text) for word in re.findall(r"\w+", ticked)}
    modules = {
        path.stem for folder in ("", "control") for path in (ROOT / "mesh" / folder).glob("*.py")
    }
    assert modules - words == {"__init__"}, "put it into the table of ARCHITECTURE.md"


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "HACKING.md", "README.md"])
def test_documents_name_files_that_are_there(name: str) -> None:
    known = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*")}
    ticked = TICKED.findall((ROOT / name).read_text())
    named = {file for each in ticked if "<" not in each for file in FILE.findall(each)}
    assert named - known - ELSEWHERE == set()
