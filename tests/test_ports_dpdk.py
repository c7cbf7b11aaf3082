# SPDX-License-Identifier: Apache-2.0
"""The dpdk port under an engine. EAL begins once per process: each test runs one of its own."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from patience import PATIENCE_S

OFFICE = Path(__file__).parent / "captures/office.pcap"
EAL = "--no-huge -m 256 --no-pci --no-shconf --no-telemetry --log-level=error"
SPEC = find_spec("mesh._native")
LIBRARIES = Path(str(SPEC.origin)).parent if SPEC is not None else Path()

PROGRAM = f"""
import json, sys
import mesh
from mesh.errors import NativeError
from mesh.ports import Port

device, count, copy = sys.argv[1], int(sys.argv[2]), sys.argv[3]
try:
    port = Port.dpdk(device, {EAL!r}, copy=copy) if device != "file" else Port.pcap({str(OFFICE)!r})
    report = mesh.replay(port, ["flow_counter"], worker={{"n_small": 8192}}, max_packets=count)
    stats = report.statistics
    print(json.dumps([stats.packets, stats.bytes, stats.flows_opened]))
except NativeError as error:
    print(json.dumps(str(error)))
"""


def run(device: str, count: int = 0, copy: str = "never") -> object:
    """Runs an engine on a device; returns what it counted, or its error."""
    command = [sys.executable, "-c", PROGRAM, device, str(count), copy]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


needs_dpdk = pytest.mark.skipif(
    not (LIBRARIES / "libnfm_dpdk.so").exists(), reason="this build has no DPDK (libdpdk-dev)"
)


@needs_dpdk
@pytest.mark.parametrize("copy", ["never", "always"])
def test_the_pcap_device_gives_what_the_file_gives(copy: str):
    expected = run("file", 10**9)
    assert isinstance(expected, list)
    assert run(f"net_pcap0,rx_pcap={OFFICE}", int(expected[0]), copy) == expected


@needs_dpdk
def test_the_null_device_never_ends():
    counted = run("net_null0,size=64", 100_000)
    assert isinstance(counted, list)
    assert counted[:2] == [100_000, 6_400_000]


@needs_dpdk
def test_a_device_that_is_not_there_is_named():
    text = run("net_nosuch0")
    assert isinstance(text, str)
    assert "net_nosuch0: no such device" in text
    assert "vfio-pci" in text


class Error(ctypes.Structure):
    """nfm_error."""

    _fields_ = (("code", ctypes.c_int32), ("text", ctypes.c_char * 508))


@pytest.mark.skipif(not (LIBRARIES / "libnfm.so").exists(), reason="nfmesh is not installed")
@pytest.mark.parametrize(("kind", "package"), [("dpdk", "libdpdk-dev"), ("afxdp", "libxdp-dev")])
def test_what_is_missing_is_said(tmp_path: Path, kind: str, package: str):
    shutil.copy(LIBRARIES / "libnfm.so", tmp_path / "libnfm.so")
    library = ctypes.CDLL(str(tmp_path / "libnfm.so"))
    open_port = library[f"nfm_port_{kind}_open"]
    open_port.restype = ctypes.c_void_p
    error, config = Error(), ctypes.create_string_buffer(256)
    assert open_port(config, ctypes.byref(error)) is None
    assert f"install {package}" in error.text.decode()
    (tmp_path / f"libnfm_{kind}.so").write_text("no library")
    assert open_port(config, ctypes.byref(error)) is None
    assert "install the package" in error.text.decode()
