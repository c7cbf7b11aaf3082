# SPDX-License-Identifier: Apache-2.0
"""The image: what is in it, that it runs with no rights at all, and that Docker's is the same."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Collection, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from chart_rig import ROOT
from pod_rig import ARCHIVE, Built, Containers

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
CHECK = """
import json, os, sys
from mesh.ports import Port
status = open("/proc/self/status").read()
port = Port.dpdk(eal="--no-huge -m 64 --no-pci --log-level=error --vdev=net_null0")
port.close()
try:
    open("/opt/nfmesh/x", "w")
    writable = True
except OSError:
    writable = False
print(json.dumps({
    "ids": [os.getuid(), os.getgid()], "prefix": sys.prefix, "writable": writable,
    "capabilities": int(status.split("CapEff:")[1].split()[0], 16),
}))
"""


TIMEOUT = pytest.mark.timeout(3600)
"""Of what waits for podman to build the image."""


@pytest.fixture(scope="module")
def loaded() -> Iterator[Containers]:
    with Containers() as found:
        yield found


@pytest.fixture(scope="module")
def built() -> Iterator[Built]:
    with Built() as found:
        yield found


@pytest.fixture(scope="module", params=["loaded", pytest.param("built", marks=TIMEOUT)])
def containers(request: pytest.FixtureRequest) -> Containers:
    """Of the archive, and of what deploy/Dockerfile makes."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("image", ROOT / "tools" / "kube" / "image.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files_in(tar: tarfile.TarFile) -> dict[str, tuple[object, ...]]:
    """Files by their names: of what kind, whose, what may be done with them, where they lead to."""
    return {
        each.name: (each.type, each.mode & 0o7777, each.uid, each.gid, each.linkname)
        for each in tar
    }


def files_in_archive(archive: Path = ARCHIVE) -> dict[str, tuple[object, ...]]:
    """The files of all layers."""
    if not archive.exists():
        pytest.skip(f"no {archive}: run tools/kube/image.py archive")
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(archive) as outer:
        index = json.loads(outer.extractfile("index.json").read())

        def blob(entry: dict[str, str]) -> bytes:
            algorithm, _, digest = entry["digest"].partition(":")
            return outer.extractfile(f"blobs/{algorithm}/{digest}").read()

        manifest = json.loads(blob(index["manifests"][0]))
        for each in manifest["layers"]:
            with tarfile.open(fileobj=io.BytesIO(blob(each))) as layer:
                found.update(files_in(layer))
    return found


def check_that_nothing_else_runs(names: Collection[str]) -> None:
    programs = {n for n in names if re.fullmatch(r"(usr/)?(local/)?s?bin/[^/]+", n)}
    assert programs == {"usr/bin/python3", "usr/bin/python3.11"}
    assert not [n for n in names if n.endswith(("/pip", "/gcc", "/cc", "/sh"))]
    for plugin in ("dpdk", "afxdp"):
        assert f"opt/nfmesh/lib/python3.11/site-packages/mesh/libnfm_{plugin}.so" in names


def test_nothing_is_in_it_that_runs_anything_else() -> None:
    check_that_nothing_else_runs(files_in_archive())


@TIMEOUT
def test_both_have_the_same_files_when_made_from_nothing(built: Built, tmp_path: Path) -> None:
    archive, tar = tmp_path / "nfmesh.oci.tar", tmp_path / "files.tar"
    empty = {**os.environ, "NFMESH_KUBE": str(tmp_path)}
    subprocess.run([ROOT / "tools/kube/image.py", "archive", archive], check=True, env=empty)
    built.call("create", "--name=made", built.image)
    built.call("export", f"--output={tar}", "made", patience_s=600)
    with tarfile.open(tar) as found:
        files = files_in(found)
    check_that_nothing_else_runs(files)
    assert files == files_in_archive(archive)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--help", "Network functions beside one consolidated protocol stack."),
        ("--version", f"nfmesh {version('nfmesh')}"),
        ("stack --help", "Usage: nfmesh stack"),
        ("nf --help", "Usage: nfmesh nf"),
        ("operator --help", "Usage: nfmesh operator"),
    ],
)
def test_each_entry_point_helps(containers: Containers, line: str, says: str) -> None:
    done = containers.run(*line.split())
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


def test_processes_share_memory_in_it(containers: Containers) -> None:
    capture = "/usr/share/nfmesh/office.pcap"
    done = containers.run("run", "--pcap", capture, "--nf", "flow_counter", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["packets"] > 0
    assert report["nfs"][0]["events"] > 0


def test_it_has_no_rights_and_dpdk_loads(containers: Containers) -> None:
    done = containers.run("-c", CHECK, options=("--entrypoint=python3",))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "ids": [64001, 64000], "prefix": "/opt/nfmesh", "writable": False, "capabilities": 0,
    }  # fmt: skip


def test_the_tool_starts_it_as_the_dockerfile_says(tool: ModuleType) -> None:
    config = tool.configuration()
    assert config["Entrypoint"] == ["nfmesh"]
    assert config["User"] == "64001:64000"
    assert f"PATH=/{tool.HOME}/bin" in config["Env"]


def test_it_is_started_as_the_tool_says(containers: Containers, tool: ModuleType) -> None:
    (found,) = json.loads(containers.call("inspect", containers.image).stdout)
    said = tool.configuration()
    assert {key: found["Config"][key] for key in said} == said


def test_the_dockerfile_has_two_stages_and_the_last_has_nothing_to_run() -> None:
    assert re.findall(r"^FROM (.*)$", DOCKERFILE, re.MULTILINE) == [
        "debian:bookworm AS build",
        "scratch",
    ]
    last = DOCKERFILE.rpartition("FROM scratch")[2]
    assert "RUN" not in re.findall(r"^[A-Z]+", last, re.MULTILINE)


def test_docker_makes_the_image_by_the_same_recipe() -> None:
    """The build stage fills the folder that is the last stage; nothing else gets into it."""
    first, _, last = DOCKERFILE.partition("\nFROM scratch\n")
    (recipe,) = re.findall(r"^RUN (python3 .*)$", first, re.MULTILINE)
    assert recipe == "python3 /src/tools/kube/image.py rootfs /image"
    assert re.findall(r"^COPY (.*)$", last, re.MULTILINE) == ["--from=build /image /"]


def test_docker_builds_with_what_continuous_integration_builds_with() -> None:
    installed = re.search(
        r"apt-get install -y --no-install-recommends (.*?)\nCOPY", DOCKERFILE, re.S
    )
    assert installed is not None
    has = set(installed[1].replace("\\", " ").split())
    packages = (ROOT / ".ci" / "packages.txt").read_text().split()
    needed = {each for each in packages if each.endswith(("-dev", "-venv"))}
    assert needed - {"libclang-rt-14-dev"} <= has  # that one is for fuzzing
    assert {"build-essential", "cmake", "ninja-build", "pkg-config", "mmdebstrap"} <= has


def test_versions_are_those_of_all_dependencies() -> None:
    lines = (ROOT / "deploy" / "requirements.txt").read_text().splitlines()
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in lines
        if re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", line)
    }
    project = (ROOT / "pyproject.toml").read_text()
    needed = re.search(r"^dependencies = \[(.*?)\]", project, re.MULTILINE | re.DOTALL)
    assert needed is not None
    names = {n.lower() for n in re.findall(r'"([A-Za-z0-9_.-]+)', needed[1])} | {"kubernetes"}
    assert names <= pinned
