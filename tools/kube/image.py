#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The image of nfmesh without Docker and without a registry.

    tools/kube/image.py rootfs DIR     fills a folder with the root file system (deploy/Dockerfile)
    tools/kube/image.py archive FILE   writes the image as an OCI archive
    tools/kube/image.py where          names the archive that tests look for

A node takes it with `ctr -n k8s.io images import FILE`: it has the name that the chart asks for.

The root file system: Debian's packages of deploy/packages.txt, unpacked and cut down to what runs,
and /opt/nfmesh, a virtual environment of Debian's Python with nfmesh and its dependencies,
compiled. It needs Debian 12 with mmdebstrap, and Debian's own Python with venv. All but nfmesh is
kept in the cache folder (NFMESH_KUBE). Names, times and owners in the archive do not depend on who
makes it.

How the image is started (user, environment, entry point) is read from the last stage of
deploy/Dockerfile.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("NFMESH_KUBE", "/var/cache/nfmesh-kube"))
PYTHON = "/usr/bin/python3"
HOME = "opt/nfmesh"
PACKAGES = f"{HOME}/lib/python3.11/site-packages"
KEEP = (
    "etc/libibverbs.d", "lib/x86_64-linux-gnu", "lib64", "usr/bin/python3*", "usr/lib/python3.*",
    "usr/lib/x86_64-linux-gnu", "usr/share/doc/*/copyright",
)  # fmt: skip
"""Of Debian's packages."""
DROP = ("gconv", "perl", "perl-base", "perl5")
"""Folders of usr/lib/x86_64-linux-gnu that belong to programs which are not kept."""
FOLDERS = ("dev", "etc", "proc", "run", "sys", "tmp", "var/run", "var/tmp")
PASSWD = "root:x:0:0:root:/tmp:/sbin/nologin\nnfmesh:x:64001:64000:nfmesh:/tmp:/sbin/nologin\n"
GROUP = "root:x:0:\nnfmesh:x:64000:\n"


def debian(folder: Path) -> None:
    """Unpacks Debian's packages, cut down."""
    if shutil.which("mmdebstrap") is None:
        sys.exit("image.py: no mmdebstrap: apt-get install --no-install-recommends mmdebstrap")
    lines = (ROOT / "deploy" / "packages.txt").read_text().splitlines()
    packages = ",".join(line for line in lines if line and not line.startswith("#"))
    line = ["mmdebstrap", "--quiet", "--variant=extract", "--mode=chrootless"]
    unpacked = folder.with_name("unpacked")
    subprocess.run([*line, f"--include={packages}", "bookworm", str(unpacked)], check=True)
    for path in (path for pattern in KEEP for path in unpacked.glob(pattern)):
        to = folder / path.relative_to(unpacked)
        to.parent.mkdir(parents=True, exist_ok=True)
        path.rename(to)
    for name in DROP:
        shutil.rmtree(folder / "usr/lib/x86_64-linux-gnu" / name, ignore_errors=True)
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "tmp").chmod(0o1777)
    (folder / "etc/passwd").write_text(PASSWD)
    (folder / "etc/group").write_text(GROUP)
    compile_all(PYTHON, next((folder / "usr/lib").glob("python3.*")), "/usr/lib")


def dependencies(folder: Path) -> None:
    """Installs what nfmesh needs, of the versions in deploy/requirements.txt, and compiles it."""
    install(folder, "--requirement", str(ROOT / "deploy" / "requirements.txt"))
    for tests in folder.glob("*/**/tests"):
        shutil.rmtree(tests, ignore_errors=True)


def nfmesh(folder: Path) -> None:
    """Installs nfmesh itself."""
    build = f"--config-settings=build-dir={ROOT / 'build' / 'image'}"
    install(folder, "--no-deps", build, str(ROOT))


def install(folder: Path, *what: str) -> None:
    """Runs pip of Debian's Python, and compiles what it installed."""
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run([PYTHON, "-m", "venv", temporary], check=True)
        tool = f"{temporary}/bin/python"
        pip = [tool, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        subprocess.run([*pip, "--no-compile", "--target", str(folder), *what], check=True)
        shutil.rmtree(folder / "bin", ignore_errors=True)
        compile_all(tool, folder, f"/{PACKAGES}")


def compile_all(tool: str, folder: Path, seen_at: str) -> None:
    """Compiles modules; with hashes in place of times, which are not looked at when they run."""
    line = [tool, "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash", "-j0"]
    subprocess.run([*line, f"-s{folder}", f"-p{seen_at}", str(folder)], check=True)


def skeleton(folder: Path) -> None:
    """Makes the virtual environment around its packages, and what else is not installed."""
    home = folder / HOME
    (home / "bin").mkdir(parents=True)
    (home / "pyvenv.cfg").write_text("home = /usr/bin\n")
    for name in ("python", "python3"):
        (home / "bin" / name).symlink_to("/usr/bin/python3")
    program = home / "bin" / "nfmesh"
    program.write_text("#!/opt/nfmesh/bin/python3\nfrom mesh.cli import main\n\nmain()\n")
    program.chmod(0o755)
    captures = folder / "usr/share/nfmesh"
    captures.mkdir(parents=True)
    shutil.copy(ROOT / "tests/captures/office.pcap", captures)


def kept(name: str, make: Callable[[Path], None], *recipes: Path) -> Path:
    """Returns a tar of what `make` fills a folder with; made when none of these recipes is kept."""
    recipe = b"".join(path.read_bytes() for path in (*recipes, Path(__file__)))
    path = CACHE / "image" / f"{name}-{hashlib.sha256(recipe).hexdigest()[:16]}.tar"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            made = Path(temporary) / name
            made.mkdir()
            make(made)
            part = path.with_suffix(f".{os.getpid()}")
            with tarfile.open(part, "w") as tar:
                tar.add(made, ".")
        part.rename(path)
    return path


def unpack(tar: tarfile.TarFile, folder: Path) -> None:
    """Unpacks what this program packed: Debian's Python knows no filters, later ones want one."""
    tar.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
    tar.extractall(folder)


def rootfs(folder: Path) -> None:
    """Fills a folder; Debian's part and the dependencies come from the cache if they can."""
    deploy = ROOT / "deploy"
    packages = folder / PACKAGES
    packages.mkdir(parents=True)
    parts = {
        folder: kept("debian", debian, deploy / "packages.txt"),
        packages: kept("dependencies", dependencies, deploy / "requirements.txt"),
    }
    for place, part in parts.items():
        with tarfile.open(part) as tar:
            unpack(tar, place)
    nfmesh(packages)
    skeleton(folder)


def configuration() -> dict[str, Any]:
    """Reads the last stage of deploy/Dockerfile."""
    _, _, last = (ROOT / "deploy" / "Dockerfile").read_text().rpartition("\nFROM scratch\n")
    config: dict[str, Any] = {"Env": []}
    for line in last.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "ENV":
            config["Env"] += shlex.split(rest)
        elif word in ("ENTRYPOINT", "CMD"):
            config[word.capitalize()] = json.loads(rest)
        elif word == "USER":
            config["User"] = rest
        elif word == "WORKDIR":
            config["WorkingDir"] = rest
        elif word not in ("", "COPY") and not word.startswith("#"):
            raise ValueError(f"deploy/Dockerfile: {word} in the last stage is not known here")
    return config


def reference() -> str:
    """Returns the name that the chart's default values ask for."""
    chart = (ROOT / "deploy/helm/nfmesh/Chart.yaml").read_text()
    found = re.search(r'^appVersion: "(.+)"$', chart, re.MULTILINE)
    assert found is not None
    return f"docker.io/library/nfmesh:{found[1]}"


def epoch() -> int:
    """Returns the time that all files get: SOURCE_DATE_EPOCH, or that of the last commit."""
    if said := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(said)
    line = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return int(done.stdout or 0)


def layer(folder: Path, paths: Sequence[Path], time: int) -> bytes:
    """Packs files into a layer that depends on their names, modes and contents only."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in paths:
            info = tar.gettarinfo(path, str(path.relative_to(folder)))
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mtime = time
            if info.isreg():
                with path.open("rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)
    return packed.getvalue()


def layers(folder: Path, time: int) -> Iterator[bytes]:
    """Packs what changes seldom and what changes often apart: Debian, dependencies, nfmesh."""
    ours = ("mesh", "stack_modules", "nfs", "nfmesh")
    parts: tuple[list[Path], list[Path], list[Path]] = ([], [], [])
    for path in sorted(folder.rglob("*")):
        within = path.relative_to(folder)
        if not within.is_relative_to(HOME):
            parts[0].append(path)
        elif len(within.parts) > 5 and within.parts[5].startswith(ours):
            parts[2].append(path)
        else:
            parts[1].append(path)
    for part in parts:
        yield layer(folder, part, time)


def archive(file: Path) -> None:
    """Writes the image: oci-layout, index and blobs in one tar."""
    time = epoch()
    blobs: dict[str, bytes] = {}

    def blob(kind: str, data: bytes, **more: Any) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data), **more}

    oci = "application/vnd.oci.image"
    with tempfile.TemporaryDirectory() as temporary:
        rootfs(Path(temporary))
        packed = [blob(f"{oci}.layer.v1.tar", data) for data in layers(Path(temporary), time)]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": configuration(),
        "rootfs": {"type": "layers", "diff_ids": [each["digest"] for each in packed]},
    }
    described = blob(f"{oci}.config.v1+json", json.dumps(config).encode())
    manifest = {"schemaVersion": 2, "config": described, "layers": packed}
    manifest["mediaType"] = f"{oci}.manifest.v1+json"
    names = {
        "org.opencontainers.image.ref.name": reference().rpartition(":")[2],
        "io.containerd.image.name": reference(),
    }
    entry = blob(f"{oci}.manifest.v1+json", json.dumps(manifest).encode(), annotations=names)
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        **{f"blobs/sha256/{digest}": data for digest, data in blobs.items()},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    with tarfile.open(part, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), time, 0o644
            tar.addfile(info, io.BytesIO(data))
    part.rename(file)


def main(arguments: Sequence[str]) -> int:
    """Runs a command."""
    place = CACHE / "image" / "nfmesh.oci.tar"
    match list(arguments):
        case ["rootfs", folder]:
            rootfs(Path(folder))
        case ["archive"]:
            archive(place)
        case ["archive", file]:
            archive(Path(file))
        case ["where"]:
            print(place)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
