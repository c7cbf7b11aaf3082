# SPDX-License-Identifier: Apache-2.0
"""What an NF may do wrong in an engine: it is told, and the others go on."""

from __future__ import annotations

from typing import Any

import pytest

from mesh import NF, Context, EventBatch, on
from mesh.errors import NFError
from mesh.testing import Frame, conversation, datagrams, replay_frames


def web() -> list[Frame]:
    return conversation([("client", b"GET /0 HTTP/1.1\r\nHost: h\r\n\r\n")])


class Packets(NF):
    """Counts packets."""

    def __init__(self) -> None:
        self.total = 0

    @on("packet")
    def count(self, batch: EventBatch) -> None:
        self.total += len(batch)

    def results(self) -> dict[str, int]:
        return {"total": self.total}


class Fragile(NF):
    """Fails in the hooks that it is told."""

    def __init__(self, where: str) -> None:
        self.where, self.calls = where, 0

    def fail(self, where: str) -> None:
        if self.where == where:
            raise ValueError(where)

    def start(self, ctx: Context) -> None:
        self.fail("start")

    def stop(self) -> None:
        self.fail("stop")

    def poll(self) -> None:
        self.fail("poll")

    def results(self) -> dict[str, int]:
        self.fail("results")
        return {"calls": self.calls}

    @on("packet")
    def seen(self, batch: EventBatch) -> None:
        self.calls += 1
        self.fail("seen")


@pytest.mark.parametrize(
    ("where", "label", "calls"),
    [
        ("seen", "seen", 1),
        ("poll", "poll", 1),
        ("stop", "stop", 1),
        ("results", "stop", 1),
    ],
)
def test_an_exception_stays_with_its_nf(where: str, label: str, calls: int):
    fragile, packets = Fragile(where), Packets()
    report = replay_frames(web(), [fragile, packets])
    assert packets.total == len(web())
    assert fragile.calls == calls
    assert report["packets"].failures == 0
    error = report["fragile"].errors[0]
    assert (error.nf, error.event, str(error.cause)) == ("fragile", label, where)
    assert isinstance(error, NFError)
    assert error.cause.__traceback__ is not None


def test_an_nf_that_does_not_start_ends_the_run_before_it_begins():
    class Opened(Packets):
        stopped = 0

        def stop(self) -> None:
            self.stopped += 1

    opened, behind = Opened(), Packets()
    with pytest.raises(NFError, match="NF 'fragile' failed in start: ValueError: start"):
        replay_frames(web(), [opened, Fragile("start"), behind])
    assert (opened.stopped, opened.total, behind.total) == (1, 0, 0)


@pytest.mark.parametrize("raised", [SystemExit(3), GeneratorExit("over")])
def test_no_exit_of_an_nf_ends_the_run(raised: BaseException):
    class Leaver(NF):
        @on("packet")
        def seen(self, batch: EventBatch) -> None:
            raise raised

    report = replay_frames(web(), [Leaver, Packets])
    assert report["leaver"].errors[0].cause is raised
    assert report["packets"].results == {"total": len(web())}


def test_results_that_are_no_mapping_are_an_error_of_the_nf():
    class Odd(Packets):
        def results(self) -> Any:
            return [1]

    report = replay_frames(web(), [Odd])
    assert report["odd"].results is None
    assert "a mapping or None, not list" in str(report["odd"].errors[0])


def test_a_constructor_that_fails_is_an_error_of_its_nf():
    class Picky(Packets):
        def __init__(self) -> None:
            raise OSError("no such pattern file")

    with pytest.raises(NFError, match="NF 'picky' failed in __init__: OSError: no such pattern"):
        replay_frames(web(), [Picky])


def test_an_nf_that_fails_too_often_is_disabled():
    fragile, frames = Fragile("seen"), datagrams([("client", b"x")] * 60000)
    report = replay_frames(frames, [fragile, Packets])
    assert report["packets"].results == {"total": 60000}
    found = report["fragile"]
    assert found.disabled
    assert fragile.calls == found.failures == len(found.errors) == 10
