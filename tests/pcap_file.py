# SPDX-License-Identifier: Apache-2.0
"""What a pcap file holds, read by a program that is not ours, for tests."""

from __future__ import annotations

import struct
from pathlib import Path

UNIT_NS = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}
"""Of the fraction of a second, by the file's first word."""


def packets(path: Path) -> list[tuple[int, bytes]]:
    """Returns times, in nanoseconds, and frames."""
    data, at, found = path.read_bytes(), 24, []
    unit = UNIT_NS[struct.unpack_from("<I", data)[0]]
    while at < len(data):
        seconds, fraction, size, _ = struct.unpack_from("<4I", data, at)
        found.append((seconds * 1_000_000_000 + fraction * unit, data[at + 16 : at + 16 + size]))
        at += 16 + size
    return found


def frames_of(path: Path) -> list[bytes]:
    """Returns the frames."""
    return [frame for _, frame in packets(path)]
