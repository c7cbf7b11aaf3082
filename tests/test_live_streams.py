# SPDX-License-Identifier: Apache-2.0
"""Streams between real kernels, decided on in the middle."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from live_mesh import LiveMesh
from live_rig import (
    AS_LONG_AS_IT_TAKES,
    PATIENCE_S,
    PYTHON,
    TELL,
    Server,
    Wire,
    digest,
    fetch,
    needs_namespaces,
    wire,
)

pytestmark = needs_namespaces
Begin = Callable[..., LiveMesh]

JUDGES = """
from collections import defaultdict
from mesh import NF, on

class Guards(NF):
    \"\"\"Resets connections that say a word, however it is cut.\"\"\"
    name = "guards"

    def __init__(self):
        self.said = defaultdict(bytes)
        self.caught = 0

    @on("tcp.data", mode="inline")
    def judge(self, batch):
        for event in batch:
            key = event.flow, event.side
            said = self.said[key] = self.said[key][-5:] + bytes(event.data)
            if b"attack" in said:
                self.caught += 1
                event.reject()

    def results(self):
        return {"caught": self.caught}

class Lines(NF):
    \"\"\"Ends lines as networks do.\"\"\"
    name = "lines"

    @on("tcp.data", mode="inline", edits=True)
    def judge(self, batch):
        for event in batch:
            data = bytes(event.data)
            if b"\\n" in data and not event.from_client:
                event.replace(data.replace(b"\\n", b"\\r\\n"))
"""


@pytest.fixture
def net() -> Iterator[Wire]:
    """Three namespaces in a row."""
    with wire(Path()) as made:
        yield made


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A text of many lines, half a megabyte."""
    lines = [hashlib.shake_256(b"%d" % i).hexdigest(i % 40) for i in range(12_000)]
    path = tmp_path / "page"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def begin(net: Wire) -> Iterator[Begin]:
    """Starts a mesh with one of the judges, over links that may be bad."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="nfmesh-"))
        stack.callback(shutil.rmtree, folder)
        folder.chmod(0o755)
        (folder / "judges.py").write_text(JUDGES)
        (folder / "judges.py").chmod(0o644)

        def start(judge: str, **impair: Any) -> LiveMesh:
            ports = [{"afpacket": "m0", "out": "m1"}, {"afpacket": "m1", "out": "m0"}]
            for port in ports if impair else ():
                port["impair"] = impair
            nfs = [{"use": f"{folder / 'judges.py'}:{judge}", **AS_LONG_AS_IT_TAKES}]
            spec = folder / "mesh.yaml"
            spec.write_text(json.dumps({"nfs": nfs, "ports": ports}))
            mesh = LiveMesh(net.middle, str(spec))
            stack.callback(mesh.close)
            mesh.wait_running()
            net.wait_for_ping("10.9.0.2")
            return mesh

        yield start


def offload(net: Wire, what: str) -> None:
    """Switches all offloading of both hosts on or off."""
    for host, end in ((net.left, "l0"), (net.right, "r0")):
        switches = [x for name in ("tso", "gso", "gro", "tx", "rx") for x in (name, what)]
        host.run("ethtool", "-K", end, *switches)


BAD = {"drop": 0.01, "duplicate": 0.02, "reorder": 0.02, "seed": 3}
links = pytest.mark.parametrize(
    ("how", "impair"), [("on", {}), ("off", BAD)], ids=["offloaded", "a bad link"]
)


@links
def test_a_judged_page_arrives(
    net: Wire, page: Path, begin: Begin, how: str, impair: dict[str, Any]
) -> None:
    offload(net, how)
    mesh = begin("Guards", **impair)
    server = Server(net.right, page)
    try:
        assert fetch(net.left, "10.9.0.2") == digest(page)
    finally:
        server.close()
    counters = mesh.stop()["counters"]
    assert not counters.keys() & {"inline.bad_checksum", "inline.bad_verdict"}
    if impair:
        assert counters.get("inline.withheld", 0) > 0


@links
def test_a_page_that_grows_on_its_way_arrives(
    net: Wire, page: Path, begin: Begin, how: str, impair: dict[str, Any]
) -> None:
    offload(net, how)
    mesh = begin("Lines", **impair)
    server = Server(net.right, page)
    program = (
        "import hashlib, socket, sys\n"
        f"with socket.create_connection((sys.argv[1], 8080), timeout={PATIENCE_S}) as s:\n"
        "    s.sendall(b'GET /page HTTP/1.0\\r\\n\\r\\n')\n"
        "    got = b''.join(iter(lambda: s.recv(65536), b''))\n"
        "print(hashlib.sha256(got.partition(b'\\r\\r\\n\\r\\r\\n')[2]).hexdigest())\n"
    )
    try:
        got = net.left.run(PYTHON, "-c", program, "10.9.0.2").strip()
    finally:
        server.close()
    want = hashlib.sha256(page.read_bytes().replace(b"\n", b"\r\n")).hexdigest()
    counters = mesh.stop()["counters"]
    assert got == want
    assert counters["inline.replaced"] > 0


def test_a_word_resets_its_connection(net: Wire, page: Path, begin: Begin) -> None:
    mesh = begin("Guards")
    server = Server(net.right, page)

    def tell(*parts: str) -> str:
        return net.left.run(PYTHON, "-c", TELL, "10.9.0.2", *parts).strip()

    try:
        assert tell("GET /page").endswith("200 OK")
        assert tell("GET /attack") == "reset"
        assert tell("GET /at", "tack") == "reset"
        assert tell(*"GET /attack") == "reset"
        assert tell("GET /page?atta", "c").endswith("200 OK")
        assert net.ping("10.9.0.2", "-s", "4000"), "fragments"
    finally:
        server.close()
    report = mesh.stop()
    assert report["counters"]["inline.rejected"] >= 3
