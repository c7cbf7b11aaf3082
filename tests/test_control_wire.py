# SPDX-License-Identifier: Apache-2.0
"""The plan over the wire: nothing is lost, and a worker fed by it subscribes as the engine does."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgpack
import pytest

from mesh import NF, Event, on
from mesh.control.composing import compose_desired
from mesh.control.desired import Desired
from mesh.control.parts import Parts
from mesh.control.seal import pack
from mesh.control.unpack import catalogue_of, part_of, planned_module, planned_nf
from mesh.control.wire import (
    HostPart,
    NFPart,
    WorkerPart,
    from_wire,
    to_wire,
)
from mesh.engine import Engine
from mesh.errors import CapacityError, PlanError, SpecError
from mesh.events import shared_fields
from mesh.native_worker import Filters, NativeWorker, worker_config
from mesh.plan import Plan
from mesh.ports import Port
from mesh.reconcile import host_changes, worker_changes
from mesh.registry import Registry
from mesh.stack import Stack

OFFICE = Path(__file__).parent / "captures" / "office.pcap"


class Alert(Event, name="wire_alert.seen"):
    host: str


class Watcher(NF):
    publishes = (Alert,)

    @on("http.request", "slow", where="port 80")
    def requests(self, batch):
        pass

    @on("tcp.data", "tcp.end")
    def data(self, batch):
        pass


class Blocker(NF):
    @on("wire_alert.seen", where="host contains 'x'")
    def alerted(self, batch):
        pass

    @on("http", "dns.query")
    def everything(self, batch):
        pass


INSTALLED = Registry.installed()
REGISTRY = Registry(
    {"watcher": lambda: Watcher, "blocker": lambda: Blocker, **INSTALLED.nfs},
    INSTALLED.modules_by_name,
)
SPEC = {
    "nfs": [
        {"use": "blocker", "where": "not net 10.9.0.0/16", "delivery": "lossy", "ring": 256},
        {"use": "watcher", "cores": [1], "poll": "busy"},
        {"use": "http_log", "name": "pages", "config": {"keep": 5}},
    ],
    "events": {"slow": {"event": "http.response", "where": "latency_us > 5"}},
    "ports": [{"pcap": str(OFFICE)}],
    "worker": {"n_records": 131072},
    "modules": {"tcp_stream": {"overlap": "last"}},
    "checksums": "verify",
}


def composed(spec=SPEC, **changes):
    return compose_desired(Desired(**{"revision": 1, "spec": spec, **changes}), REGISTRY)


def all_parts(parts: Parts):
    return [parts.host, *parts.workers.values(), *parts.nfs.values()]


@pytest.mark.parametrize(("words", "is_busy"), [({"worker_poll": "busy"}, True), ({}, False)])
def test_workers_never_sleep_when_a_spec_says_so(words, is_busy):
    workers = composed({**SPEC, **words}).parts.workers.values()
    assert {worker.is_busy for worker in workers} == {is_busy}


@pytest.mark.parametrize("kind", [HostPart, WorkerPart, NFPart])
def test_a_part_comes_back_as_it_was(kind):
    parts = [part for part in all_parts(composed().parts) if type(part) is kind]
    assert parts
    for part in parts:
        travelled = msgpack.unpackb(pack(to_wire(part)))
        assert from_wire(kind, travelled) == part


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"more": 1}, "plan.more"),
        ({"id": 256}, "plan.id"),
        ({"receivers": [{"nf": "a"}]}, "plan.receivers.0.ring"),
        ({"mode": "both"}, "plan.mode"),
    ],
)
def test_what_is_no_part_is_refused_with_its_place(change, place):
    data = to_wire(composed().parts.workers["worker-0"])
    with pytest.raises(SpecError) as caught:
        from_wire(WorkerPart, {**data, **change})
    assert caught.value.path == place


def test_everybody_numbers_types_like_the_plan():
    made = composed()
    for part in [*made.parts.workers.values(), *made.parts.nfs.values()]:
        found = catalogue_of(from_wire(type(part), to_wire(part)).types)
        assert {t.name: t.id for t in found} == {t.name: t.id for t in made.plan.catalogue}
        for event in made.plan.catalogue:
            ours, theirs = found.fields(event.name), made.plan.catalogue.fields(event.name)
            assert [replace(f, doc="") for f in theirs.values()] == list(ours.values())
            assert found.bits(event.name) == made.plan.catalogue.bits(event.name)
            assert found.spans(event.name) == made.plan.catalogue.spans(event.name)


def rows_of_the_engine(plan: Plan, monkeypatch) -> list[tuple]:
    """What the engine subscribes, with the number of the ring."""
    rows: list[tuple] = []
    rings: list[object] = []
    own = NativeWorker.subscribe

    def spy(self, ring, handler, part, filters, terms=None, where=""):
        rings.extend([ring] if ring not in rings else [])
        fields = shared_fields(filters._catalogue, part.where_on) if part.where else {}
        rows.append(row(rings.index(ring), handler, part, self.modules, fields))
        return own(self, ring, handler, part, filters, terms, where)

    modules = {m.name: INSTALLED.module(m.name) for m in plan.modules}
    with monkeypatch.context() as patch:
        patch.setattr(NativeWorker, "subscribe", spy)
        Engine(plan, Port.pcap(OFFICE), modules).close()
    return rows


def row(ring, handler, part, modules, fields):
    mask = sum(1 << modules[name] for name in part.modules)
    places = [(f.name, f.kind, f.source, f.offset) for f in fields.values()]
    level = int(part.stack_level)
    return (ring, handler, level, part.events, part.types, mask, part.as_type, part.where, places)


def test_a_worker_fed_by_the_wire_subscribes_as_the_engine_does(monkeypatch):
    made = composed()
    expected = rows_of_the_engine(made.plan, monkeypatch)
    data = msgpack.unpackb(pack(to_wire(made.parts.workers["worker-0"])))
    part = from_wire(WorkerPart, data)
    changes = worker_changes(part, None)
    worker = NativeWorker(worker_config(part.config))
    for module in changes.modules:
        worker.add_module(*planned_module(module))
    names = [receiver.ring for receiver in changes.rings]
    rings = {receiver.ring: worker.add_ring(receiver.entries) for receiver in changes.rings}
    filters = Filters(catalogue_of(part.types))
    rows = []
    for ring, sub in changes.subscribe:
        own = part_of(sub)
        worker.subscribe(rings[ring], sub.handler, own, filters, where=sub.id)
        fields = shared_fields(filters._catalogue, own.where_on) if own.where else {}
        without_text = {n: replace(f, doc="") for n, f in fields.items()}
        rows.append(row(names.index(ring), sub.handler, own, worker.modules, without_text))
    assert len(rows) > 5
    assert rows == expected
    limits = {m.name: m.limits for m in made.plan.modules}
    assert {m.name: m.limits for m in changes.modules} == limits


def test_a_host_gets_what_a_seat_needs():
    made = composed()
    part = from_wire(NFPart, to_wire(made.parts.nfs["blocker"]))
    planned = planned_nf(part, Blocker, {})
    original = next(nf for nf in made.plan.nfs if nf.name == "blocker")
    for ours, theirs in zip(planned.subscriptions, original.subscriptions, strict=True):
        assert ours == replace(theirs, parts=())
    assert [(log.peer, log.lossy, log.from_now) for log in part.reads] == [("watcher", True, False)]
    assert made.parts.nfs["watcher"].readers[0].cursor == part.reads[0].cursor
    assert made.parts.nfs["pages"].config == {"keep": 5}


def test_a_host_part_grants_an_nf_nothing_of_others():
    children = {child.name: child for child in composed().parts.host.children}
    for name in ("blocker", "watcher", "pages"):
        writes = children[name].writes
        assert f"ring/{name}/w0" in writes
        others = {"blocker", "watcher", "pages"} - {name}
        assert not any(f"ring/{other}" in each for each in writes for other in others)
        assert not any(each == f"log/{other}" for each in writes for other in others)
        assert "w0/packets" in children[name].reads
        assert not any(each.startswith("w0/") for each in writes)
    assert children["watcher"].cores == (1,)
    assert set(children["worker-0"].writes) >= {"w0/packets", "ring/pages/w0"}


def test_an_nf_that_polls_busily_is_told_so():
    assert {name for name, part in composed().parts.nfs.items() if part.is_busy} == {"watcher"}


def test_types_that_join_later_do_not_move_others():
    before = composed({**SPEC, "nfs": [SPEC["nfs"][2]]})
    numbers = before.desired.numbers
    entries = [*before.desired.spec["nfs"], *SPEC["nfs"][:2]]
    later = composed({**SPEC, "nfs": entries}, revision=2, numbers=numbers)
    ids = later.desired.numbers
    assert {name: ids[name] for name in numbers} == numbers
    assert ids["wire_alert.seen"] > max(numbers.values())
    gone = composed(before.desired.spec, revision=3, numbers=ids)
    assert gone.desired.numbers == ids
    assert worker_changes(gone.parts.workers["worker-0"], before.parts.workers["worker-0"]) == (
        worker_changes(before.parts.workers["worker-0"], before.parts.workers["worker-0"])
    )


def test_nothing_differs_from_itself():
    parts = composed().parts
    worker = parts.workers["worker-0"]
    assert not worker_changes(worker, worker)
    children = {child.name: child for child in parts.host.children}
    assert not host_changes(parts.host, children, [o.name for o in parts.host.objects])


def test_changes_of_a_worker_add_before_they_remove():
    worker = composed().parts.workers["worker-0"]
    other = composed({**SPEC, "nfs": [{"use": "dns_log"}, SPEC["nfs"][2]]}).parts
    changes = worker_changes(other.workers["worker-0"], worker)
    assert [ring.nf for ring in changes.rings] == ["dns_log"]
    assert {ring for ring, _ in changes.subscribe} == {"ring/dns_log/w0"}
    assert {name.split(".")[0] for name in changes.unsubscribe} == {"watcher", "blocker"}
    assert set(changes.remove_rings) == {"ring/watcher/w0", "ring/blocker/w0"}


def test_a_changed_filter_replaces_the_row_under_its_id():
    worker = composed().parts.workers["worker-0"]
    entries = [*SPEC["nfs"][:2], {**SPEC["nfs"][2], "where": "port 8080"}]
    changes = worker_changes(composed({**SPEC, "nfs": entries}).parts.workers["worker-0"], worker)
    assert changes.rings == changes.remove_rings == ()
    assert [sub.id for _, sub in changes.subscribe] == list(changes.unsubscribe)
    assert all(name.startswith("pages.") for name in changes.unsubscribe)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"worker": {}}, "plan.config"),
        ({"ports": [{"pcap": "other.pcap"}]}, "plan.ports"),
        ({"modules": {}}, "modules.tcp_stream"),
        ({"nfs": [{**SPEC["nfs"][0], "ring": 512}, *SPEC["nfs"][1:]]}, "nfs.blocker"),
    ],
)
def test_what_cannot_change_while_packets_flow_is_named(change, path):
    worker = composed().parts.workers["worker-0"]
    other = composed({**SPEC, **change}).parts.workers["worker-0"]
    with pytest.raises(SpecError) as caught:
        worker_changes(other, worker)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"nfs": [{"use": "http_lgo"}]}, PlanError, "nfs[0].use"),
        ({"nfs": [{"use": "http_log", "name": "controller"}]}, SpecError, "another process"),
        ({"nfs": [{"use": "http_log", "name": "worker-3"}]}, SpecError, "another process"),
        ({"nfs": [{"use": "http_log"}, {"use": "http_log"}]}, SpecError, "nfs[1].name"),
        ({"nfs": [{"use": "http_log", "ring": 100}]}, SpecError, "power of two"),
        ({"ports": []}, SpecError, "ports"),
        ({"worker": {"n_recrods": 5}}, SpecError, "n_records"),
        ({"worker": {"n_records": 1024}}, CapacityError, "flow_slots"),
    ],
)
def test_a_spec_that_cannot_run_is_refused_by_name(change, error, says):
    with pytest.raises(error) as caught:
        composed({**SPEC, **change})
    assert says in str(caught.value)


@pytest.mark.parametrize(("mode", "is_secret"), [("live", True), ("file", False)])
def test_senders_of_live_packets_do_not_know_the_key_of_the_flow_hash(mode, is_secret):
    def key():
        stack = Stack.__new__(Stack)
        stack.part = SimpleNamespace(mode=mode, config={}, id=0, objects=())
        stack._client = SimpleNamespace(fetch=lambda names: {})
        return tuple(stack._config().hash_key)

    assert len({key() for _ in range(8)}) == (8 if is_secret else 1)
    assert ((0, 0) in {key()}) != is_secret
