# SPDX-License-Identifier: Apache-2.0
"""An NF of one's own: nfmesh run --pcap tests/captures/office.pcap --nf examples/refused.py."""

from __future__ import annotations

from collections import Counter

from mesh import NF, EventBatch, on


class Refused(NF):
    """Counts refused connections by source."""

    def __init__(self) -> None:
        self.sources: Counter[str] = Counter()

    @on("tcp.end.reset", where="conn_state == REJ")
    def refused(self, batch: EventBatch) -> None:
        """Adds a batch; the filter ran in C."""
        self.sources.update(batch.client_ip)

    def results(self) -> dict[str, int]:
        """Returns the most refused sources."""
        return dict(self.sources.most_common(5))
