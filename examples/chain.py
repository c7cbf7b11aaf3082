# SPDX-License-Identifier: Apache-2.0
"""One NF publishes an event of its own, another hears it, in the same run.

nfmesh run --pcap tests/captures/office.pcap --nf examples/chain.py:Refusals \\
    --nf examples/chain.py:Alarm
"""

from __future__ import annotations

from collections import defaultdict
from ipaddress import IPv4Address, IPv6Address, ip_address

from mesh import NF, Event, EventBatch, on


class Many(Event, name="refusals.many"):
    """A source was refused at many ports."""

    source: IPv4Address | IPv6Address
    ports: int


class Refusals(NF):
    """Counts the ports that refused a source; says so at 10 of them, at 20, at 40, ...

    Args:
        least: ports at which it says so first.
    """

    publishes = (Many,)

    def __init__(self, least: int = 10) -> None:
        self.ports: defaultdict[str, set[int]] = defaultdict(set)
        self.next: defaultdict[str, int] = defaultdict(lambda: least)

    @on("tcp.end.reset", where="conn_state == REJ")
    def refused(self, batch: EventBatch) -> None:
        for event in batch:
            source, ports = event.client_ip, self.ports[event.client_ip]
            ports.add(event.server_port)
            if len(ports) >= self.next[source]:
                self.next[source] *= 2
                self.publish(Many(source=ip_address(source), ports=len(ports)), about=event)


class Alarm(NF):
    """Keeps what concerns it: the filter on the published event's field runs in C, too."""

    def __init__(self) -> None:
        self.alarms: list[str] = []

    @on("refusals.many", where="ports >= 20")
    def many(self, batch: EventBatch) -> None:
        self.alarms += [f"{event.source}: {event.ports} ports" for event in batch]

    def results(self) -> dict[str, list[str]]:
        return {"alarms": self.alarms}
