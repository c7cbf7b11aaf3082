# SPDX-License-Identifier: Apache-2.0
"""The engine end to end: what NFs hear, publish and break, on captures made here."""

from __future__ import annotations

import gc
import os
import signal
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

import mesh
from mesh import NF, Event, EventBatch, on
from mesh.compose import NFUse
from mesh.engine import Engine
from mesh.errors import NativeError, PlanError, SpecError, StateError, UnraisedEvent
from mesh.module import ModuleInfo
from mesh.ports import LINKTYPE_RAW, Port
from mesh.registry import Registry
from mesh.testing import (
    Frame,
    conversation,
    datagrams,
    replay_frames,
    write_capture,
)

GET = b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n"


def web(n: int = 1, **options: object) -> list[Frame]:
    """A connection with n requests."""
    return conversation([("client", GET % i) for i in range(n)], **options)  # type: ignore[arg-type]


class Packets(NF):
    """Counts packets."""

    def __init__(self, step: int = 1) -> None:
        self.total, self.step = 0, step

    @on("packet")
    def count(self, batch: EventBatch) -> None:
        self.total += len(batch) * self.step

    def results(self) -> dict[str, int]:
        return {"total": self.total}


class Seen(Event, name="requests.seen"):
    """A request was seen."""

    target: str
    number: int
    source: IPv4Address
    share: float
    raw: bytes
    good: bool


class Requests(NF):
    """Publishes an event per request."""

    publishes = (Seen,)

    @on("http.request")
    def heard(self, batch: EventBatch) -> None:
        for i, event in enumerate(batch):
            seen = Seen(
                target=event.target,
                number=-i,
                source=IPv4Address(event.client_ip),
                share=0.5,
                raw=b"\0\xff",
                good=True,
            )
            self.publish(seen, event)


class Reader(NF):
    """Hears what Requests publishes."""

    def __init__(self) -> None:
        self.rows: list[tuple[object, ...]] = []

    @on("requests.seen")
    def heard(self, batch: EventBatch) -> None:
        self.rows += [
            (e.type, e.target, e.number, e.source, e.share, e.raw, e.good, e.server_port, e.ts)
            for e in batch
        ]


def test_addresses_of_events_keep_their_version():
    class Peer(Event, name="peers.peer"):
        who: IPv4Address | IPv6Address

    texts = ["2001::", "192.0.2.1", "::", "0.0.0.0", "::1"]

    class Peers(NF):
        publishes = (Peer,)

        @on("flow.start")
        def started(self, batch: EventBatch) -> None:
            for text in texts:
                self.publish(Peer(who=ip_address(text)), batch[0])

    class Hears(NF):
        heard: list[str]

        @on("peers.peer")
        def peer(self, batch: EventBatch) -> None:
            self.heard = batch.who

    hears = Hears()
    assert not replay_frames(web(), [Peers, hears]).errors
    assert hears.heard == texts


def test_words_of_the_link_layer_are_false_without_ethernet():
    class Framed(Packets):
        @on("packet", where="ether[0] >= 0")
        def count(self, batch: EventBatch) -> None:
            self.total += len(batch)

    raw = [Frame(frame.data[14:], frame.ts_ns) for frame in web()]
    assert replay_frames(web(), [Framed])["framed"].results == {"total": len(web())}
    report = replay_frames(raw, [Framed, Packets], link_type=LINKTYPE_RAW)
    assert [nf.results for nf in report.nfs] == [{"total": 0}, {"total": len(raw)}]


def test_a_capture_is_read_whole(tmp_path: Path):
    path = tmp_path / "a.pcapng"
    frames = web(3)
    write_capture(path, frames)
    report = mesh.replay(path, nfs=[Packets])
    assert report["packets"].results == {"total": len(frames)}
    assert (report.packets, report.statistics.flows_opened) == (len(frames), 1)
    assert (report.statistics.flows_now, report.statistics.slots_used) == (0, 0)
    assert not report.errors
    assert not report.interrupted


@pytest.mark.parametrize("form", ["pcap", "pcap-ns", "pcapng"])
def test_all_formats_written_are_read(tmp_path: Path, form: str):
    path = tmp_path / "a.cap"
    write_capture(path, web(), form=form)  # type: ignore[arg-type]
    assert mesh.replay(path, nfs=[Packets]).packets == len(web())


def test_nfs_come_as_names_classes_instances_and_uses():
    packets = Packets(2)
    uses = [packets, NFUse(Packets, "third", {"step": 3}), "flow_counter"]
    report = replay_frames(web(), uses)
    n = len(web())
    assert packets.total == 2 * n
    assert report["third"].results == {"total": 3 * n}
    assert report["flow_counter"].failures == 0


def test_two_runs_are_equal():
    def run() -> list[tuple[object, ...]]:
        reader = Reader()
        frames = web(5) + web(5, client=("10.0.0.7", 1234))
        replay_frames(sorted(frames, key=lambda f: f.ts_ns), [Requests, reader])
        return reader.rows

    assert run() == run()


def test_published_events_arrive_with_their_fields():
    reader = Reader()
    report = replay_frames(web(2), [reader, Requests])
    assert report["requests"].published == {"requests.seen": 2}
    assert [row[:-1] for row in reader.rows] == [
        ("requests.seen", "/0", 0, "10.0.0.1", 0.5, b"\0\xff", True, 80),
        ("requests.seen", "/1", -1, "10.0.0.1", 0.5, b"\0\xff", True, 80),
    ]
    assert [row[-1] for row in reader.rows] == [web(2)[3].ts_ns, web(2)[5].ts_ns]


def test_published_events_are_filtered_by_fields_and_by_packets():
    class Picky(NF):
        def __init__(self) -> None:
            self.targets: list[str] = []

        @on("requests.seen", where='target == "/1" and src net 10.0.0.0/8')
        def heard(self, batch: EventBatch) -> None:
            self.targets += batch.target

    class Deaf(Picky):
        @on("requests.seen", where="port 81")
        def heard(self, batch: EventBatch) -> None:
            self.targets += batch.target

    picky, deaf = Picky(), Deaf()
    replay_frames(web(3), [Requests, picky, deaf])
    assert (picky.targets, deaf.targets) == (["/1"], [])


class Sqli(Event, name="http.request.sqli"):
    score: int


class Waf(NF):
    """Publishes below an application event."""

    publishes = (Sqli,)

    @on("http")
    def heard(self, batch: EventBatch) -> None:
        requests = batch.of("http.request")
        for event in requests:
            self.publish(Sqli(score=7), event)


def test_a_subtype_reaches_subscribers_of_its_parent_with_inherited_fields():
    class Log(NF):
        def __init__(self) -> None:
            self.rows: list[tuple[object, ...]] = []

        @on("http.request")
        def heard(self, batch: EventBatch) -> None:
            self.rows += [(e.type, e.method, e.host, e.target) for e in batch]

        @on("http.request.sqli")
        def bad(self, batch: EventBatch) -> None:
            self.rows += [("bad", e.score, e.host) for e in batch]

    log = Log()
    report = replay_frames(web(), [Waf, log])
    assert not report.errors
    assert log.rows == [
        ("http.request", "GET", "h", "/0"),
        ("http.request.sqli", "GET", "h", "/0"),
        ("bad", 7, "h"),
    ]


def test_publishing_below_a_type_needs_an_event_that_has_its_fields():
    class Careless(Waf):
        name = "careless"

        @on("http")
        def heard(self, batch: EventBatch) -> None:
            self.publish(Sqli(score=1))

    report = replay_frames(web(), [Careless])
    assert isinstance(report.errors[0].cause, StateError)
    assert "publish http.request.sqli about an event that has 'message'" in str(report.errors[0])


def test_user_events_are_delivered_under_their_name():
    class Second(NF):
        def __init__(self) -> None:
            self.seen: list[tuple[str, str]] = []

        @on("second")
        def heard(self, batch: EventBatch) -> None:
            self.seen += [(e.type, e.target) for e in batch]

    probe = Second()
    replay_frames(web(3), [probe], events={"second": ("http.request", 'target == "/1"')})
    assert probe.seen == [("second", "/1")]


def test_user_events_stand_for_published_events_too():
    class Late(NF):
        def __init__(self) -> None:
            self.seen: list[tuple[str, str]] = []

        @on("late")
        def heard(self, batch: EventBatch) -> None:
            self.seen += [(e.type, e.target) for e in batch]

    probe = Late()
    events = {"late": ("requests.seen", "number == 0"), "other": ("late", 'target == "/9"')}
    replay_frames(web(3), [probe, Requests], events=events)
    assert probe.seen == [("late", "/0")]


def test_filters_reach_the_stack():
    class Some(Packets):
        @on("packet", where="udp and server port 53")
        def count(self, batch: EventBatch) -> None:
            self.total += len(batch)

    some = Some()
    report = replay_frames(web() + datagrams([("client", b"x"), ("server", b"y")]), [some])
    assert (some.total, report["some"].events) == (2, 2)


def many(n: int) -> list[Frame]:
    return [frame for i in range(n) for frame in datagrams([("client", b"x")], start_ns=10**18 + i)]


def test_a_run_of_many_rounds_loses_nothing():
    class Checks(NF):
        def __init__(self) -> None:
            self.last = self.total = 0

        @on("packet")
        def first(self, batch: EventBatch) -> None:
            numbers = batch.packet
            assert numbers[0] == self.last + 1
            assert (numbers[1:] - numbers[:-1] == 1).all()
            self.last = int(numbers[-1])

        @on("udp.datagram")
        def second(self, batch: EventBatch) -> None:
            self.total += sum(map(len, batch.bytes("data")))

    checks = Checks()
    report = replay_frames(many(30000), [checks])
    assert not report.errors
    assert (checks.last, checks.total) == (30000, 30000)
    assert report["checks"].batches > 4


def test_max_packets_ends_flows_in_order():
    class Ends(NF):
        def __init__(self) -> None:
            self.reasons: list[str] = []

        @on("flow.end")
        def ended(self, batch: EventBatch) -> None:
            self.reasons += batch.text("reason")

    ends = Ends()
    report = replay_frames(web(4), [ends], max_packets=5)
    assert report.packets == 5
    assert ends.reasons == ["eof"]
    assert not report.interrupted


def test_ctrl_c_ends_the_run_with_its_totals():
    class Presses(NF):
        def __init__(self) -> None:
            self.ends = 0

        @on("udp.datagram")
        def data(self, batch: EventBatch) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        @on("flow.end")
        def ended(self, batch: EventBatch) -> None:
            self.ends += len(batch)

    class Twice(Presses):
        @on("udp.datagram")
        def data(self, batch: EventBatch) -> None:
            super().data(batch)
            super().data(batch)

    before = signal.getsignal(signal.SIGINT)
    once = Presses()
    report = replay_frames(many(60000), [once])
    assert report.interrupted
    assert report.packets < 60000
    assert once.ends == 1
    with pytest.raises(KeyboardInterrupt):
        replay_frames(many(60000), [Twice])
    assert signal.getsignal(signal.SIGINT) is before


def test_progress_ends_with_the_whole(tmp_path: Path):
    path = tmp_path / "a.pcapng"
    write_capture(path, many(1000))
    seen: list[mesh.Progress] = []
    mesh.replay(path, nfs=[Packets], progress=seen.append)
    assert seen[-1].packets == 1000
    assert seen[-1].position == seen[-1].size == path.stat().st_size


def test_a_truncated_capture_is_read_to_its_last_whole_packet(tmp_path: Path):
    path = tmp_path / "a.pcap"
    write_capture(path, web(), form="pcap")
    path.write_bytes(path.read_bytes()[:-3])
    report = mesh.replay(path, nfs=[Packets])
    assert report.packets == len(web()) - 1
    [warning] = report.warnings
    assert str(path) in warning or "truncated" in warning


@pytest.mark.parametrize("content", [None, b"", b"no capture at all, just some text here"])
def test_what_is_no_capture_is_one_line(tmp_path: Path, content: bytes | None):
    path = tmp_path / "a.pcap"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NativeError) as caught:
        mesh.replay(path, nfs=[Packets])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_checksums_are_ignored_unless_verified():
    frames = [*web()]
    data = bytearray(frames[3].data)
    data[-1] ^= 1
    frames[3] = Frame(bytes(data), frames[3].ts_ns)

    class Malformed(Packets):
        @on("packet.malformed")
        def count(self, batch: EventBatch) -> None:
            self.total += len(batch)

    ignored, verified = Malformed(), Malformed()
    replay_frames(frames, [ignored])
    replay_frames(frames, [verified], checksums="verify")
    assert (ignored.total, verified.total) == (0, 1)


def test_plan_errors_come_before_the_capture_is_opened():
    with pytest.raises(PlanError, match="did you mean"):
        mesh.replay(
            "no-such-file.pcap", nfs=[type("X", (NF,), {"h": on("tcp.dta")(lambda s, b: 0)})]
        )


def test_a_missing_publisher_is_named():
    modules = {n: (lambda n=n: ModuleInfo.builtin(n)) for n in ("tcp_track", "tcp_stream", "http")}
    registry = Registry({"requests": lambda: Requests}, modules)
    with pytest.raises(UnraisedEvent, match=r"raises 'requests\.seen': add the NF 'requests'"):
        mesh.make_plan([Reader], registry=registry)


@pytest.mark.parametrize(
    ("worker", "text"),
    [
        ({"max_flow": 1}, "worker.max_flow: no such size; did you mean 'max_flows'"),
        ({"max_flows": 1000}, "max_flows must be a power of two"),
        ({"n_small": 1 << 40}, "worker.n_small: 1099511627776 is too large"),
    ],
)
def test_sizes_are_checked(worker: dict[str, int], text: str):
    with pytest.raises((SpecError, NativeError)) as caught:
        replay_frames(web(), [Packets], worker=worker)
    assert text in str(caught.value)


def test_inline_is_refused_on_a_capture():
    class Inline(NF):
        @on("packet", mode="inline")
        def seen(self, batch: EventBatch) -> None: ...

    with pytest.raises(SpecError, match=r"inline\.seen\.mode: inline NFs decide over packets"):
        replay_frames(web(), [Inline])


def test_an_engine_runs_once_and_closes_twice():
    plan = mesh.make_plan([Packets])
    with Engine(plan, Port.memory(web()), {}, config={"max_flows": 1024}) as engine:
        engine.run()
        assert engine.counters()
        with pytest.raises(StateError, match="runs once"):
            engine.run()
    engine.close()
    with pytest.raises(StateError, match="closed"):
        engine.statistics()


def test_a_run_closes_its_own_files_and_no_others(tmp_path: Path):
    path = tmp_path / "a.pcap"
    write_capture(path, web())
    lowest = os.open(os.devnull, os.O_RDONLY)
    before = set(os.listdir("/proc/self/fd"))
    mesh.replay(path, nfs=[Packets, "dns_log"])
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == before
    os.close(lowest)


def test_the_report_is_json():
    report = replay_frames(web(), [Packets])
    made = report.to_json()
    assert made["nfs"][0]["results"] == {"total": len(web())}
    assert made["statistics"]["flows_opened"] == 1
    with pytest.raises(KeyError):
        _ = report["nobody"]
