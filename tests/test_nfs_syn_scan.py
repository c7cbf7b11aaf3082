# SPDX-License-Identifier: Apache-2.0
from mesh.testing import ACK, RST, START_NS, SYN, conversation, packet, replay_frames, tcp, timed
from nfs.syn_scan.nf import SynScan

SCANNER, VICTIM = "10.9.9.9", "10.0.0.2"


def probes(count, *, refused, source=SCANNER, step_ns=10_000_000, start_ns=START_NS):
    frames = []
    for port in range(1, count + 1):
        syn = tcp(b"", source, 1000 + port, VICTIM, port, seq=5, flags=SYN)
        frames.append(packet(syn, source, VICTIM, 6))
        if refused:
            reset = tcp(b"", VICTIM, port, source, 1000 + port, ack=6, flags=RST | ACK)
            frames.append(packet(reset, VICTIM, source, 6))
    return timed(frames, start_ns, step_ns)


def scans_of(frames, **options):
    report = replay_frames(frames, [SynScan(**options)])
    assert not report.errors
    found = report["syn_scan"]
    return found.results["scans"], dict(found.published)


def test_a_source_that_is_refused_everywhere_is_reported_once():
    scans, published = scans_of(probes(30, refused=True))
    assert scans == [{"source": SCANNER, "attempts": 30, "finished": 0, "targets": 30}]
    assert published == {"syn_scan.port_scan": 1}


def test_a_source_that_nobody_answers_is_reported():
    scans, _ = scans_of(probes(30, refused=False))
    assert [scan["source"] for scan in scans] == [SCANNER]


def test_fewer_failures_than_the_limit_are_no_scan():
    assert scans_of(probes(19, refused=True)) == ([], {})


def test_a_busy_client_whose_connections_open_is_no_scanner():
    frames = []
    for port in range(60):
        frames += conversation([("client", b"x")], client=(SCANNER, 20000 + port))
    assert scans_of(frames) == ([], {})


def test_unanswered_attempts_get_time_before_they_count():
    """Many connections opened at once, all answered half a second later."""
    clients = [
        conversation(client=(SCANNER, 20000 + i), step_ns=500_000_000, close="none")
        for i in range(100)
    ]
    frames = sorted((f for one in clients for f in one), key=lambda frame: frame.ts_ns)
    assert scans_of(frames) == ([], {})


def test_a_mostly_successful_source_is_spared_by_the_ratio():
    frames = []
    for port in range(100):
        frames += conversation(client=(SCANNER, 20000 + port))
    frames += probes(22, refused=True, start_ns=START_NS + 50_000_000)
    assert scans_of(frames) == ([], {})
    assert len(scans_of(frames, ratio=1.0)[0]) == 1


def test_a_slow_scan_outside_the_window_is_not_seen():
    frames = probes(30, refused=True, step_ns=5_000_000_000)
    assert scans_of(frames) == ([], {})
    assert len(scans_of(frames, window_s=3600)[0]) == 1


def test_memory_is_bounded_by_forgetting_the_longest_known_source():
    frames = []
    for host in range(50):
        frames += probes(1, refused=True, source=f"10.1.1.{host}")
    report = replay_frames(frames, [SynScan(max_sources=10)])
    assert report["syn_scan"].results["sources_forgotten"] == 40
