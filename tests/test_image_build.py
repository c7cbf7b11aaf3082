# SPDX-License-Identifier: Apache-2.0
"""deploy/Dockerfile, built as Docker does, makes what tools/kube/image.py makes.

Takes minutes and Debian's archive, so only NFMESH_KUBE_DOCKERFILE=1 runs it. The base image is made
here, since no registry is asked. Where packages come from elsewhere, NFMESH_BUILD_OPTIONS has
further options of `podman build`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from chart_rig import ROOT
from pod_rig import Storage
from test_image import names_in_archive

pytestmark = pytest.mark.timeout(3600)
BASE, BUILT = "docker.io/library/debian:bookworm", "localhost/nfmesh:built"


def why_not() -> str:
    if os.environ.get("NFMESH_KUBE_DOCKERFILE") != "1":
        return "SKIPPED: takes minutes; NFMESH_KUBE_DOCKERFILE=1 runs it"
    for program in ("mmdebstrap", "podman", "runc"):
        if shutil.which(program) is None:
            return f"SKIPPED: no {program}: apt-get install --no-install-recommends {program}"
    return "" if os.geteuid() == 0 else "SKIPPED: needs root"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    if reason := why_not():
        pytest.skip(reason)
    base = tmp_path_factory.mktemp("base") / "base.tar"
    line = ["mmdebstrap", "--quiet", "--variant=minbase", "bookworm", str(base)]
    subprocess.run(line, check=True)
    with Storage() as storage:
        storage.call("import", str(base), BASE)
        base.unlink()
        options = shlex.split(os.environ.get("NFMESH_BUILD_OPTIONS", ""))
        storage.call(
            "build", "--pull=never", "--network=host", "--isolation=chroot", *options,
            f"--file={ROOT / 'deploy/Dockerfile'}", f"--tag={BUILT}", str(ROOT), patience_s=3600,
        )  # fmt: skip
        yield storage


def test_it_has_the_same_files(built: Storage, tmp_path: Path) -> None:
    archive, tar = tmp_path / "nfmesh.oci.tar", tmp_path / "files.tar"
    subprocess.run([ROOT / "tools/kube/image.py", "archive", archive], check=True)
    built.call("create", "--name=made", BUILT)
    built.call("export", f"--output={tar}", "made", patience_s=600)
    with tarfile.open(tar) as found:
        names = set(found.getnames())

    def kept(all_names: set[str]) -> set[str]:
        return {name for name in all_names if name.startswith(("usr/", "opt/", "lib"))}

    assert kept(names) == kept(names_in_archive(archive))


def test_it_is_started_the_same_way(built: Storage) -> None:
    (image,) = json.loads(built.call("inspect", BUILT).stdout)
    config = image["Config"]
    assert config["Entrypoint"] == ["nfmesh"]
    assert config["User"] == "64001:64000"
    assert "PATH=/opt/nfmesh/bin" in config["Env"]
