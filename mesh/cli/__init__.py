# SPDX-License-Identifier: Apache-2.0
"""The command `nfmesh`.

Standard output carries what was asked for, and with --json nothing but JSON; messages and progress
go to standard error. Exit status: 0 done, 1 an NF failed, 2 wrong use or a file that cannot be read
or written, 130 interrupted (the summary is printed all the same).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing

__all__ = ["INTERRUPTED", "main"]

INTERRUPTED = 130


def main() -> None:
    """Runs the command line; Ctrl-C while it still loads ends it without a word."""
    try:
        _run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _run() -> None:
    """Loads what is needed, and runs it.

    A run in processes needs a fork server: that loads its code while this process loads its own.
    """
    _open_streams()
    with ExitStack() as stack:
        forks = None
        if _wants_processes(sys.argv[1:]):
            from mesh.forks import ForkServer

            forks = stack.enter_context(closing(ForkServer()))
        from mesh.cli import app

        app.run(forks)


def _open_streams() -> None:
    """Leads standard streams that are closed nowhere, so that nothing else takes their numbers."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(fd, mode))


def _wants_processes(words: Sequence[str]) -> bool:
    """Tells whether a command line is likely to start a mesh.

    >>> _wants_processes(["run", "mesh.yaml"]), _wants_processes(["run", "--help"])
    (True, False)
    """
    return words[:1] in (["run"], ["stack"]) and not {"--in-process", "--help"} & set(words)
