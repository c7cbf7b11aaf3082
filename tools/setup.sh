#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what nfmesh needs: the Debian packages of .ci/packages.txt (when root), and .venv with
# nfmesh itself, editable. Does nothing that is done already. Usage: tools/setup.sh [packages|venv]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${VENV:-.venv}"

missing_packages() { # the names in file $1 that are not installed
    local name
    while read -r name; do
        [[ -z "$name" || "$name" == \#* ]] && continue
        [[ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" == installed ]] ||
            printf '%s ' "$name"
    done <"$1"
}

install_packages() {
    command -v dpkg-query >/dev/null || { echo "not Debian: install the packages of .ci/packages.txt yourself" >&2; return; }
    local missing
    missing="$(missing_packages .ci/packages.txt)"
    [[ -z "$missing" ]] && return
    if [[ "$(id -u)" != 0 ]]; then
        echo "missing Debian packages; run: sudo apt-get install $missing" >&2
        return 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 # one word per package
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

find_python() { # the first Python >= 3.11 that can make a virtual environment
    local python
    for python in ${PYTHON:-} python3 python3.11 python3.12 python3.13 /usr/bin/python3; do
        if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    echo "no Python >= 3.11 with the venv module found; set PYTHON=/path/to/python" >&2
    return 1
}

install_venv() {
    local python
    if [[ ! -x "$venv/bin/python" ]]; then
        python="$(find_python)"
        "$python" -m venv "$venv"
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
    touch "$venv/.nfmesh-installed"
}

case "${1:-all}" in
packages) install_packages ;;
venv) install_venv ;;
all) install_packages && install_venv ;;
*) echo "usage: tools/setup.sh [packages|venv]" >&2; exit 2 ;;
esac
