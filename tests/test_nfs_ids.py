# SPDX-License-Identifier: Apache-2.0
"""What each keyword of a rule means, on hand-made traffic."""

import json
import os
from dataclasses import replace

import pytest
from ids_rig import Hears, alerts, need_library, sids

from mesh import NF, on
from mesh.errors import NFError, SpecError
from mesh.native_nf import library_path
from mesh.testing import (
    ACK,
    FIN,
    PSH,
    SYN,
    TcpSide,
    conversation,
    datagrams,
    packet,
    replay_frames,
    tcp,
    timed,
)
from nfs.ids.nf import Ids

need_library()

REQUEST = (
    b"POST /a%2Fb//c%41?q=%41 HTTP/1.1\r\nHost: Shop.Example:8080\r\nUser-Agent: curl/8\r\n"
    b"Cookie: k=v\r\nContent-Length: 0\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 404 Not Found\r\nServer: nginx\r\nSet-Cookie: s=1\r\nContent-Length: 0\r\n\r\n"
)
PAGE = conversation([("client", REQUEST), ("server", RESPONSE)])


def client_says(data, **options):
    return conversation([("client", data)], **options)


def rule(options, header="tcp any any -> any any", action="alert", sid=1):
    return f"{action} {header} ({options} sid:{sid};)"


# ---- headers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "matches"),
    [
        ("tcp 10.0.0.1 any -> 10.0.0.2 80", True),
        ("tcp 10.0.0.2 any -> 10.0.0.1 any", False),
        ("tcp 10.0.0.2 any <> 10.0.0.1 any", True),
        ("tcp any any -> any ![80,443]", False),
        ("tcp any any -> any [1:79,81:]", False),
        ("tcp any 40000: -> any :80", True),
        ("tcp [10.0.0.0/8,!10.0.0.0/31] any -> any any", False),
        ("tcp $HOME_NET any -> $HOME_NET $HTTP_PORTS", True),
        ("tcp $EXTERNAL_NET any -> any any", False),
        ("tcp !10.0.0.9 any -> any any", True),
        ("udp any any -> any any", False),
        ("ip any any -> any any", True),
    ],
)
def test_headers(header, matches):
    frames = client_says(b"secret")
    assert sids(frames, rule('content:"secret";', header)) == [1] * matches


def test_addresses_of_ipv6():
    frames = client_says(b"secret", client=("2001:db8::1", 9), server=("2001:db8::2", 80))
    text = 'content:"secret";'
    found = sids(
        frames,
        rule(text, "tcp 2001:db8::/64 any -> 2001:db8::2 80"),
        rule(text, "tcp [10.0.0.0/8,2001:db8::2] any -> any any", sid=2),
    )
    assert found == [1]


# ---- bytes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "matches"),
    [
        ('content:"GET";', True),
        ('content:"get";', False),
        ('content:"get"; nocase;', True),
        ('content:"|47 45|T |2f|";', True),
        (r'content:"a\;b\"c\\d\:";', True),
        ('content:"GET"; startswith;', True),
        ('content:"ET"; startswith;', False),
        ('content:"end"; endswith;', True),
        ('content:"GET"; endswith;', False),
        ('content:"GET"; content:!"POST";', True),
        ('content:"GET"; content:!"end";', False),
        ('content:"GET"; content:!"end"; depth:20;', True),
        ('content:"GET"; fast_pattern:only;', True),
        ('pcre:"/g.t/i";', True),
        ('pcre:"/g.t/";', False),
        ('pcre:"/^GET/";', True),
        ('pcre:"/^ET/";', False),
        ('content:"GET"; pcre:"/^ .index/R";', True),
        ('content:"GET"; pcre:"/^index/R";', False),
        ('content:"GET"; pcre:"/index/R"; content:"html"; distance:1; within:4;', True),
        ('content:"GET"; pcre:!"/in.ex/";', False),
        ('pcre:"/end$/";', True),
        ("isdataat:30;", True),
        ("isdataat:32;", False),
        ("isdataat:!32;", True),
        ('content:"GET"; isdataat:28,relative;', True),
        ('content:"GET"; isdataat:30,relative;', False),
        ('content:"the"; isdataat:!5,relative;', True),
        ('content:"the"; isdataat:!4,relative;', False),
        ("bsize:32;", True),
        ("bsize:<32;", False),
    ],
)
def test_contents(options, matches):
    frames = client_says(b'GET /index.html a;b"c\\d: the end')
    assert sids(frames, rule(options)) == [1] * matches


def test_bytes_after_a_hole_are_no_begin():
    a, b = TcpSide("10.0.0.1", 1, 100), TcpSide("10.0.0.2", 2, 900)
    a.peer, b.peer = b, a
    frames = [a.send(flags=SYN), b.send(flags=SYN | ACK), a.send(), a.send(b"one", PSH | ACK)]
    a.seq += 5000
    frames += [a.send(b"GET", PSH | ACK), b.send(), a.send(flags=FIN | ACK)]
    found, results = alerts(
        timed(frames),
        rule('content:"GET"; startswith;'),
        rule('content:"GET"; offset:0; depth:5;', sid=2),
        rule('content:"GET"; content:!"one"; depth:3;', sid=3),
        rule('content:"GET";', sid=4),
    )
    assert [sid for sid, *_ in found] == [4]
    assert results["counters"]["restarts_after_gap"] == 1


def test_a_rule_alerts_once_in_a_direction_unless_it_counts():
    frames = conversation([("client", b"xx"), ("client", b"xx"), ("server", b"xx")])
    counting = rule(
        'content:"xx"; threshold:type threshold,track by_src,count 1,seconds 60;', sid=2
    )
    assert sids(frames, rule('content:"xx";')) == [1, 1]
    # In "xxxx" the two letters end at three places.
    assert sids(frames, counting) == [2] * 4


# ---- packets --------------------------------------------------------------------------------


def probes():
    """A SYN, a SYN with data of 5 bytes, a null packet and one with FIN, PSH and URG."""
    ends = ("10.0.0.1", 9, "10.0.0.2", 80)
    flags = [(SYN, b""), (SYN, b"hello"), (0, b""), (FIN | PSH | 32, b"")]
    made = [tcp(data, *ends, seq=n, flags=bits) for n, (bits, data) in enumerate(flags)]
    return timed([packet(segment, ends[0], ends[2], 6) for segment in made])


@pytest.mark.parametrize(
    ("options", "n"),
    [
        ("flags:S;", 2),
        ("flags:0;", 1),
        ("flags:FPU;", 1),
        ("flags:+F;", 1),
        ("flags:*SF;", 3),
        ("flags:!S;", 2),
        ("flags:F,PU;", 1),
        ("dsize:5;", 1),
        ("dsize:!5;", 3),
        ("dsize:>4;", 1),
        ("dsize:<5;", 3),
        ("dsize:4<>6;", 1),
        ('flags:S; content:"ell"; offset:1; depth:3;', 1),
    ],
)
def test_packets(options, n):
    assert sids(probes(), rule(options)) == [1] * n


def test_icmp_by_type():
    echo = bytes([8, 0, 0, 0, 0, 1, 0, 1]) + b"ping"
    frames = timed([packet(echo, "10.0.0.1", "10.0.0.2", 1)])
    any_icmp = "icmp any any -> any any"
    assert sids(frames, rule("itype:8; icode:0;", any_icmp), rule("itype:0;", any_icmp, sid=2)) == [
        1
    ]
    assert sids(frames, rule('content:"ping"; dsize:4;', any_icmp)) == [1]


def test_datagrams():
    frames = datagrams([("client", b"\1\2query"), ("server", b"answer"), ("client", b"\1\2more")])
    udp = "udp any any -> any 53"
    assert sids(frames, rule('content:"|01 02|"; depth:2;', udp)) == [1, 1]
    assert sids(frames, rule('content:"|01 02|"; flow:established;', udp)) == [1]
    assert sids(frames, rule('content:!"query";', udp)) == [1]
    assert sids(frames, rule('content:"swe"; flow:to_client;', "udp any any -> any any")) == [1]


# ---- events ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "matches"),
    [
        ('http.method; content:"POST"; startswith; endswith;', True),
        ('http.uri; content:"/a/b/cA?q=%41"; startswith; endswith;', True),
        ('http.uri.raw; content:"/a%2Fb//c%41?q";', True),
        ('http.host; content:"shop.example"; startswith; endswith;', True),
        ('http.host.raw; content:"Shop.Example:8080";', True),
        ('http.user_agent; content:"curl"; http.method; content:"POST";', True),
        ('http.user_agent; content:"curl"; http.method; content:"GET";', False),
        ('http.cookie; content:"k=v"; startswith; endswith;', True),
        ('http.cookie; content:"s=1"; startswith; endswith;', True),
        ('http.header; content:"Cookie|3a 20|k";', True),
        ('http.referer; content:"x";', False),
        ('http.referer; content:!"x";', False),
        ('http.stat_code; content:"404";', True),
        ('http.stat_msg; content:"Found"; endswith;', True),
        ('http.server; content:"nginx";', True),
        ('content:"/a/b"; http_uri;', True),
        ('content:"curl"; http_user_agent; content:"POST"; http_method;', True),
        ('pcre:"/^.a.b/U";', True),
        ("flow:to_server;", True),
        ("http.method; bsize:4;", True),
        ("http.method; bsize:5<>9;", False),
        ("http.method; bsize:!4;", False),
        ('http.uri; content:"/a"; bsize:>9;', True),
        ("urilen:18;", True),
        ("urilen:13,norm;", True),
        ("urilen:<13,norm;", False),
    ],
)
def test_http(options, matches):
    assert sids(PAGE, rule(options, "http any any -> any any")) == [1] * matches


def test_dns_queries():
    query = b"\0\7\1\0\0\1\0\0\0\0\0\0\3www\7example\0\0\1\0\1"
    frames = datagrams([("client", query)])
    dns = "dns any any -> any any"
    assert sids(frames, rule('dns.query; content:"example"; endswith;', dns)) == [1]
    assert sids(frames, rule('dns.query; content:"example.org";', dns)) == []


# ---- state ----------------------------------------------------------------------------------


def test_flow():
    frames = conversation([("client", b"one"), ("server", b"two")])
    options = [
        'content:"o"; flow:to_server;',
        'content:"o"; flow:to_client,established;',
        'content:"o"; flow:not_established;',
        'content:"o"; flow:established,from_client;',
    ]
    found, _ = alerts(frames, *(rule(text, sid=n) for n, text in enumerate(options, 1)))
    assert [(sid, sender) for sid, _, sender in found] == [
        (1, "10.0.0.1:40000"),
        (4, "10.0.0.1:40000"),
        (2, "10.0.0.2:80"),
    ]


def test_a_handshake_that_is_not_complete_is_not_established():
    assert sids(probes(), rule("flags:S; flow:established;")) == []
    assert sids(probes(), rule("flags:S; flow:not_established;")) == [1, 1]


def test_flow_bits():
    frames = conversation([("server", b"OK"), ("client", b"LOGIN"), ("server", b"OK")])
    login = rule('content:"LOGIN"; flowbits:set,login; flowbits:noalert;')
    welcome = rule('content:"OK"; flowbits:isset,login;', sid=2)
    early = rule('content:"OK"; flowbits:isnotset,login;', sid=3)
    either = rule('content:"OK"; flowbits:isset,other|login;', sid=4)
    gone = rule('content:"OK"; flowbits:isset,login; flowbits:unset,login; noalert;', sid=5)
    late = rule('content:"OK"; flowbits:toggle,odd; flowbits:isset,odd;', sid=6)
    found, _ = alerts(frames, login, welcome, early, either)
    assert [(sid, at) for sid, at, _ in found] == [(3, 2), (2, 4), (4, 4)]
    assert sids(frames, login, gone, rule('content:"OK"; flowbits:isset,login;', sid=7)) == []
    assert sids(frames, late) == []


def logins(n, source="10.0.0.1", step_s=1):
    start = 1_700_000_000_000_000_000
    return [
        frame
        for i in range(n)
        for frame in datagrams(
            [("client", b"USER root")],
            client=(source, 1000 + i),
            start_ns=start + i * step_s * 1_000_000_000,
        )
    ]


@pytest.mark.parametrize(
    ("threshold", "at"),
    [
        ("threshold:type limit, track by_src, count 2, seconds 60", [1, 2]),
        ("threshold:type threshold, track by_src, count 3, seconds 60", [3, 6]),
        ("threshold:type both, track by_src, count 3, seconds 60", [3]),
        ("detection_filter:track by_src, count 3, seconds 60", [4, 5, 6, 7]),
        ("threshold:type limit, track by_src, count 1, seconds 2", [1, 4, 7]),
        ("threshold:type limit, track by_rule, count 1, seconds 60", [1]),
        ("threshold:type limit, track by_flow, count 1, seconds 60", [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_thresholds(threshold, at):
    hears = Ids(lines=(rule(f'content:"USER"; {threshold};', "udp any any -> any any"),))
    report = replay_frames(logins(7), [hears])
    found = report["ids"].results["alerts"]
    assert [int(row["source"].rpartition(":")[2]) - 999 for row in found] == at


def test_thresholds_count_sources_apart():
    text = rule(
        'content:"USER"; threshold:type threshold,track by_src,count 2,seconds 60;',
        "udp any any -> any any",
    )
    frames = logins(1) + logins(1, "10.0.0.7") + logins(1)
    found, _ = alerts(frames, text)
    assert [sender.partition(":")[0] for _, _, sender in found] == ["10.0.0.1"]


def test_what_passes_is_not_asked_further():
    frames = client_says(b"friend enemy")
    friend = rule('content:"friend";', action="pass")
    assert sids(frames, rule('content:"enemy";', sid=2), friend) == []
    assert sids(client_says(b"enemy friend"), rule('content:"enemy";', sid=2), friend) == [2]


# ---- results --------------------------------------------------------------------------------


def test_alerts_as_eve_records(tmp_path):
    text = rule(
        'msg:"an attack"; content:"evil"; classtype:web-application-attack; rev:3; '
        "reference:url,example.org/1; metadata:tag a, tag b;"
    )
    nf = Ids(lines=(text,), path="eve.json")
    replay_frames(client_says(b"evil"), [nf], out=tmp_path)
    [line] = (tmp_path / "eve.json").read_text().splitlines()
    row = json.loads(line)
    assert row["timestamp"] == "2023-11-14T22:13:20.003000+0000"
    assert (row["event_type"], row["src_ip"], row["src_port"]) == ("alert", "10.0.0.1", 40000)
    assert (row["dest_ip"], row["dest_port"], row["proto"]) == ("10.0.0.2", 80, "TCP")
    assert row["alert"] == {
        "action": "allowed",
        "gid": 1,
        "signature_id": 1,
        "rev": 3,
        "signature": "an attack",
        "category": "web-application-attack",
        "severity": 1,
        "metadata": {"tag": ["a", "b"]},
        "references": ["url:example.org/1"],
    }


def test_published_alerts_name_the_flow():
    hears = Hears()
    replay_frames(client_says(b"evil"), [Ids(lines=(rule('content:"evil";'),)), hears])
    [(sid, position, sender, flow)] = hears.found
    assert (sid, position, sender) == (1, 4, "10.0.0.1:40000")
    assert flow != 0


def test_rules_that_the_matcher_refuses_are_left_out_and_named():
    texts = [rule(r'pcre:"/(a)\1/";'), rule('content:"evil";', sid=2)]
    found, results = alerts(client_says(b"evil aa"), *texts)
    assert [sid for sid, *_ in found] == [2]
    [row] = results["left_out"]
    assert row["place"] == "lines:1:36"
    assert (row["keyword"], row["sid"]) == ("pcre", 1)
    assert "Back-references" in row["reason"]
    with pytest.raises(NFError) as caught:
        replay_frames([], [Ids(lines=texts, strict=True)])
    assert isinstance(caught.value.cause, SpecError)
    assert caught.value.cause.path == "lines:1:36"


# ---- bounds ---------------------------------------------------------------------------------


def test_streams_are_bounded_and_evictions_counted():
    flows = [client_says(b"ev", client=("10.0.0.1", p), close="none") for p in range(1, 6)]
    frames = [frame for flow in flows for frame in flow]
    _, results = alerts(frames, rule('content:"evil";'), memory_mb=0)
    assert results["counters"]["max_streams"] == 1
    assert results["counters"]["streams_evicted"] == 4


def test_flows_beyond_the_limit_lose_their_bits():
    flows = [client_says(b"evil", client=("10.0.0.1", p), close="none") for p in range(1, 4)]
    frames = [frame for flow in flows for frame in flow]
    evil = rule('content:"evil";')
    bits = rule('content:"evil"; flowbits:set,a;', sid=2)
    found, results = alerts(frames, evil, bits, max_flows=1)
    assert [sid for sid, *_ in found] == [1, 2] * 3
    assert results["counters"]["flows"] == 3
    assert results["counters"]["flows_evicted"] == 2


def test_alerts_beyond_the_limit_are_counted():
    frames = datagrams([("client", b"a")] * 20)
    _, results = alerts(frames, rule('content:"a";', "udp any any -> any any"), max_alerts=3)
    counters = results["counters"]
    assert counters["alerts"] + counters["alerts_dropped"] == 20
    assert counters["alerts_dropped"] > 0


def test_flows_without_a_rule_are_left():
    _, results = alerts(PAGE, rule('content:"x";', "tcp any any -> any 22"))
    assert results["counters"]["flows_left"] == 1
    assert results["counters"]["stream_bytes"] == 0


# ---- reload ---------------------------------------------------------------------------------


class Impatient(Ids):
    """Looks at its rules before each burst, and waits for them: no time in the test."""

    name = "ids"
    native = replace(Ids.native, library=str(library_path(Ids, Ids.native)))

    def __init__(self, rules, texts, **options):
        super().__init__(rules=str(rules), **options)
        self.texts = list(texts)

    def poll(self):
        if self.texts:
            other = self.file.with_suffix(".new")
            other.write_text(self.texts.pop(0))
            os.replace(other, self.file)
        self._watched.look()
        self._watched.wait()
        super().poll()


class Reloads(NF):
    def __init__(self):
        self.heard = []

    @on("ids.reload")
    def reloaded(self, batch):
        self.heard += [(e.rules, e.error) for e in batch]

    @on("packet")
    def turn(self, batch):
        pass


def test_rules_are_replaced_while_packets_come_and_wrong_ones_are_not(tmp_path):
    path = tmp_path / "a.rules"
    one, two = (rule('content:"evil";', "udp any any -> any any", sid=n) for n in (1, 2))
    path.write_text(one)
    nf, reloads = (
        Impatient(path, ['alert udp any any -> any any (conten:"a"; sid:1;)', two]),
        Reloads(),
    )
    frames = [
        f for n in range(20_000) for f in datagrams([("client", b"evil")], client=("10.1.1.1", n))
    ]
    report = replay_frames(frames, [nf, reloads])
    assert [rules for rules, _ in reloads.heard] == [1, 1]
    assert f"{path}:1:31" in reloads.heard[0][1]
    assert "did you mean 'content'" in reloads.heard[0][1]
    hits = {row["sid"]: row["alerts"] for row in report["ids"].results["alerts_by_rule"]}
    assert set(hits) == {1, 2}
    assert report["ids"].results["counters"]["loads"] == 2
    assert report["ids"].results["error"] is None


def test_flow_bits_outlive_a_reload(tmp_path):
    path = tmp_path / "a.rules"
    path.write_text(rule('content:"one"; flowbits:set,seen; noalert;'))
    frames = client_says(b"one", close="none")
    filler = [
        f for n in range(20_000) for f in datagrams([("client", b"x")], client=("10.1.1.1", n))
    ]
    later = conversation([("client", b"one"), ("client", b"two")])[5:]
    nf = Impatient(path, [rule('content:"two"; flowbits:isset,seen;', sid=2)])
    report = replay_frames(frames + filler + later, [nf, Reloads()])
    assert [row["sid"] for row in report["ids"].results["alerts_by_rule"]] == [2]


def test_a_flow_that_new_rules_are_about_is_heard_again(tmp_path):
    path = tmp_path / "a.rules"
    path.write_text(rule('content:"two";', "tcp any any -> any 22"))
    frames = client_says(b"one", close="none")
    filler = [
        f for n in range(40_000) for f in datagrams([("client", b"x")], client=("10.1.1.1", n % 9))
    ]
    later = conversation([("client", b"one"), ("client", b"two")])[5:]
    anew = 'flow:established,to_server; content:"two";'
    nf = Impatient(path, [rule(anew, "tcp any any -> any 80")], max_flows=64)
    report = replay_frames(frames + filler + later, [nf, Reloads()])
    assert report["ids"].results["counters"]["flows_left"] >= 1
    assert [row["sid"] for row in report["ids"].results["alerts_by_rule"]] == [1]
