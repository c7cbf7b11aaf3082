# SPDX-License-Identifier: Apache-2.0
"""The operator's numbers for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mesh.kube.api import FUNCTIONS
from mesh.kube.operator import Operator

__all__ = ["OperatorCollector"]

_PREFIX = "nfmesh_operator"
_COUNTS = {
    "reconciles": "Objects looked at.",
    "failures": "Looks that failed and are repeated.",
    "conflicts": "Writes refused because the object had changed.",
}


class OperatorCollector(Collector):
    """Reads an operator's statistics when it is asked.

    Args:
        operator: returns it; None: it is not there yet.
    """

    def __init__(self, operator: Callable[[], Operator | None]) -> None:
        self._operator = operator

    def collect(self) -> Iterator[Metric]:
        """Yields all metrics."""
        if (operator := self._operator()) is None:
            return
        found = operator.statistics()
        for name, text in _COUNTS.items():
            metric = CounterMetricFamily(f"{_PREFIX}_{name}", text)
            metric.add_metric((), found.get(name, 0))
            yield metric
        for name, text in (("leads", "1 while this one does the work."),
                           ("stacks", "Stacks that it has lines to.")):  # fmt: skip
            yield GaugeMetricFamily(f"{_PREFIX}_{name}", text, found[name])
        yield from _labelled(found)
        yield _functions(operator)


def _functions(operator: Operator) -> Metric:
    states: Counter[str] = Counter(ready=0, progressing=0, degraded=0)
    for each in operator.world.store(FUNCTIONS):
        for condition in (each.get("status") or {}).get("conditions") or ():
            if condition["status"] == "True":
                states[condition["type"].lower()] += 1
    text = "NetworkFunctions by condition."
    metric = GaugeMetricFamily(f"{_PREFIX}_functions", text, labels=("state",))
    for state, n in states.items():
        metric.add_metric((state,), n)
    return metric


def _labelled(found: dict[str, int]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        f"{_PREFIX}_requests", "Requests to the API server.", labels=("request",)
    )
    queue = GaugeMetricFamily(f"{_PREFIX}_queue", "Objects to look at.", labels=("state",))
    objects = GaugeMetricFamily(f"{_PREFIX}_objects", "Objects known.", labels=("kind",))
    watches = CounterMetricFamily(f"{_PREFIX}_watches", "Watches begun.", labels=("kind",))
    for name, n in found.items():
        group, _, rest = name.partition(".")
        if group == "api":
            requests.add_metric((rest,), n)
        elif group == "queue":
            queue.add_metric((rest,), n)
        elif rest == "objects":
            objects.add_metric((group,), n)
        elif rest == "watches":
            watches.add_metric((group,), n)
    yield from (requests, queue, objects, watches)
