# SPDX-License-Identifier: Apache-2.0
"""Logs of NFs: blocks out of them, gaps, and processes that are killed at any point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import PATIENCE_S

from mesh._ffi import check, native
from mesh.columns import Schema
from mesh.errors import CapacityError, NativeError, StateError
from mesh.eventlog import LogReader, LogWriter, Run, Waited
from mesh.objects import cursor_size, log_size
from mesh.sources import LogSource, wait_any
from tests.eventlog_child import Echo, alerts, catalogue, text_of

CHILD = Path(__file__).with_name("eventlog_child.py")
CAPACITY = 1 << 16


class Objects:
    """Shared objects that are closed at the end of a test."""

    def __init__(self) -> None:
        self.fds: list[int] = []

    def new(self, size: int) -> int:
        ffi, lib = native()
        info, error = ffi.new("nfm_object_info *"), ffi.new("nfm_error *")
        check(lib.nfm_object_create(b"test", size, info, error), "object", error)
        self.fds.append(int(info.fd))
        return int(info.fd)

    def log(self) -> int:
        return self.new(log_size(CAPACITY))

    def cursor(self) -> int:
        return self.new(cursor_size())

    def read_only(self, fd: int) -> int:
        ffi, lib = native()
        error = ffi.new("nfm_error *")
        self.fds.append(check(lib.nfm_object_read_only(fd, error), "object", error))
        return self.fds[-1]


@pytest.fixture
def objects() -> Iterator[Objects]:
    made = Objects()
    yield made
    for fd in made.fds:
        os.close(fd)


def publish(log: LogWriter, first: int, n: int) -> None:
    log.begin(0, Run(first, n))
    block = alerts(catalogue(), first, n)
    assert block is not None
    log.write(block)


def numbers(reader: LogReader, event: str = "source.alert") -> list[int]:
    """Reads and passes all there is; every event must be as it was published."""
    types = catalogue()
    schema, found = Schema(types, (event,)), []
    while (block := reader.read()) is not None:
        batch = block.batch(schema, [types[event].id], None, 0)
        assert batch is not None
        assert len(batch) == len(block)
        for view in batch:
            assert view.text == text_of(view.number)
            found.append(view.number)
        reader.advance()
    return found


def test_a_block_is_like_what_was_published(objects):
    log_fd, cursor = objects.log(), objects.cursor()
    with LogWriter(log_fd) as log, LogReader(objects.read_only(log_fd), cursor) as reader:
        assert reader.read() is None
        publish(log, 0, 9)
        block = reader.read()
        assert block is not None
        types = catalogue()
        schema = Schema(types, ("source.alert",))
        assert block.batch(schema, [types["relay.echo"].id], None, 0) is None
        batch = block.batch(schema, [types["source.alert"].id], None, 0)
        assert batch is not None
        assert batch.column("number").tolist() == [0, 3, 6]
        assert batch.column("ts").tolist() == [1000, 1003, 1006]
        assert [view.type for view in batch] == ["source.alert"] * 3
        assert reader.position == 0
        reader.advance()
        assert reader.position == log.statistics().head
        assert reader.statistics().read == 3


def test_what_a_reader_keeps_outlives_the_reader(objects):
    log_fd = objects.log()
    with LogWriter(log_fd) as log, LogReader(log_fd, objects.cursor()) as reader:
        publish(log, 0, 60)
        block = reader.read()
    types = catalogue()
    batch = block.batch(Schema(types, ("source.alert",)), [types["source.alert"].id], None, 0)
    assert batch.column("number").tolist() == list(range(0, 60, 3))


def test_a_slow_lossless_reader_costs_one_deadline_and_sees_its_gap(objects):
    log_fd, slow, quick = objects.log(), objects.cursor(), objects.cursor()
    with (
        LogWriter(log_fd, deadline_s=0.05) as log,
        LogReader(log_fd, slow) as sleeper,
        LogReader(log_fd, quick) as reader,
    ):
        log.add_reader(objects.read_only(slow))
        log.add_reader(objects.read_only(quick))
        seen: list[int] = []
        began = time.monotonic()
        for first in range(0, 3000, 30):
            publish(log, first, 30)
            seen += numbers(reader)
        assert seen == list(range(0, 3000, 3))
        assert log.statistics().missed_deadlines == 1
        assert time.monotonic() - began >= 0.05
        rest = numbers(sleeper)
        assert rest == list(range(3000 - 3 * len(rest), 3000, 3))
        assert sleeper.statistics().lost == 1000 - len(rest) > 0
        assert sleeper.statistics().gaps == 1
        assert reader.statistics().lost == 0


def test_a_lossy_reader_never_delays_the_writer(objects):
    log_fd, cursor = objects.log(), objects.cursor()
    with LogWriter(log_fd, deadline_s=60) as log, LogReader(log_fd, cursor) as reader:
        log.add_reader(cursor, lossless=False)
        for first in range(0, 3000, 30):
            publish(log, first, 30)
        assert log.statistics().waits == 0
        rest = numbers(reader)
        assert 0 < len(rest) < 1000
        assert reader.statistics().lost == 1000 - len(rest)


def test_a_reader_that_joins_from_now_misses_nothing_after(objects):
    log_fd, cursor = objects.log(), objects.cursor()
    with LogWriter(log_fd) as log:
        publish(log, 0, 30)
        with LogReader(log_fd, cursor, from_now=True) as reader:
            number = log.add_reader(cursor)
            publish(log, 30, 30)
            assert numbers(reader) == list(range(30, 60, 3))
            assert reader.statistics().lost == 0
            log.remove_reader(number)
            with pytest.raises(NativeError):
                log.remove_reader(number)


def test_misuse_is_named(objects):
    log_fd, cursor = objects.log(), objects.cursor()
    with pytest.raises(ValueError, match="power of two"):
        log_size(65537)
    with pytest.raises(NativeError, match="too small"):
        LogWriter(cursor)
    log = LogWriter(log_fd)
    block = alerts(catalogue(), 0, 3)
    assert block is not None
    with pytest.raises(StateError):
        log.write(block)
    with pytest.raises(NativeError):
        log.begin(128, Run(0, 1))
    for _ in range(64):
        log.add_reader(cursor)
    with pytest.raises(CapacityError):
        log.add_reader(cursor)
    log.close()
    with pytest.raises(StateError):
        log.begin(0, Run(0, 1))
    reader = LogReader(log_fd, cursor)
    reader.close()
    with pytest.raises(StateError):
        reader.read()


def test_a_sleeping_reader_is_woken_by_another_process(objects):
    log_fd, cursor, tail = objects.log(), objects.cursor(), objects.new(8)
    with LogReader(objects.read_only(log_fd), cursor) as reader:
        assert reader.wait(0.01) is Waited.TIMEOUT
        child = start("source", log_fd, objects.read_only(cursor), tail, 3000)
        found: list[int] = []
        while reader.wait(PATIENCE_S) is Waited.READY:
            found += numbers(reader)
        assert child.wait(PATIENCE_S) == 0
        assert found == list(range(0, 3000, 3))


def start(role: str, *args: int) -> subprocess.Popen[bytes]:
    root = CHILD.parent.parent
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(CHILD), role, *map(str, args)]
    fds = args if role == "relay" else args[:3]
    return subprocess.Popen(command, pass_fds=fds, env={**os.environ, "PYTHONPATH": path})


class Chain:
    """source → log → relay → log → this process."""

    def __init__(self, objects: Objects, total: int) -> None:
        first, second = objects.log(), objects.log()
        between, own = objects.cursor(), objects.cursor()
        self._commands = {
            "source": (first, objects.read_only(between), objects.new(8), total),
            "relay": (objects.read_only(first), between, second, objects.read_only(own)),
        }
        self.reader = LogReader(objects.read_only(second), own)
        self.running = {role: start(role, *args) for role, args in self._commands.items()}

    def kill(self, role: str) -> None:
        """Kills a process without warning and starts it again."""
        self.running[role].send_signal(signal.SIGKILL)
        self.running[role].wait()
        self.running[role] = start(role, *self._commands[role])

    def run(self, kills: list[tuple[int, str]]) -> list[int]:
        """Returns what arrives; a kill takes place when so many events have arrived."""
        found: list[int] = []
        left = list(kills)
        with self.reader:
            while True:
                state = self.reader.wait(PATIENCE_S)
                assert state is not Waited.TIMEOUT
                if state is Waited.ENDED:
                    break
                found += numbers(self.reader, Echo.event_name)
                while left and len(found) >= left[0][0]:
                    self.kill(left.pop(0)[1])
        assert not left
        assert [process.wait(PATIENCE_S) for process in self.running.values()] == [0, 0]
        assert self.reader is not None
        return found


def test_an_nf_sleeps_at_all_of_its_logs_at_once(objects):
    fds = [(objects.log(), objects.cursor()) for _ in range(3)]
    logs = [LogWriter(log) for log, _ in fds]
    readers = [LogReader(objects.read_only(log), cursor) for log, cursor in fds]
    for log, (_, cursor) in zip(logs, fds, strict=True):
        log.add_reader(cursor, lossless=True)
    sources = [LogSource(str(i), reader, i) for i, reader in enumerate(readers)]
    for i, log in enumerate(logs):
        began = time.monotonic()
        timer = threading.Timer(0.05, publish, (log, 0, 1))
        timer.start()
        assert wait_any(sources, 0, 60_000_000_000)
        assert time.monotonic() - began < 30
        timer.join()
        assert [source.take() for source in sources] == [int(i == k) for k in range(3)]
        sources[i].passed(1)
        log.end()
        assert wait_any(sources, 0, 0) is (i < 2)
    for each in (*readers, *logs):
        each.close()


def test_killed_processes_lose_and_repeat_nothing(objects):
    total = 24000
    undisturbed = Chain(objects, total).run([])
    assert undisturbed == list(range(0, total, 3))
    kills = [(600 * (i + 1), ("source", "relay")[i % 2]) for i in range(12)]
    assert Chain(objects, total).run(kills) == undisturbed
