# SPDX-License-Identifier: Apache-2.0
"""Rules files: what they say, and what is said of their mistakes."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import SpecError
from nfs.ids.buffers import BUFFERS, Kind, cells
from nfs.ids.chains import END, bytes_of
from nfs.ids.rules import load, parse
from nfs.ids.vocabulary import OTHER_KEYWORDS, VARIABLES
from nfs.ids.words import Source, Word

HEAD = "alert tcp any any -> any any"


def one(options, head=HEAD):
    [rule] = parse(f"{head} ({options} sid:1;)", "r").rules
    return rule


def expression(options):
    [(_, chain)] = one(options).chains[Kind.STREAM]
    return chain.pattern.expression


def test_a_rule_is_read_whole():
    rule = one(
        r'msg:"a \"b\"\; c"; content:"x"; gid:7; rev:2; classtype:trojan-activity; '
        "reference:cve,2021-1; metadata:a b, c d; priority:2;"
    )
    meaning = rule.meaning
    assert (meaning.msg, meaning.sid, meaning.gid, meaning.rev) == ('a "b"; c', 1, 7, 2)
    assert (meaning.classtype, meaning.severity) == ("trojan-activity", 2)
    assert (meaning.references, meaning.metadata) == (["cve:2021-1"], ["a b", "c d"])


def test_comments_blank_lines_and_continued_lines():
    text = f'# {HEAD} (nonsense)\n\n{HEAD} ( \\\n  content:"a"; \\\n  sid:9; )\n  # more\n'
    assert [rule.meaning.sid for rule in parse(text, "r").rules] == [9]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ('content:"ab";', "ab"),
        ('content:"a|20|b";', r"a\x20b"),
        ('content:"a"; nocase;', "(?i:a)"),
        ('content:"a"; content:"b"; distance:0;', "a(?s:.*)b"),
        ('content:"a"; content:"bc"; distance:2; within:4;', "a(?s:.{2,4})bc"),
        ('content:"a"; content:"b"; within:1;', "ab"),
        ('content:"a"; offset:3; content:"b"; distance:1;', r"\A(?s:.{3,})a(?s:.{1,})b"),
        ('content:"a"; startswith; content:"b"; within:9;', r"\Aa(?s:.{0,8})b"),
        ('content:"a"; endswith;', r"a\z"),
        ('pcre:"/a.b/si";', "(?:(?is:a.b))"),
        ('pcre:"/a/A";', r"(?:\A(?:a))"),
        ('content:"a"; pcre:"/^b/R"; content:"c"; distance:1;', "a(?:b)(?s:.{1,})c"),
    ],
)
def test_contents_that_count_from_each_other_are_one_expression(options, found):
    assert expression(options) == found


def test_a_content_with_a_place_is_bounded_by_where_it_ends():
    [(_, chain)] = one('content:"abc"; offset:5; depth:10;').chains[Kind.STREAM]
    assert (chain.pattern.least, chain.pattern.most) == (8, 15)
    [(_, absent), (_, chain)] = one('content:"abc"; content:!"d"; depth:9;').chains[Kind.STREAM]
    assert (absent.negated, absent.until, chain.pattern.most) == (True, 9, END)


@pytest.mark.parametrize(
    ("head", "options", "kinds"),
    [
        (HEAD, 'content:"a";', [Kind.STREAM]),
        (HEAD, 'content:"a"; dsize:5;', [Kind.PACKET]),
        (HEAD, "flags:S;", [Kind.PACKET]),
        (HEAD, "flow:established;", [Kind.PACKET]),
        (HEAD, 'http.uri; content:"a";', [Kind.REQUEST]),
        ("alert tcp-pkt any any -> any any", 'content:"a";', [Kind.PACKET]),
        ("alert udp any any -> any any", 'content:"a";', [Kind.PACKET]),
        ("alert ip any any -> any any", 'content:"a";', [Kind.STREAM, Kind.PACKET]),
        ("alert http any any -> any any", "", [Kind.REQUEST, Kind.RESPONSE]),
        (
            "alert http any any -> any any",
            'http.header; content:"a";',
            [Kind.REQUEST, Kind.RESPONSE],
        ),
        ("alert http any any -> any any", "flow:to_client;", [Kind.RESPONSE]),
        ("alert dns any any -> any any", 'dns.query; content:"a";', [Kind.QUERY]),
    ],
)
def test_when_a_rule_is_asked(head, options, kinds):
    assert list(one(options, head).chains) == kinds


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("alert tcp any any -> any any sid:1;", 1, "a rule is: action protocol"),
        ("alert tcp any any -> any (sid:1;)", 1, "6 words"),
        ("alert tcp any any -> any any (sid:1;", 36, r"ends with '\)'"),
        ("alrt tcp any any -> any any (sid:1;)", 1, "did you mean 'alert'"),
        ("alert tpc any any -> any any (sid:1;)", 7, "did you mean"),
        ("alert tcp 10.0.0.300 any -> any any (sid:1;)", 11, "no address"),
        ("alert tcp [10.0.0.1 any -> any any (sid:1;)", 11, "not closed"),
        ("alert tcp any any -> any 80000 (sid:1;)", 26, "no range of ports"),
        ("alert tcp any http -> any any (sid:1;)", 15, "no port"),
        ("alert tcp $HOME any -> any any (sid:1;)", 11, "did you mean 'HOME_NET'"),
        ("alert tcp !any any -> any any (sid:1;)", 11, "leaves no address"),
        ("alert tcp any any => any any (sid:1;)", 19, "the direction is"),
        (f"{HEAD} (content:x; sid:1;)", 39, "write content"),
        (f'{HEAD} (content:"|4|"; sid:1;)', 40, "not hexadecimal"),
        (f'{HEAD} (content:"a|41"; sid:1;)', 41, "no other end"),
        (f'{HEAD} (content:""; sid:1;)', 39, "at least one byte"),
        (f'{HEAD} (content:"abc"; depth:2; sid:1;)', 39, "less than the 3 bytes"),
        (f'{HEAD} (content:"a"; depth:1x; sid:1;)', 50, "takes a number"),
        (f'{HEAD} (content:"a"; nocase:1; sid:1;)', 51, "takes no value"),
        (f'{HEAD} (content:"a"; offset:1; distance:1; sid:1;)', 39, "keep one kind"),
        (f'{HEAD} (content:"a"; offset:1; offset:2; sid:1;)', 54, "said twice"),
        (f"{HEAD} (nocase; sid:1;)", 31, "belongs behind a content"),
        (f'{HEAD} (conten:"a"; sid:1;)', 31, "did you mean 'content'"),
        (f'{HEAD} (content:"a" sid:1;)', 39, "write content"),
        (f'{HEAD} (content:"a"; http_uri; http_uri; sid:1;)', 54, "in a buffer already"),
        (f'{HEAD} (content:"a"; sid:1)', 44, "does not end"),
        (f'{HEAD} (pcre:"a"; sid:1;)', 36, "write pcre"),
        (f'{HEAD} (pcre:"/a/q"; sid:1;)', 36, "unknown flag 'q'"),
        (f"{HEAD} (flow:established,to_srver; sid:1;)", 48, "did you mean 'to_server'"),
        (f"{HEAD} (flow:to_server,to_client; sid:1;)", 36, "exclude each other"),
        (f"{HEAD} (flowbits:sett,a; sid:1;)", 40, "did you mean 'set'"),
        (f"{HEAD} (flowbits:set; sid:1;)", 40, "write flowbits:set,NAME"),
        (f"{HEAD} (flags:Q; sid:1;)", 37, "no TCP flags"),
        (f"{HEAD} (dsize:many; sid:1;)", 37, "no size"),
        (f"{HEAD} (threshold:type limit, track by_src, count 1; sid:1;)", 41, "needs"),
        (f"{HEAD} (threshold:type limt, track by_src, count 1, seconds 1; sid:1;)", 46, "did you"),
        (f'{HEAD} (content:"a";)', 1, "no sid"),
        (f"{HEAD} (sid:0;)", 35, "from 1 to"),
    ],
)
def test_mistakes_are_named_with_line_and_column(text, column, words):
    with pytest.raises(SpecError, match=words) as caught:
        parse(f"\n{text}\n", "f.rules", VARIABLES)
    assert caught.value.path == f"f.rules:2:{column}"


def test_a_number_that_is_there_twice_names_the_first():
    with pytest.raises(SpecError, match="there already, at r:1:1"):
        parse(f"{HEAD} (sid:1;)\n{HEAD} (sid:1;)", "r")


@pytest.mark.parametrize(
    ("options", "keyword", "column"),
    [
        ("byte_test:1,>,2,3;", "byte_test", 31),
        ('content:"a"; content:"b"; distance:-1;', "distance", 52),
        ('content:"a"; content:!"b"; within:9; content:"c"; distance:0;', "distance, within", 76),
        ('content:"a"; content:"b"; distance:bytes;', "distance", 66),
        ('content:"a"; http.uri; content:"b";', "content", 39),
        ('http.uri; content:"a"; http.stat_code; content:"2";', "http.uri, http.stat_code", 7),
        ('pcre:"/a/P";', "pcre", 36),
        ("flow:only_frag;", "flow", 36),
        ('content:"a"; isdataat:9,relative; content:!"b"; within:9;', "isdataat", 53),
        ("http.uri; bsize:0;", "bsize", 47),
    ],
)
def test_what_is_not_supported_is_left_out_and_listed(options, keyword, column):
    text = f'{HEAD} ({options} sid:4;)\n{HEAD} (content:"x"; sid:5;)'
    found = parse(text, "r")
    assert [rule.meaning.sid for rule in found.rules] == [5]
    [row] = found.left_out
    assert (row.keyword, row.place, row.sid) == (keyword, f"r:1:{column}", 4)
    with pytest.raises(SpecError, match="not supported") as caught:
        parse(text, "r", strict=True)
    assert caught.value.path == f"r:1:{column}"


@pytest.mark.parametrize("proto", ["tls", "ssh", "smb"])
def test_protocols_of_others_are_left_out(proto):
    [row] = parse(f"alert {proto} any any -> any any (sid:1;)", "r").left_out
    assert (row.keyword, row.place) == (proto, "r:1:7")


def test_variables_may_name_variables():
    variables = {"A": "[$B,10.9.0.0/16]", "B": "!10.0.0.0/8"}
    [rule] = parse("alert tcp $A any -> any any (sid:1;)", "r", variables).rules
    first, last = 10 << 24, (11 << 24) - 1
    ipv4 = rule.header.addresses[0].ipv4
    assert ipv4 == (
        (0, first - 1),
        (first + (9 << 16), first + (10 << 16) - 1),
        (last + 1, 2**32 - 1),
    )


def test_variables_that_name_themselves_are_refused():
    with pytest.raises(SpecError, match="too deep"):
        parse("alert tcp $A any -> any any (sid:1;)", "r", {"A": "$A"})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"none\.rules"):
        load(tmp_path / "none.rules", {})


def test_words_that_are_handled_are_not_among_the_others():
    handled = {*BUFFERS, "content", "pcre", "flow", "flowbits", "dsize", "flags", "itype"}
    assert not handled & OTHER_KEYWORDS


def test_every_buffer_is_a_field_of_its_event():
    known = cells()
    for kinds in BUFFERS.values():
        for kind, buffer in kinds.items():
            assert (kind, buffer.field) in known


@given(st.binary(min_size=1, max_size=30))
def test_bytes_written_in_any_way_are_read_back(data):
    plain = "".join(chr(b) if chr(b).isalnum() and b < 128 else f"|{b:02X}|" for b in data)
    for text in (plain, "|" + data.hex(" ") + "|"):
        assert bytes_of(Word(text, Source(text, "x"), 0)) == data


WORDS = r"""alert tcp any any -> ( ) ; sid:1 content: "ab" ! [ ] , $HOME_NET nocase within:3 :
\ pcre: "/a/R" flow: http.uri flowbits: set,a : é # 10.0.0.1 80 drop " |41| content:"ab"; sid:2;)"""
PIECES = [*WORDS.split(), " ", "\n", " any any -> any any ("]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_any_text_is_rules_or_a_mistake_with_a_place(text):
    mistake = mistake_in(text)
    if mistake is not None:
        place = re.fullmatch(r"r:(\d+):(\d+)", mistake.path)
        assert place, mistake
        lines = text.split("\n")
        assert int(place[1]) <= len(lines)
        assert int(place[2]) <= len(lines[int(place[1]) - 1]) + 1


OPTIONS = """content:"ab" content:!"c" nocase offset:1 depth:4 distance:1 within:5 startswith
endswith http.uri http.stat_code dsize:4 flow:to_server flowbits:isset,a|b flags:S noalert http_uri
pcre:"/^a/R" pcre:"/b/i" flow:only_stream"""
BODIES = OPTIONS.split()


@settings(max_examples=300)
@given(
    st.sampled_from(["tcp", "udp", "http", "ip", "tcp-stream", "dns"]),
    st.lists(st.sampled_from(BODIES), max_size=9),
)
def test_any_options_are_a_rule_a_mistake_or_left_out(proto, body):
    options = "".join(f"{part}; " for part in body)
    text = f"alert {proto} any any -> any any ({options}sid:1;)"
    mistake = mistake_in(text)
    if mistake is not None:
        assert re.fullmatch(r"r:1:\d+", mistake.path), mistake
    else:
        found = parse(text, "r")
        assert len(found.rules) + len(found.left_out) == 1


def mistake_in(text):
    try:
        parse(text, "r", VARIABLES)
    except SpecError as error:
        return error
    return None
