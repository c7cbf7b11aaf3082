# SPDX-License-Identifier: Apache-2.0
"""What `import mesh` offers, and that it costs nothing."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import mesh

PUBLIC = {
    "Catalogue", "Context", "Event", "EventBatch", "EventType", "EventView", "FieldDef", "Kind",
    "MeshError", "ModuleInfo", "NF", "NFError", "NFReport", "NativeCode", "Progress", "Registry",
    "Report", "catalogue", "make_plan", "on", "replay",
}  # fmt: skip
NATIVE = ("mesh._native", "mesh.libnfm")
"""Shared libraries beside the modules."""


def test_all_is_the_documented_list():
    assert set(mesh.__all__) == PUBLIC
    for name in mesh.__all__:
        assert getattr(mesh, name).__doc__, name


FOLDER = Path(mesh.__file__).parent
MODULES = sorted(
    ".".join(("mesh", *path.relative_to(FOLDER).with_suffix("").parts))
    for path in FOLDER.rglob("[a-z]*.py")
)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_offers_what_its_all_says(name: str):
    module = importlib.import_module(name)
    assert module.__doc__
    for public in getattr(module, "__all__", ()):
        assert hasattr(module, public), public


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name: str):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_importing_does_not_load_the_native_library():
    code = (
        "import sys, mesh, stack_modules.http, stack_modules.tcp_stream;"
        "sys.exit('mesh._native' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
