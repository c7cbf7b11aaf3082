# SPDX-License-Identifier: Apache-2.0
"""Numbers that users give: what they may be, and what is said of one that is not.

A range stands where the type is, in a spec's models as in an NF's `__init__`:

    limit: Annotated[int, Field(ge=1, le=1_000_000)] = 20

pydantic keeps to it, and the type's JSON schema tells it to everybody else: to `nfmesh nfs`, to the
chart's values, and to who reads the error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, Field, ValidationError

from mesh.errors import did_you_mean

__all__ = [
    "Bounds",
    "Kept",
    "MemoryMb",
    "Place",
    "PowerOfTwo",
    "Seconds",
    "Seed",
    "Share",
    "bounds_at",
    "refusal",
]

Place: TypeAlias = Sequence[int | str]
"""Keys and indices, from the outermost on."""


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError(f"{value} is no power of two; the next one is {1 << value.bit_length()}")
    return value


PowerOfTwo = AfterValidator(_power_of_two)

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0.001, le=86_400)]
Seed = Annotated[int, Field(ge=0, lt=1 << 64)]
MemoryMb = Annotated[int, Field(ge=1, le=1 << 16)]
Kept = Annotated[int, Field(ge=0, le=1_000_000)]
"""Of what an NF finds: so many are kept to be shown."""

_OUTSIDE = frozenset(
    {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}
)
"""What pydantic calls a number that is out of its range."""
_LONGEST = 128
"""Bits of a number that is written out."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a number may be, both ends included, and what it is when nothing is said; None: open."""

    low: float | None
    high: float | None
    default: float | None = None

    def refuse(self, value: object) -> str:
        """Says that a value is not within.

        >>> Bounds(1, 90, 50).refuse(0)
        '0 is not within 1..90; the default is 50'
        """
        shown = "a number that long" if _is_long(value) else str(value)[:_LONGEST]
        least, most = ("" if end is None else _text(end) for end in (self.low, self.high))
        default = "" if self.default is None else f"; the default is {_text(self.default)}"
        return f"{shown} is not within {least}..{most}{default}"


def bounds_at(schema: Mapping[str, Any], place: Place = ()) -> Bounds | None:
    """Returns the bounds of the number that a JSON schema has at a place; None: no number.

    >>> bounds_at({"properties": {"n": {"type": "integer", "minimum": 1, "default": 4}}}, ["n"])
    Bounds(low=1, high=None, default=4)
    """
    return _bounds(_walk(schema, place)[1], schema)


def refusal(error: ValidationError, schema: Mapping[str, Any]) -> tuple[list[int | str], str]:
    """Returns the first place that is wrong, and in words what is.

    Args:
        error: of pydantic.
        schema: JSON schema of what was checked.
    """
    errors = error.errors()
    place, found = _walk(schema, errors[0]["loc"])
    here = [each for each in errors if _walk(schema, each["loc"])[0] == place]
    first = next((each for each in here if each["type"] in _OUTSIDE), errors[0])
    bounds = _bounds(found, schema) if first["type"] in _OUTSIDE else None
    if bounds is not None:
        return place, bounds.refuse(first["input"])
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        known = [name for each in _branches(found, schema) for name in each.get("properties", ())]
        return place, f"unknown key {key!r}{did_you_mean(key, known)}"
    text = first["msg"].removeprefix("Value error, ")
    return place, text[:1].lower() + text[1:]


def _is_long(value: object) -> bool:
    return isinstance(value, int) and value.bit_length() > _LONGEST


def _text(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.12g}"


def _bounds(found: Mapping[str, Any], root: Mapping[str, Any]) -> Bounds | None:
    default = found.get("default")
    for each in _branches(found, root):
        if each.get("type") in ("integer", "number"):
            low, high = each.get("minimum"), each.get("maximum")
            if "exclusiveMaximum" in each:  # of whole numbers only
                high = each["exclusiveMaximum"] - 1
            return Bounds(low, high, default if isinstance(default, int | float) else None)
    return None


def _walk(
    schema: Mapping[str, Any], place: Iterable[int | str]
) -> tuple[list[int | str], Mapping[str, Any]]:
    """Follows a place; leaves out what pydantic adds to it, the names of a union's branches."""
    kept: list[int | str] = []
    found = schema
    for part in place:
        children = (_child(each, part) for each in _branches(found, schema))
        below = next((child for child in children if child is not None), None)
        if below is not None:
            kept.append(part)
            found = below
    return kept, found


def _branches(schema: Mapping[str, Any], root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns what a schema may stand for: its alternatives, references followed."""
    if "$ref" in schema:
        return _branches(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return [found for each in schema["anyOf"] for found in _branches(each, root)]
    return [schema]


def _child(schema: Mapping[str, Any], part: int | str) -> Mapping[str, Any] | None:
    if isinstance(part, int):
        found = schema.get("items")
    else:
        keyed = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
        others = (each for each in keyed if isinstance(each, Mapping))
        found = schema.get("properties", {}).get(part, next(others, None))
    return found if isinstance(found, Mapping) else None
