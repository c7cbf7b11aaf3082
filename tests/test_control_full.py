# SPDX-License-Identifier: Apache-2.0
"""The file system of the run folder is full: changes are refused, and the controller goes on."""

import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from fake_host import FakeHost
from patience import until

from mesh.control import messages as m
from mesh.control.desired import Desired, load_desired, save_desired
from mesh.errors import SpecError

OFFICE = Path(__file__).parent / "captures" / "office.pcap"
SPEC = {"nfs": [{"use": "syn_scan"}, {"use": "dns_log"}], "ports": [{"pcap": str(OFFICE)}]}
SIZE = 256 << 10


@pytest.fixture
def small():
    """A file system of its own, which is soon full."""
    with tempfile.TemporaryDirectory(prefix="nfm") as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "none", folder]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("needs root: a small file system is mounted")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder):
    """Takes all the room that is left; returns what to remove."""
    path = folder / "full"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    return path


def test_a_change_is_refused_with_the_remedy_and_the_controller_goes_on(small):
    save_desired(small, Desired(1, SPEC))
    host = FakeHost(small)
    try:
        until(lambda: host.is_state("running"), "the mesh to run")
        before = load_desired(small)
        full = fill(small)
        for request in (m.NfAdd(entry={"use": "http_log"}), m.NfRemove(nf="dns_log")):
            with pytest.raises(SpecError) as refused:
                host.ask(request)
            assert str(refused.value) == (
                f"{small}/desired.json: No space left on device; make room there; "
                "nothing has changed"
            )
        found = host.status()
        assert (found["state"], found["revision"]) == ("running", 1)
        assert load_desired(small) == before
        assert not (small / "desired.new").exists(), "nothing half written is left"
        full.unlink()
        assert host.ask(m.NfAdd(entry={"use": "http_log"}))["nf"] == "http_log"
        assert load_desired(small).revision == 2
    finally:
        errors = host.close()
    assert "Traceback" not in errors
    assert host.process.returncode == 0
