# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests: properties are checked with the same examples in every run."""

import faulthandler
import gc
import os
import shutil
import signal
import tempfile
from pathlib import Path

import leftovers
import pytest
from hypothesis import settings
from live_rig import build_bridge, make_page

from mesh.rundir import VARIABLE

# A shell starts what it runs in the background deaf to Ctrl-C, and Python inherits that. The tests
# of Ctrl-C send it to themselves and to children: they need it heard.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines that build and test at the same time are slow at odd moments: no deadline per example.
settings.register_profile("nfmesh", deadline=None, derandomize=True)
settings.load_profile("nfmesh")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """A test that says how long it may take is not ended before by what ends the others."""
    if item.get_closest_marker("timeout"):
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session", autouse=True)
def run_folders():
    """Meshes of these tests are not seen by others, nor are those of others seen here."""
    folder = Path(tempfile.mkdtemp(prefix="nfmesh-"))
    folder.chmod(0o755)
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(folder)
    yield
    if before is None:
        del os.environ[VARIABLE]
    else:
        os.environ[VARIABLE] = before
    shutil.rmtree(folder)


@pytest.fixture(scope="module", autouse=True)
def nothing_left(run_folders):
    """Nothing that a module's tests started outlives it: no process, nor the memory of one."""
    before, memory, tests = leftovers.processes(), leftovers.memory(), {}
    yield tests
    left = leftovers.end(before, tests)
    gc.collect()
    left += [name for fd, name in leftovers.memory().items() if memory.get(fd) != name]
    if left:
        pytest.fail("left behind and removed: " + "; ".join(left), pytrace=False)


@pytest.fixture(autouse=True)
def started_here(request, nothing_left):
    """Notes in which test a process came up; it may be one of the module's rig."""
    before = leftovers.descendants(os.getpid())
    yield
    for pid in leftovers.descendants(os.getpid()) - before:
        nothing_left[pid] = request.node.name


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to fetch."""
    return make_page(tmp_path_factory.mktemp("www"))


@pytest.fixture(scope="session")
def bridge_tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """live_bridge: the ports without the rest."""
    return build_bridge(tmp_path_factory.mktemp("bridge"))
