# SPDX-License-Identifier: Apache-2.0
"""Contents over streams: what is found is what a search through all bytes finds, however cut."""

import itertools
import random

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ids_rig import alerts, need_library

from mesh.testing import FIN, PSH, SYN, TcpSide, timed
from nfs.ids.chains import Content

need_library()

LETTERS = "abAB"
words = st.text(LETTERS, min_size=1, max_size=3)


@st.composite
def absolute(draw):
    data = draw(words)
    options = {"nocase": draw(st.booleans())}
    kind = draw(st.integers(0, 3))
    if kind == 1:
        options["offset"] = draw(st.integers(0, 8))
    if kind in (1, 2) and draw(st.booleans()):
        options["depth"] = len(data) + draw(st.integers(0, 6))
    if kind == 3:
        options["startswith"] = True
    options["endswith"] = draw(st.integers(0, 6)) == 0
    return data, options


@st.composite
def relative(draw):
    data = draw(words)
    options = {"nocase": draw(st.booleans()), "distance": draw(st.integers(0, 3))}
    if draw(st.booleans()):
        options["within"] = len(data) + draw(st.integers(0, 4))
    return data, options


@st.composite
def rules(draw):
    """A rule: chains of contents, and what must not be there; at least one that must."""
    items = []
    for _ in range(draw(st.integers(1, 2))):
        data, options = draw(absolute())
        items.append((data, False, options))
        ends = options["endswith"]
        for _ in range(0 if ends else draw(st.integers(0, 2))):
            data, options = draw(relative())
            items.append((data, False, options))
        if not ends and draw(st.booleans()):
            data, options = draw(relative())
            items.append((data, True, options))
    if draw(st.integers(0, 2)) == 0:
        data, options = draw(absolute())
        items.append((data, True, options))
    return items


def text_of(items, sid):
    parts = []
    for data, negated, options in items:
        parts.append(f'content:{"!" * negated}"{data}"')
        for name, value in options.items():
            if value is True:
                parts.append(name)
            elif value is not False:
                parts.append(f"{name}:{value}")
    return f"alert tcp any any -> any any ({'; '.join(parts)}; sid:{sid};)"


def places(stream, content, first, last, size):
    """Begins of a content from `first` to `last`."""
    low = content.nocase
    for at in range(first, min(last, len(stream) - size) + 1):
        piece, data = stream[at : at + size], content.data.decode()
        if (piece.lower() == data.lower() if low else piece == data) and (
            not content.endswith or at + size == len(stream)
        ):
            yield at


def begins(stream, c):
    size = len(c.data)
    first = c.offset or 0
    depth = size if c.startswith else c.depth
    last = len(stream) if depth is None else first + depth - size
    return places(stream, c, first, last, size)


def after(stream, c, end):
    size = len(c.data)
    first = end + (c.distance or 0)
    last = len(stream) if c.within is None else first + c.within - size
    return places(stream, c, first, last, size)


def holds(stream, items):
    """Says by search whether the contents are in a whole stream."""
    contents = [Content(None, d.encode(), n, **options) for d, n, options in items]
    ends = None
    for c in contents:
        if c.relative and c.negated:
            ends = {e for e in ends if not list(after(stream, c, e))}
        elif c.relative:
            ends = {at + len(c.data) for e in ends for at in after(stream, c, e)}
        elif c.negated:
            if list(begins(stream, c)):
                return False
            continue
        else:
            ends = {at + len(c.data) for at in begins(stream, c)}
        if not ends:
            return False
    return True


def talk(stream, cuts, order=None):
    """A connection in which the client says `stream`, cut at `cuts`, in that order."""
    a, b = TcpSide("10.0.0.1", 40000, 1000), TcpSide("10.0.0.2", 80, 5000)
    a.peer, b.peer = b, a
    frames = [a.send(flags=SYN), b.send(flags=SYN | 16), a.send()]
    bounds = [0, *sorted(cuts), len(stream)]
    pieces = [
        (begin, stream[begin:end]) for begin, end in itertools.pairwise(bounds) if begin < end
    ]
    if order is not None:
        order.shuffle(pieces)
    for begin, piece in pieces:
        frames.append(a.send(piece.encode(), PSH | 16, seq=1001 + begin))
    a.seq += len(stream)
    return timed([*frames, b.send(), a.send(flags=FIN | 16), b.send(flags=FIN | 16), a.send()])


streams = st.text(LETTERS, min_size=1, max_size=24)


@settings(max_examples=25, deadline=None)
@given(streams, st.lists(rules(), min_size=1, max_size=10), st.data())
def test_contents_are_found_as_a_search_finds_them_and_wherever_bytes_are_cut(
    stream, written, data
):
    texts = [text_of(items, sid) for sid, items in enumerate(written, 1)]
    expected = {sid for sid, items in enumerate(written, 1) if holds(stream, items)}
    whole, results = alerts(talk(stream, []), *texts)
    assume(results["counters"]["candidates_dropped"] == 0)
    assert {sid for sid, *_ in whole} == expected
    cuts = data.draw(st.sets(st.integers(1, 23)))
    cut, _ = alerts(talk(stream, [c for c in cuts if c < len(stream)]), *texts)
    assert cut == whole


@settings(max_examples=10, deadline=None)
@given(streams, st.lists(rules(), min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_segments_in_any_order_give_the_same_alerts(stream, written, order: random.Random):
    texts = [text_of(items, sid) for sid, items in enumerate(written, 1)]
    whole, _ = alerts(talk(stream, []), *texts)
    mixed, _ = alerts(talk(stream, range(1, len(stream)), order), *texts)
    assert mixed == whole
