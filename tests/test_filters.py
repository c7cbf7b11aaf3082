# SPDX-License-Identifier: Apache-2.0
"""The filter language: what it reads, what it refuses and how, and what it lowers to."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import FilterError, UnknownField
from mesh.events import FieldDef, Kind, Source
from mesh.filters import (
    And,
    Compare,
    Filter,
    Not,
    OpKind,
    Or,
    Pcap,
    Predicate,
    join,
    lower,
    negate,
    parse,
    pointer,
)

FIELDS = {
    name: FieldDef(name, kind, Source.RECORD, 0, unit)
    for name, kind, unit in [
        ("retransmits", Kind.U32, ""),
        ("src_ip", Kind.ADDR, ""),
        ("dst_port", Kind.U16, ""),
        ("client_ip", Kind.ADDR, ""),
        ("client_port", Kind.U16, ""),
        ("server_ip", Kind.ADDR, ""),
        ("server_port", Kind.U16, ""),
        ("conn_state", Kind.U8, "conn_state"),
        ("midstream", Kind.BOOL, ""),
        ("method", Kind.STR, ""),
        ("data", Kind.BYTES, ""),
        ("ts", Kind.TIME, "ns"),
        ("delay", Kind.F64, ""),
        ("delta", Kind.I64, ""),
        ("vlan", Kind.U16, ""),
    ]
}


def words(unit: str) -> tuple[str, ...] | None:
    return ("", "S0", "S1", "SF", "REJ") if unit == "conn_state" else None


def read(text: str) -> Filter:
    return parse(text, FIELDS, words)


def kinds(text: str) -> list[str]:
    return [op.kind.name for op in lower(read(text))]


# ---- what pcap-filter reads --------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "tcp",
        "not src net 10.0.0.0/8",
        "port 80 or port 443 and host 192.0.2.1",
        "port 80 or 443",
        "not port 80 or 443",
        "src or dst port 53",
        "port (80 or 443)",
        "tcp[tcpflags] & (tcp-syn|tcp-ack) != 0",
        "(ip[0] & 15) * 4 > 20 and len > 100",
        "5 < ip[8]",
        "ip proto \\tcp",
        "ip6 net 2001:db8::/32",
        "icmp[icmptype] = icmp-echo",
        "vlan 5",
        "port 80 and (net 10 or net 11)",
    ],
)
def test_pcap_expressions_are_passed_as_they_stand(text: str) -> None:
    assert str(read(text)) == text
    assert len(lower(read(text))) == 1


def test_other_spellings_of_the_operators() -> None:
    assert read("! port 80 && (net 10 || net 11)") == read("not port 80 and (net 10 or net 11)")


def test_link_layer_terms_run_on_the_frame_the_others_on_the_packet() -> None:
    ops = lower(read("vlan 5 and ether host 02:00:00:00:00:01 and port 80"))
    assert [(op.kind, op.text) for op in ops] == [
        (OpKind.BPF_L2, "vlan 5 and ether host 02:00:00:00:00:01"),
        (OpKind.BPF, "port 80"),
        (OpKind.AND, ""),
    ]


def test_pcap_only_filters_read_from_left_to_right_across_layers() -> None:
    assert read("vlan 5 or port 80 and net 10") == read("(vlan 5 or port 80) and net 10")


# ---- fields ------------------------------------------------------------------------------------


def test_a_field_may_be_named_below_its_event() -> None:
    assert read("tcp.retransmits > 3") == read("retransmits > 3")


def test_a_word_of_both_languages_is_a_field_when_it_is_compared() -> None:
    assert kinds("vlan == 5 and vlan 5") == ["FIELD", "BPF_L2", "AND"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("retransmits >= 0x10", 16),
        ("delta < -5", -5),
        ("delay != 2.5e-3", 0.0025),
        ("midstream == false", False),
        ("midstream", True),
        ("src_ip == 2001:db8::1", ip_address("2001:db8::1")),
        ("src_ip in 10.1.2.3/8", ip_network("10.0.0.0/8")),
        ("src_ip in 192.0.2.1", ip_network("192.0.2.1/32")),
        ('method startswith "GE"', b"GE"),
        (r'data contains "\x00\xff\"\\é\n"', b'\x00\xff"\\\xc3\xa9\n'),
        ("conn_state == SF", 3),
        ('conn_state == "S0"', 1),
        ("conn_state == 4", 4),
        ("ts > 1700000000000000000", 1700000000000000000),
    ],
)
def test_literals_have_the_kind_of_their_field(text: str, value: object) -> None:
    tree = read(text)
    assert isinstance(tree, Predicate)
    assert tree.value == value
    assert type(tree.value) is type(value)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("client net 10.0.0.0/8", "client_ip in 10.0.0.0/8"),
        ("server host 192.0.2.1", "server_ip == 192.0.2.1"),
        ("server port 443", "server_port == 443"),
        ("client portrange 1-1023", "client_port >= 1 and client_port <= 1023"),
    ],
)
def test_roles_are_fields_of_the_flow(text: str, same: str) -> None:
    assert read(text) == read(same)


# ---- lowering ----------------------------------------------------------------------------------


def test_lowering_is_postfix_with_binary_operators() -> None:
    text = "retransmits > 3 and not (dst_port == 443 or port 80) and midstream"
    assert kinds(text) == ["FIELD", "FIELD", "BPF", "OR", "NOT", "AND", "FIELD", "AND"]


def test_lowered_literals_lie_in_the_member_of_their_kind() -> None:
    def op(text: str) -> object:
        return lower(read(text))[0]

    assert lower(read("retransmits > 3"))[0].number == 3
    assert lower(read("midstream"))[0].number == 1
    assert lower(read("delta == -3"))[0].integer == -3
    assert lower(read("ts == 9"))[0].integer == 9
    assert lower(read("delay < 0.5"))[0].real == 0.5
    assert lower(read('method == "GET"'))[0].data == b"GET"
    net = lower(read("src_ip in 10.0.0.0/9"))[0]
    assert (net.data, net.prefix, net.compare) == (bytes([10, 0, 0, 0]), 9, Compare.IN_NET)
    assert len(lower(read("src_ip != ::1"))[0].data) == 16


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "marked", "says"),
    [
        ("", "", "empty"),
        ("port 80 and", "", "expected a term"),
        ("(port 80", "", "expected ')'"),
        ("port 80)", ")", "unexpected ')'"),
        ("tcp[13", "tcp", "not closed"),
        ("443", "443", "stands alone"),
        ("client port 80 or 443", "443", "stands alone"),
        ("retransmits > 3 and port 80 or 443", "443", "stands alone"),
        ("retransmits = 3", "= 3", "'=='"),
        ("retransmits > many", "many", "expected a number"),
        ("retransmits", "", "expected a comparison"),
        ("retransmits and tcp", "and", "expected a comparison"),
        ("dst_port == 70000", "70000", "0 to 65535"),
        ("dst_port == -1", "-1", "0 to 65535"),
        ("dst_port contains 5", "contains", "which is a number"),
        ("method > 5", ">", "which is a text"),
        ("src_ip < 10.0.0.1", "<", "which is an address"),
        ("midstream == 2", "2", "true or false"),
        ("method == GET", "GET", 'a text: "GET"'),
        (r'method == "\q"', '"', "unknown escape"),
        ('method == "GET', '"', "not closed"),
        ('tcp "x"', '"x', "a text in a pcap"),
        ('"x" == method', '"x', "stands alone"),
        ("src_ip == 10.0.0.0/8", "10.", "'in'"),
        ("src_ip in 10.0.0.0/40", "10.", "a network such as"),
        ("src_ip == fe80::1%eth0", "%", "unexpected"),
        ("delay == nan", "nan", "expected a number"),
        ("conn_state == RJE", "RJE", "did you mean 'REJ'"),
        ("conn_state == nothing", "nothing", "one of S0, S1"),
        ("server port http", "http", "expected a number"),
        ("server tcp 5", "tcp", "expected host, net"),
        ("client portrange 5", "5", "a range"),
        ("port 80 and ;x", ";", "unexpected"),
        ("(" * 101 + "tcp" + ")" * 101, "(tcp", "more than 100"),
    ],
)
def test_refusals_name_the_place_and_the_reason(text: str, marked: str, says: str) -> None:
    with pytest.raises(FilterError) as caught:
        read(text)
    assert says in caught.value.text
    assert caught.value.expression == text
    position = caught.value.position
    assert position == (text.index(marked) if marked else len(text))
    assert pointer(caught.value).splitlines()[-1] == " " * (position or 0) + "^"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("port 80 and retransmit > 3", "did you mean 'retransmits'?"),
        ("tcp.retransmit > 3", "did you mean 'retransmits'?"),
        ("midstrem", "did you mean 'midstream'?"),
        ("qqq == 3", "no field 'qqq' here"),
    ],
)
def test_an_unknown_field_is_named_with_the_closest_one(text: str, hint: str) -> None:
    with pytest.raises(UnknownField, match="no field") as caught:
        read(text)
    assert hint in caught.value.text


def test_roles_need_fields_of_the_flow() -> None:
    with pytest.raises(UnknownField, match="server_port"):
        parse("server port 80", {})


@pytest.mark.parametrize(
    "text",
    [
        "port 80 or port 443 and retransmits > 3",
        "retransmits > 3 or dst_port == 80 and midstream",
        "port 80 or 443 and retransmits > 3",
    ],
)
def test_mixed_filters_that_two_languages_read_differently_are_refused(text: str) -> None:
    with pytest.raises(FilterError, match="put parentheses"):
        read(text)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("port 80 and retransmits > 3 or midstream", "(port 80 and retransmits > 3) or midstream"),
        ("(port 80 or 443) and retransmits > 3", "retransmits > 3 and (port 80 or 443)"),
    ],
)
def test_mixed_filters_that_all_read_alike_are_taken(text: str, same: str) -> None:
    def shape(tree: Filter) -> object:
        return frozenset(map(str, tree.operands)) if isinstance(tree, And | Or) else tree

    assert shape(read(text)) == shape(read(same))


def test_texts_stand_in_either_quotes() -> None:
    assert read("method == 'GET'") == read('method == "GET"')
    assert read("method contains 'a\"b'") == read('method contains "a\\"b"')
    with pytest.raises(FilterError, match="text is not closed"):
        read("method == 'GET")


# ---- round trip --------------------------------------------------------------------------------

LITERALS = {
    "retransmits": st.integers(0, 2**32 - 1),
    "delta": st.integers(-(2**63), 2**63 - 1),
    "delay": st.floats(allow_nan=False, allow_infinity=False),
    "midstream": st.booleans(),
    "method": st.binary(max_size=8) | st.text(max_size=8).map(lambda s: s.encode("utf-8")),
    "src_ip": st.ip_addresses(),
}
PCAPS = [
    Pcap("port 80"),
    Pcap("tcp[13] & 2 != 0"),
    Pcap("(ip[0] & 15) * 4 > 20"),
    Pcap("port 80 or 443", joint=True),
    Pcap("vlan 5", on_frame=True),
    Pcap("src or dst net 10"),
]


@st.composite
def predicates(draw: st.DrawFn) -> Filter:
    field = FIELDS[draw(st.sampled_from(sorted(LITERALS)))]
    compares = [Compare.EQ, Compare.NE]
    if field.kind is Kind.STR:
        compares += [Compare.CONTAINS, Compare.STARTSWITH, Compare.ENDSWITH]
    elif field.kind not in (Kind.ADDR, Kind.BOOL):
        compares += [Compare.LT, Compare.LE, Compare.GT, Compare.GE]
    return Predicate(field, draw(st.sampled_from(compares)), draw(LITERALS[field.name]))


def trees() -> st.SearchStrategy[Filter]:
    return st.recursive(
        predicates() | st.sampled_from(PCAPS),
        lambda below: (
            below.map(negate)
            | st.builds(join, st.just("and"), below, below)
            | st.builds(join, st.just("or"), below, below)
        ),
        max_leaves=12,
    )


@given(trees())
def test_a_tree_parses_from_its_own_text(tree: Filter) -> None:
    assert read(str(tree)) == tree


@given(trees())
def test_a_program_leaves_one_value(tree: Filter) -> None:
    depth = 0
    for op in lower(tree):
        depth += {OpKind.AND: -1, OpKind.OR: -1, OpKind.NOT: 0}.get(op.kind, 1)
        assert depth > 0
    assert depth == 1


@given(st.text(alphabet='portcl80 ()[]!&|<>=."\\-/andorint:', max_size=40) | st.text(max_size=20))
def test_any_text_is_refused_or_has_one_reading(text: str) -> None:
    try:
        tree = read(text)
    except (FilterError, UnknownField):
        return
    assert read(str(tree)) == tree


def test_negation_of_terms_that_libpcap_does_not_read_is_a_node() -> None:
    assert isinstance(read("not midstream"), Not)
    assert isinstance(read("not (vlan 5 or port 80)"), Not)
    assert isinstance(read("vlan 5 or port 80"), Or)
