# SPDX-License-Identifier: Apache-2.0
"""`nfmesh flows`: one record per connection of a capture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol, cast

import typer

from mesh.cli.output import AsJson, dump, progress_bar, stdout, warn
from mesh.cli.results import finish
from mesh.cli.settings import Checksums, limits_from
from mesh.cli.sizes import Sizes, sizes_from
from mesh.registry import Registry
from mesh.runner import replay

__all__ = ["flows"]

LOG = "flow_log"
"""The NF that makes the records; found through the registry like any other."""
_LINE = "{proto:<6} {client:<42} {server:<42} {state:<6} {duration:>10}  {out:<24} {back:<24}"


class _Log(Protocol):
    def records(self) -> Iterator[dict[str, Any]]: ...


def flows(
    file: Annotated[Path, typer.Argument(help="Capture: pcap or pcapng, also gzipped.")],
    overlap: Annotated[
        str,
        typer.Option(help="Whose copy wins where segments overlap: first, last, linux, bsd, ..."),
    ] = "first",
    checksums: Annotated[Checksums, typer.Option(help="Whether bad checksums count.")] = "ignore",
    limit: Annotated[
        list[str] | None, typer.Option(help="Limit of a stack module: MODULE.KEY=VALUE.")
    ] = None,
    worker: Sizes = None,
    as_json: AsJson = False,
) -> None:
    """Prints one line per connection, in order of its first packet.

    With --json each line is an object. TCP has `state` (Zeek's conn_state
    words) and, by direction, `stream_bytes` and `sha256` of the bytes in
    sequence order; holes are skipped and counted in `gap_bytes`. Other
    protocols have no stream: null. Ports of ICMP are the identifier of an
    echo, else type * 256 + code.

    The order of first packets is known at the end, so all records are kept
    until then: about 210 MiB per million connections. To write them as they
    end: nfmesh run --nf flow_log --set flow_log.path=day.jsonl

    [bold]Examples[/bold]
      nfmesh flows day.pcap
      nfmesh flows day.pcap --json | jq 'select(.state == "REJ") | .client'
      nfmesh flows evasion.pcap --overlap linux --checksums verify
    """
    registry = Registry.installed()
    log = registry.nf(LOG)(order="start")
    limits = limits_from(limit or ())
    limits.setdefault("tcp_stream", {})["overlap"] = overlap
    with progress_bar(file.name) as progress:
        report = replay(
            file,
            [log],
            limits=limits,
            checksums=checksums,
            worker=sizes_from(worker or ()),
            registry=registry,
            progress=progress,
        )
    records = cast(_Log, log).records()
    if as_json:
        for record in records:
            dump(record)
    else:
        print_lines(records)
    if report.interrupted:
        warn(f"interrupted: these are the connections of the first {report.packets:,} packets")
    finish(report)


def print_lines(records: Iterable[Mapping[str, Any]]) -> None:
    """Prints aligned lines as the records come, and how many there were of which kind."""
    console = stdout()
    show = console.file.write
    kinds: Counter[str] = Counter()
    names = {"proto": "proto", "client": "client", "server": "server", "state": "state"}
    show(_LINE.format(**names, duration="seconds", out="client sent", back="server sent") + "\n")
    for record in records:
        state = record["state"] or "-"
        kinds[f"{record['proto']} {state}".removesuffix(" -")] += 1
        line = _LINE.format(
            proto=record["proto"],
            client=record["client"],
            server=record["server"],
            state=state,
            duration=f"{record['duration']:.6f}",
            out=_sent(record["c2s"]),
            back=_sent(record["s2c"]),
        )
        show(line.rstrip() + "\n")
    total = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    show(f"\n{kinds.total()} connections: {total}\n" if kinds else "\nno connections\n")


def _sent(side: Mapping[str, Any]) -> str:
    gap = f" ({side['gap_bytes']} lost)" if side["gap_bytes"] else ""
    return f"{side['payload_bytes']} B in {side['packets']}{gap}"
