# SPDX-License-Identifier: Apache-2.0
"""What tests of the NF `ids` share: runs over frames, and what was found."""

import pytest

from mesh import NF, on
from mesh.errors import NFMissing
from mesh.native_nf import library_path
from mesh.testing import replay_frames
from nfs.ids.nf import Ids


def need_library():
    try:
        library_path(Ids, Ids.native)
    except NFMissing:
        pytest.skip("ids.so was not built: libhs is missing", allow_module_level=True)


class Hears(NF):
    """Collects the alerts that ids publishes."""

    def __init__(self):
        self.found = []

    @on("ids.alert")
    def alert(self, batch):
        self.found += [(e.sid, e.position, f"{e.src_ip}:{e.src_port}", e.flow) for e in batch]


def alerts(frames, *rules, **options):
    """Runs rules over frames; returns (sid, position, sender) of each alert, and the results."""
    hears = Hears()
    nf = Ids(lines=rules, **options)
    report = replay_frames(frames, [nf, hears])
    assert not report.errors
    return [row[:3] for row in hears.found], report["ids"].results


def sids(frames, *rules, **options):
    """Runs rules over frames; returns the numbers of those that alerted, in order."""
    found, results = alerts(frames, *rules, **options)
    assert results["left_out"] == []
    return [sid for sid, *_ in found]
