# SPDX-License-Identifier: Apache-2.0
"""Processes of test_eventlog.py: a source of events, and a relay that reads one log into another.

Both may be killed at any point and started again with the same descriptors. Their batches have
random lengths, as those of an NF depend on the moment.
"""

from __future__ import annotations

import argparse
import mmap
import random
import struct

from mesh.columns import Schema
from mesh.declare import Event
from mesh.eventlog import HEARD, LogReader, LogWriter, Run, Waited
from mesh.events import Catalogue
from mesh.native_events import core_events
from mesh.publish import Published, encode


class Alert(Event, name="source.alert"):
    number: int
    text: str


class Echo(Event, name="relay.echo"):
    number: int
    text: str


def catalogue() -> Catalogue:
    return Catalogue([*core_events(), Alert.event_type("source"), Echo.event_type("relay")])


def text_of(number: int) -> str:
    return f"event {number} " * (number % 23)


def alerts(types: Catalogue, first: int, n: int) -> Published | None:
    """What the source publishes about entries first, first + 1, ...: an event for every third."""
    numbers = [k for k in range(first, first + n) if k % 3 == 0]
    rows = [encode(types, Alert(number=k, text=text_of(k)), None, 1000 + k) for k in numbers]
    return Published(rows) if rows else None


def bounds(log: LogWriter, source: int, position: int, most: int) -> int:
    """Entries of the next batch: those of the run that was not finished, else any number."""
    pending = log.pending(source)
    if pending is not None and pending.first == position:
        return pending.n
    return random.randint(1, most)


def source(log_fd: int, cursor_fd: int, tail_fd: int, total: int) -> None:
    types = catalogue()
    tail = mmap.mmap(tail_fd, 8)  # of the ring that an NF would have
    with LogWriter(log_fd, deadline_s=60) as log:
        log.add_reader(cursor_fd)
        while (at := struct.unpack("<Q", tail[:])[0]) < total:
            n = min(bounds(log, 0, at, 300), total - at)
            log.begin(0, Run(at, n))
            for first in range(at, at + n, 10):
                block = alerts(types, first, min(10, at + n - first))
                if block is not None:
                    log.write(block)
            tail[:] = struct.pack("<Q", at + n)
        log.end()


def relay(in_fd: int, own_cursor_fd: int, log_fd: int, cursor_fd: int) -> None:
    types = catalogue()
    schema, wanted = Schema(types, ("source.alert",)), [types["source.alert"].id]
    with LogReader(in_fd, own_cursor_fd) as heard, LogWriter(log_fd, deadline_s=60) as log:
        log.add_reader(cursor_fd)
        while True:
            block = heard.read(bounds(log, HEARD, heard.position, 100))
            if block is None:
                if heard.wait(1.0) is Waited.ENDED:
                    break
                continue
            log.begin(HEARD, Run(heard.position, len(block)))
            batch = block.batch(schema, wanted, None, 0)
            assert batch is not None
            for view in batch:
                row = encode(types, Echo(number=view.number, text=view.text), view, 0)
                log.write(Published([row]))
            heard.advance()
        log.end()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("source", "relay"))
    parser.add_argument("numbers", type=int, nargs=4)
    args = parser.parse_args()
    (source if args.role == "source" else relay)(*args.numbers)


if __name__ == "__main__":
    main()
