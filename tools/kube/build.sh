#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Gets a Kubernetes for tests on a Debian 12 machine without any container registry: etcd and the
# container tools from Debian's binary packages (unpacked, not installed), the Kubernetes programs
# built from Debian's source package, which carries all that it needs. Does nothing that is done
# already; nothing of it becomes part of nfmesh. Five minutes on two idle cores, 3 GB while it
# builds, 450 MB afterwards.
#
# Usage: tools/kube/build.sh [control|node|all]   control: etcd, API server, controllers, scheduler
#   NFMESH_KUBE       where it goes (default /var/cache/nfmesh-kube)
#   NFMESH_KUBE_JOBS  cores that it may use (default: all)
set -euo pipefail
cache="${NFMESH_KUBE:-/var/cache/nfmesh-kube}"
jobs="${NFMESH_KUBE_JOBS:-$(nproc)}"
version=1.20.2
work="$cache/work"
control=(kube-apiserver kube-controller-manager kube-scheduler)
node=(kubelet)

say() { echo "kube: $*" >&2; }

# ---- apt, with lists and sources of our own: the machine's stay as they are -----------------------
apt_here() {
    apt-get -q -o APT::Sandbox::User=root -o Dir::Etc::sourcelist="$cache/apt/sources.sources" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$cache/apt/lists" -o APT::Get::List-Cleanup=0 \
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= "$@"
}

prepare_apt() { # the machine's own archives, with source packages
    mkdir -p "$cache/apt/lists/partial" "$work"
    {
        sed -e 's/^Types:.*/Types: deb deb-src/' -e '$a\\' /etc/apt/sources.list.d/*.sources 2>/dev/null || true
        if [[ -s /etc/apt/sources.list ]]; then
            awk '$1 == "deb" { options = ""; first = 2
                if ($2 ~ /^\[/) { while ($first !~ /\]$/) first++; first++ }
                signed = "/usr/share/keyrings/debian-archive-keyring.gpg"
                printf "\nTypes: deb deb-src\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n", \
                    $first, $(first + 1), signed }' /etc/apt/sources.list
        fi
    } >"$cache/apt/sources.sources"
    apt_here update >/dev/null
}

unpack() { # unpack FOLDER PACKAGE...: a package's files, without installing it
    local into="$1" name
    shift
    for name in "$@"; do
        [[ -e "$into/.$name" ]] && continue
        say "unpacking $name"
        (cd "$work" && apt_here download "$name" >/dev/null)
        mkdir -p "$into"
        dpkg-deb -x "$(compgen -G "$work/${name}_*.deb" | head -n 1)" "$into"
        rm -f "$work/${name}"_*.deb
        touch "$into/.$name"
    done
}

need_tools() { # rsync and jq: without them the build "succeeds" and leaves nothing behind
    local missing=() tool
    for tool in rsync jq make gcc; do command -v "$tool" >/dev/null || missing+=("$tool"); done
    [[ ${#missing[@]} == 0 ]] && return
    if [[ "$(id -u)" != 0 ]]; then
        say "run first: sudo apt-get install ${missing[*]}"
        return 1
    fi
    DEBIAN_FRONTEND=noninteractive apt_here install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# ---- the source -------------------------------------------------------------------------------------
prepare_source() {
    local archive
    [[ -e "$work/.source" ]] && return
    say "getting the source of Kubernetes $version"
    unpack "$work/tools" golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev
    (cd "$work" && apt_here source --download-only kubernetes >/dev/null)
    archive="$(compgen -G "$work/kubernetes_*$version.orig.tar.*")" ||
        { say "Debian's source is not $version any more"; return 1; }
    mkdir -p "$work/src"
    tar -C "$work/src" --strip-components=1 -xf "$archive"
    # The vendored reflect2 crashes on the first custom resource when built with Go >= 1.18.
    local reflect2="$work/src/vendor/github.com/modern-go/reflect2"
    rm -rf "$reflect2"
    cp -r "$work/tools/usr/share/gocode/src/github.com/modern-go/reflect2" "$reflect2"
    mkdir -p "$work/src/.go/src/k8s.io"
    ln -sfn ../../.. "$work/src/.go/src/k8s.io/kubernetes"
    touch "$work/.source"
}

build() { # build PROGRAM...
    local goroot="$work/tools/usr/lib/go-1.19" program
    prepare_apt
    need_tools
    prepare_source
    for program in "$@"; do
        [[ -x "$cache/bin/$program" ]] && continue
        say "building $program with $jobs cores"
        env -C "$work/src/.go/src/k8s.io/kubernetes" PATH="$goroot/bin:$PATH" GOROOT="$goroot" \
            GOPATH="$work/src/.go" GOCACHE="$work/gocache" GOPROXY=off GOFLAGS="-p=$jobs" \
            GOMAXPROCS="$jobs" CGO_ENABLED=0 KUBE_GIT_VERSION="v$version" KUBE_GIT_COMMIT=debian \
            KUBE_GIT_TREE_STATE=archive KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20 \
            KUBE_BUILD_PLATFORMS=linux/amd64 make -s WHAT="cmd/$program" \
            >"$work/$program.log" 2>&1 || { tail -n 20 "$work/$program.log" >&2; return 1; }
        install -D -m 755 "$(compgen -G "$work/src/_output/local/*/bin/linux/amd64/$program" \
            || compgen -G "$work/src/_output/local/bin/linux/amd64/$program")" "$cache/bin/$program"
    done
}

missing() { # which of PROGRAM... are not there
    local program
    for program in "$@"; do [[ -x "$cache/bin/$program" ]] || echo "$program"; done
}

take() { # take PACKAGE PATH...: programs of a Debian package
    local package="$1" path lacking=()
    shift
    for path in "$@"; do [[ -x "$cache/bin/${path##*/}" ]] || lacking+=("$path"); done
    [[ ${#lacking[@]} == 0 ]] && return
    prepare_apt
    unpack "$work/$package" "$package"
    for path in "${lacking[@]}"; do
        install -D -m 755 "$work/$package/$path" "$cache/bin/${path##*/}"
    done
}

get_control() {
    local lacking
    take etcd-server usr/bin/etcd
    lacking="$(missing "${control[@]}")"
    # shellcheck disable=SC2086 # one word per program
    [[ -z "$lacking" ]] || build $lacking
}

get_node() {
    local lacking
    take containerd usr/bin/containerd usr/bin/containerd-shim-runc-v2 usr/bin/ctr
    take runc usr/sbin/runc
    take containernetworking-plugins usr/lib/cni/ptp usr/lib/cni/host-local usr/lib/cni/loopback \
        usr/lib/cni/bridge usr/lib/cni/portmap
    lacking="$(missing "${node[@]}")"
    # shellcheck disable=SC2086
    [[ -z "$lacking" ]] || build $lacking
}

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
case "${1:-all}" in
control) get_control ;;
node) get_node ;;
all)
    get_control
    get_node
    ;;
*) echo "usage: tools/kube/build.sh [control|node|all]" >&2; exit 2 ;;
esac
if [[ "${NFMESH_KUBE_KEEP:-0}" == 0 && "${1:-all}" == all ]]; then rm -rf "$work"; fi
say "ready: $cache/bin"
