# SPDX-License-Identifier: Apache-2.0
"""`nfmesh operator`: keeps the custom resources of a release and what runs on its nodes equal."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.errors import ApiError

if TYPE_CHECKING:
    from mesh.control.keys import ClientKeys
    from mesh.health import HealthServer
    from mesh.kube.api import Api
    from mesh.kube.operator import Operator
    from mesh.kube.settings import OperatorSettings

__all__ = ["operator"]

log = logging.getLogger("nfmesh.operator")
AGAIN_S = 2.0
ANSWER_S = 5.0
"""That a stack has to answer within."""


def operator(
    config: Annotated[Path, typer.Option(help="File that the chart makes.")],
    health_port: Annotated[
        int | None, typer.Option(help="Serves /healthz, /readyz and /metrics; 0: any port.")
    ] = None,
    namespace: Annotated[
        str, typer.Option(envvar="POD_NAMESPACE", help="Instead of the pod's own.")
    ] = "",
    kubeconfig: Annotated[
        Path | None, typer.Option(help="For an operator outside of the cluster.")
    ] = None,
    uninstall: Annotated[
        bool, typer.Option("--uninstall", help="Delete the release's objects in order, and end.")
    ] = False,
) -> None:
    """Keeps the custom resources of a release and what runs on its nodes equal.

    Runs in a cluster, as the chart deploys it; needs the extra: pip install 'nfmesh[kubernetes]'.
    """
    from mesh.kube.api import Api
    from mesh.kube.settings import read_settings
    from mesh.kube.uninstall import uninstall as delete_all

    settings = read_settings(config)
    logging.basicConfig(
        level=settings.log.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(threadName)s: %(message)s",
    )
    api = Api.connect(namespace, None if kubeconfig is None else str(kubeconfig))
    if uninstall:
        delete_all(api, settings)
        return
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    running = _Running()
    with ExitStack() as stack:
        stack.callback(api.close)
        if health_port is not None:
            stack.callback(_serve_health(running, health_port).close)
        _serve(api, settings, running, ending)


class _Running:
    """The operator, once it has its keys; health is asked for before."""

    def __init__(self) -> None:
        self.operator: Operator | None = None

    def alive(self) -> str:
        """Says why this process should be started again."""
        return "a thread has ended" if self.operator and not self.operator.is_alive else ""

    def ready(self) -> str:
        """Says what is missing."""
        if self.operator is None:
            return "no keys yet: the API server does not answer"
        return "" if self.operator.is_ready else "no current copy of the API server's objects"


def _serve(
    api: Api, settings: OperatorSettings, running: _Running, ending: threading.Event
) -> None:
    from mesh.control.remote import Remote
    from mesh.kube.operator import Operator

    keys = _keys(api, settings, ending)
    if keys is None:
        return
    me = os.environ.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}"
    found = Operator(api, settings, lambda address: Remote(address, keys, ANSWER_S), me)
    found.start()
    running.operator = found
    ending.wait()
    log.info("ending")
    found.stop()


def _keys(api: Api, settings: OperatorSettings, ending: threading.Event) -> ClientKeys | None:
    """Gets the keys, however long the API server is away; None: told to end."""
    from mesh.kube.control_keys import control_keys

    while not ending.is_set():
        try:
            return control_keys(api, settings, os.environ.get("OPERATOR_DEPLOYMENT", ""))
        except ApiError as error:
            log.warning("no keys yet: %s", error.text)
            ending.wait(AGAIN_S)
    return None


def _serve_health(running: _Running, port: int) -> HealthServer:
    from mesh.health import HealthServer
    from mesh.kube.operator_metrics import OperatorCollector

    metrics = OperatorCollector(lambda: running.operator)
    return HealthServer(port, running.alive, running.ready, metrics)
