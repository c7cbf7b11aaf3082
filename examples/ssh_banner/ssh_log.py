# SPDX-License-Identifier: Apache-2.0
"""A stack module of a third party, and an NF that hears its event.

Installed with an entry point (`ssh_banner = "ssh_log:INFO"` under `mesh.stack_modules`) the module
is as any other: `nfmesh modules ssh_banner` shows it, and plans run it when somebody needs it.
Without, a registry that has it is handed to `mesh.replay`, as below. The library must not have the
name of the Python file: Python would import the library.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import mesh
from mesh import NF, EventBatch, ModuleInfo, Registry, on

LIBRARY = Path(__file__).with_name("ssh_banner.so")
INFO = ModuleInfo("ssh_banner", library=str(LIBRARY), symbol="nfm_module_ssh_banner")


class SshLog(NF):
    """Lists who speaks SSH."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @on("ssh.banner")
    def banner(self, batch: EventBatch) -> None:
        self.seen += [f"{event.src_ip} {event.banner}" for event in batch]

    def results(self) -> dict[str, list[str]]:
        return {"seen": self.seen}


def registry() -> Registry:
    """Returns what is installed, and this module."""
    found = Registry.installed()
    modules = {**found.modules_by_name, INFO.name: lambda: INFO}
    return dataclasses.replace(found, modules_by_name=modules)


if __name__ == "__main__":
    print(mesh.replay(sys.argv[1], [SshLog], registry=registry())["ssh_log"].results)
