# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import pytest
from pcap_file import frames_of

import mesh
from mesh.compose import NFUse
from mesh.errors import NFError
from mesh.ports import Port
from mesh.testing import conversation, datagrams, write_capture
from nfs.port_mirror.nf import PortMirror


def through(tmp_path, frames, where=None, **options):
    """Sends frames through the NF, whose copies go the same way out: once more for each copy."""
    source, out = tmp_path / "in.pcapng", tmp_path / "out.pcap"
    write_capture(source, frames)
    use = NFUse(PortMirror, options={"to": 1, **options}, where=where)
    report = mesh.replay(source, [use], sink=Port.record(out, "pcap"))
    assert not report.errors
    results = report["port_mirror"].results
    assert report.counters.get("inline.mirrored", 0) == results["mirrored"]
    assert report.counters["forward.packets"] == len(frames) + results["mirrored"]
    copies = Counter(frames_of(out))
    copies.subtract(frame.data for frame in frames)
    return results, copies


def numbered(count, port=53):
    said = [("client", number.to_bytes(4, "big")) for number in range(count)]
    return datagrams(said, server=("10.0.0.53", port))


def test_everything_is_copied_once_and_goes_on(tmp_path):
    frames = numbered(100) + conversation([("client", b"hello"), ("server", b"you")])
    results, copies = through(tmp_path, frames)
    assert results == {"packets": len(frames), "mirrored": len(frames)}
    assert set(copies.values()) == {1}


def test_a_filter_chooses_and_the_rest_is_not_asked(tmp_path):
    frames = numbered(50) + numbered(70, port=99)
    results, copies = through(tmp_path, frames, where="udp port 99")
    assert results == {"packets": 70, "mirrored": 70}
    assert [copies[frame.data] for frame in frames] == [0] * 50 + [1] * 70


@pytest.mark.parametrize("sample", [2, 3, 7, 100])
def test_every_nth_packet_is_copied_whatever_the_batches(tmp_path, sample):
    frames = numbered(250)
    results, copies = through(tmp_path, frames, sample=sample)
    assert results["mirrored"] == -(-250 // sample)
    assert [copies[frame.data] for frame in frames] == [int(i % sample == 0) for i in range(250)]


def test_a_sampled_flow_is_copied_whole(tmp_path):
    said = [("client", b"a"), ("server", b"b")] * 5
    flows = [conversation(said, client=("10.0.0.1", 1000 + i)) for i in range(200)]
    frames = [frame for turn in zip(*flows, strict=True) for frame in turn]
    _, copies = through(tmp_path, frames, sample=4, by="flow")
    whole = [flow for flow in flows if all(copies[frame.data] == 1 for frame in flow)]
    none = [flow for flow in flows if all(copies[frame.data] == 0 for frame in flow)]
    assert len(whole) + len(none) == 200
    assert 25 <= len(whole) <= 75


@pytest.mark.parametrize("to", [9, "nosuch"])
def test_a_port_that_is_not_there_is_refused(tmp_path, to):
    source, out = tmp_path / "in.pcapng", tmp_path / "out.pcap"
    write_capture(source, numbered(40))
    use = NFUse(PortMirror, options={"to": to})
    with pytest.raises(NFError, match=f"no port '?{to}'?; there are: .*in.pcapng, .*out.pcap"):
        mesh.replay(source, [use], sink=Port.record(out, "pcap"))


def test_a_port_has_a_name(tmp_path):
    source, out = tmp_path / "in.pcapng", tmp_path / "out.pcap"
    write_capture(source, numbered(40))
    use = NFUse(PortMirror, options={"to": str(out)})
    report = mesh.replay(source, [use], sink=Port.record(out, "pcap"))
    assert report["port_mirror"].results["mirrored"] == 40
