# SPDX-License-Identifier: Apache-2.0
"""`nfmesh capture`: packets of a mesh that runs, as a pcapng file."""

from __future__ import annotations

import os
import secrets
import select
import shutil
import signal
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mesh.cli.meshes import run_folder
from mesh.cli.output import AsJson, complain, dump, explain
from mesh.control import messages as m
from mesh.control.tool import ask
from mesh.errors import MeshError, ProcessError, SpecError, did_you_mean
from mesh.outputs import check_apart
from mesh.pcapng import Joined
from mesh.ports import REMOTE

__all__ = ["capture"]

Direction = Literal["in", "out", "both"]
PIECE = 1 << 18
PIPE_BYTES = 1 << 20
BEGIN_S = 5.0
END_S = 10.0
LOOK_S = 0.2
_F_SETPIPE_SZ = 1031


def capture(
    at: Annotated[
        list[str] | None,
        typer.Option("--at", help="A port (eth0, name or number) or an NF; default: all ports."),
    ] = None,
    where: Annotated[
        str, typer.Option("--filter", help="Which packets: as in nfmesh subscribe --where.")
    ] = "",
    path: Annotated[
        str, typer.Option("-w", "--write", help="File to write, pcapng; -: standard output.")
    ] = "-",
    direction: Annotated[
        Direction | None,
        typer.Option(help="in: came, or the NF got; out: went, or the NF let pass."),
    ] = None,
    snaplen: Annotated[int, typer.Option(min=0, help="Bytes of a packet; 0: all.")] = 0,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many packets.")] = None,
    duration: Annotated[
        float | None, typer.Option(min=0, help="End after so many seconds.")
    ] = None,
    mesh: Annotated[
        str | None, typer.Option("--mesh", help="Name; may be left out when one runs.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Records packets of a mesh while they flow, until Ctrl-C or the mesh ends.

    At a port it is what is on the wire: frames as they came, and as they went after all verdicts
    and rewritings. At an NF it is what the NF got; --direction out is what it let pass. Packets
    never wait for the file: what it is too slow for is lost to it, and counted. Files belong to
    their user alone. What was captured and lost goes to standard error.

    [bold]Examples[/bold]
      nfmesh capture --at eth0 --filter "tcp port 80" -w web.pcapng
      nfmesh capture --at firewall --direction out --count 100 -w passed.pcapng
      nfmesh capture --filter icmp -w - | tshark -r -
    """
    folder = run_folder(mesh)
    if path == "-" and sys.stdout.isatty():
        raise SpecError("-w", "name a file, or send standard output to one")
    if where:
        _check_filter(where)
    asked = Asked(where, snaplen, direction)
    status = ask(folder, m.Status())
    places = _places(status, at or ())
    if path != "-":
        check_apart(_files_of(status), [path])
    session = Session(folder, path, Joined([place.name for place in places], count))
    with session.opened(places, asked), _stopped_by_signals(session):
        error = session.run(None if duration is None else time.monotonic() + duration)
    found = {"captured": session.joined.captured, "lost": session.joined.lost, "error": error}
    if as_json and path != "-":
        dump(found)
    else:
        sys.stderr.write(f"{found['captured']} packets captured, {found['lost']} lost\n")
    if error:
        complain(error)
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be recorded."""

    where: str
    snaplen: int
    direction: Direction | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is recorded: a port of a worker, or an NF."""

    name: str
    process: str
    port: int = 0
    is_nf: bool = False
    names: tuple[str, ...] = ()

    def request(self, pipe: Path, asked: Asked) -> m.Record:
        """Returns what to say to the process."""
        words: Mapping[str, Literal["rx", "tx", "both"]] = {"in": "rx", "out": "tx", "both": "both"}
        return m.Record(
            process=self.process,
            path=str(pipe),
            port=self.port,
            where=asked.where,
            snaplen=asked.snaplen,
            direction=words[asked.direction or ("in" if self.is_nf else "both")],
        )


class Session:
    """Reads the pipes of all places into one file.

    Args:
        folder: of the mesh.
        path: of the file, "-" for standard output.
        joined: makes one stream of all.
    """

    def __init__(self, folder: Path, path: str, joined: Joined) -> None:
        self._folder, self._path, self.joined = folder, path, joined
        self._pipes: dict[int, tuple[int, Place, Path]] = {}
        self._silent: set[int] = set()
        self._out = -1
        self._written = 0
        self._is_stopping = False
        self._error = ""

    @contextmanager
    def opened(self, places: Sequence[Place], asked: Asked) -> Iterator[None]:
        """Opens the file, begins recording everywhere, and leaves nothing behind."""
        with ExitStack() as stack:
            self._out = _open_file(self._path)
            if self._out != 1:
                stack.callback(os.close, self._out)
            inside = _pipe_folder(self._folder)
            stack.callback(shutil.rmtree, inside, ignore_errors=True)
            for number, place in enumerate(places):
                pipe = inside / str(number)
                fd = _make_pipe(pipe)
                stack.callback(os.close, fd)
                ask(self._folder, place.request(pipe, asked))
                self._pipes[fd] = (number, place, pipe)
                self._silent.add(fd)
            yield

    def stop(self, *_: object) -> None:
        """Makes `run` end: also a signal handler."""
        self._is_stopping = True

    def run(self, until: float | None) -> str:
        """Reads until all sources have ended; returns what went wrong, or ""."""
        begin = time.monotonic()
        notices = set(ask(self._folder, m.Status())["notices"])
        while self._pipes and not self._is_stopping:
            if until is not None and time.monotonic() >= until:
                break
            if self._silent and time.monotonic() - begin > BEGIN_S:
                self._why_silent(notices)
            self._read(LOOK_S)
            self._is_stopping |= self.joined.is_full or bool(self._error)
        self._end()
        return self._error

    def _read(self, wait_s: float) -> None:
        ready, _, _ = select.select(list(self._pipes), [], [], wait_s)
        for fd in ready:
            with suppress(BlockingIOError):
                data = os.read(fd, PIECE)
                if data:
                    self._silent.discard(fd)
                    self._write(self.joined.take(self._pipes[fd][0], data))
                elif fd not in self._silent:  # else nobody has opened it yet
                    del self._pipes[fd]

    def _write(self, data: bytes) -> None:
        """Writes whole blocks; a file that could not take them all ends before them."""
        rest = memoryview(data)
        try:
            while rest and not self._error:
                rest = rest[os.write(self._out, rest) :]
            self._written += len(data)
        except OSError as error:
            self._error = f"{self._path}: {explain(error)}; the file ends before"
            if stat.S_ISREG(os.fstat(self._out).st_mode):
                os.ftruncate(self._out, self._written)

    def _end(self) -> None:
        """Ends recording and takes what is left."""
        for _, place, pipe in self._pipes.values():
            with suppress(MeshError):
                ask(self._folder, m.RecordEnd(process=place.process, path=str(pipe)))
        until = time.monotonic() + END_S
        while self._pipes.keys() - self._silent and time.monotonic() < until:
            self._read(LOOK_S)

    def _why_silent(self, before: set[str]) -> None:
        notices = ask(self._folder, m.Status())["notices"]
        said = [text for text in notices if text not in before and ": record: " in text]
        names = ", ".join(self._pipes[fd][1].name for fd in self._silent if fd in self._pipes)
        raise ProcessError(said[-1] if said else f"{names} does not begin to record")


def _places(status: Mapping[str, Any], at: Sequence[str]) -> list[Place]:
    """Finds ports and NFs by their names."""
    workers = status["workers"]
    ports = [
        Place(port["source"], worker, number, names=tuple(port["names"]))
        for worker in sorted(workers)
        for number, port in enumerate(workers[worker].get("ports", ()))
        if _is_its_own(port, is_first=worker == min(workers))
    ]
    nfs = [Place(name, name, is_nf=True) for name in status["nfs"]]
    if not at:
        return ports
    found: list[Place] = []
    for word in at:
        matching = [place for place in ports if _is_called(place, word)]
        matching = matching or [place for place in nfs if place.name == word]
        if not matching:
            known = [place.name for place in (*ports, *nfs)]
            hint = did_you_mean(word, known) or f" (has: {', '.join(dict.fromkeys(known))})"
            raise SpecError(f"--at {word}", f"no such port or NF{hint}")
        found += matching
    return list(dict.fromkeys(found))


def _files_of(status: Mapping[str, Any]) -> list[str]:
    """Captures that the mesh reads or writes; of other ports names that are no files."""
    ports = (port for worker in status["workers"].values() for port in worker.get("ports", ()))
    return [port["source"] for port in ports]


def _is_its_own(port: Mapping[str, Any], *, is_first: bool) -> bool:
    """False for what stands for another worker's port, and for captures that all workers read."""
    return port["source"] != REMOTE and (is_first or not port["counters"].get("file_size"))


def _is_called(place: Place, word: str) -> bool:
    """Ports are called by source (afpacket:eth0), what it names (eth0), name, or number."""
    return word in (place.name, place.name.partition(":")[2], *place.names, str(place.port))


def _check_filter(text: str) -> None:
    from mesh.recording import packet_filter  # loads the library

    packet_filter(text)


def _open_file(path: str) -> int:
    if path == "-":
        return 1
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        os.fchmod(fd, 0o600)
    return fd


def _pipe_folder(folder: Path) -> Path:
    """Makes a folder that the mesh's processes may enter, as they may the run folder."""
    made = folder / f"capture-{secrets.token_hex(8)}"
    made.mkdir(mode=0o700)
    run = folder.stat()
    if run.st_mode & stat.S_IXGRP:
        os.chown(made, -1, run.st_gid)
        made.chmod(0o710)
    return made


def _make_pipe(path: Path) -> int:
    """Makes a pipe that they may write, and opens it for reading."""
    os.mkfifo(path, 0o600)
    above = path.parent.stat()
    if above.st_mode & stat.S_IXGRP:
        os.chown(path, -1, above.st_gid)
        path.chmod(0o620)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with suppress(OSError):  # more than the user may have: it stays small
        import fcntl

        fcntl.fcntl(fd, _F_SETPIPE_SZ, PIPE_BYTES)
    return fd


@contextmanager
def _stopped_by_signals(session: Session) -> Iterator[None]:
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, session.stop) for number in wanted]
    try:
        yield
    finally:
        for number, handler in zip(wanted, before, strict=True):
            signal.signal(number, handler)
