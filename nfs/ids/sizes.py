# SPDX-License-Identifier: Apache-2.0
"""The keywords `bsize`, `urilen` and `isdataat`: how many bytes there are, as expressions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nfs.ids.chains import MOST_REPEATS, Pcre
from nfs.ids.words import Unsupported, Word

__all__ = ["Range", "data_at", "range_of", "size_of"]


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `first` to `last`; `negated`: all others."""

    first: int
    last: int
    negated: bool = False


def range_of(word: Word, most: int) -> Range:
    """Reads `5`, `!5`, `<5`, `>5` or `5<>10`, which leaves its ends out.

    Raises:
        SpecError: it is none of these.
    """
    found = re.fullmatch(r"(!)?\s*(?:([<>])\s*(\d+)|(\d+)(?:\s*<>\s*(\d+))?)", word.text)
    if found is None:
        raise word.fail(f"{word.text!r} is no size; write 5, !5, <5, >5 or 5<>10")
    negated, sign, bound, first, last = found.groups()
    if sign == "<":
        low, high = 0, int(bound) - 1
    elif sign == ">":
        low, high = int(bound) + 1, most
    elif last is not None:
        low, high = int(first) + 1, int(last) - 1
    else:
        low = high = int(first)
    if not 0 <= low <= high <= most:
        raise word.fail(f"{word.text!r} holds no number up to {most}")
    return Range(low, high, negated is not None)


def size_of(word: Word) -> Pcre:
    """Returns what finds a buffer of so many bytes.

    Raises:
        SpecError: it is no size.
        Unsupported: of no byte: such a buffer is not there.
    """
    sizes = range_of(word, MOST_REPEATS)
    if sizes.last == 0:
        raise Unsupported(word, "bsize", "a buffer without a byte is none")
    last = "" if sizes.last == MOST_REPEATS else str(sizes.last)
    text = f"\\A(?s:.{{{max(1, sizes.first)},{last}}})\\z"
    return Pcre(word, text, sizes.negated, relative=False, anchored=False, from_begin=True)


def data_at(word: Word) -> Pcre:
    """Returns what finds bytes at a place, from the begin or relative to what is before.

    Raises:
        SpecError: write `isdataat:10` or `isdataat:!10,relative`.
        Unsupported: a variable, or farther than the matcher counts.
    """
    found = re.fullmatch(r"(!)?\s*(\w+)\s*((?:,\s*(?:relative|rawbytes)\s*)*)", word.text)
    if found is None:
        raise word.fail("write isdataat:10 or isdataat:!10,relative")
    if not found[2].isdecimal() or int(found[2]) >= MOST_REPEATS:
        raise Unsupported(word, "isdataat", f"{found[2]} instead of a number below {MOST_REPEATS}")
    place, relative = int(found[2]), "relative" in found[3]
    if not relative:
        text = f"\\A(?s:.{{{place + 1}}})"
        return Pcre(word, text, found[1] == "!", relative=False, anchored=False, from_begin=True)
    if found[1] is None:
        text = f"(?s:.{{{place}}})"
    elif place == 0:
        raise Unsupported(word, "isdataat", "!0,relative: never true")
    else:
        text = f"(?s:.{{0,{place - 1}}})\\z" if place > 1 else "\\z"
    item = Pcre(word, text, negated=False, relative=True, anchored=True, from_begin=False)
    item.is_tail, item.keyword = True, "isdataat"
    return item
