# SPDX-License-Identifier: Apache-2.0
"""The catalogue: hierarchy, numbering, inheritance, events that NFs declare."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.declare import Event
from mesh.errors import PlanError, UnknownEvent, UnknownField
from mesh.events import (
    Catalogue,
    EventType,
    FieldDef,
    Kind,
    Source,
    shared_fields,
)
from mesh.native_events import core_events


def field(name: str, kind: Kind = Kind.U32, offset: int = 0, source=Source.FIELDS) -> FieldDef:
    return FieldDef(name, kind, source, offset)


def small() -> Catalogue:
    return Catalogue(
        [
            EventType("", "root", (field("ts", Kind.TIME, 0, Source.RECORD),), origin="core"),
            EventType("tcp.data", "bytes", (), bit=11, origin="core"),
            EventType("tcp.anomaly.gap", "hole", (), bit=20, origin="core"),
            EventType("http", "any", (field("message"),), origin="http"),
            EventType("http.request", "head", (field("host", Kind.STR, 8),), origin="http"),
            EventType("http.response", "head", (field("status", Kind.U16, 8),), origin="http"),
        ]
    )


def test_inner_nodes_are_made():
    catalogue = small()
    assert "tcp" in catalogue
    assert "tcp.anomaly" in catalogue
    assert [t.name for t in catalogue.children("tcp")] == ["tcp.anomaly", "tcp.data"]
    assert [t.name for t in catalogue.roots()] == ["http", "tcp"]


def test_a_subtree_is_an_interval_of_ids():
    catalogue = small()
    for event in catalogue:
        first, last = catalogue.interval(event.name)
        names = {t.name for t in catalogue if first <= t.id <= last}
        below = {t.name for t in catalogue if catalogue.is_a(t.name, event.name)}
        assert names == below == {t.name for t in catalogue.subtree(event.name)}


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), max_size=20))
def test_intervals_nest_like_names(names: list[list[str]]):
    catalogue = Catalogue([EventType(n) for n in {".".join(parts) for parts in names}])
    assert [t.id for t in catalogue] == list(range(1, len(catalogue) + 1))
    for one in catalogue:
        for other in catalogue:
            inside = (other.name + ".").startswith(one.name + ".") or one.name == ""
            assert catalogue.is_a(other.name, one.name) == inside


def test_bits_of_a_node_are_those_below_it():
    catalogue = small()
    assert catalogue.bits("tcp") == 1 << 11 | 1 << 20
    assert catalogue.bits("tcp.anomaly") == 1 << 20
    assert catalogue.bits("http") == 0


def test_fields_are_inherited():
    assert list(small().fields("http.request")) == ["ts", "message", "host"]


def test_shared_fields_are_those_in_the_same_place():
    catalogue = small()
    assert list(shared_fields(catalogue, ("http.request", "http.response"))) == ["ts", "message"]


def test_unknown_names_come_with_the_closest_known():
    with pytest.raises(UnknownEvent, match=r"'http.reqest'; did you mean 'http.request'"):
        small()["http.reqest"]
    with pytest.raises(UnknownField, match=r"'hots'; did you mean 'host'"):
        small().field("http.request", "hots")


def test_the_same_name_twice_is_refused():
    twice = [EventType("a", origin="x"), EventType("a", origin="y")]
    with pytest.raises(PlanError, match="declared twice, by x and y"):
        Catalogue(twice)


def test_a_field_may_not_change_its_kind_on_the_way_down():
    types = [
        EventType("a", fields=(field("n", Kind.U32),), origin="m"),
        EventType("a.b", fields=(field("n", Kind.STR),), origin="m"),
    ]
    with pytest.raises(PlanError, match="'n' is STR but inherited as U32"):
        Catalogue(types)


class Scan(Event, name="scan.found"):
    """A scan.

    More text.
    """

    source: IPv4Address | IPv6Address
    ports: int
    share: float
    note: str
    raw: bytes
    done: bool = False


class Sqli(Event, name="http.request.sqli"):
    """A request that looks like SQL."""

    score: int


def test_a_declared_event_is_a_frozen_dataclass():
    scan = Scan(source=IPv4Address("192.0.2.1"), ports=3, share=0.5, note="x", raw=b"y")
    assert (scan.ports, scan.done) == (3, False)
    with pytest.raises(AttributeError):
        scan.ports = 4  # type: ignore[misc]


def test_a_declared_event_becomes_a_type():
    made = Scan.event_type("scanner")
    assert (made.name, made.doc, made.origin) == ("scan.found", "A scan.", "nf:scanner")
    kinds = [Kind.ADDR, Kind.I64, Kind.F64, Kind.STR, Kind.BYTES, Kind.BOOL]
    assert [f.kind for f in made.fields] == kinds


def test_own_fields_are_placed_behind_the_inherited():
    catalogue = small().extended([Sqli.event_type("waf"), Scan.event_type("s")])
    assert catalogue.field("http.request.sqli", "score").offset == 16
    assert catalogue.field("http.request.sqli", "host").offset == 8
    assert [f.offset for f in catalogue["scan.found"].fields] == [0, 8, 16, 24, 32, 40]
    assert catalogue.is_a("http.request.sqli", "http")


def test_published_events_do_not_stand_below_stack_events():
    class Odd(Event, name="tcp.data.odd"):
        pass

    with pytest.raises(PlanError, match=r"choose a name such as 'watcher.odd'"):
        small().extended([Odd.event_type("watcher")])


def test_a_field_of_another_type_is_refused():
    class Bad(Event, name="bad.event"):
        items: list[int]

    with pytest.raises(TypeError, match=r"Bad\.items"):
        Bad.own_fields()


@pytest.mark.parametrize("name", ["", "a..b", "a b", ".a"])
def test_event_names_are_dotted_identifiers(name: str):
    with pytest.raises(TypeError, match="dotted name"):
        type("X", (Event,), {}, name=name)


def test_user_events_have_the_fields_of_their_base():
    user = EventType("slow", base="http.request", where="x", origin="user")
    catalogue = small().extended([user])
    assert catalogue.fields("slow") == catalogue.fields("http.request")
    assert catalogue.is_a("slow", "http")
    assert "slow" not in {t.name for t in catalogue.subtree("http")}


def test_user_events_in_a_circle_are_refused():
    circle = [
        EventType("a", base="b", where="x", origin="user"),
        EventType("b", base="a", where="x", origin="user"),
    ]
    with pytest.raises(PlanError, match="a → b → a"):
        Catalogue(circle)


def test_core_events_have_unique_bits_and_known_fields():
    catalogue = Catalogue(core_events())
    bits = [t.bit for t in catalogue if t.bit is not None]
    assert len(bits) == len(set(bits))
    assert {"ts", "flow", "src_ip", "dst_port", "proto"} <= set(catalogue.fields("packet.tcp"))
    assert catalogue.by_bit(0).name == "packet.tcp"
    assert all(t.doc for t in catalogue)
