# SPDX-License-Identifier: Apache-2.0
"""What rules look at: streams, packets, and the fields of HTTP and DNS events (sticky buffers)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from mesh.events import Catalogue
from mesh.native_events import core_events
from stack_modules import dns, http

__all__ = ["BUFFERS", "EVENTS", "OLD_NAMES", "Buffer", "Kind", "Source", "cells"]


class Kind(IntEnum):
    """When a rule is asked (enum ids_kind)."""

    STREAM = 0
    PACKET = 1
    REQUEST = 2
    RESPONSE = 3
    QUERY = 4


class Source(IntEnum):
    """How a buffer is made of an event's field (enum ids_source)."""

    BYTES = 0
    NUMBER = 1
    URI = 2
    HOST = 3
    HEADER = 4


EVENTS = {Kind.REQUEST: "http.request", Kind.RESPONSE: "http.response", Kind.QUERY: "dns.query"}
"""The events of the kinds that have one."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """One buffer of one kind.

    Attributes:
        field: of the event.
        source: how it is made.
        header: field of the header section that it is, in lower case.
    """

    field: str
    source: Source = Source.BYTES
    header: str = ""


def _header(name: str) -> Buffer:
    return Buffer("headers", Source.HEADER, name)


def _of_request(buffer: Buffer) -> Mapping[Kind, Buffer]:
    return {Kind.REQUEST: buffer}


def _of_response(buffer: Buffer) -> Mapping[Kind, Buffer]:
    return {Kind.RESPONSE: buffer}


def _of_both(buffer: Buffer) -> Mapping[Kind, Buffer]:
    return {Kind.REQUEST: buffer, Kind.RESPONSE: buffer}


BUFFERS: Mapping[str, Mapping[Kind, Buffer]] = {
    "http.method": _of_request(Buffer("method")),
    "http.uri": _of_request(Buffer("target", Source.URI)),
    "http.uri.raw": _of_request(Buffer("target")),
    "http.host": _of_request(Buffer("host", Source.HOST)),
    "http.host.raw": _of_request(Buffer("host")),
    "http.user_agent": _of_request(Buffer("user_agent")),
    "http.referer": _of_request(_header("referer")),
    "http.accept": _of_request(_header("accept")),
    "http.accept_lang": _of_request(_header("accept-language")),
    "http.accept_enc": _of_request(_header("accept-encoding")),
    "http.cookie": {Kind.REQUEST: _header("cookie"), Kind.RESPONSE: _header("set-cookie")},
    "http.connection": _of_both(_header("connection")),
    "http.content_type": _of_both(Buffer("content_type")),
    "http.content_len": _of_both(_header("content-length")),
    "http.header": _of_both(Buffer("headers")),
    "http.header.raw": _of_both(Buffer("headers")),
    "http.stat_code": _of_response(Buffer("status", Source.NUMBER)),
    "http.stat_msg": _of_response(Buffer("reason")),
    "http.server": _of_response(Buffer("server")),
    "http.location": _of_response(_header("location")),
    "dns.query": {Kind.QUERY: Buffer("qname")},
}
"""Buffer → kind → what it is there."""
OLD_NAMES = {
    "http_method": "http.method",
    "http_uri": "http.uri",
    "http_raw_uri": "http.uri.raw",
    "http_header": "http.header",
    "http_raw_header": "http.header.raw",
    "http_cookie": "http.cookie",
    "http_user_agent": "http.user_agent",
    "http_host": "http.host",
    "http_raw_host": "http.host.raw",
    "http_stat_code": "http.stat_code",
    "http_stat_msg": "http.stat_msg",
}
"""Modifiers of the content before them → buffer."""


def cells() -> dict[tuple[Kind, str], int]:
    """Returns where the events' fields lie: (kind, field) → cell."""
    types = [*core_events(), *http.INFO.descriptor.emits, *dns.INFO.descriptor.emits]
    catalogue = Catalogue(types)
    return {
        (kind, name): field.offset // 8
        for kind, event in EVENTS.items()
        for name, field in catalogue.fields(event).items()
    }
