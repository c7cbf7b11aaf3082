# SPDX-License-Identifier: Apache-2.0
"""What a native NF publishes of what it found in C, when its process is killed in between."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_rig import datagram, run, write_nf
from live_rig import public_folder

from mesh import sdk
from mesh.testing import timed, write_capture

N = 4000
NATIVE = """
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
#include "nfm/nfm.h"

typedef struct teller { uint64_t found[65536]; uint32_t n, calls; const char *once; } teller;

void *teller_init(const char *config) { (void)config; return calloc(1, sizeof(teller)); }
void teller_set(teller *t, const char *once) { t->once = once; }
uint32_t teller_take(teller *t) { uint32_t n = t->n; t->n = 0; return n; }

/* Takes down which packets there were; its second call, ever, kills it. */
int teller_process(void *state, const nfm_batch *batch) {
    teller *t = state;
    if (++t->calls == 2 && open(t->once, O_CREAT | O_EXCL | O_WRONLY, 0600) >= 0)
        kill(getpid(), SIGKILL);
    for (uint32_t i = 0; i < batch->n && t->n < 65536; i++)
        t->found[t->n++] = batch->mem->records[batch->desc[i].record].packet;
    return NFM_OK;
}
"""
TELLER = """
import ctypes
from mesh import NF, Event, NativeCode, on

class Found(Event, name="teller.found"):
    serial: int

class Teller(NF):
    publishes = (Found,)
    native = NativeCode({library!r}, "teller_process", "teller_init")
    subscribes = (on("udp.datagram"),)

    def start(self, ctx):
        lib, state = self.native_handle.lib, ctypes.c_void_p(self.native_handle.state)
        self.once = ctypes.create_string_buffer({once!r}.encode())
        lib.teller_set(state, self.once)
        self.take = lambda: lib.teller_take(state)
        self.found = (ctypes.c_uint64 * 65536).from_address(self.native_handle.state)

    def poll(self):
        for packet in self.found[: self.take()]:
            self.publish(Found(serial=packet))
"""
LISTENER = """
from mesh import NF, on

class Listener(NF):
    def __init__(self):
        self.heard = []

    @on("teller.found")
    def take(self, batch):
        self.heard += batch.serial.tolist()

    def results(self):
        return {"heard": self.heard}
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    with public_folder() as made:
        (made / "teller.c").write_text(NATIVE)
        library, once = made / "teller_native.so", made / "state" / "once"
        once.parent.mkdir()
        once.parent.chmod(0o777)
        command = [compiler, "-shared", "-fPIC", "-O1", str(made / "teller.c"), *sdk.flags()]
        subprocess.run([*command, "-o", str(library)], check=True)
        library.chmod(0o755)
        write_nf(made, "teller", TELLER.format(library=str(library), once=str(once)))
        write_nf(made, "listener", LISTENER)
        frames = [datagram(f"10.9.0.{n % 200}", 53, b"x") for n in range(N)]
        write_capture(made / "in.pcap", timed(frames), form="pcap-ns")
        yield made


def test_an_observer_that_is_killed_loses_and_repeats_nothing(folder: Path) -> None:
    names = ("teller", "listener")
    nfs = [{"use": f"{folder}/{name}.py", "restart": "always", "ring": 1024} for name in names]
    spec = {"nfs": nfs, "ports": [{"pcap": str(folder / "in.pcap")}]}
    (folder / "mesh.json").write_text(json.dumps(spec))
    report = run(str(folder / "mesh.json"))
    assert (folder / "state" / "once").exists()
    [listener] = [nf for nf in report["nfs"] if nf["name"] == "listener"]
    assert listener["results"]["heard"] == list(range(1, N + 1))
