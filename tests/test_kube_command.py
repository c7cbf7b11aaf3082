# SPDX-License-Identifier: Apache-2.0
"""`nfmesh operator` as the chart starts it: a process with a file, a port for probes, signals."""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

pytest.importorskip("kubernetes")

from free_port import free_port
from kube_rig import Rig, function, settings, until
from patience import PATIENCE_S

from mesh.errors import SpecError
from mesh.kube.settings import read_settings

NFMESH = [sys.executable, "-m", "mesh.cli"]


@contextmanager
def operator(rig, tmp_path, *more):
    config, kubeconfig = tmp_path / "operator.yaml", tmp_path / "kubeconfig"
    config.write_text(json.dumps(settings().model_dump(by_alias=True)))
    kubeconfig.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": rig.kube.url}}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }))  # fmt: skip
    command = [*NFMESH, "operator", "--config", config, "--kubeconfig", kubeconfig]
    command += ["--namespace", "edge", *more]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.stderr.close()
        process.wait()


def ask(port, path):
    """Returns status and text of a page; (0, "") while nobody serves."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


@pytest.fixture
def rig():
    with Rig(operators=0) as found:
        yield found


def test_it_serves_probes_before_there_is_a_server_and_ends_in_order(rig, tmp_path):
    port = free_port()
    rig.kube.is_away = True
    with operator(rig, tmp_path, "--health-port", str(port)) as process:
        until(lambda: ask(port, "/healthz")[0] == 200)
        assert ask(port, "/readyz") == (503, "no keys yet: the API server does not answer\n")
        rig.kube.is_away = False
        until(lambda: ask(port, "/readyz")[0] == 200)
        rig.nodes.remove_stack("node-1")
        rig.apply(function("scan"))
        rig.wait("scan", "WaitingForStack")
        shown = 'nfmesh_operator_functions{state="progressing"} 1.0'
        text = until(lambda: (t := ask(port, "/metrics")[1]) and shown in t and t, "its answer")
        assert 'nfmesh_operator_requests_total{request="POST secrets"} 2.0' in text
        assert "nfmesh_operator_leads 1.0" in text
        assert "one-control" in rig.objects("secrets")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    assert rig.objects("leases")["one-operator"]["spec"]["holderIdentity"] == ""


def test_uninstall_is_a_command_that_ends(rig, tmp_path):
    rig.apply(function("scan", labels={"app.kubernetes.io/instance": "one"}))
    with operator(rig, tmp_path, "--uninstall") as process:
        assert process.wait(PATIENCE_S) == 0
    assert not rig.objects("networkfunctions")


@pytest.mark.parametrize(
    ("text", "error"),
    [("release: one\n", "image: Field required"), ("[", "no YAML"), ("stak: 1\n", "release")],
)
def test_wrong_settings_name_file_and_place(tmp_path, text, error):
    config = tmp_path / "operator.yaml"
    config.write_text(text)
    with pytest.raises(SpecError, match=error) as caught:
        read_settings(config)
    assert str(config) in str(caught.value)
