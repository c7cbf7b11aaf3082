# SPDX-License-Identifier: Apache-2.0
"""A status as Prometheus metrics, served on this host only.

Both are made of the same plain data (mesh/control/status.py): what one shows the other shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mesh.errors import SpecError

__all__ = ["ADDRESS", "families", "serve"]

ADDRESS = "127.0.0.1"
Status = Mapping[str, Any]
Row = tuple[tuple[str, ...], float]

WORKERS = {
    "packets": ("counter", "Frames processed."),
    "bytes": ("counter", "Their bytes."),
    "flows_opened": ("counter", "Flows so far."),
    "flows_closed": ("counter", "Flows that have ended."),
    "flows_now": ("gauge", "Flows that are tracked."),
    "slots_used": ("gauge", "Packet slots that are held."),
    "records_used": ("gauge", "Records that are held."),
    "mapped_bytes": ("gauge", "Memory of the stack."),
    "memory_bytes": ("gauge", "Resident memory."),
}
MODULES = {"flow_bytes": ("gauge", "Memory per flow.")}
RINGS = {
    "head": ("counter", "Entries published."),
    "tail": ("counter", "Entries passed by the NF."),
    "depth": ("gauge", "Entries that wait."),
    "entries": ("gauge", "Room in the ring."),
    "dropped": ("counter", "Entries that did not fit a lossy ring."),
    "bad_tails": ("counter", "Positions outside the ring that the NF claimed."),
    "wakeups": ("counter", "Times that a sleeping NF was woken."),
    "quarantined": ("gauge", "1 when the NF claimed such a position: it gets nothing more."),
}
NFS = {
    "events": ("counter", "Entries handed to handlers."),
    "batches": ("counter", "Calls of handlers."),
    "failures": ("counter", "Exceptions caught."),
    "disabled": ("gauge", "1 after too many of them."),
    "log_gaps": ("counter", "Published events of others that were overwritten unread."),
    "skipped": ("counter", "Entries passed unheard after repeated crashes."),
    "memory_bytes": ("gauge", "Resident memory."),
    "first_event_ms": ("gauge", "From its code loaded to its first event, of one that joins."),
}
PROCESSES = {
    "memory_bytes": ("gauge", "Resident memory."),
    "restarts": ("counter", "Starts after the first."),
    "silent_s": ("gauge", "Since the last sign of life of one that runs."),
    "patience_s": ("gauge", "After so long without one it is killed."),
}
"""What is known of numbers; others that a status has are gauges."""


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
    """Returns all metrics of a status: every number that is in it."""
    return [
        _gauge("revision", "Revision of what runs.", (), [((), status["revision"])]),
        *_worker_families(status["workers"]),
        *_module_families(status["workers"], status["stack"]),
        *_each("ring", ("nf", "ring"), _keyed(status["rings"], "nf", "ring"), RINGS),
        *_nf_families(status["nfs"], status["subscriptions"]),
        *_process_families(status["processes"]),
        _counter("refused_messages", "Messages refused.", ("reason",), _pairs(status["refused"])),
        _gauge(
            "object_bytes",
            "Size of a shared object, and what it lies on.",
            ("object", "backing"),
            [((o["name"], o["backing"]), o["size"]) for o in status["objects"]],
        ),
    ]


def _worker_families(workers: Mapping[str, Any]) -> Iterator[Metric]:
    rows = [
        ((name,), {**worker.get("statistics", {}), **_numbers(worker)})
        for name, worker in workers.items()
    ]
    yield from _each("worker", ("worker",), rows, WORKERS)
    ports = [
        ((worker, port["source"], name), value)
        for worker, stats in workers.items()
        for port in stats.get("ports", ())
        for name, value in port["counters"].items()
    ]
    yield _counter("port", "Counters of ports.", ("worker", "port", "counter"), ports)


def _module_families(
    workers: Mapping[str, Any], stack: Iterable[Mapping[str, Any]]
) -> Iterator[Metric]:
    counters: list[Row] = []
    for worker, stats in workers.items():
        for name, value in stats.get("counters", {}).items():
            module, _, reason = name.rpartition(".")
            counters.append(((worker, module or "core", reason), value))
    doc = "What happened to packets, by part of the stack and reason; drops are among them."
    yield _counter("worker_events", doc, ("worker", "module", "reason"), counters)
    yield from _each("module", ("module",), _keyed(stack, "module"), MODULES)


def _nf_families(
    nfs: Mapping[str, Any], subscriptions: Iterable[Mapping[str, Any]]
) -> Iterator[Metric]:
    yield from _each("nf", ("nf",), [((name,), stats) for name, stats in nfs.items()], NFS)
    for key, name, doc in (
        ("published", "event", "Events published."),
        ("handlers", "handler", "Entries handed to a handler."),
    ):
        rows = [
            ((nf, of), count)
            for nf, stats in nfs.items()
            for of, count in stats.get(key, {}).items()
        ]
        yield _counter(f"nf_{key}", doc, ("nf", name), rows)
    heard = [
        ((s["nf"], s["subscription"]), s["entries"])
        for s in subscriptions
        if s["entries"] is not None
    ]
    doc = "Entries handed to the subscription's handler."
    yield _counter("subscription_entries", doc, ("nf", "subscription"), heard)


def _process_families(processes: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    rows = list(processes)
    labels = ("process", "pid", "uid", "cores", "cores_asked", "state", "phase")
    known = [(tuple(_word(r.get(k)) for k in ("name", *labels[1:])), 1.0) for r in rows]
    yield _gauge("process", "What a process is and does.", labels, known)
    named = [((row["name"],), {k: v for k, v in row.items() if k not in labels}) for row in rows]
    yield from _each("process", ("process",), named, PROCESSES)
    up = [((r["name"],), float(r.get("state") == "running")) for r in rows]
    yield _gauge("process_up", "1 while it runs.", ("process",), up)


def _each(
    prefix: str,
    labels: tuple[str, ...],
    rows: Sequence[tuple[tuple[str, ...], Mapping[str, Any]]],
    known: Mapping[str, tuple[str, str]],
) -> Iterator[Metric]:
    """Makes a metric of every number that rows have, and of those that are known."""
    others = {key: ("gauge", f"{key}.") for _, row in rows for key in _numbers(row)}
    for key, (kind, doc) in {**others, **known}.items():
        make = _counter if kind == "counter" else _gauge
        found = [(values, float(row.get(key) or 0)) for values, row in rows]
        yield make(f"{prefix}_{key}", doc, labels, found)


def _keyed(
    rows: Iterable[Mapping[str, Any]], *names: str
) -> list[tuple[tuple[str, ...], Mapping[str, Any]]]:
    return [(tuple(str(row[name]) for name in names), row) for row in rows]


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, int | float)}


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


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
