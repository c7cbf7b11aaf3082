# SPDX-License-Identifier: Apache-2.0
"""Composition as tables: what is asked for, what runs, what is refused and how it is said."""

from __future__ import annotations

import pytest

from mesh.batch import EventBatch
from mesh.compose import NFUse, SubscriptionOverride, UserEvent, compose
from mesh.declare import Event
from mesh.errors import (
    MeshError,
    ModuleMissing,
    NeedCycle,
    PlanError,
    SpecError,
    StageConflict,
    UnknownEvent,
    UnraisedEvent,
)
from mesh.events import EventType, FieldDef, Kind, Source
from mesh.filters import parse
from mesh.module import LimitDef, ModuleDescriptor, Phase
from mesh.nf import NF, NativeCode, on
from mesh.plan import Level, Plan


def stack(name: str, bit: int | None = None, fields: tuple[FieldDef, ...] = ()) -> EventType:
    return EventType(name, name, fields, bit, "core")


def record(name: str, kind: Kind = Kind.U32) -> FieldDef:
    return FieldDef(name, kind, Source.RECORD, 0)


CORE = (
    stack("", None, (record("proto", Kind.U8), record("ts", Kind.TIME))),
    stack("packet.tcp", 0),
    stack("packet.udp", 1),
    stack("flow.start", 5),
    stack("flow.end", 6, (record("reason", Kind.U8),)),
    stack("tcp", None, (record("retransmits"),)),
    stack("tcp.handshake.syn", 8),
    stack("tcp.state", 10),
    stack("tcp.data", 11, (record("data_len"),)),
    stack("tcp.anomaly.gap", 20),
    stack("udp.datagram", 28),
)
HOST = FieldDef("host", Kind.STR, Source.FIELDS, 0)
MODULES = (
    ModuleDescriptor(
        "http",
        needs=("tcp.data", "tcp.anomaly.gap", "flow.end"),
        emits=(
            EventType("http", origin="http"),
            EventType("http.request", fields=(HOST,), origin="http"),
            EventType("http.response", origin="http"),
        ),
    ),
    ModuleDescriptor(
        "dns",
        needs=("udp.datagram", "tcp.data"),
        emits=(EventType("dns.query", origin="dns"),),
    ),
    ModuleDescriptor(
        "tcp_stream",
        needs=("tcp.state",),
        emits=(stack("tcp.data", 11), stack("tcp.anomaly.gap", 20)),
        limits=(
            LimitDef("flow_slots", 64, 1, 1000),
            LimitDef("overlap", 0, 0, 4, "0 first, 1 last, 4 old-linux"),
        ),
        phase=Phase.STREAM,
    ),
    ModuleDescriptor("ip_defrag", phase=Phase.IP),
    ModuleDescriptor(
        "tcp_track",
        needs=("packet.tcp",),
        emits=(stack("tcp.handshake.syn", 8), stack("tcp.state", 10)),
        phase=Phase.TRACK,
    ),
    ModuleDescriptor(
        "udp",
        needs=("packet.udp",),
        emits=(stack("udp.datagram", 28),),
        phase=Phase.TRACK,
    ),
)


def nf(*events: str, name: str = "probe", where: str | None = None, **extra: object) -> type[NF]:
    """An NF class with one handler `heard`."""

    def heard(self: NF, batch: EventBatch) -> None: ...

    mode = {key: extra.pop(key) for key in ("mode", "stage", "edits") if key in extra}
    decorated = on(*events, where=where, **mode)(heard)  # type: ignore[arg-type]
    return type(name, (NF,), {"name": name, "heard": decorated, **extra})


def plan(*classes: type[NF] | NFUse, **options: object) -> Plan:
    uses = [c if isinstance(c, NFUse) else NFUse(c) for c in classes]
    return compose(CORE, MODULES, uses, check_filter=parse, **options)  # type: ignore[arg-type]


class Alert(Event, name="ids.alert"):
    score: int


class Sqli(Event, name="http.request.sqli"):
    score: int


STREAM = ["ip_defrag", "tcp_track", "tcp_stream"]


@pytest.mark.parametrize(
    ("events", "modules", "level"),
    [
        (["packet"], [], Level.PACKET),
        (["packet.tcp"], [], Level.PACKET),
        (["flow.start"], ["ip_defrag"], Level.PACKET),
        (["flow.end"], ["ip_defrag", "tcp_track"], Level.TRACK),
        (["tcp.handshake"], ["ip_defrag", "tcp_track"], Level.TRACK),
        (["udp.datagram"], ["ip_defrag", "udp"], Level.TRACK),
        (["tcp.data"], STREAM, Level.DATA),
        (["tcp.anomaly.gap"], STREAM, Level.DATA),
        (["tcp"], STREAM, Level.DATA),
        (["http.request"], [*STREAM, "http"], Level.DATA),
        (["dns"], ["ip_defrag", "tcp_track", "udp", "tcp_stream", "dns"], Level.DATA),
    ],
)
def test_only_needed_modules_run(events: list[str], modules: list[str], level: Level):
    made = plan(nf(*events))
    assert [m.name for m in made.modules] == modules
    assert made.level is level
    assert set(made.skipped) == {m.name for m in MODULES} - set(modules)


def test_masks_and_intervals():
    made = plan(nf("tcp.handshake", "http", "http.request", "dns.query"))
    catalogue = made.catalogue
    first, second = made.nfs[0].subscriptions[0].parts
    spans = sorted([catalogue.interval("http"), catalogue.interval("dns.query")])
    assert [first.types, second.types] == spans
    assert (first.events, second.events) == (1 << 8, 0)
    assert {*first.modules, *second.modules} == {"http", "dns"}


def test_types_of_a_module_follow_the_catalogue():
    made = plan(nf("http"))
    [http] = [m for m in made.modules if m.name == "http"]
    assert http.types == tuple(made.catalogue[e.name].id for e in MODULES[0].emits)
    [track] = [m for m in made.modules if m.name == "tcp_track"]
    assert track.types == (0, 0)


def test_subscriptions_of_one_method_share_a_handler():
    class Two(NF):
        @on("tcp.data")
        @on("flow.end", name="over")
        def one(self, batch: EventBatch) -> None: ...

        @on("packet")
        def other(self, batch: EventBatch) -> None: ...

    subs = plan(Two).nfs[0].subscriptions
    assert [(s.name, s.handler) for s in subs] == [("one", 0), ("over", 0), ("other", 1)]


def test_filters_of_spec_and_class_are_both_meant():
    use = NFUse(nf("tcp.data", where="data_len > 3"), where="port 80", path="nfs[0]")
    [part] = plan(use).nfs[0].subscriptions[0].parts
    assert part.where == "(data_len > 3) and (port 80)"
    assert part.where_on == ("tcp.data",)


def test_overrides_replace():
    change = {"heard": SubscriptionOverride(("flow.end",), "reason == 1")}
    use = NFUse(nf("tcp.data", where="data_len > 3"), overrides=change)
    [sub] = plan(use).nfs[0].subscriptions
    assert (sub.events, sub.where, sub.level) == (("flow.end",), "reason == 1", Level.TRACK)


USER = (
    UserEvent("big", "tcp.data", "data_len > 1000", "events.big"),
    UserEvent("web.big", "big", "port 80", "events.web.big"),
)


def test_a_user_event_is_its_base_under_another_type():
    made = plan(nf("big", where="retransmits > 0"), user_events=USER)
    [part] = made.nfs[0].subscriptions[0].parts
    assert part.as_type == made.catalogue["big"].id
    assert part.names == ("tcp.data",)
    assert part.where == "(data_len > 1000) and (retransmits > 0)"
    assert made.level is Level.DATA


def test_a_user_event_of_a_user_event_adds_up():
    made = plan(nf("web"), user_events=USER)
    [part] = made.nfs[0].subscriptions[0].parts
    assert part.as_type == made.catalogue["web.big"].id
    assert part.where == "(data_len > 1000) and (port 80)"


def test_who_hears_the_base_does_not_hear_the_user_event_again():
    event = UserEvent("http.request.long", "http.request", 'host == "a"')
    [sub] = plan(nf("http"), user_events=[event]).nfs[0].subscriptions
    assert [part.as_type for part in sub.parts] == [0]


def test_published_events_order_the_nfs():
    blocker = nf("ids.alert", name="blocker")
    ids = nf("tcp.data", name="ids", publishes=(Alert,))
    made = plan(blocker, ids)
    assert [x.name for x in made.nfs] == ["ids", "blocker"]
    [edge] = made.edges
    assert (edge.publisher, edge.event, edge.subscriber) == ("ids", "ids.alert", "blocker")
    assert made.nfs[1].subscriptions[0].parts == ()


def test_a_published_subtype_reaches_subscribers_of_its_parent():
    made = plan(nf("http.request", name="log"), nf("http", name="waf2", publishes=(Sqli,)))
    assert [(e.publisher, e.subscriber) for e in made.edges if e.subscriber == "log"] == [
        ("waf2", "log")
    ]


def test_two_instances_of_one_class_publish_the_same_type():
    cls = nf("tcp.data", name="ids", publishes=(Alert,))
    made = plan(NFUse(cls, "a"), NFUse(cls, "b"), nf("ids", name="log"))
    assert len(made.edges) == 2


@pytest.mark.parametrize(
    ("uses", "options", "error", "text"),
    [
        (
            [NFUse(nf("tcp.dat"), path="nfs[0]")],
            {},
            UnknownEvent,
            "nfs[0]: NF 'probe', subscription 'heard': unknown event 'tcp.dat'; "
            "did you mean 'tcp.data'?",
        ),
        ([NFUse(nf(""))], {}, UnknownEvent, "unknown event ''"),
        (
            [NFUse(nf("flow.end"), where="prot == 6", path="nfs[2]")],
            {},
            PlanError,
            "nfs[2].where: NF 'probe', subscription 'heard': no field 'prot' here; "
            "did you mean 'proto'?",
        ),
        (
            [NFUse(nf("tcp.handshake.syn", "tcp.data", where="data_len > 3"))],
            {},
            PlanError,
            "no field 'data_len' here",
        ),
        (
            [NFUse(nf("tcp.data", where="data_len >"))],
            {},
            PlanError,
            "expected a value, found 'end of the filter'",
        ),
        ([NFUse(nf("flow.update"))], {}, UnknownEvent, "did you mean"),
        ([NFUse(nf("tcp"), "x"), NFUse(nf("udp"), "x")], {}, PlanError, "two NFs have this name"),
        (
            [NFUse(nf("tcp"), overrides={"herd": SubscriptionOverride()}, path="nfs[0]")],
            {},
            PlanError,
            "nfs[0].subscriptions: NF 'probe': has no subscription 'herd'; did you mean 'heard'?",
        ),
        ([NFUse(type("Deaf", (NF,), {}))], {}, PlanError, "NF 'deaf': subscribes to nothing"),
        (
            [
                NFUse(nf("b.y", name="a", publishes=(type("A", (Event,), {}, name="a.x"),))),
                NFUse(nf("a.x", name="b", publishes=(type("B", (Event,), {}, name="b.y"),))),
            ],
            {},
            NeedCycle,
            "NFs wait for each other's events: a → b → a",
        ),
        (
            [NFUse(nf("ids.alert", name="ids", publishes=(Alert,)))],
            {},
            NeedCycle,
            "NF 'ids' waits for its own event 'ids.alert'",
        ),
        (
            [
                NFUse(nf("tcp", name="a", mode="inline", stage=1, edits=True)),
                NFUse(nf("tcp", name="b", mode="inline", stage=1, edits=True)),
            ],
            {},
            StageConflict,
            "stage 1 already has the editor 'a'",
        ),
        (
            [NFUse(nf("tcp"))],
            {"user_events": [UserEvent("big", "tcp.dta", "x", "events.big")]},
            UnknownEvent,
            "events.big.event: 'big': unknown event 'tcp.dta'; did you mean 'tcp.data'?",
        ),
        (
            [NFUse(nf("tcp"))],
            {"user_events": [UserEvent("big", "tcp.data", "len_data > 1", "events.big")]},
            PlanError,
            "events.big.where: 'big': no field 'len_data' here",
        ),
        (
            [NFUse(nf("tcp"))],
            {"limits": {"tcp_strem": {}}},
            SpecError,
            "modules.tcp_strem: no such module; did you mean 'tcp_stream'?",
        ),
        (
            [NFUse(nf("tcp"))],
            {"limits": {"tcp_stream": {"flow_slot": 1}}},
            SpecError,
            "modules.tcp_stream.flow_slot: the module has no such limit; "
            "did you mean 'flow_slots'?",
        ),
        (
            [NFUse(nf("tcp"))],
            {"limits": {"tcp_stream": {"flow_slots": 0}}},
            SpecError,
            "modules.tcp_stream.flow_slots: 0 is not within 1..1000",
        ),
        (
            [NFUse(nf("tcp"))],
            {"limits": {"tcp_stream": {"overlap": "lst"}}},
            SpecError,
            "'lst' is none of: first, last, old-linux; did you mean 'last'?",
        ),
    ],
)
def test_errors_name_nf_subscription_and_place(
    uses: list[NFUse], options: dict[str, object], error: type[MeshError], text: str
):
    with pytest.raises(error) as caught:
        plan(*uses, **options)
    assert text in str(caught.value)


def test_an_event_that_nobody_raises_is_refused():
    core = [*CORE, stack("quic.initial", 29)]
    with pytest.raises(UnraisedEvent, match="nobody in this plan raises 'quic'"):
        compose(core, MODULES, [NFUse(nf("quic"))])


def test_a_module_that_is_missing_is_named_by_its_event():
    modules = [m for m in MODULES if m.name != "tcp_track"]
    with pytest.raises(ModuleMissing, match=r"no installed stack module raises 'tcp.state'"):
        compose(CORE, modules, [NFUse(nf("tcp.data"))])


def test_modules_that_need_each_other_are_refused():
    odd = (
        ModuleDescriptor("a", needs=("b.x",), emits=(EventType("a.x", origin="a"),)),
        ModuleDescriptor("b", needs=("a.x",), emits=(EventType("b.x", origin="b"),)),
    )
    with pytest.raises(NeedCycle, match="a → b → a"):
        compose(CORE, odd, [NFUse(nf("a.x"))])


def test_native_code_does_not_hear_published_events():
    native = type(
        "Scan",
        (NF,),
        {"subscribes": (on("ids.alert"),), "native": NativeCode("scan", "scan_process")},
    )
    with pytest.raises(PlanError, match=r"native code cannot hear 'ids\.alert'"):
        plan(native, nf("tcp.data", name="ids", publishes=(Alert,)))


def test_limits_reach_the_plan():
    made = plan(nf("tcp.data"), limits={"tcp_stream": {"overlap": "old-linux"}})
    [stream] = [m for m in made.modules if m.name == "tcp_stream"]
    assert (stream.limits, stream.changed) == ((64, 4), {"overlap": 4})


def test_the_drawing_says_who_hears_what():
    made = plan(
        nf("tcp.data", name="ids", where="port 80", publishes=(Alert,)),
        nf("ids.alert", name="blocker"),
    )
    assert made.render() == (
        "stack\n"
        "  packets, flows\n"
        "  └ ip_defrag   needed by ids.heard\n"
        "  └ tcp_track   needed by tcp_stream\n"
        "  └ tcp_stream  needed by ids.heard\n"
        "  not needed: udp, dns, http\n"
        "\n"
        "network functions\n"
        "  ids\n"
        "    hears tcp.data → heard [data]\n"
        "      where port 80\n"
        "    publishes ids.alert → blocker.heard\n"
        "  blocker\n"
        "    hears ids.alert → heard [published]\n"
    )
    assert made.to_json()["edges"] == [{"from": "ids", "event": "ids.alert", "to": "blocker.heard"}]
