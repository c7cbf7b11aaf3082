# SPDX-License-Identifier: Apache-2.0
"""A named user event, an event with a filter, to which NFs subscribe by its name.

The name and the filter are the user's (here in the code, else in a spec file: `nfmesh plan
examples/user_event.yaml` draws it); the NF only knows that it hears events with a `qname`.
"""

from __future__ import annotations

import sys
from collections import Counter

import mesh
from mesh import NF, EventBatch, on

EVENTS = {"dns.response.failed": ("dns.response", "rcode != 0 and not tc")}


class Failed(NF):
    """Counts names whose resolution failed."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()

    @on("dns.response.failed")
    def heard(self, batch: EventBatch) -> None:
        self.names.update(zip(batch.qname, batch.rcode_name, strict=True))

    def results(self) -> dict[str, int]:
        return {f"{name} {code}": n for (name, code), n in self.names.most_common()}


if __name__ == "__main__":
    print(mesh.replay(sys.argv[1], [Failed], events=EVENTS)["failed"].results)
