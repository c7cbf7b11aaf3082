# SPDX-License-Identifier: Apache-2.0
"""NFs that tell when they began: how long a mesh and an NF of it take to come up."""

from __future__ import annotations

import os
import time
from typing import Any

from mesh import NF, EventBatch, on

TICKS = os.sysconf("SC_CLK_TCK")


def process_age_ns() -> int:
    """How long this process has existed, to a hundredth of a second."""
    with open("/proc/self/stat", encoding="utf-8") as file:
        started = int(file.read().rpartition(")")[2].split()[19])
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - started * (1_000_000_000 // TICKS)


class First(NF):
    """Notes when its first event came, and how old its process was."""

    name = "first"

    def __init__(self) -> None:
        self.at_ns = self.age_ns = self.packets = 0

    @on("packet.tcp")
    def seen(self, batch: EventBatch) -> None:
        if not self.at_ns:
            self.at_ns, self.age_ns = time.monotonic_ns(), process_age_ns()
        self.packets += len(batch)

    def results(self) -> dict[str, Any]:
        return {"at_ns": self.at_ns, "age_ns": self.age_ns, "packets": self.packets}


class Brake(NF):
    """Holds packets up, so that a short capture lasts."""

    name = "brake"

    @on("packet.tcp")
    def seen(self, batch: EventBatch) -> None:
        time.sleep(0.004)
