# SPDX-License-Identifier: Apache-2.0
"""Connections break at any point and what was under way is lost: the mesh runs all the same.

Nothing but heartbeats repeats anything here: time stands still.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lossy_play import LossyPlay

from mesh.control import messages as m

CHANGES = {
    "none": None,
    "add": m.NfAdd(entry={"use": "double"}),
    "add a reader": m.NfAdd(entry={"use": "hearer"}),
    "remove": m.NfRemove(nf="counter"),
    "subscribe": m.Subscribe(nf="counter", events=["flow.end"]),
}
MOVES = st.lists(st.integers(0, 1 << 24), max_size=120)
AT = st.none() | st.integers(0, 100)


def play_of(moves, change, at=None, restarts=(), crashes=()):
    """Plays some moves and lets the mesh settle.

    Args:
        moves: numbers that choose among what may happen.
        change: what is asked for; at: before which move, None: the mesh runs before the first one.
        restarts: moves before which the controller is killed; crashes: or an NF.
    """
    play = LossyPlay("finder", "counter")
    asked = change is None
    if at is None:
        play.settle()
    for i, number in enumerate(moves):
        if not asked and i >= (at or 0):
            asked = True
            play.ask(change)
        if i in restarts:
            play.restart()
        if i in crashes:
            play.crash(("finder", "counter", "double", "hearer")[number % 4])
        possible = play.moves()
        play.move(*possible[number % len(possible)], choice=number >> 14)
    play.settle()
    if not asked:
        play.ask(change)
        play.settle()
    play.check()
    return play


@pytest.mark.parametrize("change", CHANGES)
@settings(max_examples=60, deadline=None)
@given(moves=MOVES, at=AT)
def test_whatever_is_lost_the_mesh_comes_to_run(change, moves, at):
    play = play_of(moves, CHANGES[change], at)
    assert [type(body) for body in play.answers] == [m.Ok] * (change != "none")


@settings(max_examples=60, deadline=None)
@given(
    moves=MOVES,
    at=AT,
    change=st.sampled_from(list(CHANGES)),
    restarts=st.sets(st.integers(0, 120), max_size=2),
)
def test_a_controller_that_is_killed_too_is_no_case_of_its_own(moves, at, change, restarts):
    play_of(moves, CHANGES[change], at, restarts)


@settings(max_examples=60, deadline=None)
@given(
    moves=MOVES,
    at=AT,
    change=st.sampled_from(list(CHANGES)),
    crashes=st.sets(st.integers(0, 120), max_size=3),
)
def test_nor_are_nfs_that_die_and_are_started_again(moves, at, change, crashes):
    play_of(moves, CHANGES[change], at, crashes=crashes)
