# SPDX-License-Identifier: Apache-2.0
"""Rules between real kernels: a page passes, an attack on the same server does not."""

import json
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from ids_rig import need_library
from live_mesh import LiveMesh
from live_rig import (
    AS_LONG_AS_IT_TAKES,
    PYTHON,
    TELL,
    Server,
    digest,
    fetch,
    make_page,
    needs_namespaces,
    wire,
)

pytestmark = needs_namespaces
need_library()

RULES = """
reject http any any -> any any (msg:"traversal"; http.uri; content:"/../"; sid:1;)
reject tcp any any -> any 8080 (msg:"a word"; flow:established,to_server; content:"attack"; sid:2;)
drop udp any any -> any any (msg:"datagram"; content:"poison"; sid:3;)
alert http any any -> any any (msg:"page"; http.uri; content:"/page"; sid:4;)
"""


@pytest.fixture
def net():
    """Three namespaces in a row, the rules between them; with the folder of the rules."""
    with ExitStack() as stack:
        made = stack.enter_context(wire(Path()))
        folder = Path(tempfile.mkdtemp(prefix="nfmesh-"))
        stack.callback(shutil.rmtree, folder)
        folder.chmod(0o755)
        (folder / "a.rules").write_text(RULES)
        nf = {"use": "ids", "mode": "inline", **AS_LONG_AS_IT_TAKES}
        nf["config"] = {"rules": str(folder / "a.rules")}
        ports = [{"afpacket": "m0", "out": "m1"}, {"afpacket": "m1", "out": "m0"}]
        (folder / "mesh.yaml").write_text(json.dumps({"nfs": [nf], "ports": ports}))
        mesh = LiveMesh(made.middle, str(folder / "mesh.yaml"))
        stack.callback(mesh.close)
        mesh.wait_running()
        made.wait_for_ping("10.9.0.2")
        yield made, mesh


def test_a_page_passes_and_attacks_do_not(net, tmp_path):
    made, mesh = net
    page = make_page(tmp_path)
    server = Server(made.right, page)

    def tell(*parts):
        return made.left.run(PYTHON, "-c", TELL, "10.9.0.2", *parts).strip()

    try:
        assert fetch(made.left, "10.9.0.2") == digest(page)
        assert tell("GET /a/%2e%", "2e/etc/passwd") == "reset"
        assert tell("GET /at", "ta", "ck") == "reset"
        assert tell("GET /harmless") == "HTTP/1.0 404 File not found"
    finally:
        server.close()
    report = mesh.stop()
    [found] = [nf["results"] for nf in report["nfs"] if nf["name"] == "ids"]
    assert {row["sid"]: row["action"] for row in found["alerts"]} == {
        1: "blocked",
        2: "blocked",
        4: "allowed",
    }
    assert found["counters"]["rejected"] >= 2
