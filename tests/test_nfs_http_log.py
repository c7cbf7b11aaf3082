# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from mesh.testing import conversation, replay_frames
from nfs.http_log.nf import HttpLog


def request(path, body=b"", method="GET"):
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: a.example\r\n{length}\r\n".encode() + body


def response(status, body=b""):
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def records(messages, tmp_path=None, **options):
    close = options.pop("close", "fin")
    mss = options.pop("mss", 1460)
    frames = conversation(messages, close=close, mss=mss)
    report = replay_frames(frames, [HttpLog(**options)], out=tmp_path or ".")
    assert not report.errors
    return report["http_log"].results


def lines(results):
    return [(row["method"], row["target"], row["status"]) for row in results["records"]]


@pytest.mark.parametrize("mss", [1, 11, 1460])
def test_request_and_response_become_one_record(mss):
    results = records(
        [("client", request("/form", b"name=ada", "POST")), ("server", response(201, b"ok!"))],
        mss=mss,
    )
    [row] = results["records"]
    assert (row["method"], row["host"], row["target"]) == ("POST", "a.example", "/form")
    assert (row["status"], row["request_bytes"], row["response_bytes"]) == (201, 8, 3)
    assert (row["client"], row["server"]) == ("10.0.0.1:40000", "10.0.0.2:80")


def test_pipelined_requests_meet_their_responses_in_order():
    asked = b"".join(map(request, ("/1", "/2", "/3")))
    results = records(
        [("client", asked), ("server", response(200) + response(404) + response(500))]
    )
    assert lines(results) == [("GET", "/1", 200), ("GET", "/2", 404), ("GET", "/3", 500)]


def test_a_request_without_response_is_recorded_when_the_flow_ends():
    results = records([("client", request("/slow"))], close="none")
    assert lines(results) == [("GET", "/slow", None)]
    assert (results["requests"], results["responses"]) == (1, 0)


def test_interim_responses_do_not_count_as_the_answer():
    answer = b"HTTP/1.1 100 Continue\r\n\r\n" + response(200)
    results = records([("client", request("/up", b"x", "PUT")), ("server", answer)])
    assert lines(results) == [("PUT", "/up", 200)]


def test_more_waiting_requests_than_the_limit_are_counted():
    results = records([("client", b"".join(map(request, "abcd")))], max_waiting=2)
    assert results["not_remembered"] == 2
    assert len(results["records"]) == 2


def test_a_file_has_all_records_and_results_only_the_first(tmp_path):
    asked = b"".join(map(request, ("/1", "/2", "/3")))
    answered = response(200) * 3
    results = records(
        [("client", asked), ("server", answered)], tmp_path, path="http.jsonl", keep=1
    )
    assert len(results["records"]) == 1
    written = [json.loads(line) for line in (tmp_path / "http.jsonl").read_text().splitlines()]
    assert [row["target"] for row in written] == ["/1", "/2", "/3"]


def test_records_are_lines_of_standard_output_when_they_shall(capsys):
    asked, answered = request("/a"), b"HTTP/1.1 204 No Content\r\n\r\n"
    records([("client", asked), ("server", answered)], path="-", keep=0)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["target"] == "/a"
