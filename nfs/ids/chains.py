# SPDX-License-Identifier: Apache-2.0
"""From contents and their places to expressions that the matcher takes.

Contents that follow each other (`distance`, `within`) are one chain, and a chain is one expression:
`content:"ab"; content:"c"; distance:2; within:4;` is `ab.{2,5}c`. So a chain is found across any
cut of the bytes, and nothing of it is kept but the matcher's own state. Chains of a rule are found
apart and put together by bits. What must not be there is an expression, too: it clears its chain
when it is found in its range, and the chain holds once that range has passed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nfs.ids.words import Unsupported, Word

__all__ = [
    "END",
    "MOST_REPEATS",
    "Chain",
    "Content",
    "Follow",
    "Pattern",
    "Pcre",
    "bytes_of",
    "chains_of",
]

END = 2**64 - 1
"""The end of the bytes, wherever it is."""
MOST_REPEATS = 32767
"""Of the matcher, in one bounded repeat."""


@dataclass
class Content:
    """One `content` with its modifiers; places are as Suricata defines them."""

    word: Word
    data: bytes
    negated: bool
    nocase: bool = False
    offset: int | None = None
    depth: int | None = None
    distance: int | None = None
    within: int | None = None
    startswith: bool = False
    endswith: bool = False

    @property
    def relative(self) -> bool:
        """Whether its place counts from the end of what is before it."""
        return self.distance is not None or self.within is not None

    @property
    def expression(self) -> str:
        """The bytes as an expression."""
        text = "".join(
            chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\x{byte:02x}"
            for byte in self.data
        )
        return f"(?i:{text})" if self.nocase else text

    def range_from(self, distance: int) -> tuple[int, int]:
        """First and last place of its first byte, END where there is no last."""
        if self.within is None:
            return distance, END
        return distance, distance + self.within - len(self.data)


@dataclass
class Pcre:
    """One `pcre`: expression in the matcher's own flags; `anchored` at the end of what precedes.

    `is_tail`: what comes after it counts from what is before it.
    """

    word: Word
    expression: str
    negated: bool
    relative: bool
    anchored: bool
    from_begin: bool
    is_tail: bool = False
    keyword: str = "pcre"


@dataclass(frozen=True, slots=True)
class Pattern:
    """What the matcher looks for.

    Attributes:
        expression: in its syntax, by bytes.
        least: a match ends there at least; `most`: at most.
        from_begin: it means nothing in bytes whose begin was not seen.
        word, keyword: what it came from.
    """

    expression: str
    word: Word = field(compare=False)
    keyword: str = field(compare=False, default="content")
    least: int = 0
    most: int = END
    from_begin: bool = False


@dataclass(frozen=True, slots=True)
class Follow:
    """What must not come after a chain: first byte from `distance` on, all within `within`."""

    pattern: Pattern
    length: int
    distance: int
    within: int


@dataclass(frozen=True, slots=True)
class Chain:
    """One condition on bytes.

    Attributes:
        pattern: what is looked for.
        negated: it must not be found.
        until: how many bytes decide that; END all of them.
        follows: what must not come after it.
    """

    pattern: Pattern
    negated: bool = False
    until: int = 0
    follows: tuple[Follow, ...] = ()


def chains_of(items: Sequence[Content | Pcre]) -> list[Chain]:
    """Puts the items of one buffer together, in their order.

    Raises:
        SpecError: places that contradict each other.
        Unsupported: places that no expression says.
    """
    return [chain for group in _groups(items) for chain in _group(group)]


def _groups(items: Sequence[Content | Pcre]) -> Iterator[list[Content | Pcre]]:
    """Runs of items that begin at one that counts from nothing before it."""
    group: list[Content | Pcre] = []
    for item in items:
        _check(item)
        if item.relative and not group:
            _count_from_begin(item)
        if item.relative:
            last = group[-1]
            if isinstance(last, Pcre) and last.is_tail:
                raise Unsupported(last.word, "isdataat", "with what is relative behind it")
            if not item.negated and any(other.negated for other in group):
                text = "after a negated content that is relative nothing may be relative"
                raise Unsupported(item.word, "distance, within", text)
            group.append(item)
        elif item.negated:
            yield [item]
        else:
            if group:
                yield group
            group = [item]
    if group:
        yield group


def _count_from_begin(item: Content | Pcre) -> None:
    """What is relative to nothing counts from the begin."""
    if isinstance(item, Content):
        item.offset, item.distance = item.distance or 0, None
        item.depth, item.within = item.within, None
        return
    item.relative = False
    if item.anchored:
        item.expression, item.anchored, item.from_begin = f"\\A{item.expression}", False, True


def _check(item: Content | Pcre) -> None:
    if isinstance(item, Pcre):
        return
    word, size = item.word, len(item.data)
    absolute = item.offset is not None or item.depth is not None or item.startswith
    if item.relative and absolute:
        text = "offset, depth and startswith count from the begin, distance and within do not"
        raise word.fail(f"{text}: keep one kind")
    if item.depth is not None and item.depth < size:
        raise word.fail(f"depth {item.depth} is less than the {size} bytes of the content")
    if item.within is not None and item.within < size:
        raise word.fail(f"within {item.within} is less than the {size} bytes of the content")
    if item.startswith and (item.offset or item.depth is not None):
        raise word.fail("startswith is offset 0 and the depth of the content: leave those out")
    if item.distance is not None and item.distance < 0:
        raise Unsupported(word, "distance", "a negative distance")


def _group(group: list[Content | Pcre]) -> list[Chain]:
    head = group[0]
    if head.negated:
        return [_negated(head)]
    line = [item for item in group if not item.negated]
    follows = tuple(_follow(item) for item in group if item.negated)
    return [Chain(_joined(line), follows=follows)]


def _follow(item: Content | Pcre) -> Follow:
    if isinstance(item, Pcre):
        raise Unsupported(item.word, "pcre", "one that is negated and relative")
    if item.endswith:
        raise Unsupported(item.word, "endswith", "on a content that is negated and relative")
    within = END if item.within is None else item.within
    pattern = Pattern(item.expression, item.word)
    return Follow(pattern, len(item.data), item.distance or 0, within)


def _negated(item: Content | Pcre) -> Chain:
    pattern = _joined([item])
    return Chain(pattern, negated=True, until=pattern.most)


def _joined(line: Sequence[Content | Pcre]) -> Pattern:
    head = line[0]
    for item in line[:-1]:
        if isinstance(item, Content) and item.endswith:
            raise item.word.fail("nothing comes after a content that ends the bytes (endswith)")
    if isinstance(head, Pcre):
        begin, least, most, from_begin = "", 0, END, head.from_begin
    else:
        begin, least, most = _begin_of(head, alone=len(line) == 1)
        from_begin = bool(begin) or least > 0 or most < END
    text = begin + "".join(_piece(item, is_first=item is head) for item in line)
    hard = next((item for item in line if isinstance(item, Pcre)), head)
    keyword = hard.keyword if isinstance(hard, Pcre) else "content"
    return Pattern(text, hard.word, keyword, least, most, from_begin)


def _begin_of(head: Content, *, alone: bool) -> tuple[str, int, int]:
    """What stands before the first content; alone it has a range of ends instead."""
    size = len(head.data)
    offset = head.offset or 0
    depth = size if head.startswith else head.depth
    least = 0 if offset == 0 else offset + size
    most = END if depth is None else offset + depth
    if alone or (least == 0 and most == END):
        return "", least, most
    last = END if depth is None else offset + depth - size
    return "\\A" + _gap(head.word, offset, last), 0, END


def _piece(item: Content | Pcre, *, is_first: bool) -> str:
    if isinstance(item, Pcre):
        gap = "" if is_first or item.anchored else "(?s:.*)"
        return f"{gap}(?:{item.expression})"
    gap = "" if is_first else _gap(item.word, *item.range_from(item.distance or 0))
    return gap + item.expression + ("\\z" if item.endswith else "")


def _gap(word: Word, first: int, last: int) -> str:
    """So many bytes of any kind."""
    if max(first, 0 if last == END else last) > MOST_REPEATS:
        text = f"more than {MOST_REPEATS} bytes between contents that depend on each other"
        raise Unsupported(word, "distance, within, offset, depth", text)
    if last == END:
        return "(?s:.*)" if first == 0 else f"(?s:.{{{first},}})"
    return "" if last == 0 else f"(?s:.{{{first},{last}}})"


_HEX = re.compile(r"\|([^|]*)\|")


def bytes_of(word: Word) -> bytes:
    r"""Reads the bytes of a content: `|0d 0a|` is hexadecimal, `\` takes its next letter as it is.

    Raises:
        SpecError: names the place.
    """
    found = bytearray()
    at, text = 0, word.text
    while at < len(text):
        letter = text[at]
        if letter == "|":
            block = _HEX.match(text, at)
            if block is None:
                raise word.part(at).fail("this '|' has no other end; write |0d 0a|, or |7c| for it")
            found += _hex(word, at, block)
            at = block.end()
            continue
        if letter == "\\":
            at += 1
            if at == len(text):
                raise word.part(at - 1).fail("a backslash at the end; write |5c| for it")
            letter = text[at]
        found += letter.encode()
        at += 1
    return bytes(found)


def _hex(word: Word, at: int, block: re.Match[str]) -> bytes:
    try:
        found = bytes.fromhex(block[1])
    except ValueError:
        found = b""
    if not found:
        raise word.part(at).fail(f"{block[0]} is not hexadecimal: pairs of digits, as in |0d 0a|")
    return found
