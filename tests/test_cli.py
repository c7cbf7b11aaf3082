# SPDX-License-Identifier: Apache-2.0
import contextlib
import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
from patience import PATIENCE_S

from mesh.cli import main
from mesh.cli.output import fitted
from mesh.testing import conversation, datagrams, write_capture

OFFICE = Path(__file__).parent / "captures" / "office.pcap"


@dataclass
class Result:
    status: int
    out: str
    err: str

    @property
    def objects(self):
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def nfmesh(capfd, monkeypatch):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["nfmesh", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        return Result(ended.value.code or 0, captured.out, captured.err)

    return call


@pytest.fixture
def capture(tmp_path):
    path = tmp_path / "small.pcapng"
    frames = conversation([("client", b"ping"), ("server", b"pong")])
    write_capture(path, frames + datagrams([("client", b"?")]))
    return path


@pytest.mark.parametrize(
    "words",
    [("flows", OFFICE, "--json"), ("events",), ("run", "--pcap", OFFICE, "--nf", "http_log")],
)
@pytest.mark.parametrize("stream", [0, 1, 2])
def test_a_standard_stream_may_be_closed(words, stream):
    command = [sys.executable, "-m", "mesh.cli", *map(str, words)]
    closed = ["sh", "-c", f'exec "$@" {stream}>&-', "sh", *command]
    done = subprocess.run(closed, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (stream != 1)


def test_it_says_its_version(nfmesh):
    result = nfmesh("--version")
    assert (result.status, result.out) == (0, f"nfmesh {version('nfmesh')}\n")


# ---- flows --------------------------------------------------------------------------------------


def test_flows_prints_one_object_per_connection(nfmesh, capture):
    result = nfmesh("flows", capture, "--json")
    assert (result.status, result.err) == (0, "")
    tcp, udp = result.objects
    assert list(tcp) == [
        "proto",
        "client",
        "server",
        "client_basis",
        "state",
        "start",
        "duration",
        "c2s",
        "s2c",
    ]
    assert (tcp["proto"], tcp["state"], udp["proto"], udp["state"]) == ("tcp", "SF", "udp", None)


def test_flows_for_people_says_how_many_of_which_kind(nfmesh, capture):
    result = nfmesh("flows", capture)
    assert result.out.splitlines()[-1] == "2 connections: 1 tcp SF, 1 udp"


def test_flows_of_the_recorded_office_are_complete(nfmesh):
    flows = nfmesh("flows", OFFICE, "--json").objects
    states = [flow["state"] for flow in flows if flow["proto"] == "tcp"]
    assert {state: states.count(state) for state in set(states)} == {"SF": 10, "REJ": 43, "S0": 24}
    assert {flow["proto"] for flow in flows} == {"tcp", "udp", "icmp", "icmpv6"}
    assert [flow["start"] for flow in flows] == sorted(flow["start"] for flow in flows)
    assert sum(flow[way]["gap_bytes"] for flow in flows for way in ("c2s", "s2c")) == 0


def test_two_runs_print_the_same(nfmesh):
    assert nfmesh("flows", OFFICE, "--json").out == nfmesh("flows", OFFICE, "--json").out


def test_an_unknown_overlap_policy_names_those_there_are(nfmesh, capture):
    result = nfmesh("flows", capture, "--overlap", "beos")
    assert result.status == 2
    assert "linux" in result.err


# ---- run ----------------------------------------------------------------------------------------


def test_run_prints_what_nfs_found_and_a_summary(nfmesh):
    result = nfmesh("run", "--pcap", OFFICE, "--nf", "syn_scan", "--nf", "dns_log")
    assert result.status == 0
    assert "10.20.0.66" in result.out
    assert "no-such-name.example" in result.out
    assert "414 (125,626 bytes)" in result.out


def test_run_as_json_is_one_object_and_nothing_else(nfmesh):
    result = nfmesh("run", "--pcap", OFFICE, "--nf", "syn_scan", "--json")
    [report] = result.objects
    assert report["packets"] == 414
    assert [row["attempts"] for row in report["nfs"][0]["results"]["scans"]] == [40, 24]


def test_settings_reach_the_nf_as_their_types(nfmesh):
    words = ("--set", "syn_scan.limit=30", "--set", "syn_scan.ratio=0.5")
    [report] = nfmesh("run", "--pcap", OFFICE, "--nf", "syn_scan", *words, "--json").objects
    assert [row["attempts"] for row in report["nfs"][0]["results"]["scans"]] == [40]


def test_a_table_fits_the_terminal_and_names_what_it_leaves_out():
    row = {"time": 0.0, "host": "a" * 30, "status": 200, "agent": "b" * 30, "bytes": 1}
    for room, names, left_out in (
        (200, ["time", "host", "status", "agent", "bytes"], []),
        (60, ["time", "host", "status", "agent"], ["bytes"]),
        (40, ["time", "host", "status"], ["agent", "bytes"]),
        (5, ["time"], ["host", "status", "agent", "bytes"]),
    ):
        made, missing = fitted([row], room)
        assert [column.header for column in made.columns] == names
        assert missing == left_out
        assert len(names) == 1 or sum(c.max_width + 2 for c in made.columns) <= room + 2


def test_names_of_files_may_be_any_bytes(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff[b].pcap"
    Path(os.fsdecode(path)).write_bytes(OFFICE.read_bytes())
    command = [sys.executable, "-m", "mesh.cli", "run", "--nf", "flow_counter", "--pcap", path]
    for encoding in ("utf-8", "ascii"):
        env = {**os.environ, "PYTHONIOENCODING": encoding}
        shown = subprocess.run([*command, "--json"], capture_output=True, check=True, env=env)
        assert json.loads(shown.stdout)["source"].endswith("\udcff[b].pcap")
        subprocess.run(command, capture_output=True, check=True, env=env)


def test_where_narrows_what_all_nfs_hear(nfmesh):
    words = ("--nf", "dns_log", "--where", "ip6", "--json")
    [report] = nfmesh("run", "--pcap", OFFICE, *words).objects
    assert report["nfs"][0]["results"]["queries"] == 3


def test_an_nf_may_come_from_a_file(nfmesh, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from mesh import NF, on\n"
        "class Mine(NF):\n"
        "    n = 0\n"
        "    @on('packet')\n"
        "    def count(self, batch): self.n += len(batch)\n"
        "    def results(self): return {'n': self.n}\n"
    )
    [report] = nfmesh("run", "--pcap", OFFICE, "--nf", f"{file}:Mine", "--json").objects
    assert report["nfs"][0]["results"] == {"n": 414}


def test_a_failing_nf_is_told_and_makes_the_status_1(nfmesh, tmp_path):
    file = tmp_path / "bad.py"
    file.write_text(
        "from mesh import NF, on\n"
        "class Bad(NF):\n"
        "    @on('flow.end')\n"
        "    def fail(self, batch): raise ValueError('oops')\n"
    )
    result = nfmesh("run", "--pcap", OFFICE, "--nf", file, "--nf", "flow_counter", "--json")
    assert result.status == 1
    assert "oops" in result.err
    assert result.objects[0]["nfs"][1]["results"]["6"] == [77, 370]


def test_ctrl_c_prints_the_summary_and_ends_with_130(tmp_path):
    file = tmp_path / "stops.py"
    file.write_text(
        "import os, signal\n"
        "from mesh import NF, on\n"
        "class Stops(NF):\n"
        "    done = False\n"
        "    @on('packet')\n"
        "    def first(self, batch):\n"
        "        if not self.done: os.kill(os.getpid(), signal.SIGINT)\n"
        "        self.done = True\n"
    )
    capture = tmp_path / "long.pcapng"
    write_capture(capture, [f for _ in range(10_000) for f in conversation()])
    command = [sys.executable, "-m", "mesh.cli", "run", "--in-process", "--pcap", capture]
    command += ["--nf", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 130
    assert "(interrupted)" in done.stdout
    assert done.stderr == ""


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("flows", Path(__file__).parent), "Is a directory"),
        (("flows", OFFICE, "--limit", "ip_defrag.fragments=-5"), "not within"),
        (("flows", OFFICE, "--limit", "ip_defrag.fragments=many"), "is no number"),
        (("flows", OFFICE, "--limit", "ip_defrag.overlap=beos"), "bsd, linux"),
        (("flows", OFFICE, "--worker", "max_flows"), "KEY=NUMBER"),
        (("flows", OFFICE, "--worker", "max_flow=64"), "did you mean 'max_flows'?"),
        (("run", "--pcap", OFFICE, "--nf", "http_log", "--where", "port (80"), "not closed"),
        (("flows", "/no/such/file.pcap"), "/no/such/file.pcap"),
        (("flows", __file__), "not a capture"),
        (("run", "--pcap", OFFICE, "--nf", "http_lgo"), "did you mean 'http_log'?"),
        (("run", "--pcap", OFFICE, "--nf", "http_log", "--set", "http_log.kep=1"), "'keep'"),
        (("run", "--pcap", OFFICE, "--nf", "http_log", "--set", "keep=1"), "NF.KEY=VALUE"),
        (("run", "--pcap", OFFICE, "--nf", "http_log", "--set", "http_log.keep=x"), "integer"),
        (
            ("run", "--pcap", OFFICE, "--nf", "syn_scan", "--set", "syn_scan.limit=-1"),
            "--set syn_scan.limit: NF 'syn_scan': -1 is not within 1..1000000000; the default is",
        ),
        (("run", "--pcap", OFFICE, "--nf", "http_log", "--where", "prot == 6"), "'proto'"),
        (
            ("run", "--pcap", OFFICE, "--nf", "flow_log", "--set", "flow_log.path=/no/such/x"),
            "/no/such/x",
        ),
        (("events", "tcp.dta"), "did you mean 'tcp.data'?"),
        (("modules", "htpp"), "did you mean 'http'?"),
        (("plan", "/no/such/spec.yaml"), "/no/such/spec.yaml"),
    ],
)
def test_foreseen_errors_are_one_line_and_status_2(nfmesh, words, says):
    result = nfmesh(*words, *(["--json"] if words[0] == "run" else []))
    assert result.status == 2
    assert len(result.err.splitlines()) == 1
    assert says in result.err
    assert result.out == ""


def test_a_small_worker_sheds_flows_and_still_tells_of_them(nfmesh, tmp_path):
    path, ports = tmp_path / "flood.pcapng", range(1000, 4000)
    write_capture(
        path, [f for p in ports for f in datagrams([("client", b"?")], client=("10.0.0.9", p))]
    )
    flows = nfmesh("flows", path, "--json", "--worker", "max_flows=1024").objects
    assert len(flows) == len(ports)


def test_words_of_limits_are_read_in_any_case(nfmesh):
    words = ("--limit", "ip_defrag.overlap=BSD", "--limit", "tcp_stream.overlap=Linux")
    assert nfmesh("flows", OFFICE, "--json", *words).status == 0


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("print('hello')", 0, "hello"),
        ("raise SystemExit(3)", 1, "SystemExit: 3"),
        ("[piece for piece in batch.views('payload') if piece][0][0] = 1", 1, "read-only memory"),
        ("self.found(batch)", 1, "RecursionError"),
    ],
)
def test_json_is_json_whatever_an_nf_does(nfmesh, tmp_path, code, status, says):
    file = tmp_path / "hostile.py"
    file.write_text(
        "from mesh import NF, on\n"
        "class Hostile(NF):\n"
        "    @on('packet.tcp')\n"
        f"    def found(self, batch): {code}\n"
        "    def results(self): return {(1, 2): {b'x'}, 'ratio': float('nan')}\n"
    )
    result = nfmesh("run", "--pcap", OFFICE, "--nf", file, "--json")
    assert result.status == status
    assert says in result.err
    [report] = result.objects
    assert report["nfs"][0]["results"] == {"(1, 2)": ["b'x'"], "ratio": None}


def test_an_nf_that_does_not_load_is_an_error_not_an_exit(nfmesh, tmp_path):
    file = tmp_path / "exits.py"
    file.write_text("import sys\nsys.exit(0)\n")
    result = nfmesh("run", "--pcap", OFFICE, "--nf", file)
    assert (result.status, result.out) == (2, "")
    assert "it exits (0)" in result.err


def test_a_truncated_capture_is_a_warning_with_its_offset(nfmesh, tmp_path):
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(OFFICE.read_bytes()[:50_000])
    result = nfmesh("flows", cut, "--json")
    assert result.status == 0
    assert len(result.objects) == 19
    assert "warning" in result.err
    assert "49435" in result.err


# ---- what there is ------------------------------------------------------------------------------


def test_events_of_a_node_are_its_subtree_with_fields(nfmesh):
    names = [event["name"] for event in nfmesh("events", "tcp.end", "--json").objects]
    assert names == ["tcp.end", "tcp.end.fin", "tcp.end.reset", "tcp.end.timeout"]
    [event] = nfmesh("events", "tcp.data", "--json").objects
    assert {"src_ip", "seq", "stream_off"} <= {field["name"] for field in event["fields"]}


def test_all_events_are_drawn_as_a_tree(nfmesh):
    out = nfmesh("events").out
    assert "syn_scan.port_scan" in out
    assert "http.request" in out


def test_modules_come_in_the_order_in_which_they_run(nfmesh):
    phases = [module["phase"] for module in nfmesh("modules", "--json").objects]
    assert phases == sorted(phases, key=["ip", "track", "stream", "app"].index)


def test_an_nf_shows_its_options(nfmesh):
    [row] = nfmesh("nfs", "syn_scan", "--json").objects
    limit = next(option for option in row["options"] if option["name"] == "limit")
    assert (limit["type"], limit["default"]) == ("int", 20)
    assert "limit" in nfmesh("nfs", "syn_scan").out


def test_plan_draws_who_hears_what_and_what_is_not_needed(nfmesh, tmp_path):
    spec = tmp_path / "mesh.yaml"
    spec.write_text("nfs:\n  - use: syn_scan\n    config: {limit: 5}\n")
    text = nfmesh("plan", spec).out
    assert "tcp_track" in text
    assert "not needed" in text
    [plan] = nfmesh("plan", spec, "--json").objects
    assert "http" in plan["skipped"]


def test_schema_is_a_json_schema_of_specs(nfmesh):
    [schema] = nfmesh("schema").objects
    assert "nfs" in schema["properties"]


@pytest.mark.parametrize("command", ["run", "flows", "events", "modules", "nfs", "plan", "schema"])
def test_help_teaches_with_examples(nfmesh, command):
    result = nfmesh(command, "--help")
    assert result.status == 0
    assert f"nfmesh {command}" in result.out.split("Example")[1]


def test_progress_is_shown_on_a_terminal(tmp_path):
    capture = tmp_path / "x.pcapng"
    write_capture(capture, [frame for _ in range(500) for frame in conversation()])
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"no pseudo-terminals here: {error}")
    command = [sys.executable, "-m", "mesh.cli", "flows", str(capture), "--json"]
    env = {**os.environ, "TERM": "xterm"}
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=env)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's other end is gone
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert run.wait(timeout=PATIENCE_S) == 0
    assert b"3,000 packets" in shown


def test_results_that_contain_themselves_are_printed(nfmesh, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from mesh import NF, on\n"
        "class Mine(NF):\n"
        "    @on('packet')\n"
        "    def see(self, batch): ...\n"
        "    def results(self):\n"
        "        found = {}\n"
        "        found['it'] = found\n"
        "        return found\n"
    )
    words = ("run", "--pcap", OFFICE, "--nf", tmp_path / "mine.py:Mine", "--in-process")
    assert "it it it" in nfmesh(*words).out
    [found] = nfmesh(*words, "--json").objects
    assert list(found["nfs"][0]["results"]) == ["it"]


@pytest.mark.parametrize("head", ["async def see", "def see"])
def test_a_handler_of_which_a_call_does_nothing_is_refused(nfmesh, tmp_path, head):
    (tmp_path / "mine.py").write_text(
        "from mesh import NF, on\n"
        "class Mine(NF):\n"
        "    @on('packet')\n"
        f"    {head}(self, batch): yield\n"
    )
    result = nfmesh("run", "--pcap", OFFICE, "--nf", tmp_path / "mine.py:Mine")
    assert result.status == 2
    assert "see is async or a generator" in result.err


@pytest.mark.parametrize("module", ["mesh.cli", "mesh.runner"])
def test_an_interruption_while_it_loads_ends_it_without_a_word(module):
    code = (
        "import builtins, os, signal, sys\n"
        "from mesh.cli import main\n"
        "sys.argv = ['nfmesh', 'events']\n"
        "load = builtins.__import__\n"
        "def interrupted(name, *rest):\n"
        f"    if name == {module!r}:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return load(name, *rest)\n"
        "builtins.__import__ = interrupted\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
