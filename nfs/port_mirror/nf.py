# SPDX-License-Identifier: Apache-2.0
"""Sends copies of packets to a port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from mesh import NF, Context, EventBatch, on
from mesh.errors import SpecError, StateError
from mesh.port_spec import MAX_PORTS

_ODD = np.array([0x9E3779B97F4A7C15], np.uint64)


class PortMirror(NF):
    """Sends copies of packets to a port; the packets themselves go on.

    Args:
        to: the port that gets the copies: its name, interface or number.
        sample: one of so many packets or flows.
        by: what is sampled: packet (every n-th of them) or flow (all packets of every n-th flow).
    """

    def __init__(
        self,
        to: str | Annotated[int, Field(ge=0, lt=MAX_PORTS)],
        sample: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1,
        by: Literal["packet", "flow"] = "packet",
    ) -> None:
        self.to, self.sample, self.by = to, sample, by
        self._port = 0
        self.packets = self.mirrored = 0

    def start(self, ctx: Context) -> None:
        """Finds the port."""
        try:
            self._port = ctx.port(self.to)
        except StateError as error:
            raise SpecError("to", str(error)) from error

    @on("packet", mode="inline")
    def copy(self, batch: EventBatch) -> None:
        """Marks what is copied: nothing else is asked of a packet."""
        if self.sample == 1:
            chosen = np.ones(len(batch), np.bool_)
        elif self.by == "packet":
            chosen = (self.packets + np.arange(len(batch))) % self.sample == 0
        else:
            chosen = self._by_flow(batch)
        batch.mirror(chosen, self._port)
        self.packets += len(batch)
        self.mirrored += int(chosen.sum())

    def _by_flow(self, batch: EventBatch) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Chooses by the flow's id: the rest of a flow that is not chosen passes unasked."""
        mixed = (batch.flow * _ODD) >> np.uint64(32)
        chosen = np.asarray(mixed % np.uint64(self.sample) == 0, np.bool_)
        batch.accept(~chosen, rest=True)
        return chosen

    def results(self) -> Mapping[str, Any]:
        """Returns how many packets it was asked about, and how many were copied."""
        return {"packets": self.packets, "mirrored": self.mirrored}
