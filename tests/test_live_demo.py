# SPDX-License-Identifier: Apache-2.0
"""The demo on real kernels: what it shows, and that nothing is left of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from live_rig import PATIENCE_S, ROOT, needs_namespaces, wait_until

pytestmark = [
    needs_namespaces,
    pytest.mark.skipif(os.geteuid() != 0, reason="it names namespaces, which needs root"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="no curl"),
]
SCRIPT = ROOT / "tools/live_demo.sh"
VENV = Path(sys.executable).parent.parent


def begin() -> subprocess.Popen[str]:
    """Starts the demo."""
    environment = {**os.environ, "VENV": str(VENV), "COLUMNS": "100"}
    return subprocess.Popen(
        [str(SCRIPT)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def what_is_left() -> str:
    """Returns what there is of the demo."""
    hosts = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True)
    return "".join(line for line in (hosts + links.stdout).splitlines() if "nfm-" in line)


def test_a_page_passes_and_an_attack_does_not() -> None:
    demo = begin()
    said, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 0, said
    assert "a page: a page of 198.51.100.80" in said
    assert "an attack: blocked" in said
    assert "a closed port: blocked" in said
    assert "  198.51.100.1 GET /\n" in said
    assert "passwd" not in said.partition("heard from")[2].partition("firewall")[0]
    for found in ("the web", "path traversal", "198.51.100.1:", "summary"):
        assert found in said, said
    assert what_is_left() == ""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_it_is_interrupted(how: signal.Signals) -> None:
    demo = begin()
    try:
        wait_until(lambda: "nfm-server" in what_is_left(), "a host")
        demo.send_signal(how)
        demo.communicate(timeout=PATIENCE_S)
    finally:
        demo.kill()
    assert demo.returncode == 130
    assert what_is_left() == ""
