# SPDX-License-Identifier: Apache-2.0
"""Ports for programs that have to be told theirs."""

import itertools
import os
import socket
from pathlib import Path

_OF_CONNECTIONS = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
"""From here on the kernel gives ports to connections: one that is free may be taken at once."""
_PORTS = range(10_000, max(_OF_CONNECTIONS, 12_000))
_TRIES = itertools.count(os.getpid() * 97)
"""Test processes beside each other begin at different ones."""


def free_port():
    """Returns a TCP port that nobody has, and that this process has not been given lately."""
    for n in itertools.islice(_TRIES, len(_PORTS)):
        port = _PORTS[n % len(_PORTS)]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
