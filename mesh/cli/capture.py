# SPDX-License-Identifier: Apache-2.0
"""`nfmesh run`: NFs over a capture."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.cli import processes
from mesh.cli.output import AsJson, prints_to_stderr, progress_bar
from mesh.cli.ports import ports_from
from mesh.cli.results import show
from mesh.cli.settings import Checksums, limits_from, split_setting, with_own_cores
from mesh.compose import NFUse
from mesh.control.desired import with_files
from mesh.errors import SpecError, did_you_mean
from mesh.launch import Launch
from mesh.options import nf_config
from mesh.port_spec import PcapSpec, PortSpec
from mesh.registry import Registry
from mesh.report import Progress, Report
from mesh.runner import make_plan, replay
from mesh.spec import Spec, load, parse
from mesh.spec_plan import user_events_of, uses_of
from mesh.supervisor import SupervisorSettings
from mesh.words import MAX_WORKERS

__all__ = ["run"]

_ANY = [{"use": "any"}]
"""An NF that stands for those of the spec file, where only ports are checked."""


def run(
    context: typer.Context,
    spec: Annotated[
        Path | None,
        typer.Argument(help="Spec file (nfmesh schema), or NetworkFunctions and ServiceChains."),
    ] = None,
    pcap: Annotated[
        Path | None, typer.Option("--pcap", help="Capture: pcap or pcapng, also gzipped.")
    ] = None,
    enter: Annotated[
        str | None,
        typer.Option("--in", help="Where packets enter: an interface, KIND:WHAT, or a capture."),
    ] = None,
    leave: Annotated[
        str | None,
        typer.Option(
            "--out", help="Where they leave; a capture is written. Interfaces: both ways."
        ),
    ] = None,
    nf: Annotated[
        list[str] | None,
        typer.Option("--nf", help="Installed name, file.py:Class or package.module:Class."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Option of an NF: NAME.KEY=VALUE; lists as JSON."),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Filter that narrows what all NFs hear.")
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="Limit of a stack module: MODULE.KEY=VALUE.")
    ] = None,
    own_core: Annotated[
        list[str] | None,
        typer.Option("--own-core", help="Run this stack module beside the worker: MODULE[=CORE]."),
    ] = None,
    checksums: Annotated[Checksums, typer.Option(help="Whether bad checksums count.")] = "ignore",
    folder: Annotated[Path, typer.Option(help="For files that NFs write.")] = Path(),
    max_packets: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Everything in this process; the same results.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Of this mesh, for nfmesh status and the like.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=MAX_WORKERS, help="That share the packets.")
    ] = None,
    worker_cores: Annotated[
        str | None, typer.Option(help="Cores of the workers: 0, 1,3 or 2-5.")
    ] = None,
    nf_cores: Annotated[str | None, typer.Option(help="Cores of the NFs, one for each.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Prometheus endpoint on 127.0.0.1; 0: any.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Runs NFs over a capture or between interfaces, and prints what they found.

    Each NF is a process of its own. Between two interfaces the mesh is a bump in the wire: what
    enters by one leaves by the other, past the NFs, until Ctrl-C or nfmesh stop. A port is an
    interface (eth0), a capture (x.pcap), or KIND:WHAT: afpacket:eth0, tap:NAME, afxdp:eth0,
    dpdk:0000:3b:02.1. Interfaces need root, or CAP_NET_RAW and CAP_NET_ADMIN: nfmesh doctor.

    The sockets of a mesh are in a folder of its name below NFMESH_RUN (an environment variable;
    default /run/nfmesh for root, $XDG_RUNTIME_DIR/nfmesh or /tmp/nfmesh-UID for others).

    [bold]Examples[/bold]
      nfmesh run --pcap day.pcap --nf http_log --nf dns_log
      nfmesh run --pcap day.pcap --nf syn_scan --set syn_scan.limit=100
      nfmesh run --pcap day.pcap --nf http_log --where "net 10.0.0.0/8"
      nfmesh run --pcap day.pcap --nf flow_log --set flow_log.path=day.jsonl
      nfmesh run --pcap day.pcap --nf ./mine.py:Mine --json | jq .nfs
      nfmesh run mesh.yaml --pcap day.pcap --name office

    [bold]On live packets[/bold]
      sudo nfmesh run --in eth0 --nf http_log
      sudo nfmesh run --in eth0 --out eth1 --nf http_log --nf syn_scan
      nfmesh run --in day.pcap --out passed.pcapng --nf ./mine.py:Firewall
    """
    modules = with_own_cores(limits_from(limit or ()), own_core or ())
    if pcap is not None and enter is not None:
        raise SpecError("--pcap", "and --in say where packets enter: leave one of them out")
    given = Given(nf or (), settings or (), where, modules, checksums, ports_from(enter, leave))
    registry = Registry.installed()
    files = spec.parent if spec is not None else Path()
    made = with_pcap(with_files(spec_from(spec, given, registry, pcap), files), pcap)
    if given.ports and spec is not None:
        made = made.model_copy(
            update={"ports": parse({"ports": [*given.ports], "nfs": _ANY}).ports}
        )
    made = made.model_copy(
        update={
            "out": made.out if folder == Path() else os.fsdecode(folder),
            "max_packets": max_packets or made.max_packets,
            "workers": workers or made.workers,
        }
    )
    source = ", ".join(port.source for port in made.ports)
    with progress_bar(Path(source).name) as progress, prints_to_stderr(as_json):
        if in_process:
            report = replay_spec(made, registry, progress)
        else:
            made = processes.spread(made, worker_cores, nf_cores)
            how = Launch(
                name or processes.default_name(),
                settings=SupervisorSettings(metrics_port=metrics_port, forks=context.obj),
                registry=registry,
            )
            report = processes.run_in_processes(made, how, source=source, progress=progress)
    show(report, as_json, [str(port.path) for port in made.ports if port.record is not None])


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says instead of a spec file."""

    nfs: Sequence[str]
    settings: Sequence[str]
    where: str | None
    modules: Mapping[str, Mapping[str, int | str | bool]]
    checksums: Checksums
    ports: Sequence[Mapping[str, Any]] = ()


def spec_from(path: Path | None, given: Given, registry: Registry, pcap: Path | None) -> Spec:
    """Returns the spec of a file, or makes one of the options.

    Raises:
        SpecError: both are given, or neither; or one of them is wrong.
        PlanError: the NFs cannot be composed.
    """
    options = bool(given.nfs or given.settings or given.where or given.modules)
    if path is not None:
        if options or given.checksums != "ignore":
            raise SpecError(str(path), "a spec file says this itself: leave out --nf, --set, ...")
        from mesh.kube.manifests import local_entries, read_manifests

        manifests = read_manifests(path)
        return load(path) if manifests is None else parse({"nfs": local_entries(manifests)})
    passes = len(given.ports) > 1
    if not (given.nfs or passes) or (pcap is None and not given.ports):
        is_said = pcap is not None or given.ports
        text = "name a spec file, or a capture with --pcap (packets with --in) and NFs with --nf"
        raise SpecError("--nf" if is_said else "--pcap", text)
    uses = uses_from(registry, given.nfs, given.settings, given.where)
    make_plan(uses, limits=_limits_of(given.modules), registry=registry)
    references = {registry.nf(reference).name: reference for reference in given.nfs}
    return parse(
        {
            "nfs": [
                {
                    "use": references[use.name],
                    "name": use.name,
                    "config": options_of(given.settings, use.name),
                    **({"where": given.where} if given.where else {}),
                }
                for use in uses
            ],
            "ports": [dict(port) for port in given.ports],
            "modules": {name: dict(values) for name, values in given.modules.items()},
            "checksums": given.checksums,
        }
    )


def with_pcap(spec: Spec, pcap: Path | None) -> Spec:
    """Returns the spec with this capture instead of its own."""
    if pcap is None:
        return spec
    said = PcapSpec.model_construct(_fields_set={"path"}, path=str(pcap))
    ports = [PortSpec.model_construct(_fields_set={"pcap"}, pcap=said)]
    return spec.model_copy(update={"ports": ports})


def replay_spec(
    spec: Spec,
    registry: Registry,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Runs a spec in this process.

    Raises:
        SpecError: it names no capture, or several.
    """
    if len(spec.ports) != 1 or spec.ports[0].pcap is None:
        text = "name one capture: ports: [{pcap: FILE}], or --pcap FILE"
        raise SpecError("ports", f"{text}; --in-process does nothing else")
    return replay(
        spec.ports[0].pcap.path,
        uses_of(spec, registry),
        events=user_events_of(spec),
        limits=spec.limits,
        checksums=spec.checksums,
        worker=spec.worker.sizes,
        out=spec.out,
        registry=registry,
        progress=progress,
        max_packets=spec.max_packets,
        workers=spec.workers,
    )


def options_of(settings: Sequence[str], nf: str) -> dict[str, str]:
    """Returns the options of one NF as the command line writes them."""
    split = [split_setting(setting, "--set", "NF") for setting in settings]
    return {key: text for name, key, text in split if name == nf}


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


def _limits_of(
    modules: Mapping[str, Mapping[str, int | str | bool]],
) -> dict[str, dict[str, int | str]]:
    return {
        name: {key: value for key, value in said.items() if key not in ("own", "core")}
        for name, said in modules.items()
    }
