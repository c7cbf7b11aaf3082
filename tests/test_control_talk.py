# SPDX-License-Identifier: Apache-2.0
"""What a process says again to its controller, and how long it waits for an answer."""

from itertools import pairwise

from mesh.control import messages as m
from mesh.control.client import FIRST_SILENCE_S, LONGEST_SILENCE_S, Settings, _Line
from mesh.control.talk import MAX_WAITING, Talk

REGISTER = m.Register(role="nf", pid=7)
EVENT = m.Published(events=[], missed=1)


def said(talk):
    found = []
    while (message := talk.next()) is not None:
        found.append(message)
    return found


def known(*messages):
    """A talk whose controller has answered, and heard what it says."""
    talk = Talk(REGISTER)
    for message in messages:
        talk.say(message)
    talk.heard(m.Seen())
    assert said(talk) == list(messages)
    return talk


def failed(name, text, *, fatal=True):
    return m.Failed(where="exit", text=text, fatal=fatal, name=name)


def test_nothing_is_said_before_the_controller_has_answered():
    talk = Talk(REGISTER)
    talk.say(m.Ready(revision=1))
    assert talk.register().revision == 1
    assert talk.next() is None
    talk.heard(m.Who())
    assert said(talk) == [m.Ready(revision=1)], "once, however often it is repeated"


def test_the_last_of_each_kind_is_said_again_in_order():
    talk = known(m.Ready(revision=1), m.Attached(revision=1), m.Ready(revision=2), EVENT)
    talk.register()
    assert said(talk) == [m.Ready(revision=2), m.Attached(revision=1)]


def test_of_failures_those_for_good_are_said_again_one_of_each_process():
    a, b, c = failed("a", "1"), failed("b", "2"), failed("a", "3", fatal=False)
    talk = known(a, b, c)
    talk.register()
    assert said(talk) == [a, b]


def test_it_registers_with_what_it_holds_whoever_said_so():
    talk = known(m.Ready(revision=2))
    talk.heard(m.Seen(revision=5))
    assert talk.register().revision == 5


def test_what_waits_is_bounded_and_events_go_first():
    talk = Talk(REGISTER)
    talk.say(EVENT)
    for revision in range(MAX_WAITING):
        talk.say(m.Ready(revision=revision))
    talk.heard(m.Seen())
    assert EVENT not in said(talk)
    assert talk.dropped == 1


def test_a_controller_that_is_slow_is_given_twice_the_time_each_time():
    now = 100.0
    line = _Line(Settings("inproc://nobody", "a", b"k" * 32, REGISTER, clock=lambda: now))
    try:
        waits = []
        for _ in range(10):
            line.registering()
            began = now
            while not line.is_silent():
                now += 0.05
            waits.append(now - began)
            line.reopen()
        assert FIRST_SILENCE_S <= waits[0] < 2 * FIRST_SILENCE_S
        assert all(later > 1.5 * before for before, later in pairwise(waits[:8]))
        assert LONGEST_SILENCE_S <= waits[-1] < LONGEST_SILENCE_S + 1
        line.heard()
        now += 2
        assert line.is_silent(), "one that has answered is expected to go on"
    finally:
        line.close()
