# SPDX-License-Identifier: Apache-2.0
"""`nfmesh run` in processes: the same report as in this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mesh.cli.output import warn
from mesh.control import messages as m
from mesh.control.tool import ask
from mesh.errors import MeshError, NFError, ProcessError, SpecError
from mesh.launch import Launch, launch
from mesh.report import NFReport, Progress, Report, Statistics
from mesh.spec import Spec
from mesh.supervisor import Outcome

__all__ = ["default_name", "run_in_processes", "spread"]

PROGRESS_S = 0.2


class ReportedError(NFError):
    """An exception in another process: only its text is here."""

    def __init__(self, nf: str, text: str) -> None:
        super().__init__(nf, "", RuntimeError(text))
        self.args = (text,)


def default_name() -> str:
    """Returns a name that no other run has."""
    return f"run-{os.getpid()}"


def spread(spec: Spec, worker_cores: str | None, nf_cores: str | None) -> Spec:
    """Gives the worker its cores, and each NF the next one of the NFs'.

    Raises:
        SpecError: no cores, or fewer than NFs.
    """
    changes: dict[str, Any] = {}
    if worker_cores is not None:
        changes["worker_cores"] = _cores(worker_cores, "--worker-cores")
    if nf_cores is not None:
        cores = _cores(nf_cores, "--nf-cores")
        if len(cores) < len(spec.nfs):
            text = f"{len(cores)} cores for {len(spec.nfs)} NFs; name one for each"
            raise SpecError("--nf-cores", text)
        pairs = zip(spec.nfs, cores, strict=False)
        changes["nfs"] = [entry.model_copy(update={"cores": [core]}) for entry, core in pairs]
    return spec.model_copy(update=changes)


def _cores(text: str, flag: str) -> list[int]:
    """Reads `0`, `1,3` or `2-5`."""
    found: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError as error:
        raise SpecError(flag, f"{text!r} are no cores; write 0, 1,3 or 2-5") from error
    if not found:
        raise SpecError(flag, f"{text!r} names no core")
    return found


def run_in_processes(
    spec: Spec,
    how: Launch,
    *,
    source: str,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Runs a mesh and returns its report.

    Args:
        spec: what to run.
        how: all but who is told that it has started.
        source: what the report says was read.
        progress: called several times a second.

    Raises:
        MeshError: as `launch` does.
        ProcessError: an NF did not start, or the mesh did not come to a report.
    """
    followed = _Follower(progress)
    with followed.following():
        outcome = launch(spec, replace(how, started=followed.started))
    for name, times in outcome.restarts.items():
        warn(f"{name} was started again {times} times")
    return _report(outcome, source)


class _Follower:
    """Asks the controller how far the worker is, in a thread of its own."""

    def __init__(self, progress: Callable[[Progress], None] | None) -> None:
        self._progress = progress
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def started(self, folder: Path) -> None:
        if self._progress is not None:
            self._thread = threading.Thread(target=self._run, args=(folder,), daemon=True)
            self._thread.start()

    @contextmanager
    def following(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._over.set()
            if self._thread is not None:
                self._thread.join()

    def _run(self, folder: Path) -> None:
        seconds = 0.0
        while not self._over.wait(PROGRESS_S):
            seconds += PROGRESS_S
            try:
                workers = ask(folder, m.Status(), PROGRESS_S)["workers"]
            except MeshError:
                continue
            shown = _progress(workers, seconds)
            if shown is not None and self._progress is not None:
                self._progress(shown)


def _progress(workers: Mapping[str, Any], seconds: float) -> Progress | None:
    stats = [worker for worker in workers.values() if worker.get("statistics")]
    if not stats:
        return None
    ports = [port["counters"] for worker in stats for port in worker["ports"]]
    return Progress(
        packets=sum(each["statistics"]["packets"] for each in stats),
        bytes=sum(each["statistics"]["bytes"] for each in stats),
        position=sum(port.get("file_offset", 0) for port in ports),
        size=sum(port.get("file_size", 0) for port in ports),
        seconds=seconds,
        flows=sum(each["statistics"]["flows_now"] for each in stats),
    )


def _report(outcome: Outcome, source: str) -> Report:
    data = outcome.report
    if data is None or outcome.error:
        raise ProcessError(outcome.error or "the mesh ended without a report")
    for nf in data["nfs"]:
        if nf["name"] in outcome.start_failed:
            why = "; ".join(nf["errors"]) or f"NF {nf['name']!r} did not start"
            read = "" if data["packets"] else "; no packet was read"
            raise ProcessError(f"{why}{read}: mend it or its options, or leave it out")
    statistics = data["statistics"]
    return Report(
        source=source,
        seconds=data["seconds"],
        statistics=Statistics(**{k: statistics.get(k, 0) for k in Statistics.__slots__}),
        nfs=tuple(_nf(each) for each in data["nfs"]),
        counters=data["counters"],
        warnings=tuple(data["warnings"]),
        interrupted=data["interrupted"],
    )


def _nf(data: Mapping[str, Any]) -> NFReport:
    name = data["name"]
    return NFReport(
        name=name,
        events=data["events"],
        batches=data["batches"],
        published=data["published"],
        results=data["results"],
        errors=tuple(ReportedError(name, text) for text in data["errors"]),
        failures=data["failures"],
        disabled=data["disabled"],
    )
