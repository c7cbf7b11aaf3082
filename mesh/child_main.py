# SPDX-License-Identifier: Apache-2.0
"""What worker, stack module and NF have in common as processes that the supervisor starts.

Each is a `ChildHost`, whose program is `run_child`: privileges go before any other code runs, the
token proves who it is, the journal tells the supervisor how it is, SIGTERM makes it leave in order.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from mesh._ffi import native
from mesh.confine import become, confine, read_token
from mesh.errors import AttachError, MeshError
from mesh.fdclient import DescriptorClient
from mesh.fdpass import SOCKET
from mesh.journal import Journal
from mesh.process import CANNOT_START
from mesh.reach import keep_reachable

__all__ = ["ChildHost", "child_parser", "run_child"]


class ChildHost(ABC):
    """What a child runs, from its start to its end.

    Args:
        name: in the plan.
        run: the mesh's run folder.
        token: of this start.

    Raises:
        AttachError: the supervisor does not know it, or is gone.
    """

    def __init__(self, name: str, run: Path, token: bytes) -> None:
        self.name = name
        self._client = DescriptorClient(run / SOCKET, name, token)
        try:
            handle = self._client.fetch([f"ckpt/{name}"])[f"ckpt/{name}"]
        except AttachError:
            self._client.close()
            raise
        self.journal = Journal(handle.fd)
        os.close(handle.fd)
        self.journal.begin()

    @abstractmethod
    def run(self) -> int:
        """Runs until its end; returns the exit status of the process."""

    @abstractmethod
    def stop(self, *_: object) -> None:
        """Makes `run` end in order: also a signal handler."""

    def close(self) -> None:
        """Closes what every child has."""
        self._client.close()
        self.journal.close()


def child_parser(module: str) -> argparse.ArgumentParser:
    """Returns a parser of what the supervisor says to each child (mesh/process.py)."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--name", required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--token-fd", type=int, required=True)
    parser.add_argument("--user", metavar="UID:GID", help="become this user")
    return parser


def run_child(
    arguments: argparse.Namespace, make: Callable[[bytes], ChildHost], *, is_worker: bool = False
) -> int:
    """Is the program of a child; returns its exit status.

    Args:
        arguments: of `child_parser`.
        make: makes what it runs of its token.
        is_worker: it keeps capabilities, which its ports may need, and nobody may trace it.
    """
    try:
        if arguments.user:
            native()
            keep_reachable()
            become(*(int(number) for number in arguments.user.split(":")))
        confine(arguments.parent, keep_capabilities=is_worker, is_private=is_worker)
        token = read_token(arguments.token_fd)
        logging.basicConfig(level=logging.WARNING, format=f"{arguments.name}: %(message)s")
        host = make(token)
    except MeshError as error:
        print(f"{arguments.name}: {error}", file=sys.stderr)
        return CANNOT_START
    signal.signal(signal.SIGTERM, host.stop)
    try:
        return host.run()
    finally:
        host.close()
