# SPDX-License-Identifier: Apache-2.0
"""Pattern files: a name and an expression per line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import SpecError, did_you_mean

FLAGS = {"i": 1, "s": 2, "m": 4, "1": 8}
"""Letters of a pattern file, as enum payload_scan_flag."""
_LINE = re.compile(r"(?P<name>[\w.-]+)\s*:\s*/(?P<expression>.+)/(?P<flags>\w*)")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern: flags are bits of enum payload_scan_flag, place is where it was written."""

    name: str
    expression: str
    flags: int
    place: str


def parse(text: str, origin: str) -> tuple[Pattern, ...]:
    """Reads the text of a pattern file; `#` begins a comment line.

    Args:
        text: the file.
        origin: its name, for messages.

    Raises:
        SpecError: names the line.

    >>> parse("greeting: /hello, world/i", "x").__len__()
    1
    """
    found: dict[str, Pattern] = {}
    for number, line in enumerate(text.splitlines(), 1):
        place = f"{origin}:{number}"
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise SpecError(place, "write a pattern as name: /expression/flags")
        if match["name"] in found:
            first = found[match["name"]].place
            raise SpecError(place, f"pattern {match['name']!r} is there already, at {first}")
        flags = 0
        for letter in match["flags"]:
            if letter not in FLAGS:
                hint = did_you_mean(letter, FLAGS)
                raise SpecError(place, f"unknown flag {letter!r} (known: {' '.join(FLAGS)}){hint}")
            flags |= FLAGS[letter]
        found[match["name"]] = Pattern(match["name"], match["expression"], flags, place)
    if not found:
        raise SpecError(origin, "holds no pattern")
    return tuple(found.values())


def load(path: Path) -> tuple[Pattern, ...]:
    """Reads a pattern file.

    Raises:
        SpecError: it cannot be read, or names the line that is wrong.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(str(path), f"cannot read the patterns: {error}") from error
