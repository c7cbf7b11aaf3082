# SPDX-License-Identifier: Apache-2.0
"""What a command and a process of the mesh load: what they need, and nothing else."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE_S

from mesh.cli.app import COMMANDS, load

TELLING = (
    "import atexit, os, sys\n"
    "def tell():\n"
    "    os.write(int(os.environ['TELL_FD']), ' '.join(sys.modules).encode())\n"
    "atexit.register(tell)\n"
)
HEAVY = frozenset(
    {"numpy", "zmq", "yaml", "msgpack", "kubernetes", "prometheus_client", "_cffi_backend"}
)
NO_MESH_RUNS = 2


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Runs a program, and returns the modules that it had at its end."""
    monkeypatch.setenv("NFMESH_RUN", str(tmp_path))

    def run(program, *words, status=0):
        path = tmp_path / "modules"
        with path.open("wb") as file:
            monkeypatch.setenv("TELL_FD", str(file.fileno()))
            command = [sys.executable, "-c", TELLING + program, *words]
            keep = (file.fileno(),)
            done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, pass_fds=keep)
        assert done.returncode == status, done.stderr
        return frozenset(path.read_text().split())

    return run


@pytest.fixture
def nfmesh(loaded):
    def run(*words, status=0):
        return loaded("from mesh.cli import main; main()", *words, status=status)

    return run


def _of_mesh(modules):
    return {name for name in modules if name.startswith("mesh.")}


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("no_command",)])
def test_what_is_of_no_command_loads_none(nfmesh, words):
    modules = nfmesh(*words, status=0 if words[0].startswith("--") else 2)
    assert _of_mesh(modules) == {"mesh.cli", "mesh.cli.app", "mesh.cli.output", "mesh.errors"}
    assert not modules & HEAVY


def test_completion_loads_no_command_that_is_not_written_out(nfmesh, monkeypatch):
    monkeypatch.setenv("_NFMESH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "nfmesh st")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert not {name for name in _of_mesh(nfmesh()) if name.startswith("mesh.control")}


@pytest.mark.parametrize("words", [("status",), ("stop",), ("nf", "add", "dns_log")])
def test_a_question_to_a_mesh_loads_what_asks(nfmesh, words):
    modules = nfmesh(*words, status=NO_MESH_RUNS)
    assert modules & HEAVY == {"zmq", "msgpack"}
    assert not modules & {"rich", "mesh.spec", "mesh.nf", "mesh.supervisor", "mesh.joining"}


def test_a_catalogue_as_json_needs_no_mesh_that_runs(nfmesh):
    modules = nfmesh("events", "http", "--json")
    assert not modules & {"zmq", "yaml", "rich", "mesh.spec", "mesh.supervisor", "mesh.engine"}


def test_help_of_a_command_loads_that_command(nfmesh):
    modules = nfmesh("doctor", "--help")
    assert {name for name in _of_mesh(modules) if name.startswith("mesh.cli.")} == {
        "mesh.cli.app",
        "mesh.cli.doctor",
        "mesh.cli.output",
    }


def test_a_run_over_a_capture_loads_nothing_of_clusters(nfmesh):
    capture = Path(__file__).parent / "captures" / "office.pcap"
    words = ("--pcap", str(capture), "--nf", "http_log", "--in-process", "--json")
    modules = nfmesh("run", *words)
    assert "mesh.engine" in modules
    assert not {name for name in modules if name.startswith(("mesh.kube", "kubernetes", "rich."))}


@pytest.mark.parametrize(
    ("module", "not_needed"),
    [
        ("mesh.supervisor", {"numpy", "rich", "typer", "mesh.batch"}),
        ("mesh.control.controller", {"numpy", "rich", "typer", "mesh.batch"}),
        ("mesh.worker", {"numpy", "yaml", "mesh.nf", "mesh.spec"}),
        ("mesh.modulehost", {"numpy", "yaml", "zmq", "mesh.nf", "mesh.spec"}),
        ("mesh.nfhost", {"yaml", "rich", "mesh.spec", "mesh.compose"}),
    ],
)
def test_a_process_of_a_mesh_loads_what_it_needs(loaded, module, not_needed):
    modules = loaded(f"import {module}")
    assert module in modules
    assert not modules & not_needed


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_listed_of_a_command_is_what_it_says_itself(name):
    command = load(name)
    assert command.name == name
    sentence = inspect.cleandoc(command.help).partition("\n\n")[0]
    assert " ".join(sentence.split()) == COMMANDS[name][1]
