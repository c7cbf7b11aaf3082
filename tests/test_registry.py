# SPDX-License-Identifier: Apache-2.0
"""Finding NFs and modules by name, module path and file."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.errors import ModuleMissing, NFMissing
from mesh.module import ModuleInfo
from mesh.nf import NF
from mesh.registry import Registry

SOURCE = """
from mesh import NF, on

class First(NF):
    @on("packet")
    def seen(self, batch):
        pass
"""


class Sample(NF):
    pass


def fail() -> object:
    raise RuntimeError("boom")


@pytest.fixture
def registry() -> Registry:
    nfs = {"sample": lambda: Sample, "broken": fail, "wrong": lambda: int}
    modules = {"dns": lambda: ModuleInfo.builtin("dns"), "odd": lambda: 7}
    return Registry(nfs, modules)


def test_an_installed_name(registry: Registry):
    assert registry.nf("sample") is Sample
    assert registry.nf_names() == ("broken", "sample", "wrong")


def test_a_module_path(registry: Registry):
    assert registry.nf(f"{__name__}:Sample") is Sample


def test_a_file_with_and_without_the_class(registry: Registry, tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(SOURCE)
    cls = registry.nf(f"{file}:First")
    assert cls.name == "first"
    assert registry.nf(str(file)) is cls


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("sampel", "did you mean 'sample'"),
        ("zzz", "installed: broken, sample, wrong"),
        ("broken", "does not load: boom"),
        ("wrong", "no subclass of mesh.NF"),
        ("no.such.module:X", "does not load"),
        (f"{__name__}:Sampel", "no class 'Sampel' there; did you mean 'Sample'"),
        ("missing.py:X", "there is no file"),
    ],
)
def test_errors_say_what_to_do(registry: Registry, reference: str, text: str):
    with pytest.raises(NFMissing, match=text):
        registry.nf(reference)


def test_a_file_with_several_classes_wants_a_choice(registry: Registry, tmp_path: Path):
    file = tmp_path / "two.py"
    file.write_text(SOURCE + SOURCE.replace("First", "Second"))
    with pytest.raises(NFMissing, match=r"name the class, as in two.py:Class \(has: First, Second"):
        registry.nf(str(file))


def test_a_file_that_fails_keeps_the_cause(registry: Registry, tmp_path: Path):
    file = tmp_path / "bad.py"
    file.write_text("import nothing_of_this_name\n")
    with pytest.raises(NFMissing) as caught:
        registry.nf(str(file))
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_modules(registry: Registry):
    assert registry.module("dns").name == "dns"
    with pytest.raises(ModuleMissing, match="did you mean 'dns'"):
        registry.module("dnss")
    with pytest.raises(ModuleMissing, match="no ModuleInfo"):
        registry.module("odd")


def test_installed_finds_what_this_project_ships():
    found = Registry.installed()
    assert {"flow_counter", "flow_log", "syn_scan"} <= set(found.nf_names())
    assert {"tcp_track", "tcp_stream", "http"} <= set(found.modules_by_name)
