# SPDX-License-Identifier: Apache-2.0
"""Which of a mesh's ports a worker opens, and how it reaches the others."""

from __future__ import annotations

from mesh.control.shared_ports import handover_objects, handover_of, ports_of_worker
from mesh.control.wire import PortPart

TAP = PortPart("tap", "tap:t0", out=1)
SOCKET = PortPart("afpacket", "afpacket:eth0", {"interface": "eth0"}, out=0)
QUEUE = PortPart("afxdp", "afxdp:eth1", {"interface": "eth1", "queue": 4, "queues": 2})
ONE_QUEUE = PortPart("afxdp", "afxdp:eth2", {"interface": "eth2"})
READ = PortPart("pcap", "in.pcap", {"path": "in.pcap"}, out=1)
WRITTEN = PortPart("record", "out.pcap", {"path": "out.pcap"})


def test_one_worker_has_the_ports_as_they_are() -> None:
    ports = (TAP, SOCKET, READ, WRITTEN)
    assert ports_of_worker(ports, 0, 1) == ports
    assert handover_of(ports, 0, 1) is None


def test_packet_sockets_are_a_group_and_queues_one_for_each() -> None:
    for worker in range(2):
        socket, queue = ports_of_worker((SOCKET, QUEUE), worker, 2)
        assert socket.fanout
        assert socket.out == 0
        assert queue.options["queue"] == 4 + worker


def test_a_port_of_one_queue_is_the_first_workers() -> None:
    assert ports_of_worker((TAP, ONE_QUEUE), 0, 2) == (TAP, ONE_QUEUE)
    tap, queue = ports_of_worker((TAP, ONE_QUEUE), 1, 2)
    assert (tap.kind, tap.source, tap.out) == ("remote", "tap:t0", 1)
    assert queue.kind == "remote"


def test_captures_are_read_by_all_and_written_in_parts() -> None:
    read, written = ports_of_worker((READ, WRITTEN), 1, 2)
    assert read == READ
    assert written.options == {"path": "out.pcap.w1", "format": "pcap-ns"}
    assert written.source == "out.pcap"


def test_workers_with_captures_alone_need_not_speak() -> None:
    assert handover_of((READ, WRITTEN), 0, 2) is None


def test_every_worker_has_a_ring_to_each_other_one() -> None:
    parts = [handover_of((SOCKET,), worker, 3) for worker in range(3)]
    first = parts[0]
    assert first is not None
    assert first.to == ("", "hand/w0/w1", "hand/w0/w2")
    assert first.taken == ("", "hand/w1/w0", "hand/w2/w0")
    objects = handover_objects(parts)
    assert len({each.name for each in objects}) == len(objects) == 6 + 3
    assert {each.kind for each in objects} == {"handover", "bell"}
