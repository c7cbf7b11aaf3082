# SPDX-License-Identifier: Apache-2.0
"""Helm over the chart, for tests: linted, rendered, refused."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from patience import PATIENCE_S

from mesh.kube.models import NetworkFunctionSpec
from mesh.kube.render import deployment
from mesh.kube.settings import read_settings

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy" / "helm" / "nfmesh"
CI_VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
HELMS = ("helm4", "helm3")
Document = dict[str, Any]
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def program(name: str) -> str:
    """Returns the path of a program of the cache; skips when it is not there."""
    path = Path(os.environ.get("NFMESH_KUBE", "/var/cache/nfmesh-kube")) / "bin" / name
    if not os.access(path, os.X_OK):
        pytest.skip(f"no {path}: run tools/kube/helm.sh")
    return str(path)


def helm(*arguments: str, version: str = "helm4") -> subprocess.CompletedProcess[str]:
    """Runs Helm."""
    return subprocess.run(
        [program(version), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def render(
    values: Path | None = None,
    said: Mapping[str, Any] | None = None,
    *,
    version: str = "helm4",
    release: str = "r",
    namespace: str = "ns",
    also: tuple[str, ...] = (),
) -> list[Document]:
    """Returns the documents that the chart makes of values.

    Args:
        values: a file of them.
        said: further ones, top-level key → value.
        version: of Helm.
        release: its name.
        namespace: that it is installed in.
        also: further arguments.
    """
    text = _rendered(values, json.dumps(said or {}), version, release, namespace, also)
    return [each for each in yaml.load_all(text, Loader=_LOADER) if each]


@cache
def _rendered(values: Path | None, said: str, *rest: Any) -> str:
    version, release, namespace, also = rest
    done = template(
        values, json.loads(said), version=version, release=release, namespace=namespace, also=also
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def template(
    values: Path | None = None,
    said: Mapping[str, Any] | None = None,
    *,
    version: str = "helm4",
    release: str = "r",
    namespace: str = "ns",
    also: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Runs `helm template`, whatever comes of it."""
    line = ["template", release, str(CHART), "--namespace", namespace, *also]
    if values is not None:
        line += ["--values", str(values)]
    for key, value in (said or {}).items():
        line += ["--set-json", f"{key}={json.dumps(value)}"]
    return helm(*line, version=version)


def of_kind(documents: list[Document], kind: str, name: str = "") -> Document:
    """Returns the one document of a kind, or of a kind and with a name that ends so."""
    found = [
        each
        for each in documents
        if each["kind"] == kind and each["metadata"]["name"].endswith(name)
    ]
    assert len(found) == 1, [each["metadata"]["name"] for each in found]
    return found[0]


def function_of(documents: list[Document], folder: Path) -> Document:
    """Returns the Deployment that the operator makes of a NetworkFunction."""
    path = folder / "operator.yaml"
    path.write_text(of_kind(documents, "ConfigMap", "-operator")["data"]["operator.yaml"])
    spec = NetworkFunctionSpec(use="http_log")
    function = {"metadata": {"name": "log", "uid": "1"}}
    return deployment(function, spec, read_settings(path), 1, {})
