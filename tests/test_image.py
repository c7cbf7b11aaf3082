# SPDX-License-Identifier: Apache-2.0
"""The image: what is in it, that it runs with no rights at all, and that Docker's is the same."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from chart_rig import ROOT
from pod_rig import ARCHIVE, Containers

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


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    with Containers() as found:
        yield found


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("image", ROOT / "tools" / "kube" / "image.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names_in_archive(archive: Path = ARCHIVE) -> set[str]:
    """Names of the files of all layers."""
    if not archive.exists():
        pytest.skip(f"no {archive}: run tools/kube/image.py archive")
    found: set[str] = set()
    with tarfile.open(archive) as outer:
        index = json.loads(outer.extractfile("index.json").read())

        def blob(entry: dict[str, str]) -> bytes:
            algorithm, _, digest = entry["digest"].partition(":")
            return outer.extractfile(f"blobs/{algorithm}/{digest}").read()

        manifest = json.loads(blob(index["manifests"][0]))
        for each in manifest["layers"]:
            with tarfile.open(fileobj=io.BytesIO(blob(each))) as layer:
                found.update(layer.getnames())
    return found


def test_nothing_is_in_it_that_runs_anything_else() -> None:
    names = names_in_archive()
    programs = {n for n in names if re.fullmatch(r"(usr/)?(local/)?s?bin/[^/]+", n)}
    assert programs == {"usr/bin/python3", "usr/bin/python3.11"}
    assert not [n for n in names if n.endswith(("/pip", "/gcc", "/cc", "/sh"))]
    for plugin in ("dpdk", "afxdp"):
        assert f"opt/nfmesh/lib/python3.11/site-packages/mesh/libnfm_{plugin}.so" in names


def test_it_helps(containers: Containers) -> None:
    done = containers.run("--help")
    assert done.returncode == 0, done.stderr
    assert "Network functions beside one consolidated protocol stack." in done.stdout


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


def test_it_is_started_as_the_dockerfile_says(tool: ModuleType) -> None:
    config = tool.configuration()
    assert config["Entrypoint"] == ["nfmesh"]
    assert config["User"] == "64001:64000"
    assert f"PATH=/{tool.HOME}/bin" in config["Env"]


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
