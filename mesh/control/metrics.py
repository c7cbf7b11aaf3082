# SPDX-License-Identifier: Apache-2.0
"""A status as Prometheus metrics, served on this host only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mesh.errors import SpecError

__all__ = ["ADDRESS", "families", "serve"]

ADDRESS = "127.0.0.1"
Status = Mapping[str, Any]
Row = tuple[tuple[str, ...], float]


class _Collector(Collector):
    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        return families(self._status())


def serve(port: int, status: Callable[[], Status]) -> tuple[int, Callable[[], None]]:
    """Serves metrics over HTTP in a thread.

    Args:
        port: 0 takes a free one.
        status: makes a status; called in that thread.

    Returns:
        The port, and what ends it.

    Raises:
        SpecError: the port is taken.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(status))
    try:
        server, thread = start_http_server(port, ADDRESS, registry)
    except OSError as error:
        raise SpecError("--metrics-port", f"{ADDRESS}:{port}: {error.strerror}") from error

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, close


def families(status: Status) -> list[Metric]:
    """Returns all metrics of a status."""
    return [
        *_worker_families(status["workers"]),
        *_ring_families(status["rings"]),
        *_nf_families(status["nfs"], status["subscriptions"]),
        *_process_families(status["processes"]),
        _counter("refused_messages", "Messages refused.", ("reason",), _pairs(status["refused"])),
        _gauge(
            "object_bytes",
            "Size of a shared object.",
            ("object", "backing"),
            [((o["name"], o["backing"]), o["size"]) for o in status["objects"]],
        ),
    ]


def _worker_families(workers: Mapping[str, Any]) -> Iterator[Metric]:
    names = {
        "packets": ("packets", "Frames processed."),
        "bytes": ("bytes", "Their bytes."),
        "flows_opened": ("flows", "Flows so far."),
    }
    for key, (name, doc) in names.items():
        rows = [((w,), _statistic(s, key)) for w, s in workers.items()]
        yield _counter(f"worker_{name}", doc, ("worker",), rows)
    for key, doc in (
        ("flows_now", "Flows that are tracked."),
        ("slots_used", "Packet slots that are held."),
        ("records_used", "Records that are held."),
        ("mapped_bytes", "Memory of the stack."),
    ):
        rows = [((w,), _statistic(s, key)) for w, s in workers.items()]
        yield _gauge(f"worker_{key}", doc, ("worker",), rows)
    counters: list[Row] = []
    for worker, stats in workers.items():
        for name, value in stats.get("counters", {}).items():
            module, _, reason = name.rpartition(".")
            counters.append(((worker, module or "core", reason), value))
    doc = "What happened to packets, by part of the stack and reason; drops are among them."
    yield _counter("worker_events", doc, ("worker", "module", "reason"), counters)
    ports = [
        ((worker, port["source"], name), value)
        for worker, stats in workers.items()
        for port in stats.get("ports", ())
        for name, value in port["counters"].items()
    ]
    yield _counter("port", "Counters of ports.", ("worker", "port", "counter"), ports)


def _ring_families(rings: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    rows = list(rings)
    labels = ("nf", "ring")
    for key, doc in (
        ("head", "Entries published."),
        ("tail", "Entries passed by the NF."),
        ("dropped", "Entries that did not fit a lossy ring."),
        ("bad_tails", "Positions outside the ring that the NF claimed."),
        ("wakeups", "Times that a sleeping NF was woken."),
    ):
        values = [((r["nf"], r["ring"]), r[key]) for r in rows]
        yield _counter(f"ring_{key}", doc, labels, values)
    depth = [((r["nf"], r["ring"]), r["depth"]) for r in rows]
    yield _gauge("ring_depth", "Entries that wait.", labels, depth)
    entries = [((r["nf"], r["ring"]), r["entries"]) for r in rows]
    yield _gauge("ring_entries", "Room in the ring.", labels, entries)


def _nf_families(
    nfs: Mapping[str, Any], subscriptions: Iterable[Mapping[str, Any]]
) -> Iterator[Metric]:
    for key, doc in (
        ("events", "Entries handed to handlers."),
        ("batches", "Calls of handlers."),
        ("failures", "Exceptions caught."),
        ("log_gaps", "Published events of others that were overwritten unread."),
        ("skipped", "Entries passed unheard after repeated crashes."),
    ):
        yield _counter(f"nf_{key}", doc, ("nf",), [((n,), s.get(key, 0)) for n, s in nfs.items()])
    published = [
        ((nf, event), count)
        for nf, stats in nfs.items()
        for event, count in stats.get("published", {}).items()
    ]
    yield _counter("nf_published", "Events published.", ("nf", "event"), published)
    heard = [
        ((s["nf"], s["subscription"]), s["entries"])
        for s in subscriptions
        if s["entries"] is not None
    ]
    doc = "Entries handed to the subscription's handler."
    yield _counter("subscription_entries", doc, ("nf", "subscription"), heard)


def _process_families(processes: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    rows = list(processes)
    memory = [((r["name"],), r.get("memory_bytes", 0)) for r in rows]
    yield _gauge("process_memory_bytes", "Resident memory.", ("process",), memory)
    restarts = [((r["name"],), r.get("restarts", 0)) for r in rows]
    yield _counter("process_restarts", "Starts after the first.", ("process",), restarts)
    up = [((r["name"],), float(r.get("state") == "running")) for r in rows]
    yield _gauge("process_up", "1 while it runs.", ("process",), up)


def _statistic(stats: Mapping[str, Any], name: str) -> float:
    return float(stats.get("statistics", {}).get(name, 0))


def _pairs(counts: Mapping[str, int]) -> list[Row]:
    return [((name,), value) for name, value in counts.items()]


def _counter(name: str, doc: str, labels: tuple[str, ...], rows: Iterable[Row]) -> Metric:
    family = CounterMetricFamily(f"nfmesh_{name}", doc, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def _gauge(name: str, doc: str, labels: tuple[str, ...], rows: Iterable[Row]) -> Metric:
    family = GaugeMetricFamily(f"nfmesh_{name}", doc, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family
