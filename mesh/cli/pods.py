# SPDX-License-Identifier: Apache-2.0
"""Commands that are the first process of a container: the stack of a node, an NF that joins it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from mesh.cli.joining import HealthPort
from mesh.cli.output import complain, stdout, warn
from mesh.control.keys import write_keys
from mesh.rundir import base_folder

__all__ = ["keys", "stack"]


def stack(
    context: typer.Context,
    config: Annotated[Path, typer.Option(help="Spec file: ports, sizes, listen.")],
    run_dir: Annotated[
        Path | None, typer.Option(help="Run folder: one that NFs' containers have mounted.")
    ] = None,
    health_port: HealthPort = None,
) -> None:
    """Runs the stack of a node, which NFs of other containers join: nfmesh nf.

    The spec is that of nfmesh run, mostly without NFs: they are put in over the network, or by
    nfmesh nf add. `listen` says where orders are taken and where their keys are. In its texts
    ${NAME} is a variable of the environment; a DPDK port may name the `resource` of a device
    plugin. SIGTERM ends flows and gives all NFs their totals.

    [bold]Example[/bold]
      nfmesh stack --config stack.yaml --run-dir /var/run/nfmesh/edge --health-port 9464
    """
    from mesh.node import Node, load_node, run_node
    from mesh.supervisor import SupervisorSettings

    logging.basicConfig(level=logging.WARNING, format="nfmesh: %(message)s")
    folder = run_dir or base_folder() / "stack"
    node = Node(
        load_node(config),
        config.parent,
        folder.absolute(),
        health_port,
        SupervisorSettings(forks=context.obj),
    )
    outcome = run_node(node)
    for name, times in outcome.restarts.items():
        warn(f"{name} was started again {times} times")
    if outcome.error:
        complain(outcome.error)
        raise typer.Exit(1)


def keys(
    folder: Annotated[
        Path, typer.Argument(help="For server.key, server.pub, client.key, client.pub.")
    ],
) -> None:
    """Makes keys for control over the network, readable for this user alone.

    A stack has server.key and client.pub; who gives it orders has client.key and server.pub.

    [bold]Example[/bold]
      nfmesh keys ./keys
    """
    for path in write_keys(folder):
        stdout().print(str(path), markup=False)
