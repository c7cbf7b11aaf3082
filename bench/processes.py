# SPDX-License-Identifier: Apache-2.0
"""Runs of meshes whose parts are processes, and what they counted and cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.measure import ROOT, BenchError, Result, build, options, ours, run_lines
from bench.rivals_python import FEW, PACKETS, capture

NFMESH = [sys.executable, "-m", "mesh.cli"]
PATIENCE_S = 30.0


def mesh(**values: Any) -> Result:
    """One run of nfm-processes: a worker, and NFs that have counted all that the workload holds.

    Returns:
        What the worker says, with `nfs`, what they say, and `all_cpu_ns`, what all of them cost.
    """
    command = [str(build() / "nfm-processes"), *options(**values)]
    lines = run_lines(command)
    [worker] = [line for line in lines if line["name"] == "worker"]
    nfs = [line for line in lines if line["name"] == "nf"]
    of_level = {"packets": ("events", "want_packets"), "data": ("bytes", "want_bytes")}
    counted, wanted = of_level[worker["level"]]
    found = [worker["packets"], *(nf[counted] for nf in nfs)]
    if found != [worker["want_packets"], *[worker[wanted]] * values.get("nfs", 1)]:
        raise BenchError(f"{' '.join(command)} counted {found}, the workload has {worker[wanted]}")
    cost = sum(line["cpu_ns"] for line in lines)
    return {**worker, "nfs": nfs, "all_cpu_ns": cost}


def python_nf(style: str, spin_ns: int = 0, **values: Any) -> Result:
    """The same with one NF in Python; returns what the NF says."""
    command = hosted_nf(style, f"--spin-ns {spin_ns}")
    nf: Result = mesh(nf=command, level="packets", **values)["nfs"][0]
    return nf


def hosted_nf(style: str, *more: str) -> str:
    """Returns the command of an NF that is served by the loop of NFs' processes."""
    return " ".join([sys.executable, "-m", "bench.process_nf", style, *more])


def inline(**values: Any) -> Result:
    """One run whose packets wait for NFs; all of them must leave by the other port."""
    command = [str(build() / "nfm-processes"), "--inline", *options(level="packets", **values)]
    [worker] = [line for line in run_lines(command) if line["name"] == "worker"]
    if not worker["packets"] == worker["sent"] == worker["want_packets"]:
        text = f"{worker['sent']} of {worker['want_packets']} packets left"
        raise BenchError(f"{' '.join(command)}: {text}")
    return worker


def stacks(k: int, **values: Any) -> Result:
    """So many processes at once, each a stack with the same NF; what all of them cost together."""
    with ThreadPoolExecutor(k) as pool:
        found = list(pool.map(lambda _: ours(**values), range(k)))
    return {"packets": found[0]["packets"], "all_cpu_ns": sum(run["cpu_ns"] for run in found)}


# ---- starting ----------------------------------------------------------------------------------


def running() -> float:
    """Milliseconds from the start of `nfmesh run` until the last of three NFs has an event."""
    nfs = [{"use": _use("First"), "name": name} for name in ("a", "b", "c")]
    spec = _spec("running", nfs, FEW)
    begin = time.monotonic_ns()
    report = json.loads(_nfmesh("run", str(spec), "--json", "--name", f"bench-{os.getpid()}"))
    found = [nf["results"] for nf in report["nfs"]]
    packets = report["statistics"]["packets"]
    if packets < FEW or any(each["packets"] != packets for each in found):
        raise BenchError(f"of {packets} packets the NFs counted {found}")
    return float(max(each["at_ns"] for each in found) - begin) / 1e6


def joining() -> float:
    """Milliseconds from the start of an NF's process until its event, in a mesh that runs."""
    name = f"bench-{os.getpid()}"
    spec = _spec("joining", [{"use": _use("Brake"), "ring": 64}], PACKETS)
    command = [*NFMESH, "run", str(spec), "--json", "--name", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as run:
        try:
            _until_done("nf", "add", _use("First"), "--mesh", name)
            time.sleep(0.5)
            _nfmesh("stop", name)
            out, _ = run.communicate(timeout=PATIENCE_S)
        except BaseException:
            run.terminate()
            raise
    [first] = [nf["results"] for nf in json.loads(out)["nfs"] if nf["name"] == "first"]
    if not first["packets"]:
        raise BenchError("the NF that joined heard nothing")
    return float(first["age_ns"]) / 1e6


def imports() -> float:
    """Milliseconds that a process of Python takes to load what an NF's process needs."""
    begin = time.monotonic_ns()
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYDANTIC_DISABLE_PLUGINS": "__all__"}
    code = "import mesh.nfhost, bench.first_event"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)
    return (time.monotonic_ns() - begin) / 1e6


def _use(nf: str) -> str:
    return f"{ROOT}/bench/first_event.py:{nf}"


def _spec(name: str, nfs: list[dict[str, Any]], packets: int) -> Path:
    path = build() / f"{name}.json"
    path.write_text(json.dumps({"nfs": nfs, "ports": [{"pcap": str(capture(packets))}]}))
    return path


def _nfmesh(*arguments: str) -> str:
    done = subprocess.run(
        [*NFMESH, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    if done.returncode:
        raise BenchError(f"nfmesh {' '.join(arguments)}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _until_done(*arguments: str) -> None:
    """Tries a command until the mesh is up that it is for."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            _nfmesh(*arguments)
        except BenchError:
            if time.monotonic() > until:
                raise
        else:
            return
