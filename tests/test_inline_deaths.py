# SPDX-License-Identifier: Apache-2.0
"""Inline NFs whose process dies between saying something and passing the entry that it is about."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from file_rig import by_flow, datagram, run, write_nf
from live_rig import public_folder
from pcap_file import packets

from mesh.testing import timed, write_capture

FLOWS, EACH = 8, 60
DEADLY = (FLOWS * EACH) // 2
"""Number of the datagram at which it dies, once."""
DIES = """
import os, signal
import numpy as np
from mesh import NF, Event, on

class Seen(Event, name="dies.seen"):
    serial: int

class Dies(NF):
    raises = (Seen,)
    holds = 4

    def __init__(self, how: str, once: str, deadly: int):
        self.how, self.once, self.deadly = how, once, deadly
        self.kept = []

    def start(self, ctx):
        self.out = ctx.port("out")

    @on("udp.datagram", mode="inline")
    def judge(self, batch):
        for n, event in enumerate(batch):
            serial = int(bytes(event.payload))
            if serial != self.deadly:
                continue
            if self.how == "raise":
                self.raise_event(Seen(serial=serial), event)
            elif self.how == "inject":
                self.inject(bytes(event.frame) + b"again", self.out)
            elif self.how == "keep":
                self.kept.append(batch.keep(np.arange(len(batch)) == n))
            if not os.path.exists(self.once):
                open(self.once, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)

    def poll(self):
        while self.kept:
            self.kept.pop().judge()
"""
DECIDES = """
from mesh import NF, on

class Decides(NF):
    def __init__(self):
        self.asked = []

    @on("dies.seen", mode="inline", stage=1)
    def judge(self, batch):
        self.asked += batch.serial.tolist()

    def results(self):
        return {"asked": self.asked}
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as made:
        (made / "state").mkdir()
        (made / "state").chmod(0o777)
        frames = [datagram(f"10.9.0.{n % FLOWS}", 53, f"{n}".encode()) for n in range(FLOWS * EACH)]
        write_capture(made / "in.pcap", timed(frames), form="pcap-ns")
        write_nf(made, "dies", DIES)
        write_nf(made, "decides", DECIDES)
        yield made


def through(folder: Path, how: str) -> dict[str, Any]:
    once = folder / "state" / "once"
    dies = {"use": f"{folder}/dies.py", "restart": "always"}
    config = {"how": how, "once": str(once), "deadly": DEADLY}
    nfs = [{**dies, "config": config}, {"use": f"{folder}/decides.py"}]
    ports = [
        {"pcap": str(folder / "in.pcap"), "out": "out"},
        {"record": str(folder / "out.pcap"), "name": "out"},
    ]
    (folder / "mesh.json").write_text(json.dumps({"nfs": nfs, "ports": ports}))
    report = run(str(folder / "mesh.json"))
    assert [nf["errors"] for nf in report["nfs"]] == [[], []]
    assert once.exists()
    return report


def check_passed(folder: Path, sent: list[tuple[int, bytes]]) -> None:
    """Each frame left once, in its flow's order."""
    assert by_flow(sent) == by_flow(packets(folder / "in.pcap"))


def test_a_raised_event_comes_again_and_the_packet_leaves_once(folder: Path) -> None:
    report = through(folder, "raise")
    [asked] = [nf["results"]["asked"] for nf in report["nfs"] if nf["name"] == "decides"]
    assert set(asked) == {DEADLY}
    assert len(asked) == report["counters"]["inline.raised"] in (1, 2)
    assert report["counters"].get("inline.bad_raise", 0) == 0
    check_passed(folder, packets(folder / "out.pcap"))


def test_a_frame_of_its_own_is_whole_each_time(folder: Path) -> None:
    report = through(folder, "inject")
    sent = packets(folder / "out.pcap")
    own = [frame for _, frame in sent if frame.endswith(b"again")]
    assert len(own) == report["counters"]["inline.injected"] in (1, 2)
    assert len(set(own)) == 1
    check_passed(folder, [each for each in sent if not each[1].endswith(b"again")])


def test_what_it_kept_is_judged_by_the_next_one(folder: Path) -> None:
    report = through(folder, "keep")
    assert report["counters"].get("command.bad", 0) == 0
    check_passed(folder, packets(folder / "out.pcap"))
    assert Counter(frame for _, frame in packets(folder / "out.pcap")).most_common(1)[0][1] == 1
