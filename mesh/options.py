# SPDX-License-Identifier: Apache-2.0
"""Options of NFs: what a spec, a plan or the command line gives against what `__init__` takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from mesh.bounds import Bounds, bounds_at, refusal
from mesh.errors import SpecError, did_you_mean, place_text
from mesh.nf import NF, Option

__all__ = ["bounds_of", "nf_config"]


def nf_config(cls: type[NF], config: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Checks an NF's options against the types of its `__init__`.

    Raises:
        SpecError: an unknown or missing option, or a value of another type or out of its range.
    """
    options = {option.name: option for option in cls.options()}
    checked: dict[str, Any] = {}
    for key, value in config.items():
        if key not in options:
            hint = did_you_mean(key, options) or f" (has: {', '.join(options) or 'none'})"
            raise SpecError(f"{path}.{key}", f"NF {cls.name!r} has no option {key!r}{hint}")
        try:
            checked[key] = _checked(TypeAdapter(options[key].type), value)
        except ValidationError as error:
            place, text = refusal(error, _schema(options[key]))
            where = place_text(place, f"{path}.{key}")
            raise SpecError(where, f"NF {cls.name!r}: {text}") from error
    missing = [name for name, option in options.items() if option.required and name not in checked]
    if missing:
        raise SpecError(f"{path}.{missing[0]}", f"NF {cls.name!r} needs this option")
    return checked


def bounds_of(option: Option) -> Bounds | None:
    """Returns what an option may be; None: it is no number."""
    return bounds_at(_schema(option))


def _schema(option: Option) -> dict[str, Any]:
    """The JSON schema of an option; of a type that has none, nothing but the default."""
    try:
        found = TypeAdapter(option.type).json_schema()
    except PydanticUserError:
        found = {}
    return found | {"default": option.default}


def _checked(adapter: TypeAdapter[Any], value: object) -> object:
    """The value as the option's type; text may be the JSON of it, as a command line has lists."""
    try:
        return adapter.validate_python(value)
    except ValidationError:
        if not isinstance(value, str) or value[:1] not in ("[", "{"):
            raise
    return adapter.validate_json(value)
