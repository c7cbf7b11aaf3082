#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Two hosts in namespaces of their own, the mesh of examples/live between them:
#
#   client 10.77.0.2 ---- nfm-in [firewall, ids, nat] nfm-out ---- server 198.51.100.80
#
# The client fetches a page, tries an attack and a closed port; then each NF says what it saw.
# Nothing is left of it afterwards, however it ends.
set -euo pipefail
cd "$(dirname "$0")/.."
nfmesh="$(realpath "${VENV:-.venv}")/bin/nfmesh"
client=nfm-client server=nfm-server
address=198.51.100.80 external=198.51.100.1
folder=
mesh=
web=

remove_hosts() { # their links go with them, but some time later
    local name
    for name in "$client" "$server"; do ip netns del "$name" 2>/dev/null || true; done
    for name in nfm-in nfm-out; do ip link del "$name" 2>/dev/null || true; done
}

clean_up() {
    trap - EXIT INT TERM
    for process in $mesh $web; do # background processes of a script do not hear SIGINT
        kill -TERM "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    remove_hosts
    [[ -z "$folder" ]] || rm -rf "$folder"
}

need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null || { echo "live-demo: no $1: apt-get install $2" >&2; exit 1; }
}

host() { # NAME INTERFACE-OF-THE-MESH ADDRESS...: a namespace with a link to the mesh
    ip netns add "$1"
    ip link add "$2" type veth peer name eth0 netns "$1"
    ip link set "$2" up
    ip -n "$1" link set lo up
    ip -n "$1" link set eth0 up
    ip -n "$1" addr add "$3" dev eth0
}

mac_of() { # NAMESPACE
    ip -n "$1" -json link show eth0 | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["address"])'
}

wait_for() { # COMMAND...: until it succeeds, for 30 seconds
    local end=$((SECONDS + 30))
    while ((SECONDS < end)) && kill -0 "$mesh" 2>/dev/null; do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "live-demo: waited in vain for: $*" >&2
    cat "$folder/errors" >&2
    exit 1
}

fetch() { # WHAT FLAGS...: says what the client gets
    local what="$1" got
    shift
    printf '%s\n' "\$ curl $*"
    if got="$(ip netns exec "$client" curl --silent --show-error --max-time 4 "$@" 2>&1)"; then
        printf '  %s: %s\n' "$what" "$got"
    else
        printf '  %s: blocked (%s)\n' "$what" "$got"
    fi
}

[[ $EUID -eq 0 ]] || { echo "live-demo: namespaces need root: sudo make live-demo" >&2; exit 1; }
need ip iproute2
need curl curl
trap clean_up EXIT
trap 'clean_up; exit 130' INT TERM
remove_hosts
folder="$(mktemp -d)"
chmod 755 "$folder"

host "$client" nfm-in 10.77.0.2/24
host "$server" nfm-out "$address/24"
ip -n "$client" route add 198.51.100.0/24 dev eth0
ip -n "$client" neigh add "$address" lladdr "$(mac_of "$server")" dev eth0
ip -n "$server" neigh add "$external" lladdr "$(mac_of "$client")" dev eth0
mkdir "$folder/www"
echo "a page of $address" >"$folder/www/index.html"
ip netns exec "$server" python3 -m http.server --directory "$folder/www" 80 >"$folder/web" 2>&1 &
web=$!

export NFMESH_RUN="$folder/run" COLUMNS="${COLUMNS:-$(tput cols 2>/dev/null || echo 100)}"
cd examples/live
"$nfmesh" run chain.yaml --name demo >"$folder/report" 2>"$folder/errors" &
mesh=$!
wait_for ip netns exec "$client" ping -c 1 -W 1 "$address"
wait_for ip netns exec "$server" curl --silent "http://$address/"

fetch "a page" "http://$address/"
fetch "an attack" --path-as-is "http://$address/../../etc/passwd"
fetch "a closed port" "http://$address:22/"
echo "the server heard from:"
sed -n 's/^\([0-9.]*\) .*"\(GET [^ ]*\).*/  \1 \2/p' "$folder/web" | grep -v "^  $address "
echo
"$nfmesh" stop demo >/dev/null
wait "$mesh" || true
mesh=
cat "$folder/report"
