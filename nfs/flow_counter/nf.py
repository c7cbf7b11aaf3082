# SPDX-License-Identifier: Apache-2.0
"""The hello world: counts flows and packets by protocol, with numpy columns."""

from __future__ import annotations

import numpy as np

from mesh import NF, EventBatch, on


class FlowCounter(NF):
    """Counts the flows and packets of each IP protocol."""

    def __init__(self) -> None:
        self.counts = np.zeros((256, 2), np.int64)

    @on("flow.start")
    def opened(self, batch: EventBatch) -> None:
        """Adds flows to their protocols."""
        self.counts[:, 0] += np.bincount(batch.proto, minlength=256)

    @on("packet")
    def seen(self, batch: EventBatch) -> None:
        """Adds packets to the protocols of their flows; 0 is for those without a flow."""
        self.counts[:, 1] += np.bincount(batch.proto, minlength=256)

    def results(self) -> dict[str, list[int]]:
        """Returns [flows, packets] by protocol number."""
        return {str(n): row for n, row in enumerate(self.counts.tolist()) if any(row)}
