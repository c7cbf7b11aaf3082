# SPDX-License-Identifier: Apache-2.0
"""`nfmesh doctor`: what this machine offers."""

from __future__ import annotations

import typer

from mesh.cli.output import AsJson, dump, stdout
from mesh.doctor import examine

__all__ = ["doctor"]

MARKS = {"good": "[green]good   [/green]", "missing": "[yellow]missing[/yellow]"}
BAD = "[red]bad    [/red]"


def doctor(as_json: AsJson = False) -> None:
    """Says what this machine offers to a mesh, and the remedy for what is missing.

    What is missing is optional; the status is 2 when something is bad, so that no mesh can run.

    [bold]Examples[/bold]
      nfmesh doctor
      nfmesh doctor --json | jq 'select(.state != "good")'
    """
    found = examine()
    if as_json:
        for finding in found:
            dump(finding.to_json())
    else:
        console = stdout()
        width = max(len(finding.topic) for finding in found)
        for finding in found:
            console.print(MARKS.get(finding.state, BAD), end="  ")
            console.print(f"{finding.topic:<{width}}  {finding.found}", markup=False)
            if finding.remedy:
                console.print(f"{'':<{width + 11}}→ {finding.remedy}", markup=False)
    if any(finding.state == "bad" for finding in found):
        raise typer.Exit(2)
