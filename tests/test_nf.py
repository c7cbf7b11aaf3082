# SPDX-License-Identifier: Apache-2.0
"""NF classes: subscriptions as class data, options from the signature, publishing."""

from __future__ import annotations

from typing import Literal

import pytest

from mesh.batch import EventBatch
from mesh.declare import Event
from mesh.errors import StateError
from mesh.nf import NF, NativeCode, Subscription, on


class Noticed(Event, name="watcher.noticed"):
    n: int


class Other(Event, name="other.noticed"):
    n: int


class Watcher(NF):
    """Watches.

    Args:
        limit: how many.
        form: how to write.
    """

    publishes = (Noticed,)

    def __init__(self, limit: int, form: Literal["json", "csv"] = "json", **rest: object) -> None:
        self.limit, self.form = limit, form

    @on("tcp.handshake.syn", where="port 80")
    def opened(self, batch: EventBatch) -> None: ...

    @on("tcp.end", name="closed")
    @on("flow.end", where="proto == 6", mode="inline", stage=2, edits=True)
    def ended(self, batch: EventBatch) -> None: ...


class Beginner(NF):
    """Needs no decorator."""

    subscribes = (on("tcp.data"),)

    def handle(self, batch: EventBatch) -> None: ...


class Native(NF):
    subscribes = (on("tcp.data", name="scan"),)
    native = NativeCode("lib", "lib_process")

    @on("flow.end")
    def ended(self, batch: EventBatch) -> None: ...


def test_subscriptions_are_class_data_in_source_order():
    assert Watcher.subscriptions() == (
        Subscription(("tcp.handshake.syn",), "port 80", "observe", "opened", "opened"),
        Subscription(("tcp.end",), None, "observe", "closed", "ended"),
        Subscription(("flow.end",), "proto == 6", "inline", "ended", "ended", 2, True),
    )


def test_subscribes_goes_to_handle():
    assert [(s.name, s.handler) for s in Beginner.subscriptions()] == [("handle", "handle")]


def test_subscribes_of_a_native_nf_goes_to_its_function():
    found = [(s.name, s.handler) for s in Native.subscriptions()]
    assert found == [("scan", ""), ("ended", "ended")]


def test_a_subclass_inherits_and_may_drop_handlers():
    class More(Watcher):
        @on("udp")
        def datagram(self, batch: EventBatch) -> None: ...

        def opened(self, batch: EventBatch) -> None: ...

    assert [s.handler for s in More.subscriptions()] == ["ended", "ended", "datagram"]
    assert More.name == "more"


def test_names_come_from_the_class_unless_given():
    class HTTPLog(NF):
        pass

    class Named(NF):
        name = "other"

    assert (HTTPLog.name, Named.name) == ("http_log", "other")


def test_options_come_from_the_signature():
    limit, form = Watcher.options()
    assert (limit.name, limit.type, limit.required, limit.doc) == ("limit", int, True, "how many.")
    assert (form.default, form.required, form.doc) == ("json", False, "how to write.")
    assert Beginner.options() == ()


def test_state_of_the_base_needs_no_super_call():
    watcher = Watcher(3)
    watcher.publish(Noticed(n=1))
    assert watcher.log.name == "nfmesh.nf.watcher"
    assert watcher.native_handle is None


def test_only_declared_events_may_be_published():
    with pytest.raises(StateError, match="may not publish Other: add it to `publishes`"):
        Watcher(3).publish(Other(n=1))


def test_on_wants_event_names():
    with pytest.raises(TypeError, match="name the events"):
        on()
    with pytest.raises(TypeError, match="name the events"):
        on(lambda batch: None)  # type: ignore[arg-type]


def test_handle_must_be_written():
    class Lazy(NF):
        subscribes = (on("tcp.data"),)

    with pytest.raises(NotImplementedError, match="Lazy"):
        Lazy().handle(None)  # type: ignore[arg-type]
