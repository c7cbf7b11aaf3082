# SPDX-License-Identifier: Apache-2.0
"""Native NFs: a library of one's own, compiled against the installed headers."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from mesh import NF, Context, EventBatch, NativeCode, on
from mesh.compose import NFUse
from mesh.errors import NFMissing
from mesh.testing import conversation, replay_frames

HEADERS = Path(__file__).resolve().parent.parent / "native" / "include"
SOURCE = """
#include <stdlib.h>
#include <string.h>
#include "nfm/nfm.h"

typedef struct counts { uint64_t events, bytes, step, batches; } counts;

void *counter_init(const char *config) {
    if (strstr(config, "refuse") != NULL)
        return NULL;
    counts *c = calloc(1, sizeof(*c));
    c->step = strstr(config, "\\"step\\": 2") != NULL ? 2 : 1;
    return c;
}

void counter_fini(void *state) { ((counts *)state)->batches = 99; }

int counter_process(void *state, const nfm_batch *batch) {
    counts *c = state;
    c->batches++;
    for (uint32_t i = 0; i < batch->n; i++) {
        const nfm_record *record = &batch->mem->records[batch->desc[i].record];
        c->events += c->step;
        c->bytes += record->tcp.data_len;
    }
    return NFM_OK;
}
"""


class Counts(ctypes.Structure):
    _fields_ = [
        ("events", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("step", ctypes.c_uint64),
        ("batches", ctypes.c_uint64),
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("native")
    source = folder / "counter.c"
    source.write_text(SOURCE)
    target = folder / "counter.so"
    command = [compiler, "-shared", "-fPIC", "-O1", f"-I{HEADERS}", str(source), "-o", str(target)]
    subprocess.run(command, check=True)
    return str(target)


def counter(library: str, **changes: str | None) -> type[NF]:
    names = {"process": "counter_process", "init": "counter_init", "fini": "counter_fini"}
    code = NativeCode(library, **{**names, **changes})  # type: ignore[arg-type]

    class Counter(NF):
        subscribes = (on("tcp.data"),)
        native = code

        def __init__(self, step: int = 1, how: str = "") -> None:
            self.ends = 0
            self.found: dict[str, int] = {}

        def start(self, ctx: Context) -> None:
            assert self.native_handle is not None
            self.counts = Counts.from_address(self.native_handle.state)

        @on("flow.end")
        def ended(self, batch: EventBatch) -> None:
            self.ends += len(batch)

        def results(self) -> dict[str, int]:
            return {"events": self.counts.events, "bytes": self.counts.bytes, "ends": self.ends}

    return Counter


FRAMES = conversation([("client", b"abc"), ("server", b"defg")])


def test_native_and_python_halves_work_side_by_side(library: str):
    report = replay_frames(FRAMES, [counter(library), "flow_counter"])
    assert report["counter"].results == {"events": 2, "bytes": 7, "ends": 1}


def test_options_reach_the_native_half(library: str):
    report = replay_frames(FRAMES, [NFUse(counter(library), options={"step": 2})])
    results = report["counter"].results
    assert results is not None
    assert results["events"] == 4


@pytest.mark.parametrize(
    ("changes", "options", "text"),
    [
        ({"process": "no_such"}, {}, "its library has no function no_such"),
        ({"init": "no_such"}, {}, "its library has no function no_such"),
        ({}, {"how": "refuse"}, "counter_init refused its configuration"),
    ],
)
def test_what_cannot_be_loaded_is_said(
    library: str, changes: dict[str, str], options: dict[str, str], text: str
):
    with pytest.raises(NFMissing, match=text):
        replay_frames(FRAMES, [NFUse(counter(library, **changes), options=options)])


def test_a_library_that_is_not_there_or_no_library(tmp_path: Path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    with pytest.raises(NFMissing, match="does not load"):
        replay_frames(FRAMES, [counter(str(broken))])
    with pytest.raises(NFMissing, match=r"absent\.so is not in"):
        replay_frames(FRAMES, [counter("absent")])
