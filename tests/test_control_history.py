# SPDX-License-Identifier: Apache-2.0
"""What is told of network functions: events, counted, bounded, kept for who comes next."""

import pytest
from control_play import Play

from mesh.conditions import News, Trouble, conditions_of, news_of
from mesh.control import messages as m
from mesh.control.history import FILE, History, load_history, save_history


def how(trouble=None, step=None):
    return conditions_of(
        trouble and Trouble(trouble, f"text of {trouble}"),
        step and Trouble(step, f"text of {step}"),
        "attached",
    )


FINE, WRONG, COMES, LEAVES = how(), how("CrashLoop"), how(step="Starting"), how(step="Draining")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (None, FINE, None),  # nobody has said otherwise
        (None, WRONG, ("Warning", "CrashLoop")),
        (COMES, FINE, ("Normal", "Attached")),
        (FINE, WRONG, ("Warning", "CrashLoop")),
        (WRONG, WRONG, None),
        (WRONG, how("GraphInvalid"), ("Warning", "GraphInvalid")),
        (WRONG, FINE, ("Normal", "Attached")),
        (WRONG, COMES, None),  # not yet
        (FINE, LEAVES, ("Normal", "Draining")),
        (LEAVES, LEAVES, None),
        (FINE, COMES, None),
    ],
)
def test_what_is_told_of_a_change(before, after, said):
    news = news_of(after, before)
    assert (news and (news.kind, news.reason)) == said


def named(name, conditions):
    return {"metadata": {"name": name}, "status": {"conditions": conditions}}


def test_equal_events_are_one_with_a_count():
    times = iter([0, 60, 120])
    history = History(lambda: next(times))
    for reason in ("CrashLoop", "StartFailed", "CrashLoop"):
        history.tell("web", News("Warning", reason, "it ends"))
    first, last = history.events
    assert (first["reason"], first["count"]) == ("StartFailed", 1)
    assert (last["reason"], last["count"], last["type"]) == ("CrashLoop", 2, "Warning")
    assert last["firstTimestamp"] == "1970-01-01T00:00:00Z"
    assert last["lastTimestamp"] == "1970-01-01T00:02:00Z"
    assert last["involvedObject"] == {"kind": "NetworkFunction", "name": "web"}


def test_what_is_kept_is_bounded():
    history = History()
    for i in range(300):
        history.tell("web", News("Normal", "Attached", f"{i} {'x' * 5000}"))
        entry = {"name": f"nf{i}", "use": "x"}
        history.refuse(m.NfPut(entries=[entry]), ValueError("no"), "plan")
    assert len(history.events) == 256
    assert history.events[-1]["message"].startswith("299 ")
    assert max(len(each["message"]) for each in history.events) == 1000
    assert (len(history.refused), "nf299" in history.refused) == (64, True)


def test_who_comes_next_goes_on_where_it_was(tmp_path):
    history = History()
    history.look([named("web", WRONG), named("new", COMES)])
    history.refuse(m.NfPut(entries=[{"name": "bad"}]), ValueError("no"), "plan")
    assert history.is_fresh
    save_history(tmp_path, history)
    assert not history.is_fresh
    after = load_history(tmp_path)
    assert (after.events, after.refused) == (history.events, history.refused)
    after.look([named("web", WRONG), named("new", COMES)])
    assert (after.events, after.is_fresh) == (history.events, False)
    after.look([named("web", FINE), named("new", FINE)])
    assert [each["reason"] for each in after.events] == ["CrashLoop", "Attached", "Attached"]


@pytest.mark.parametrize("text", [None, "", "[]", '{"events": [{}], "told": {}, "refused": {}}'])
def test_a_file_that_is_damaged_is_begun_anew(tmp_path, text):
    if text is not None:
        (tmp_path / FILE).write_text(text)
    assert load_history(tmp_path).events == []


def objects(play):
    return {each["metadata"]["name"]: each for each in asked(play)["functions"]}


def asked(play):
    [found] = play.tell("tool", m.Functions())
    return found.result


def reason(found):
    return found["status"]["conditions"][0]["reason"]


def test_a_refusal_is_a_condition_and_an_event_until_something_is_taken():
    play = Play("counter")
    play.bring_up()
    wrong = {"use": "counter", "name": "counter", "where": "tcp prt 80"}
    [refused] = play.tell("tool", m.NfPut(entries=[wrong], dry_run=True))
    assert refused.path == "nfs.counter.where"
    assert reason(objects(play)["counter"]) == "Attached", "nothing was asked for in earnest"
    play.tell("tool", m.NfPut(entries=[wrong, {"use": "finder", "name": "finder"}]))
    assert list(objects(play)) == ["counter"], "the other one is not to blame"
    [found] = objects(play).values()
    assert reason(found) == "GraphInvalid"
    assert found["status"]["conditions"][0]["message"].startswith("spec.where: ")
    assert found["status"]["readyReplicas"] == 1, "what ran before goes on"
    play.tell("tool", m.NfPut(entries=[{"use": "counter", "name": "counter"}]))
    play.tick()
    said = [each["reason"] for each in asked(play)["events"]]
    assert said == ["GraphInvalid", "Attached"]


def test_one_that_never_ran_is_shown_until_it_is_taken_back():
    play = Play("counter")
    play.bring_up()
    play.tell("tool", m.NfPut(entries=[{"use": "finder", "name": "f", "stage": 999}]))
    found = objects(play)["f"]
    assert (reason(found), found["status"]["replicas"]) == ("GraphInvalid", 0)
    [answer] = play.tell("tool", m.NfRemove(nf="f", missing_ok=True))
    assert answer.result["revision"] == 0
    assert list(objects(play)) == ["counter"]


def test_one_that_attaches_anew_is_told_of_however_quick_it_was():
    history = History()
    history.look([named("web", COMES), named("api", COMES)])
    history.look([named("web", FINE), named("api", FINE)])
    history.begins("web")
    history.begins("not there")
    history.look([named("web", FINE), named("api", FINE)])
    counts = {each["involvedObject"]["name"]: each["count"] for each in history.events}
    assert counts == {"web": 2, "api": 1}


@pytest.mark.parametrize(("is_new_stack", "count"), [(True, 2), (False, 1)])
def test_a_stack_that_follows_tells_that_its_nfs_attached(tmp_path, is_new_stack, count):
    """One whose controller alone was started again does not: its NFs never left."""
    before, after = Play("counter"), Play("counter")
    before.bring_up()
    asked(before)
    save_history(tmp_path, before.mesh.history)
    after.mesh.history = load_history(tmp_path, lambda: 0.0)
    after.tick()
    if is_new_stack:
        after.bring_up()
    else:
        for name in ("supervisor", "counter", "worker-0"):
            after.register(name, revision=after.mesh.desired.revision)
            after.attached(name)
    [event] = asked(after)["events"]
    assert (event["reason"], event["count"]) == ("Attached", count)


def test_one_that_attaches_and_leaves_between_two_looks_is_told_of():
    play = Play("counter")
    play.bring_up()
    play.tell("tool", m.Stop())
    play.tell("counter", m.Drained())
    play.tick()
    assert [each["reason"] for each in asked(play)["events"]] == ["Attached", "Draining"]


def test_a_look_at_nfs_that_are_not_composed_yet():
    """Composing takes a while on a busy machine, and the file may name no NFs."""
    play = Play(is_composing=True)
    del play.mesh.desired.spec["nfs"]
    play.tick()
    assert (objects(play), asked(play)["events"]) == ({}, [])
