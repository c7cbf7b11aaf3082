"""A child for tests of the fork server: writes what it is into the pipe that it is given."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mesh.confine import confine
from mesh.control.messages import Heartbeat
from mesh.control.wire import NFPart


def main(words: Sequence[str]) -> int:
    *options, fd = words
    if "--stay" in options:
        confine(os.getppid())
    facts = {
        "parent": os.getppid(),
        "session": os.getsid(0),
        "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
        "cores": sorted(os.sched_getaffinity(0)),
        "umask": os.umask(0o022),
        "uids": os.getresuid(),
        "groups": [*os.getresgid(), *os.getgroups()],
        "main": sys.modules["__main__"].__spec__.name,
        "words": sys.argv[1:],
        "foreign": [name for name in sys.modules if name.partition(".")[0] == "nfs"],
        "checks": [model.__pydantic_complete__ for model in (Heartbeat, NFPart)],
        "comm": Path("/proc/self/comm").read_text().strip(),
        "cmdline": Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode().split("\0"),
    }
    os.write(int(fd), json.dumps(facts).encode())
    if "--stay" in options:
        signal.pause()
    return 7


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
