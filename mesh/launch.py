# SPDX-License-Identifier: Apache-2.0
"""Runs a spec as processes of this host: checks it, makes the run folder, supervises to the end."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mesh.child import Patience
from mesh.control import messages as m
from mesh.control.composing import compose_desired
from mesh.control.desired import Desired, save_desired, with_files
from mesh.control.wire import HostPart, to_wire
from mesh.errors import CapacityError, system_text
from mesh.outputs import PREFIX, check_apart
from mesh.port_spec import FILES, PortSpec
from mesh.ports import Port
from mesh.recordings import join_parts
from mesh.registry import Registry
from mesh.rundir import RunFolder, base_folder
from mesh.spec import Spec
from mesh.supervisor import Outcome, Supervisor, SupervisorSettings, mesh_gid

__all__ = ["Launch", "launch"]


@dataclass(frozen=True, slots=True)
class Launch:
    """How a mesh is run.

    Attributes:
        name: of the mesh; one of a name runs at a time.
        files: folder that files of the spec are relative to.
        settings: of the supervisor; its patience is the spec's, and so is its metrics port unless
            it says one.
        registry: what is installed.
        started: called with the run folder before the first process starts.
        run_dir: its run folder, which stays and which everybody may enter, for a stack that NFs
            of other containers join; None: one of its name below the folder of all.
    """

    name: str
    files: Path = field(default_factory=Path)
    settings: SupervisorSettings = field(default_factory=SupervisorSettings)
    registry: Registry = field(default_factory=Registry.installed)
    started: Callable[[Path], None] | None = None
    run_dir: Path | None = None

    @property
    def folder(self) -> Path:
        """The run folder."""
        return base_folder() / self.name if self.run_dir is None else self.run_dir


def launch(spec: Spec, how: Launch) -> Outcome:
    """Runs a mesh until it is over; nothing of it is left then.

    Raises:
        PlanError: the spec cannot be composed.
        SpecError: or something in it is wrong.
        NativeError: a capture cannot be read.
        ProcessError: a mesh of this name runs, or a process cannot be started.
    """
    said = how.settings.metrics_port
    settings = replace(
        how.settings,
        patience=Patience.of(spec.patience),
        metrics_port=spec.metrics_port if said is None else said,
        listen=None if spec.listen is None else (spec.listen.control, Path(spec.listen.keys)),
    )
    spec = with_files(spec, how.files)
    for port in spec.ports:
        if port.pcap is not None:
            Port.pcap(port.pcap.path).close()
    spec, links = _speakable(spec, how.folder)
    plain = spec.model_dump(mode="json", exclude_unset=True)
    composed = compose_desired(Desired(1, plain), how.registry)
    _check_files(spec, composed.parts.host)
    is_kept = how.run_dir is not None
    folder = RunFolder(how.name, how.folder.parent, mesh_gid(), is_kept=is_kept)
    try:
        for link, file in links.items():
            link.symlink_to(file)
        _save(folder.path, composed.desired)
        if how.started is not None:
            how.started(folder.path)
        first = m.PlanPart(revision=composed.desired.revision, part=to_wire(composed.parts.host))
        supervisor = Supervisor(folder, settings, first)
    except BaseException:
        folder.close()
        raise
    with supervisor:
        outcome = supervisor.run()
        problems = join_parts(spec)
    if problems and outcome.report is not None:
        warnings = [*outcome.report["warnings"], *problems]
        return replace(outcome, report={**outcome.report, "warnings": warnings})
    return outcome


def _check_files(spec: Spec, part: HostPart) -> None:
    paths = {kind: [str(p.path) for p in spec.ports if p.kind == kind] for kind in FILES}
    writes = [name for child in part.children for name in child.writes if name.startswith(PREFIX)]
    captures = [port.capture.path for port in spec.ports if port.capture is not None]
    files = [name.removeprefix(PREFIX) for name in writes]
    check_apart(paths["pcap"], [*paths["record"], *captures], files)


def _speakable(spec: Spec, folder: Path) -> tuple[Spec, dict[Path, str]]:
    """Gives captures whose names are no text another one, as links in the run folder."""
    links: dict[Path, str] = {}
    ports: list[PortSpec] = []
    for i, port in enumerate(spec.ports):
        if port.path is None or port.path.isprintable():
            ports.append(port)
            continue
        link = folder / f"capture-{i}"
        links[link] = os.path.abspath(port.path)
        ports.append(port.with_path(str(link)))
    return spec.model_copy(update={"ports": ports}), links


def _save(folder: Path, desired: Desired) -> None:
    try:
        save_desired(folder, desired)
    except OSError as error:
        raise CapacityError(f"{folder}: {system_text(error)}") from error
