# SPDX-License-Identifier: Apache-2.0
"""Which runtime a command speaks to: a mesh of this host, or a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from mesh.cli.meshes import OfMesh, run_folder
from mesh.control.tool import ask
from mesh.errors import SpecError
from mesh.runtime.interface import Runtime
from mesh.runtime.local import LocalRuntime

__all__ = ["Context", "Kubeconfig", "Namespace", "On", "Where", "runtime_at"]


_CLUSTER = "Of a cluster"
On = Annotated[
    Literal["host", "kubernetes"] | None,
    typer.Option("--on", help="A mesh of this host, the default, or a cluster with the chart."),
]
Context = Annotated[str | None, typer.Option(help="Of the kubeconfig.", rich_help_panel=_CLUSTER)]
Kubeconfig = Annotated[
    Path | None, typer.Option(help="Instead of the usual one.", rich_help_panel=_CLUSTER)
]
Namespace = Annotated[
    str, typer.Option("--namespace", "-n", help="Of the objects.", rich_help_panel=_CLUSTER)
]


@dataclass(frozen=True, slots=True)
class Where:
    """What the options say; each of a cluster's alone means one."""

    on: str | None = None
    mesh: OfMesh = None
    context: str | None = None
    kubeconfig: Path | None = None
    namespace: str = ""

    @property
    def is_cluster(self) -> bool:
        """True when a cluster is meant.

        Raises:
            SpecError: the options contradict each other.
        """
        says_cluster = bool(self.context or self.kubeconfig or self.namespace)
        if self.mesh is not None and (says_cluster or self.on == "kubernetes"):
            raise SpecError("--mesh", "is of this host; leave it out, or what is of a cluster")
        if self.on == "host" and says_cluster:
            raise SpecError("--on host", "and a cluster's options: leave one out")
        return says_cluster or self.on == "kubernetes"


def runtime_at(where: Where) -> Runtime:
    """Returns the runtime that the options mean.

    Raises:
        SpecError: they contradict each other.
        ProcessError: no mesh runs here, or no cluster is to be found.
    """
    if not where.is_cluster:
        return LocalRuntime(partial(ask, run_folder(where.mesh)))
    from mesh.kube.api import Api
    from mesh.runtime.cluster import KubernetesRuntime

    kubeconfig = None if where.kubeconfig is None else str(where.kubeconfig)
    return KubernetesRuntime(Api.connect(where.namespace, kubeconfig, where.context))
