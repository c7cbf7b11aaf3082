# SPDX-License-Identifier: Apache-2.0
from mesh.testing import conversation, datagrams, replay_frames
from nfs.flow_counter.nf import FlowCounter


def test_flows_and_packets_are_counted_by_protocol():
    frames = conversation([("client", b"hello")])
    frames += datagrams([("client", b"?"), ("server", b"!")])
    frames += datagrams([("client", b"?")], client=("10.0.0.9", 1))
    report = replay_frames(frames, [FlowCounter])
    assert report["flow_counter"].results == {"6": [1, 8], "17": [2, 3]}


def test_without_packets_there_is_nothing_to_report():
    assert replay_frames([], [FlowCounter])["flow_counter"].results == {}
