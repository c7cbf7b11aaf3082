# SPDX-License-Identifier: Apache-2.0
"""A rules file cut into its words, each with its place: the header's words and the options."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from mesh.errors import SpecError

__all__ = ["Option", "RawRule", "Source", "Unsupported", "Word", "raw_rules"]

_CONTINUED = re.compile(r"\\[ \t]*\r?\n")
_KEYWORD = re.compile(r"[A-Za-z0-9_.-]+")


class Unsupported(Exception):
    """A rule is right, but asks for what this NF does not do: it is left out and listed."""

    def __init__(self, word: Word, keyword: str, reason: str) -> None:
        super().__init__(f"{word.place}: {keyword}: {reason}")
        self.word, self.keyword, self.reason = word, keyword, reason


@dataclass(frozen=True)
class Source:
    """The text of a rules file.

    Attributes:
        text: as it is.
        origin: the file's name, for messages.
    """

    text: str
    origin: str
    lines: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lines[:] = [0, *(m.end() for m in re.finditer("\n", self.text))]

    def place(self, at: int) -> str:
        """File, line and column of a character."""
        line = bisect_right(self.lines, at)
        return f"{self.origin}:{line}:{at - self.lines[line - 1] + 1}"


@dataclass(frozen=True)
class Word:
    """A piece of the text.

    Attributes:
        text: without blanks around it.
        source: where it is from.
        at: offset of its first character.
    """

    text: str
    source: Source = field(repr=False)
    at: int

    @property
    def place(self) -> str:
        """File, line and column."""
        return self.source.place(self.at)

    def fail(self, text: str) -> SpecError:
        """Returns the error at this place."""
        return SpecError(self.place, text)

    def part(self, begin: int, end: int | None = None) -> Word:
        """Returns a part of it, blanks taken off."""
        piece = self.text[begin:end]
        blanks = len(piece) - len(piece.lstrip())
        return Word(piece.strip(), self.source, self.at + begin + blanks)

    def split(self, mark: str) -> list[Word]:
        """Returns the pieces between marks.

        >>> [w.text for w in Word("a, b", Source("a, b", "x"), 0).split(",")]
        ['a', 'b']
        """
        found: list[Word] = []
        begin = 0
        for piece in self.text.split(mark):
            found.append(self.part(begin, begin + len(piece)))
            begin += len(piece) + len(mark)
        return found


@dataclass(frozen=True)
class Option:
    """One `keyword:value;` of a rule; `value` is None for a keyword alone."""

    name: Word
    value: Word | None

    def text(self) -> Word:
        """Returns the value.

        Raises:
            SpecError: there is none.
        """
        if self.value is None or not self.value.text:
            raise self.name.fail(f"{self.name.text} needs a value: write {self.name.text}:VALUE;")
        return self.value

    def number(self, least: int = 0, most: int = 2**32 - 1) -> int:
        """Returns the value as a number.

        Raises:
            SpecError: it is none, or out of bounds.
        """
        word = self.text()
        if not re.fullmatch(r"-?\d{1,12}", word.text):
            raise word.fail(f"{self.name.text} takes a number, not {word.text!r}")
        if not least <= int(word.text) <= most:
            raise word.fail(f"{self.name.text} is a number from {least} to {most}")
        return int(word.text)

    def alone(self) -> None:
        """Refuses a value."""
        if self.value is not None:
            raise self.value.fail(f"{self.name.text} takes no value; write {self.name.text};")


@dataclass(frozen=True)
class RawRule:
    """A rule as words: seven of the header, then the options."""

    header: list[Word]
    options: list[Option]

    @property
    def place(self) -> str:
        """Where it begins."""
        return self.header[0].place


def raw_rules(source: Source) -> Iterator[RawRule]:
    r"""Yields the rules of a file: one a line, `#` begins a comment line, `\` continues a line.

    Raises:
        SpecError: names line and column of what is no rule.
    """
    masked = _CONTINUED.sub(lambda found: " " * len(found[0]), source.text)
    begin = 0
    for line in masked.split("\n"):
        if line.strip() and not line.lstrip().startswith("#"):
            yield _rule(Word(line, source, begin).part(0))
        begin += len(line) + 1


def _rule(line: Word) -> RawRule:
    begin = line.text.find("(")
    if begin < 0:
        raise line.fail("a rule is: action protocol source port -> destination port (options)")
    if not line.text.endswith(")"):
        raise line.part(len(line.text) - 1).fail("a rule ends with ')'")
    header = line.part(0, begin)
    words = list(_words(header))
    if len(words) != 7:
        raise header.fail(
            f"{len(words)} words before '(' instead of 7: action protocol source port -> "
            "destination port"
        )
    return RawRule(words, list(_options(line.part(begin + 1, len(line.text) - 1))))


def _words(header: Word) -> Iterator[Word]:
    """The words between blanks; blanks inside of brackets part nothing."""
    begin, depth, text = 0, 0, header.text + " "
    opened = 0
    for at, letter in enumerate(text):
        if letter == "[" and depth == 0:
            opened = at
        depth += (letter == "[") - (letter == "]")
        if depth < 0:
            raise header.part(at).fail("this bracket was not opened")
        if letter.isspace() and depth == 0:
            if begin < at:
                yield header.part(begin, at)
            begin = at + 1
    if depth:
        raise header.part(opened).fail("this bracket is not closed")


def _options(body: Word) -> Iterator[Option]:
    at, text = 0, body.text
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        found = _KEYWORD.match(text, at)
        if found is None:
            raise body.part(at).fail(f"expected a keyword, found {text[at]!r}")
        name = body.part(at, found.end())
        end = _end_of(text, found.end())
        if end is None:
            raise name.fail(f"{name.text} does not end: write ';' behind it")
        rest = text[found.end() : end].strip()
        if rest and not rest.startswith(":"):
            raise body.part(found.end()).fail(f"expected ':' or ';' behind {name.text}")
        colon = text.find(":", found.end(), end)
        yield Option(name, None if colon < 0 else body.part(colon + 1, end))
        at = end + 1


def _end_of(text: str, at: int) -> int | None:
    """The next semicolon that no backslash precedes."""
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == ";":
            return at
        at += 1
    return None
