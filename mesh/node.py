# SPDX-License-Identifier: Apache-2.0
"""The stack of a node, which NFs of other containers join: `nfmesh stack`.

The same supervisor as that of `nfmesh run`, as the first process of its container. What is its own:
the spec may name what the node gives it by variables of the environment (a device plugin says so
which devices are meant); the run folder is a folder of the node that stays; NFs that had been put
in are there again after a restart, so they can join at once; SIGTERM drains; probes are answered.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from mesh.control import messages as m
from mesh.control.composing import compose_desired
from mesh.control.desired import FILE, Desired, with_files
from mesh.control.tool import ask
from mesh.errors import MeshError, ProcessError, SpecError
from mesh.health import HealthServer
from mesh.launch import Launch, launch
from mesh.registry import Registry
from mesh.spec import Spec, parse, read_yaml
from mesh.supervisor import Outcome, SupervisorSettings

__all__ = ["Node", "load_node", "run_node"]

HANGS_S = 10.0
"""A supervisor that has not looked around for so long hangs."""
STATUS_S = 2.0
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_NO_LETTER = re.compile(r"[^A-Za-z0-9]")


@dataclass(frozen=True, slots=True)
class Node:
    """How a node's stack is run.

    Attributes:
        spec: without the NFs that will join.
        files: folder that files of the spec are relative to.
        run_dir: the run folder.
        health_port: of the probes; None: none, 0: any.
        settings: of the supervisor.
    """

    spec: Spec
    files: Path
    run_dir: Path
    health_port: int | None = None
    settings: SupervisorSettings = field(default_factory=SupervisorSettings)


def load_node(path: Path, environment: Mapping[str, str] | None = None) -> Spec:
    """Reads the spec of a stack: `${NAME}` and `${NAME:-other}` are variables of the environment.

    A DPDK port may name the `resource` of a device plugin instead of a device: there is a port for
    each device that the plugin has given.

    Raises:
        SpecError: it cannot be read or is wrong, or a variable is not set.
    """
    known = os.environ if environment is None else environment
    try:
        data = read_yaml(path, yaml.safe_load)
        if not isinstance(data, Mapping):
            raise SpecError("", "a spec is a mapping with the key 'ports'")
        return _parsed(dict(data), known)
    except SpecError as error:
        raise SpecError(str(path), str(error)) from error


def _parsed(data: dict[str, Any], known: Mapping[str, str]) -> Spec:
    plain = _filled(data, known, "")
    if isinstance(plain.get("ports"), list):
        plain["ports"] = _with_devices(plain["ports"], known)
    if plain.get("listen", 0) is None or "listen" not in plain:
        plain["listen"] = {}
    return parse(plain)


def _filled(value: Any, known: Mapping[str, str], place: str) -> Any:
    """Puts variables of the environment in place."""
    if isinstance(value, dict):
        return {key: _filled(each, known, f"{place}.{key}") for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, known, f"{place}[{i}]") for i, each in enumerate(value)]
    if not isinstance(value, str):
        return value

    def found(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name not in known and default is None:
            raise SpecError(place.lstrip("."), f"${{{name}}} is not set in the environment")
        return known.get(name) or default or ""

    return _VARIABLE.sub(found, value)


def _with_devices(ports: list[Any], known: Mapping[str, str]) -> list[Any]:
    """Replaces resources of device plugins by the devices that they gave.

    A resource that one port names makes a port of each of its devices; where several ports name
    it, each takes its next device.
    """
    made: list[Any] = []
    asked, taken = Counter(map(_resource_of, ports)), Counter[str]()
    for i, port in enumerate(ports):
        resource = _resource_of(port)
        if resource is None:
            made.append(port)
            continue
        place = f"ports[{i}].dpdk.resource"
        devices = _devices_of(resource, known, place)
        if asked[resource] > 1:
            number = taken[resource]
            if number >= len(devices):
                text = f"{asked[resource]} ports name {resource}, which has given {len(devices)}"
                raise SpecError(place, text)
            devices = devices[number : number + 1]
            taken[resource] += 1
        made += _ports_of(port, devices)
    return made


def _resource_of(port: Any) -> str | None:
    """The resource that a port as it is written names, if it does."""
    said = port.get("dpdk") if isinstance(port, dict) else None
    return str(said["resource"]) if isinstance(said, dict) and "resource" in said else None


def _ports_of(port: dict[str, Any], devices: list[str]) -> list[dict[str, Any]]:
    """Returns a port for each device, with names that differ."""
    rest = {key: value for key, value in port["dpdk"].items() if key != "resource"}
    name = port.get("name")
    return [
        {**port, **({"name": f"{name}-{n}"} if name and n else {}), "dpdk": {**rest, "device": d}}
        for n, d in enumerate(devices)
    ]


def _devices_of(resource: str, known: Mapping[str, str], place: str) -> list[str]:
    """Returns the devices of a resource: PCIDEVICE_INTEL_COM_POOL=0000:3b:02.1,0000:3b:02.2."""
    variable = f"PCIDEVICE_{_NO_LETTER.sub('_', resource).upper()}"
    devices = [word for word in known.get(variable, "").split(",") if word]
    if not devices:
        text = f"{variable} is not set: ask for {resource} in the container's resources"
        raise SpecError(place, text)
    return devices


def run_node(node: Node, registry: Registry | None = None) -> Outcome:
    """Runs a stack until it is told to end.

    Raises:
        MeshError: as `launch` does; the port of the probes is taken.
    """
    registry = registry or Registry.installed()
    spec = _with_earlier_nfs(with_files(node.spec, node.files), node.run_dir, registry)
    life = _Life(node.run_dir)
    settings = replace(node.settings, is_open=True, on_tick=life.tick)
    how = Launch(node.run_dir.name, settings=settings, registry=registry, run_dir=node.run_dir)
    server = None
    if node.health_port is not None:
        server = HealthServer(node.health_port, life.wrong, life.missing, life.status)
    try:
        return launch(spec, how)
    finally:
        if server is not None:
            server.close()


class _Life:
    """What probes are told: the supervisor ticks, the controller knows the rest."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._ticked_at = time.monotonic()

    def tick(self) -> None:
        self._ticked_at = time.monotonic()

    def wrong(self) -> str:
        silent = time.monotonic() - self._ticked_at
        return f"no sign of life for {silent:.0f} s" if silent > HANGS_S else ""

    def missing(self) -> str:
        try:
            found = self.status()
        except ProcessError as error:
            return str(error)
        if found["state"] != "running":
            return f"the stack is {found['state']}"
        listen = found["listen"]
        return "" if not listen or listen["is_open"] else str(listen["state"])

    def status(self) -> dict[str, Any]:
        return ask(self._run_dir, m.Status(), STATUS_S)


def _with_earlier_nfs(spec: Spec, run_dir: Path, registry: Registry) -> Spec:
    """Returns the spec with the NFs that joined the stack before this one, if they still fit."""
    try:
        plain = json.loads((run_dir / FILE).read_bytes())["spec"]["nfs"]
        earlier = [entry for entry in plain if entry.get("place") == "pod"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return spec
    for entry in earlier:
        if any(entry.get("name") == own.name for own in spec.nfs):
            continue
        own = [each.model_dump(mode="json", exclude_unset=True) for each in spec.nfs]
        data = {**spec.model_dump(mode="json", exclude_unset=True), "nfs": [*own, entry]}
        try:
            wider = parse(data)
            compose_desired(Desired(1, wider.model_dump(mode="json", exclude_unset=True)), registry)
        except MeshError:
            continue  # it is put in anew, and told why it does not fit
        spec = wider
    return spec
