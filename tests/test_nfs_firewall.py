# SPDX-License-Identifier: Apache-2.0
"""The firewall in line: what goes in, what comes out, what it says."""

import os
from dataclasses import replace

import pytest
from pcap_file import frames_of

from mesh import NF, on, replay
from mesh.errors import NFError, SpecError
from mesh.native_nf import library_path
from mesh.ports import Port
from mesh.testing import (
    ACK,
    SYN,
    Frame,
    conversation,
    datagrams,
    ethernet,
    ipv4,
    packet,
    replay_frames,
    tcp,
    timed,
    udp,
    write_capture,
)
from nfs.firewall.nf import Firewall

CLIENT, SERVER = "10.0.0.1", "10.0.0.2"


def through(tmp_path, frames, *nfs):
    """Sends frames through NFs; returns the report and what came out."""
    source, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    write_capture(source, frames, form="pcap")
    report = replay(source, list(nfs), sink=Port.record(out, "pcap"))
    for nf in report.nfs:
        assert not nf.errors
    return report, frames_of(out)


def turns(*talks):
    """Puts the frames of several talks behind one another, with new times."""
    return timed([frame.data for talk in talks for frame in talk])


def hits(report):
    return {row["rule"]: row["hits"] for row in report["firewall"].results["rules"]}


def test_rules_decide_on_whole_connections(tmp_path):
    web = conversation([("client", b"GET"), ("server", b"page")] * 40)
    ssh = conversation([("client", b"hi")], client=(CLIENT, 40001), server=(SERVER, 22))
    dns = datagrams([("client", b"?"), ("server", b"!")] * 40)
    rules = ("tcp dport http accept", "tcp dport 22 drop", "udp dport domain accept")
    report, out = through(tmp_path, turns(web, ssh, dns), Firewall(lines=rules))
    assert out == [f.data for f in (*web, *dns)]
    results = report["firewall"].results
    assert hits(report) == {
        "tcp dport http accept": 1,
        "tcp dport 22 drop": 1,
        "udp dport domain accept": 1,
        "drop": 0,
    }
    assert results["flows"] == 2
    assert results["established"] == 1
    assert results["midstream"] == len(ssh) - 1, "what follows a dropped SYN begins nothing"
    assert report.counters["inline.dropped"] == len(ssh)
    assert results["accepted"] < len(web) + len(dns), "accepted flows are not asked for again"


def test_a_port_that_is_used_again_is_judged_again(tmp_path):
    first = conversation([("client", b"x")])
    syn = packet(tcp(b"", CLIENT, 40000, SERVER, 80, seq=90000, flags=SYN), CLIENT, SERVER, 6)
    gap = datagrams([("client", b"z")] * 64)
    report, out = through(tmp_path, turns(first, gap, [Frame(syn, 0)]), Firewall(lines=("accept",)))
    assert len(out) == len(first) + len(gap) + 1
    assert hits(report)["accept"] == 3


def test_replies_pass_and_who_replies_first_does_not(tmp_path):
    reply = packet(udp(b"!", SERVER, 53, CLIENT, 40000), SERVER, CLIENT, 17)
    ask = packet(udp(b"?", CLIENT, 40000, SERVER, 53), CLIENT, SERVER, 17)
    rules = ("ip saddr 10.0.0.1 accept",)
    _, out = through(tmp_path, timed([reply, ask, reply, reply]), Firewall(lines=rules))
    assert out == [ask, reply, reply], "a dropped packet does not close the flow"


def test_a_drop_that_holds_closes_the_flow(tmp_path):
    reply = packet(udp(b"!", SERVER, 53, CLIENT, 40000), SERVER, CLIENT, 17)
    ask = packet(udp(b"?", CLIENT, 40000, SERVER, 53), CLIENT, SERVER, 17)
    frames = timed([reply, *[reply] * 40, ask])
    rules = ("ip saddr 10.0.0.1 accept",)
    report, out = through(tmp_path, frames, Firewall(lines=rules, hold_drops=True))
    assert out == []
    assert report["firewall"].results["dropped"] < len(frames)


@pytest.mark.parametrize(("midstream", "passes"), [("drop", 0), ("rules", 1), ("accept", 2)])
def test_midstream_packets_take_the_policy(tmp_path, midstream, passes):
    frames = [
        packet(tcp(b"x", CLIENT, 7, SERVER, port, flags=ACK), CLIENT, SERVER, 6) for port in (1, 2)
    ]
    nf = Firewall(lines=("tcp dport 1 state midstream accept",), midstream=midstream)
    _, out = through(tmp_path, timed(frames), nf)
    assert len(out) == passes


def icmp_error(quoted, sender, receiver):
    head = bytes([3, 4, 0, 0, 0, 0, 0, 0])
    return packet(head + quoted[14 : 14 + 28], sender, receiver, 1)


def test_icmp_errors_about_accepted_flows_pass(tmp_path):
    syn = packet(tcp(b"", CLIENT, 7, SERVER, 80, flags=SYN), CLIENT, SERVER, 6)
    other = packet(tcp(b"", CLIENT, 8, SERVER, 80, flags=SYN), CLIENT, SERVER, 6)
    router = "10.0.0.254"
    frames = [syn, icmp_error(syn, router, CLIENT), icmp_error(other, router, CLIENT)]
    _, out = through(tmp_path, timed(frames), Firewall(lines=("tcp dport 80 accept",)))
    assert out == frames[:2]


def test_what_is_not_ip_and_what_is_malformed_have_policies(tmp_path):
    arp = ethernet(bytes(28), 0x0806)
    short = ethernet(ipv4(b"\0\1", CLIENT, SERVER, 6), 0x0800)
    frames = timed([arp, short])
    report, out = through(tmp_path, frames, Firewall(lines=("accept",)))
    assert out == [arp]
    assert report["firewall"].results["malformed"] == 1
    nf = Firewall(lines=("drop",), non_ip="drop", malformed="accept")
    assert through(tmp_path, frames, nf)[1] == [short]


def test_fragments_of_an_accepted_datagram_pass(tmp_path):
    whole = udp(bytes(range(256)) * 8, CLIENT, 40000, SERVER, 53)
    parts = [
        ethernet(ipv4(whole[:1024], CLIENT, SERVER, 17, ident=5, more=True), 0x0800),
        ethernet(ipv4(whole[1024:], CLIENT, SERVER, 17, ident=5, fragment=1024), 0x0800),
    ]
    rules = ("udp dport 53 accept",)
    _, out = through(tmp_path, timed(parts), Firewall(lines=rules))
    assert b"".join(f[34:] for f in out) == whole
    _, out = through(tmp_path, timed(parts), Firewall(lines=("udp dport 54 accept",)))
    assert out == []


class Hears(NF):
    """Collects what the firewall publishes, and changes its rules."""

    def __init__(self, path, texts):
        self.path, self.texts, self.heard, self.n = path, list(texts), [], 0

    @on("firewall.reload")
    def reloaded(self, batch):
        self.heard += [(e.rules, e.error.partition(":")[2]) for e in batch]

    @on("packet.udp")
    def count(self, batch):
        self.n += len(batch)


class Impatient(Firewall):
    """Looks at its rules before each burst, and waits for them: no time in the test."""

    name = "firewall"
    native = replace(Firewall.native, library=str(library_path(Firewall, Firewall.native)))

    def __init__(self, rules, texts):
        super().__init__(rules=str(rules))
        self.texts = list(texts)

    def poll(self):
        if self.texts:
            overwrite(self.path, self.texts.pop(0))
        self._watched.look()
        self._watched.wait()
        super().poll()


def overwrite(path, text):
    other = path.with_suffix(".new")
    other.write_text(text)
    os.replace(other, path)


def test_rules_are_replaced_while_packets_pass_and_wrong_ones_are_not(tmp_path):
    path = tmp_path / "rules"
    path.write_text("udp dport 53 accept\n")
    texts = ["udp dport 53 acept", "policy accept\nudp dport 54 drop\nudp dport 53 accept"]
    nf, hears = Impatient(path, texts), Hears(path, texts)
    frames = []
    for source in range(1000):
        talk = (f"10.1.{source // 250}.{source % 250}", 9)
        frames += datagrams([("client", b"?")], client=talk, server=(SERVER, 53 + source % 3))
    report, out = through(tmp_path, turns(frames), nf, hears)
    assert [rules for rules, _ in hears.heard] == [1, 2]
    assert "did you mean 'accept'" in hears.heard[0][1]
    assert hears.heard[1][1] == ""
    found = hits(report)
    assert list(found) == ["udp dport 54 drop", "udp dport 53 accept", "accept"]
    assert found["udp dport 53 accept"] == 334, "hits go on"
    ports = [int.from_bytes(f[36:38], "big") for f in out]
    assert ports.count(53) == 334
    assert 0 < ports.count(55) < 333, "the policy of the first rules was to drop"
    assert report["firewall"].results["loads"] == 2


def test_rules_that_are_wrong_at_the_start_let_nothing_pass(tmp_path):
    path = tmp_path / "rules"
    path.write_text("accept\nacept\n")
    source, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    write_capture(source, conversation(), form="pcap")
    with pytest.raises(NFError, match="rules:2:1: unknown word 'acept'"):
        replay(source, [Firewall(rules=str(path))], sink=Port.record(out, "pcap"))
    assert len(out.read_bytes()) == 24


def test_rules_or_lines():
    for options in ({}, {"rules": "x", "lines": ("drop",)}):
        with pytest.raises(SpecError, match="rules file in `rules`, or rules in `lines`"):
            Firewall(**options)


def test_it_is_told_that_packets_must_go_somewhere():
    with pytest.raises(SpecError, match="say where these go"):
        replay_frames([], [Firewall(lines=("drop",))])
