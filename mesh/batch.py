# SPDX-License-Identifier: Apache-2.0
"""Batches of events: numpy columns gathered on demand, and light views of single events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["EventBatch", "EventView"]


class EventBatch:
    """A run of events for one handler, in order. Valid until the handler returns.

    Every field of the subscribed event types is an attribute: numbers are numpy arrays
    (`batch.src_port`, u16[n]), text a list of str, bytes a list of bytes; an address `a` is
    u8[n, 16] (IPv4 in the first four) and `batch.a_ip` the list of its texts. With several
    subscribed types the attributes are the fields that they share, `of` gives the others.
    """

    __slots__ = ()

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[EventView]: ...
    def __getattr__(self, name: str) -> Any: ...

    @property
    def events(self) -> npt.NDArray[np.uint64]:
        """Bits of the built-in events that the subscription asked for and this packet raised."""

    @property
    def flow(self) -> npt.NDArray[np.uint64]:
        """Flow ids, 0 without a flow."""

    @property
    def ts(self) -> npt.NDArray[np.float64]:
        """Event times in seconds since the epoch."""

    @property
    def ts_ns(self) -> npt.NDArray[np.int64]:
        """Event times in nanoseconds since the epoch."""

    def has(self, event: str) -> npt.NDArray[np.bool_]:
        """Marks the entries that raised `event` or an event below it."""

    def of(self, event: str) -> EventBatch:
        """Returns the entries that raised `event`, with all fields of that type."""

    def column(self, name: str) -> npt.NDArray[Any]:
        """Returns a field as numpy array; addresses as u8[n, 16]."""

    def bytes(self, name: str) -> list[bytes]:
        """Returns the raw bytes of a text or bytes field."""

    def data(self) -> list[memoryview]:
        """Returns each event's bytes in place (see EventView.data)."""


class EventView:
    """One event of a batch: its fields are attributes, addresses are text.

    Attributes:
        type: name of the event type; of the lowest bit when a packet raised several.
        data: the bytes that the event is about, in place: valid until the handler returns.
        frame: the whole frame, in place.
        ts: event time, seconds; ts_ns in nanoseconds.
        flow: flow id.
    """

    __slots__ = ()
