# SPDX-License-Identifier: Apache-2.0
"""Probes are answered, whoever else is connected."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from loopback import has_ipv6
from patience import PATIENCE_S
from prometheus_client.registry import Collector

from mesh.errors import ProcessError, SpecError
from mesh.health import MOST, HealthServer


class Nothing(Collector):
    def collect(self):
        return []


@pytest.fixture
def said() -> dict[str, str]:
    return {"wrong": "", "missing": ""}


@pytest.fixture
def server(said) -> Iterator[HealthServer]:
    made = HealthServer(0, lambda: said["wrong"], lambda: said["missing"], Nothing())
    yield made
    made.close()


def get(server: HealthServer, path: str, method: str = "GET") -> tuple[int, str]:
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    line.request(method, path)
    answer = line.getresponse()
    found = answer.status, answer.read().decode().strip()
    line.close()
    return found


def test_a_probe_tells_what_is_wrong_and_what_is_missing(server, said):
    assert get(server, "/healthz") == get(server, "/readyz?verbose") == (200, "ok")
    said["missing"] = "its ring is not attached"
    assert get(server, "/healthz") == (200, "ok")
    assert get(server, "/readyz") == (503, "its ring is not attached")
    said["wrong"] = "no sign of life for 12 s"
    assert get(server, "/livez") == (503, "no sign of life for 12 s")
    assert get(server, "/livez", "HEAD") == (503, "")
    assert get(server, "/nope")[0] == 404
    assert get(server, "/metrics")[0] == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_probes_come_by_either_family(server, address):
    if address == "::1" and not has_ipv6():
        pytest.skip("no IPv6 here")
    line = http.client.HTTPConnection(address, server.port, timeout=20)
    line.request("GET", "/healthz")
    assert line.getresponse().status == 200
    line.close()


def test_a_check_that_fails_is_an_answer():
    def fails() -> str:
        raise ProcessError("the controller does not answer")

    made = HealthServer(0, fails, fails, Nothing())
    assert get(made, "/readyz") == (503, "the controller does not answer")
    made.close()


def test_who_says_nothing_keeps_no_prober_away(server):
    with ExitStack() as made:
        silent = [
            made.enter_context(
                socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
            )
            for _ in range(MOST)
        ]
        for each in silent:
            each.sendall(b"GET /healthz HT")
        assert get(server, "/healthz") == (200, "ok")
        assert silent[0].recv(1) == b"", "the oldest has given way"


def test_garbage_is_refused(server):
    for raw in (b"\x00" * 100_000, b"GET /" + b"x" * 100_000 + b" HTTP/1.0\r\n\r\n", b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as line:
            try:
                line.sendall(raw)
                line.shutdown(socket.SHUT_WR)
                assert b" 200 " not in line.recv(4096)
            except TimeoutError:
                raise
            except OSError:
                continue  # hung up on, at whatever point of it
    assert get(server, "/healthz") == (200, "ok")


def test_a_port_that_is_taken_is_an_error_with_its_option(server):
    with pytest.raises(SpecError, match=r"--health-port: \d+: .*[Aa]ddress already in use"):
        HealthServer(server.port, str, str, Nothing())
    with pytest.raises(SpecError, match="--health-port"):
        HealthServer(70000, str, str, Nothing())
