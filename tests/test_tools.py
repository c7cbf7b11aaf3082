# SPDX-License-Identifier: Apache-2.0
"""The project's own checks find what they are for."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("file", "include", "is_fine"),
    [
        ("native/src/wire/a.c", "base/pool.h", True),
        ("native/src/wire/a.c", "nfm/nfm.h", True),
        ("native/src/wire/a.c", "flow/table.h", False),
        ("native/src/base/a.c", "io/port.h", False),
        ("native/src/io/a.c", "wire/wire.h", False),
        ("native/src/engine/a.c", "io/port.h", True),
        ("native/src/event/a.c", "engine/worker.h", False),
        ("stack_modules/dns/a.c", "nfm/module.h", True),
        ("stack_modules/dns/a.c", "base/pool.h", False),
        ("stack_modules/dns/a.c", "../http/http_parse.h", False),
    ],
)
def test_includes_against_the_layers_are_found(
    tmp_path, monkeypatch, capsys, file, include, is_fine
):
    check = tool("check_layers")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    write(tmp_path / file, f'#include <stdint.h>\n#include "{include}"\n')
    assert check.main() == (0 if is_fine else 1)
    assert is_fine or include in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "is_fine"),
    [
        ("static const int table[] = {1, 2};\nint f(int i) { return table[i]; }", True),
        (
            'static const char *const names[] = {"a"};\nconst char *f(int i) { return names[i]; }',
            True,
        ),
        ("static int counter = 1;\nint f(void) { return counter++; }", False),
        ("int f(void) { static int calls; return calls++; }", False),
        ("_Thread_local int mine;\nint *f(void) { return &mine; }", False),
    ],
)
def test_mutable_globals_are_found(tmp_path, monkeypatch, code, is_fine):
    source = write(tmp_path / "a.c", code + "\n")
    subprocess.run(["cc", "-fPIC", "-c", source, "-o", tmp_path / "a.c.o"], check=True)
    check = tool("check_globals")
    monkeypatch.setattr("sys.argv", ["check_globals", str(tmp_path)])
    assert check.main() == (0 if is_fine else 1)


def test_a_build_without_objects_is_no_success(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["check_globals", str(tmp_path)])
    assert tool("check_globals").main() == 2


def test_long_functions_are_found_in_both_languages():
    check = tool("check_length")
    body = "    x();\n" * 5
    c = f"int proto(int a,\n          int b);\n\nint f(int a,\n      int b) {{\n{body}}}\n"
    assert list(check.c_functions(c.splitlines())) == [("f", 8)]
    python = f'def f():\n    """Doc\n\n    more.\n    """\n{body}'
    assert list(check.python_functions(python)) == [("f", 5)]


def test_a_header_that_needs_another_is_found(tmp_path):
    check = tool("check_headers")
    good = write(tmp_path / "good.h", "#include <stdint.h>\nuint8_t f(void);\n")
    bad = write(tmp_path / "bad.h", "uint8_t g(void);\n")
    assert check.compile_alone(good, check.C) == ""
    assert "uint8_t" in check.compile_alone(bad, check.C)
