# SPDX-License-Identifier: Apache-2.0
"""The keyword `pcre`: from `"/expression/flags"` to what the matcher takes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nfs.ids.chains import Pcre
from nfs.ids.words import Unsupported, Word

__all__ = ["BUFFER_LETTERS", "pcre_of"]

BUFFER_LETTERS = {
    "U": "http.uri",
    "I": "http.uri.raw",
    "H": "http.header",
    "D": "http.header.raw",
    "M": "http.method",
    "C": "http.cookie",
    "S": "http.stat_code",
    "Y": "http.stat_msg",
    "V": "http.user_agent",
    "W": "http.host",
    "Z": "http.host.raw",
}
"""Flags that name a buffer."""
_INLINE = "imsx"
_NO_EFFECT = "GOB"
_FORM = re.compile(r"(!?)\s*\"?/(.*)/([A-Za-z]*)\"?", re.DOTALL)


def pcre_of(word: Word) -> tuple[Pcre, str | None]:
    """Reads a value of `pcre`; returns it and the buffer that its flags name.

    Raises:
        SpecError: it is not `"/expression/flags"`.
        Unsupported: a flag, or `^` where the place is relative.
    """
    found = _FORM.fullmatch(word.text)
    if found is None:
        raise word.fail('write pcre:"/expression/flags"')
    negated, text, flags = found[1] == "!", found[2], found[3]
    buffer: str | None = None
    for letter in flags:
        if letter in BUFFER_LETTERS:
            buffer = BUFFER_LETTERS[letter]
        elif letter in "EPQ":
            raise Unsupported(word, "pcre", f"the flag {letter}")
        elif letter not in _INLINE + _NO_EFFECT + "AR":
            raise word.fail(f"unknown flag {letter!r} of pcre")
    relative, anchored = "R" in flags, "A" in flags
    begins = [at for at, letter in _bare(text) if letter == "^"]
    if relative and begins:
        if begins != [0] or "m" in flags or "|" in (letter for _, letter in _bare(text)):
            raise Unsupported(word, "pcre", "the flag R with '^' elsewhere than at its begin")
        text, anchored = text[1:], True
    inline = "".join(letter for letter in _INLINE if letter in flags)
    expression = f"(?{inline}:{text})" if inline else text
    from_begin = "\\A" in text or (bool(begins) and not relative and "m" not in flags)
    if anchored and not relative:
        expression, anchored, from_begin = f"\\A(?:{expression})", False, True
    return Pcre(word, expression, negated, relative, anchored, from_begin), buffer


def _bare(text: str) -> Iterator[tuple[int, str]]:
    """The letters that are neither escaped nor in a class."""
    at, in_class = 0, False
    while at < len(text):
        letter = text[at]
        if letter == "\\":
            at += 1
        elif in_class:
            in_class = letter != "]"
        elif letter == "[":
            in_class = True
            at += (text[at + 1 : at + 3] == "^]" and 2) or (text[at + 1 : at + 2] == "]" and 1) or 0
        else:
            yield at, letter
        at += 1
