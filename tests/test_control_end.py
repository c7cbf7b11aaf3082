# SPDX-License-Identifier: Apache-2.0
"""The controller's core: how a run ends."""

from control_play import Play, eof, kinds, result

from mesh.control import messages as m


def test_the_end_of_a_capture_makes_the_report_and_sends_all_home():
    play = Play("finder", "counter")
    play.bring_up()
    play.tell("worker-0", eof())
    play.tell("counter", result("counter"))
    assert play.heard("supervisor", m.Finished) == []
    play.tell("finder", result("finder"))
    [finished] = play.heard("supervisor", m.Finished)
    assert finished.report["packets"] == 5
    assert finished.report["counters"] == {"b": 2}
    assert [nf["name"] for nf in finished.report["nfs"]] == ["finder", "counter"]
    for name in ("worker-0", "finder", "counter"):
        assert kinds(play.heard(name, m.Leave)) == ["leave"]


def test_an_nf_that_reads_another_ends_after_it():
    play = Play("finder", "hearer")
    play.bring_up()
    play.tell("worker-0", eof())
    assert play.heard("hearer", m.Drain) == []
    play.tell("finder", result("finder"))
    assert [drain.reason for drain in play.heard("hearer", m.Drain)] == ["end"]
    play.tell("hearer", result("hearer"))
    assert len(play.heard("supervisor", m.Finished)) == 1


def test_a_worker_that_fails_for_good_ends_the_run_with_its_words():
    play = Play("counter")
    play.bring_up()
    play.tell("worker-0", m.Failed(where="worker", text="x.pcap: gone", fatal=True))
    assert [drain.reason for drain in play.heard("counter", m.Drain)] == ["worker failed"]
    play.tell("counter", result("counter"))
    [finished] = play.heard("supervisor", m.Finished)
    assert finished.error == "worker-0: x.pcap: gone"


def test_a_spec_that_does_not_compose_ends_the_run():
    play = Play("nobody")
    [finished] = [play.register("supervisor")[-1]]
    assert isinstance(finished, m.Finished)
    assert "nobody" in finished.error


def test_stop_ends_the_flows_and_the_report_says_so():
    play = Play("counter")
    play.bring_up()
    assert kinds(play.tell("tool", m.Stop())) == ["ok"]
    assert [drain.reason for drain in play.heard("worker-0", m.Drain)] == ["stop"]
    play.tell("worker-0", eof())
    play.tell("counter", result("counter"))
    [finished] = play.heard("supervisor", m.Finished)
    assert finished.report["interrupted"] is True
    assert kinds(play.tell("tool", m.NfAdd(entry={"use": "double"}))) == ["error"]


def test_stop_now_waits_for_nobody():
    play = Play("counter")
    play.bring_up()
    play.tell("tool", m.Stop(now=True))
    assert len(play.heard("supervisor", m.Finished)) == 1
    assert kinds(play.heard("counter", m.Leave)) == ["leave"]
