# SPDX-License-Identifier: Apache-2.0
"""What README and examples/ show runs, and finds what they say."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mesh import Registry, replay, sdk
from mesh.compose import NFUse
from mesh.kube.manifests import read_manifests
from mesh.spec import load
from mesh.spec_plan import plan_of
from mesh.testing import conversation, replay_frames

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
OFFICE = ROOT / "tests" / "captures" / "office.pcap"


def compiled(source: Path, folder: Path) -> Path:
    """Builds an example as its first comment says, beside a copy of its Python half."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    target = folder / source.with_suffix(".so").name
    strict = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wmissing-prototypes"]
    command = [compiler, *strict, "-O2", "-shared", "-fPIC", str(source), *sdk.flags()]
    subprocess.run([*command, "-o", str(target)], check=True)
    [half] = source.parent.glob("*.py")
    return Path(shutil.copy(half, folder))


def test_the_first_example_finds_both_clients_that_were_refused():
    report = replay(OFFICE, [str(EXAMPLES / "refused.py")])
    assert report["refused"].results == {"10.20.0.66": 40, "10.20.0.12": 3}


def test_an_event_of_one_nf_is_heard_by_another_through_its_filter():
    chain = [f"{EXAMPLES / 'chain.py'}:{name}" for name in ("Alarm", "Refusals")]
    report = replay(OFFICE, chain)
    assert report["alarm"].results == {
        "alarms": ["10.20.0.66: 20 ports", "10.20.0.66: 40 ports"],
    }
    assert report["refusals"].published == {"refusals.many": 3}


def test_options_of_an_example_reach_it():
    path = f"{EXAMPLES / 'chain.py'}:Refusals"
    uses = [NFUse(Registry.installed().nf(path), options={"least": 40})]
    assert replay(OFFICE, uses)["refusals"].published == {"refusals.many": 1}


def test_a_user_event_is_an_event_with_a_filter():
    example = runpy.run_path(str(EXAMPLES / "user_event.py"))
    report = replay(OFFICE, [example["Failed"]], events=example["EVENTS"])
    assert report["failed"].results == {"no-such-name.example NXDOMAIN": 1}


def test_the_spec_of_the_user_event_is_the_same_plan(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = plan_of(load(EXAMPLES / "user_event.yaml"), Registry.installed())
    assert "dns.response.failed = dns.response where rcode != 0" in plan.render()
    assert [event["name"] for event in plan.to_json()["events"]] == ["dns.response.failed"]
    assert "dns" in [module.name for module in plan.modules]


def test_a_native_nf_is_compiled_against_the_installed_headers(tmp_path):
    nf = compiled(EXAMPLES / "port_bytes" / "port_bytes.c", tmp_path)
    results = replay(OFFICE, [str(nf)])["port_bytes"].results
    assert set(results) >= {"53", "80"}
    frames = conversation([("client", b"abc"), ("server", b"defg")], server=("10.0.0.2", 7))
    assert replay_frames(frames, [str(nf)])["port_bytes"].results == {"7": 7}


SSH = [("server", b"SSH-2.0-Ours_1.0 x\r\n"), ("client", b"SSH-2.0-"), ("client", b"Theirs\n")]


def test_a_stack_module_of_a_third_party_runs_like_any_other(tmp_path):
    compiled(EXAMPLES / "ssh_banner" / "ssh_banner.c", tmp_path)
    example = runpy.run_path(str(tmp_path / "ssh_log.py"))
    frames = conversation([*SSH, ("client", b"\0" * 1000)])
    frames += conversation([("client", b"GET / HTTP/1.0\r\n\r\n")], client=("10.0.0.9", 9))
    report = replay_frames(frames, [example["SshLog"]], registry=example["registry"]())
    assert report["ssh_log"].results == {
        "seen": ["10.0.0.2 SSH-2.0-Ours_1.0 x", "10.0.0.1 SSH-2.0-Theirs"],
    }
    assert report.counters["ssh_banner.banners"] == 2
    assert report.counters["ssh_banner.not_ssh"] == 1


def test_a_stack_module_is_found_by_its_entry_point(tmp_path):
    compiled(EXAMPLES / "ssh_banner" / "ssh_banner.c", tmp_path)
    info = tmp_path / "ssh_banner-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ssh-banner\nVersion: 1.0\n")
    points = "[mesh.stack_modules]\nssh_banner = ssh_log:INFO\n"
    (info / "entry_points.txt").write_text(points + "[mesh.nfs]\nssh_log = ssh_log:SshLog\n")
    command = [sys.executable, "-m", "mesh.cli", "modules", "ssh_banner"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "not_ssh" in shown.stdout
    command[-2:] = ["nfs", "ssh_log"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "ssh.banner" in shown.stdout


def test_the_readme_shows_the_example_as_it_is():
    [shown, *_] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown.strip() in (EXAMPLES / "refused.py").read_text()


@pytest.mark.parametrize("file", sorted((EXAMPLES / "kubernetes").iterdir()), ids=lambda f: f.name)
def test_examples_for_a_cluster_are_what_it_takes(file):
    manifests = read_manifests(file)
    assert manifests is not None
    assert [entry["name"] for entry in manifests.entries()] == [file.stem]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
