# SPDX-License-Identifier: Apache-2.0
"""What a run ends with: its report for people or as JSON, and the exit status that it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from mesh.cli import INTERRUPTED
from mesh.cli.output import cell, complain, dump, fitted, heading, stdout, warn

if TYPE_CHECKING:
    from rich.console import Console

    from mesh.report import NFReport, Report

__all__ = ["finish", "show"]

SHOWN = 50
"""Rows of a table of results that are printed; --json has all."""


def show(report: Report, as_json: bool, written: Sequence[str] = ()) -> None:
    """Prints a report, and ends with the status that tells how the run was.

    Args:
        report: of the run.
        as_json: as an object.
        written: captures that must be whole: a warning about one is an error.
    """
    if as_json:
        dump(report.to_json())
    else:
        console = stdout()
        for found in report.nfs:
            print_results(console, found)
        print_summary(console, report)
    finish(report, written)


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


def finish(report: Report, written: Sequence[str] = ()) -> None:
    """Says what went wrong and ends with the exit status that tells it."""
    broken = [text for text in report.warnings if text.startswith(tuple(written))]
    for text in report.warnings:
        (complain if text in broken else warn)(text)
    for error in report.errors:
        complain(str(error))
    for found in report.nfs:
        more = found.failures - len(found.errors)
        if more > 0:
            complain(f"NF {found.name!r} failed {more} times more")
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)
    if broken:
        raise typer.Exit(2)
    if report.errors:
        raise typer.Exit(1)
