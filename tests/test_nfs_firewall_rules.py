# SPDX-License-Identifier: Apache-2.0
"""The language of rules, and the compiled table against rules read one by one."""

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import SpecError
from mesh.native_nf import library_path
from mesh.ranges import complement, holds, intersect, union
from nfs.firewall.nf import Firewall
from nfs.firewall.rules import MIDSTREAM, load, parse, parse_lines
from nfs.firewall.table import Core

NO_RULE, NO_PORT, IPV6 = 0xFFFFFFFF, 65536, 512


def core():
    return Core(library_path(Firewall, Firewall.native))


# ---- the language ---------------------------------------------------------------------------


def test_a_file_is_read_with_sets_policy_comments_and_lists_over_lines():
    text = """
    policy reject
    set admins = { 10.0.0.1,   # two
        10.1.0.0/16, }
    set most = { @admins, 2001:db8::/32 }

    saddr @most tcp dport { ssh, 80-90 } counter accept comment "staff # only"
    drop; accept
    """
    found = parse(text, "fw")
    assert found.policy == "reject"
    assert [(rule.action, rule.comment) for rule in found.rules] == [
        ("accept", "staff # only"),
        ("drop", ""),
        ("accept", ""),
    ]
    first = found.rules[0]
    assert first.place == "fw:7:5"
    assert first.text == "saddr @most tcp dport { ssh , 80-90 } accept"
    assert first.bounds["dport"] == ((22, 22), (80, 90))
    assert first.bounds["src4"] == ((0x0A000001, 0x0A000001), (0x0A010000, 0x0A01FFFF))
    assert first.bounds["kind"] == tuple((n, n) for n in (6, 262, 518, 774))
    assert found.rules[1].bounds == {}


def test_an_icmp_type_and_code_are_one_bound():
    rule = parse("icmp type destination-unreachable icmp code 4 accept", "x").rules[0]
    assert rule.bounds == {"dport": ((0x304, 0x304),), "kind": ((1, 1), (257, 257))}


def test_equal_rules_are_told_apart():
    rules = parse('drop comment "a"\ndrop comment "b"', "x").rules
    assert [rule.identity for rule in rules] == [("drop", 0), ("drop", 1)]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("tcp dport 22 acept", "f:1:14", "did you mean 'accept'"),
        ("\n  tcp dprt 22 accept", "f:2:7", "did you mean 'dport'"),
        ("ip saddr 10.0.0.1/8 drop", "f:1:10", "write 10.0.0.0/8"),
        ("ip saddr 10.0.0.300 drop", "f:1:10", "is no address"),
        ("ip saddr 10.0.0.9-10.0.0.1 drop", "f:1:10", "smaller address comes first"),
        ("ip saddr ::1 drop", "f:1:10", "other family; write saddr"),
        ("saddr @x drop", "f:1:7", "there is no set 'x'"),
        ("set abc = { 1 }\ntcp dport @abd drop", "f:2:11", "did you mean 'abc'"),
        ("set a = { 1 }\nset a = { 2 }", "f:2:5", "is a set 'a' already"),
        ("set a = { 1, 2", "f:1:9", "not closed"),
        ("set a = { }", "f:1:11", "must have a value"),
        ("tcp dport 1 udp dport 1 drop", "f:1:13", "never match"),
        ("ip saddr 10.0.0.1 ip saddr 10.0.0.2 drop", "f:1:28", "never match"),
        ("tcp dport != 0-65535 drop", "f:1:1", "never match"),
        ("ip protocol 6 meta nfproto ipv6 drop", "f:1:15", "never match"),
        ("tcp dport 99999 drop", "f:1:11", "number up to 65535"),
        ("tcp dport 9-1 drop", "f:1:11", "smaller number comes first"),
        ("tcp dport { 1 2 } drop", "f:1:15", "expected ',' or '}'"),
        ("icmp type ping drop", "f:1:11", "not the name of a type"),
        ("tcp dport 22", "f:1:13", "expected an action"),
        ("drop drop", "f:1:6", "ends with its action"),
        ("drop comment ssh", "f:1:14", "quotation marks"),
        ('drop comment "x', "f:1:14", "ends with a quotation mark"),
        ("policy pass", "f:1:8", "one of accept, drop, reject"),
        ("policy drop\npolicy drop", "f:2:1", "a policy already"),
        ("drop $", "f:1:6", "unexpected '$'"),
    ],
)
def test_mistakes_name_line_column_and_remedy(text, place, words):
    with pytest.raises(SpecError) as caught:
        parse(text, "f")
    assert caught.value.path == place
    assert words in caught.value.text


def test_mistakes_in_a_list_name_the_entry(tmp_path):
    with pytest.raises(SpecError, match=r"^lines\[1\]:1:1: unknown word 'allow'"):
        parse_lines(["drop", "allow"])
    with pytest.raises(SpecError, match="cannot read the rules"):
        load(tmp_path / "missing")


@given(st.text(alphabet=' \n{},=!@"#;.:/-*0189abfx', max_size=40), st.sampled_from(["", "saddr "]))
def test_any_text_is_rules_or_an_error_with_a_place(text, begin):
    try:
        parse(begin + text, "f")
    except SpecError as error:
        assert error.path.startswith("f:")  # noqa: PT017


NUMBERS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=6)


@given(NUMBERS, NUMBERS)
def test_ranges_are_sets(a, b):
    a, b = ([(first, first + more) for first, more in each] for each in (a, b))
    one, two = union(a), union(b)
    for number in range(37):
        in_one = any(first <= number <= last for first, last in a)
        assert holds(one, number) == in_one
        assert holds(intersect(one, two), number) == (in_one and holds(two, number))
        assert holds(complement(one, 36), number) != in_one


# ---- the table ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packet:
    src: str
    dst: str
    proto: int
    sport: int
    dport: int
    midstream: bool

    def key(self, found):
        key = found.ffi.new("firewall_key *")
        for number, address in ((key.src, self.src), (key.dst, self.dst)):
            number.high, number.low = divmod(int(ip_address(address)), 2**64)
        key.kind = self.proto | MIDSTREAM * self.midstream
        key.kind |= IPV6 * (ip_address(self.src).version == 6)
        key.sport, key.dport = self.sport, self.dport
        return key


ADDRESSES = [f"10.{a}.0.{b}" for a in (0, 1, 9) for b in (0, 1, 2, 127, 128, 255)]
PREFIXES = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/15", "10.1.0.0/16", "10.0.0.0/30"]
PREFIXES += ["10.0.0.128/25", "10.9.0.255/32", "0.0.0.0/5"]
ADDRESSES6 = ["2001:db8::", "2001:db8::1", "2001:db8:0:1::1", "fe80::1", "::", "ff02::1"]
PREFIXES6 = ["::/0", "2001:db8::/32", "2001:db8::/64", "2001:db8:0:1::/64", "fe80::/10", "::/128"]
PORT = st.sampled_from([0, 1, 22, 23, 53, 80, 443, 1023, 1024, 8080, 65534, 65535])


def some(values, **more):
    return st.lists(values, min_size=1, max_size=3, **more)


@st.composite
def conditions(draw):
    """A match as text, and what it means: written apart from the parser."""
    what = draw(st.sampled_from(["ip", "ip6", "any", "port", "proto", "icmp", "state"]))
    differs = draw(st.booleans())
    said = "!= " if differs else ""
    if what in ("ip", "ip6", "any"):
        pool = {"ip": PREFIXES, "ip6": PREFIXES6, "any": PREFIXES + PREFIXES6}[what]
        nets = [ip_network(net) for net in draw(some(st.sampled_from(pool)))]
        side = draw(st.sampled_from(["src", "dst"]))

        def addresses(p):
            address = ip_address(getattr(p, side))
            if what != "any" and address.version != (4 if what == "ip" else 6):
                return False
            return any(address in n for n in nets if n.version == address.version) != differs

        words = f"{'' if what == 'any' else what + ' '}{side[0]}addr {said}"
        return words + "{ " + ", ".join(map(str, nets)) + " }", addresses
    if what == "port":
        proto = draw(st.sampled_from(["tcp", "udp"]))
        ends = [tuple(sorted(pair)) for pair in draw(some(st.tuples(PORT, PORT)))]
        side = draw(st.sampled_from(["sport", "dport"]))
        text = ", ".join(f"{a}-{b}" for a, b in ends)
        number = {"tcp": 6, "udp": 17}[proto]
        return (
            f"{proto} {side} {said}{{ {text} }}",
            lambda p: (
                p.proto == number and any(a <= getattr(p, side) <= b for a, b in ends) != differs
            ),
        )
    if what == "proto":
        wanted = draw(some(st.sampled_from([1, 6, 17, 47])))
        return (
            f"meta l4proto {said}{{ {', '.join(map(str, wanted))} }}",
            lambda p: (p.proto in wanted) != differs,
        )
    if what == "icmp":
        wanted = draw(some(st.sampled_from([0, 3, 8, 255])))
        return (
            f"icmp type {said}{{ {', '.join(map(str, wanted))} }}",
            lambda p: p.proto == 1 and "." in p.src and ((p.dport >> 8) in wanted) != differs,
        )
    word = draw(st.sampled_from(["new", "midstream"]))
    return f"state {word}", lambda p: p.midstream == (word == "midstream")


@st.composite
def packets(draw):
    pool = st.sampled_from(draw(st.sampled_from([ADDRESSES, ADDRESSES6])))
    proto = draw(st.sampled_from([1, 6, 17, 47]))
    sport, dport = NO_PORT, NO_PORT
    if proto in (6, 17):
        sport, dport = draw(PORT), draw(PORT)
    elif proto == 1:
        dport = draw(st.sampled_from([0, 3, 8, 9, 255])) << 8 | draw(st.sampled_from([0, 255]))
    midstream = proto == 6 and draw(st.booleans())
    return Packet(draw(pool), draw(pool), proto, sport, dport, midstream)


@settings(max_examples=150)
@given(st.lists(st.lists(conditions(), max_size=3), max_size=80), st.lists(packets(), max_size=20))
def test_the_table_finds_what_reading_rule_by_rule_finds(wanted, sent):
    means, lines = [], []
    for rule in wanted:
        line = " ".join([*(text for text, _ in rule), "accept"])
        try:
            parse(line, "f")
        except SpecError as error:  # the packets show below that it is so: no rule is left out
            assert "never match" in error.text  # noqa: PT017
            assert not any(all(holds(p) for _, holds in rule) for p in sent)
            continue
        means.append([check for _, check in rule])
        lines.append(line)
    found = core()
    table = found.compile(parse_lines(lines).rules, "drop", 1 << 26)
    for packet in sent:
        first = next((i for i, rule in enumerate(means) if all(c(packet) for c in rule)), NO_RULE)
        assert found.lib.firewall_match(table.pointer, packet.key(found)) == first


def test_rules_that_need_too_much_memory_are_refused():
    rules = parse_lines([f"ip saddr 10.0.{n}.0/24 drop" for n in range(256)]).rules
    with pytest.raises(SpecError, match="memory_mb"):
        core().compile(rules, "drop", 5000)
