# SPDX-License-Identifier: Apache-2.0
"""`nfmesh run`: NFs over a capture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from mesh.cli.output import (
    AsJson,
    cell,
    complain,
    dump,
    fitted,
    prints_to_stderr,
    progress_bar,
    stdout,
    warn,
)
from mesh.compose import NFUse
from mesh.errors import SpecError, did_you_mean
from mesh.registry import Registry
from mesh.report import NFReport, Report
from mesh.runner import replay
from mesh.spec import nf_config

__all__ = ["Checksums", "finish", "limits_from", "run", "uses_from"]

Checksums = Literal["ignore", "verify"]
SHOWN = 50
"""Rows of a table of results that are printed; --json has all."""
INTERRUPTED = 130


def run(
    pcap: Annotated[Path, typer.Option("--pcap", help="Capture: pcap or pcapng, also gzipped.")],
    nf: Annotated[
        list[str],
        typer.Option("--nf", help="Installed name, file.py:Class or package.module:Class."),
    ],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Option of an NF: NAME.KEY=VALUE.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Filter that narrows what all NFs hear.")
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="Limit of a stack module: MODULE.KEY=VALUE.")
    ] = None,
    checksums: Annotated[Checksums, typer.Option(help="Whether bad checksums count.")] = "ignore",
    out: Annotated[Path, typer.Option(help="Folder for files that NFs write.")] = Path(),
    max_packets: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    as_json: AsJson = False,
) -> None:
    """Runs NFs over a capture and prints what they found.

    [bold]Examples[/bold]
      nfmesh run --pcap day.pcap --nf http_log --nf dns_log
      nfmesh run --pcap day.pcap --nf syn_scan --set syn_scan.limit=100
      nfmesh run --pcap day.pcap --nf http_log --where "net 10.0.0.0/8"
      nfmesh run --pcap day.pcap --nf flow_log --set flow_log.path=day.jsonl
      nfmesh run --pcap day.pcap --nf ./mine.py:Mine --json | jq .nfs
    """
    registry = Registry.installed()
    uses = uses_from(registry, nf, settings or (), where)
    with progress_bar(pcap.name) as progress, prints_to_stderr(as_json):
        report = replay(
            pcap,
            uses,
            limits=limits_from(limit or ()),
            checksums=checksums,
            out=out,
            registry=registry,
            progress=progress,
            max_packets=max_packets,
        )
    if as_json:
        dump(report.to_json())
    else:
        console = stdout()
        for found in report.nfs:
            print_results(console, found)
        print_summary(console, report)
    finish(report)


def uses_from(
    registry: Registry, references: Sequence[str], settings: Sequence[str], where: str | None
) -> list[NFUse]:
    """Turns the words of the command line into NFs with options.

    Raises:
        NFMissing: no such NF.
        SpecError: a setting names no NF of this run or no option, or does not fit its type.
    """
    classes = {cls.name: cls for cls in map(registry.nf, references)}
    options: dict[str, dict[str, str]] = {name: {} for name in classes}
    for setting in settings:
        name, key, text = split_setting(setting, "--set", "NF")
        if name not in classes:
            hint = did_you_mean(name, classes)
            raise SpecError(f"--set {setting}", f"no NF {name!r} in this run{hint}")
        options[name][key] = text
    return [
        NFUse(
            cls,
            name,
            options=nf_config(cls, options[name], f"--set {name}"),
            where=where,
            path=f"--nf {name}",
        )
        for name, cls in classes.items()
    ]


def split_setting(setting: str, flag: str, what: str) -> tuple[str, str, str]:
    """Splits NAME.KEY=VALUE.

    >>> split_setting("syn_scan.limit=5", "--set", "NF")
    ('syn_scan', 'limit', '5')
    """
    left, equals, value = setting.partition("=")
    name, dot, key = left.rpartition(".")
    if not (equals and dot and name and key):
        raise SpecError(f"{flag} {setting}", f"write it as {what}.KEY=VALUE")
    return name, key, value


def limits_from(limits: Sequence[str]) -> dict[str, dict[str, int | str]]:
    """Turns MODULE.KEY=VALUE words into limits; words such as `linux` stay words."""
    found: dict[str, dict[str, int | str]] = {}
    for limit in limits:
        name, key, text = split_setting(limit, "--limit", "MODULE")
        is_number = text.lstrip("-").isascii() and text.lstrip("-").isdigit()
        found.setdefault(name, {})[key] = int(text) if is_number else text
    return found


def heading(console: Console, text: str) -> None:
    """Prints a line with a title, not longer than lines of text are."""
    console.print(Rule(f"[bold]{escape(text)}", align="left", style="dim"), width=79)


def print_results(console: Console, found: NFReport) -> None:
    """Prints what one NF found: tables for lists of records, lines for the rest."""
    heading(console, found.name)
    single = {}
    for key, value in (found.results or {}).items():
        rows = value if isinstance(value, list) else []
        if rows and all(isinstance(row, Mapping) for row in rows):
            made, left_out = fitted(rows[:SHOWN], console.width)
            console.print(made)
            if left_out:
                console.print(f"... also: {', '.join(left_out)}: use --json or a wider terminal")
            if len(rows) > SHOWN:
                console.print(f"... {len(rows) - SHOWN} more rows of {key}: use --json")
        else:
            single[key] = value
    if single:
        console.print("  ".join(f"{key.replace('_', ' ')} {cell(v)}" for key, v in single.items()))
    for name, count in found.published.items():
        console.print(f"published {name}: {count}", markup=False)


def print_summary(console: Console, report: Report) -> None:
    """Prints the last table: what was read, how fast, what was counted."""
    stats = report.statistics
    rate = report.packets / report.seconds if report.seconds > 0 else 0.0
    heading(console, "summary")
    rows = [
        ("capture", report.source + (" (interrupted)" if report.interrupted else "")),
        ("packets", f"{report.packets:,} ({stats.bytes:,} bytes)"),
        ("flows", f"{stats.flows_opened:,}"),
        ("time", f"{report.seconds:.3f} s, {rate:,.0f} packets/s"),
    ]
    rows += [(name, f"{value:,}") for name, value in sorted(report.counters.items())]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        console.print(f"{name:<{width}}  {value}", markup=False)


def finish(report: Report) -> None:
    """Says what went wrong and ends with the exit status that tells it."""
    for text in report.warnings:
        warn(text)
    for error in report.errors:
        complain(str(error))
    for found in report.nfs:
        more = found.failures - len(found.errors)
        if more > 0:
            complain(f"NF {found.name!r} failed {more} times more")
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)
    if report.errors:
        raise typer.Exit(1)
