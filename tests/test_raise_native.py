# SPDX-License-Identifier: Apache-2.0
"""Events that native inline NFs raise: from the loop in C of a process, and in one process."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from file_rig import by_flow, datagram, run, write_nf
from live_rig import public_folder
from pcap_file import packets

import mesh
from mesh import sdk
from mesh.ports import Port
from mesh.testing import timed, write_capture

FLOWS, EACH = 8, 40
NATIVE = """
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "nfm/nfm.h"

typedef struct guard { uint64_t raised, full; uint32_t type, copies; } guard;
typedef struct fields { uint64_t serial; uint32_t off, len; char text[400]; } fields;

void *guard_init(const char *config) {
    guard *g = calloc(1, sizeof(*g));
    g->copies = strstr(config, "\\"copies\\": 5") != NULL ? 5 : 1;
    return g;
}

void guard_set(guard *g, uint32_t type) { g->type = type; }

int guard_process(void *state, const nfm_batch *batch) {
    guard *g = state;
    for (uint32_t i = 0; i < batch->n; i++) {
        const nfm_record *record = &batch->mem->records[batch->desc[i].record];
        nfm_view data = nfm_record_data(batch->mem, record);
        char word[16] = {0};
        memcpy(word, data.data, data.len < 15 ? data.len : 15);
        if (strncmp(word, "bad ", 4) != 0)
            continue;
        fields f = {strtoull(word + 4, NULL, 10), 16, 400, "bad"};
        for (uint32_t n = 0; n < g->copies; n++, g->raised++)
            while (nfm_ring_raise(batch->ring, i, g->type, (const uint8_t *)&f, 416) ==
                   NFM_E_AGAIN) { /* the worker is another process */
                g->full++;
                usleep(50);
            }
    }
    return NFM_OK;
}
"""
GUARD = """
import ctypes
from mesh import NF, Event, NativeCode, on

class Suspect(Event, name="guard.suspect"):
    serial: int
    word: str

class Guard(NF):
    raises = (Suspect,)
    native = NativeCode({library!r}, "guard_process", "guard_init")
    subscribes = (on("udp.datagram", mode="inline"),)

    def __init__(self, copies: int = 1):
        self.copies = copies

    def start(self, ctx):
        handle = self.native_handle
        state = ctypes.c_void_p(handle.state)
        handle.lib.guard_set(state, ctypes.c_uint32(ctx.types["guard.suspect"]))
        self.counts = (ctypes.c_uint64 * 2).from_address(handle.state)

    def results(self):
        return {{"raised": self.counts[0], "full": self.counts[1]}}
"""
BOUNCER = """
from mesh import NF, on

class Bouncer(NF):
    def __init__(self):
        self.asked = []

    @on("guard.suspect", mode="inline", stage=1)
    def judge(self, batch):
        assert {bytes(word)[:3] for word in batch.views("word")} == {b"bad"}
        self.asked += batch.serial.tolist()
        batch.drop()

    def results(self):
        return {"serials": sorted(self.asked)}
"""
WATCHER = """
from mesh import NF, on

class Watcher(NF):
    def __init__(self):
        self.heard = []

    @on("guard.suspect")
    def see(self, batch):
        self.heard += batch.serial.tolist()

    def results(self):
        return {"serials": sorted(self.heard)}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    with public_folder() as made:
        (made / "guard.c").write_text(NATIVE)
        library = made / "guard_native.so"
        command = [compiler, "-shared", "-fPIC", "-O1", str(made / "guard.c"), *sdk.flags()]
        subprocess.run([*command, "-o", str(library)], check=True)
        library.chmod(0o755)
        write_nf(made, "guard", GUARD.format(library=str(library)))
        write_nf(made, "bouncer", BOUNCER)
        write_nf(made, "watcher", WATCHER)
        yield made


def write_traffic(path: Path, bad_from: int) -> None:
    """Writes datagrams; those of each flow from number `bad_from` on are bad."""
    frames = [
        datagram(f"10.9.0.{flow}", 53, f"{'bad' if n >= bad_from else 'ok'} {flow}".encode())
        for n in range(EACH)
        for flow in range(FLOWS)
    ]
    write_capture(path, timed(frames), form="pcap-ns")


def send(folder: Path, bad_from: int, names: tuple[str, ...], *options: str) -> dict[str, Any]:
    """Sends such datagrams through NFs as processes; returns the report."""
    write_traffic(folder / "in.pcap", bad_from)
    nfs = [word for name in names for word in ("--nf", str(folder / f"{name}.py"))]
    before, after = str(folder / "in.pcap"), str(folder / "out.pcap")
    return run("--in", before, "--out", after, *options, *nfs)


def results(report: dict[str, Any]) -> dict[str, Any]:
    assert all(not nf["errors"] for nf in report["nfs"])
    return {nf["name"]: nf["results"] for nf in report["nfs"]}


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_a_later_stage_drops_what_a_native_nf_raised(
    folder: Path, options: tuple[str, ...]
) -> None:
    report = send(folder, EACH - 1, ("guard", "bouncer", "watcher"), *options)
    found = results(report)
    assert found["guard"] == {"raised": FLOWS, "full": 0}
    assert found["bouncer"] == {"serials": list(range(FLOWS))} == found["watcher"]
    left = by_flow(packets(folder / "out.pcap"))
    assert [len(flow) for flow in left.values()] == [EACH - 1] * FLOWS


def test_in_one_process_too(folder: Path) -> None:
    write_traffic(folder / "in.pcap", EACH - 1)
    nfs = [str(folder / f"{name}.py") for name in ("guard", "bouncer", "watcher")]
    report = mesh.replay(folder / "in.pcap", nfs=nfs, sink=Port.record(folder / "out.pcap", "pcap"))
    found = {nf.name: nf.results for nf in report.nfs}
    assert found["guard"] == {"raised": FLOWS, "full": 0}
    assert found["bouncer"] == {"serials": list(range(FLOWS))} == found["watcher"]
    assert report.counters["inline.dropped"] == FLOWS


def test_more_than_the_queue_holds_waits_for_the_worker(folder: Path) -> None:
    report = send(folder, 0, ("guard", "watcher"), "--set", "guard.copies=5")
    raised = 5 * FLOWS * EACH
    assert results(report)["guard"]["raised"] == raised
    assert results(report)["watcher"]["serials"] == sorted(5 * EACH * list(range(FLOWS)))
    assert report["counters"]["inline.raised"] == raised
    assert sum(map(len, by_flow(packets(folder / "out.pcap")).values())) == FLOWS * EACH
