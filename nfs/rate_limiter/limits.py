# SPDX-License-Identifier: Apache-2.0
"""Limits as text: who has a bucket, how fast it fills, how much it holds, and what it is for.

limit = NAME ":" ["each" ("flow" | "source" ["/" BITS ["," BITS]])] rate … [burst …] ["where" …]
rate  = NUMBER ("packets/s" | "bit/s" | "kbit/s" | "Mbit/s" | "Gbit/s")
burst = "burst" NUMBER ("packets" | "bytes" | "kB" | "MB")
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum

from mesh.errors import FilterError, SpecError, UnknownField
from mesh.event_types import FieldDef
from mesh.filters import parse as parse_filter

__all__ = ["Each", "Limit", "parse"]

MAX_LIMITS = 32
MAX_RATE = 10**15
"""Of packets or bits per second."""
MAX_BURST_PACKETS = 1_000_000_000
MAX_BURST_BYTES = 2_000_000_000
LARGEST_FRAME = 69568
"""A frame larger than the burst never passes, so the default burst holds at least this."""
BURST_S = Decimal("0.1")
"""Unless told otherwise a bucket holds what comes in this time."""

_RATES = {"packets/s": 1, "bit/s": 1, "kbit/s": 10**3, "Mbit/s": 10**6, "Gbit/s": 10**9}
_BURSTS = {"packets": 1, "bytes": 1, "kB": 10**3, "MB": 10**6}
_LIMIT = re.compile(
    r"(?P<name>[\w.-]+)\s*:\s*"
    r"(?:each\s+(?P<each>flow|source)(?:/(?P<bits4>\d+)(?:,(?P<bits6>\d+))?)?\s+)?"
    r"(?P<numbers>.+?)(?:\s+where\s+(?P<where>.+))?"
)
_NUMBER = re.compile(
    r"\s*(?:(?P<burst>burst)\s+)?(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]+(?:/s)?)(?:\s|$)"
)


class Each(IntEnum):
    """enum rate_limiter_each."""

    ALL = 0
    SOURCE = 1
    FLOW = 2


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit: rates and bursts, 0 where there is none; prefixes count for sources."""

    name: str
    each: Each
    packets_per_s: int
    bits_per_s: int
    burst_packets: int
    burst_bytes: int
    prefix4: int
    prefix6: int
    where: str | None


def parse(texts: Sequence[str], fields: Mapping[str, FieldDef]) -> tuple[Limit, ...]:
    """Reads limits.

    Args:
        texts: one limit each.
        fields: of packets, for the filters.

    Raises:
        SpecError: names the limit and what is wrong with it.
    """
    limits: list[Limit] = []
    for number, text in enumerate(texts):
        limit = _limit(text.strip(), f"limits[{number}]", fields)
        if limit.name in {other.name for other in limits}:
            raise SpecError(f"limits[{number}]", f"limit {limit.name!r} is there already")
        limits.append(limit)
    if not 1 <= len(limits) <= MAX_LIMITS:
        raise SpecError("limits", f"give 1 to {MAX_LIMITS} limits, not {len(limits)}")
    return tuple(limits)


def _limit(text: str, place: str, fields: Mapping[str, FieldDef]) -> Limit:
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise SpecError(place, "write a limit as name: each source 100 packets/s where udp")
    packets, bits, bursts = _numbers(match["numbers"], place)
    each = Each[match["each"].upper()] if match["each"] else Each.ALL
    prefix4, prefix6 = int(match["bits4"] or 32), int(match["bits6"] or 128)
    if match["bits4"] and each is not Each.SOURCE:
        raise SpecError(place, "only sources have a prefix: each source/24")
    if prefix4 > 32 or prefix6 > 128:
        raise SpecError(place, "a prefix has at most 32 bits, of IPv6 128")
    _check_filter(match["where"], place, fields)
    default = max(1, int(packets * BURST_S))
    burst_packets = bursts.get("packets", min(default, MAX_BURST_PACKETS)) if packets else 0
    default = max(LARGEST_FRAME, int(bits * BURST_S) // 8)
    burst_bytes = bursts.get("bytes", min(default, MAX_BURST_BYTES)) if bits else 0
    if burst_packets > MAX_BURST_PACKETS or burst_bytes > MAX_BURST_BYTES:
        raise SpecError(place, f"a burst is at most {MAX_BURST_PACKETS} packets, 2000 MB")
    return Limit(
        name=match["name"],
        each=each,
        packets_per_s=packets,
        bits_per_s=bits,
        burst_packets=burst_packets,
        burst_bytes=burst_bytes,
        prefix4=prefix4,
        prefix6=prefix6,
        where=match["where"],
    )


def _numbers(text: str, place: str) -> tuple[int, int, dict[str, int]]:
    """Reads the rates and bursts of a limit: packets/s, bit/s, bursts by "packets" or "bytes"."""
    rates: dict[str, int] = {}
    bursts: dict[str, int] = {}
    at = 0
    while at < len(text):
        match = _NUMBER.match(text, at)
        units = _BURSTS if match is not None and match["burst"] else _RATES
        if match is None or match["unit"] not in units:
            known = ", ".join(units)
            raise SpecError(place, f"cannot read {text[at:].strip()!r} (units: {known})")
        value = int(Decimal(match["number"]) * units[match["unit"]])
        kind = "packets" if match["unit"].startswith("packets") else "bytes"
        found = bursts if match["burst"] else rates
        if kind in found or not 1 <= value <= MAX_RATE:
            text = f"{match[0].strip()!r} is given twice, or is not within 1..{MAX_RATE}"
            raise SpecError(place, text)
        found[kind] = value
        at = match.end()
    without = [kind for kind in bursts if kind not in rates]
    if not rates or without:
        what = f"a burst of {without[0]} needs a rate of them" if rates else "has no rate"
        raise SpecError(place, what)
    return rates.get("packets", 0), rates.get("bytes", 0), bursts


def _check_filter(where: str | None, place: str, fields: Mapping[str, FieldDef]) -> None:
    if where is None:
        return
    try:
        parse_filter(where, fields)
    except (FilterError, UnknownField) as error:
        raise SpecError(place, f"filter {where!r}: {error}") from error
