# SPDX-License-Identifier: Apache-2.0
"""The controller process: `python -m mesh.control.controller --run DIR --key-fd N`.

A thin edge around `state.Mesh`: a ROUTER that processes and tools speak to, an XPUB on which
published events go out, a thread that composes. It holds no shared memory. It may be killed and
started again while packets flow: what shall run stands in the run directory, who runs says so
itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgpack
import zmq
import zmq.asyncio

from mesh._ffi import ABI_VERSION
from mesh.confine import confine
from mesh.control.actions import Action, Compose, Publish, Save, Send
from mesh.control.client import CONTROLLER
from mesh.control.composing import Composed, compose_desired
from mesh.control.desired import FILE as DESIRED
from mesh.control.desired import Desired, load_desired, save_desired
from mesh.control.history import load_history, save_history
from mesh.control.keys import REMOTE
from mesh.control.messages import Piece
from mesh.control.network import Network
from mesh.control.requests import finished
from mesh.control.seal import MAX_BYTES, Opener, Reason, Refused, Sealer
from mesh.control.state import Mesh
from mesh.control.status import status
from mesh.errors import CapacityError, MeshError, SpecError, system_text
from mesh.registry import Registry

__all__ = ["Controller", "Options", "main"]

log = logging.getLogger("nfmesh.controller")

TICK_S = 0.1
WATCH_BACKLOG = 1000
"""Events that wait for a slow watcher; it misses what is beyond."""
MAX_KEYS_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Options:
    """How a controller is run.

    Attributes:
        run: the run directory.
        keys: of "supervisor" and "tool", and of processes that have started already.
        metrics_port: of the Prometheus endpoint on this host; None: no endpoint, 0: any port.
        listen: address on the network, and the folder with its keys; None: the host alone.
        is_again: one ran before, and what it began goes on.
        registry: what is installed.
        clock: monotonic seconds.
    """

    run: Path
    keys: Mapping[str, bytes] = field(repr=False)
    metrics_port: int | None = None
    listen: tuple[str, Path] | None = None
    is_again: bool = False
    registry: Registry = field(default_factory=Registry.installed)
    clock: Callable[[], float] = time.monotonic


class Controller:
    """Runs until it is cancelled.

    Raises:
        SpecError: there is no plan in the run directory.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.mesh = Mesh(load_desired(options.run), ABI_VERSION, load_history(options.run))
        if options.is_again:
            self.mesh.follow(options.clock())
        self._sealer = Sealer(CONTROLLER)
        self._opener = Opener(self._key_of, self.mesh.refused)
        self._lock = threading.Lock()
        self._watched: set[str] = set()
        self._unsaved: Desired | None = None
        self._context = zmq.asyncio.Context()
        self._router = self._bind(zmq.ROUTER, "control")
        self._events = self._bind(zmq.XPUB, "events")
        self._network: Network | None = None
        if options.listen is not None:
            address, keys = options.listen
            self._network = Network(address, keys, self.mesh.refused, self._take)

    async def run(self) -> None:
        """Serves; cancelling ends it."""
        close_metrics: Callable[[], None] | None = None
        if self.options.metrics_port is not None:
            from mesh.control.metrics import ADDRESS, serve

            port, close_metrics = serve(self.options.metrics_port, self._status)
            self.mesh.metrics = f"http://{ADDRESS}:{port}/metrics"
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                await self._do(self.mesh.start())
                tasks.create_task(self._receive())
                tasks.create_task(self._watch())
                tasks.create_task(self._tick())
                if self._network is not None:
                    tasks.create_task(self._network.run())
        finally:
            self._save_history()
            if close_metrics is not None:
                await asyncio.to_thread(close_metrics)
            self._router.close(200)
            self._events.close(0)
            self._context.term()

    def _bind(self, kind: int, name: str) -> zmq.asyncio.Socket:
        path = self.options.run / name
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        socket: zmq.asyncio.Socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        if kind == zmq.XPUB:
            socket.setsockopt(zmq.SNDHWM, WATCH_BACKLOG)
            socket.setsockopt(zmq.MAXMSGSIZE, 1024)
        else:
            socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
            socket.setsockopt(zmq.MAXMSGSIZE, 4 * MAX_BYTES)
        socket.bind(f"ipc://{path}")
        # NFs have other uids: who may come near is decided by the directory, who is taken by keys.
        # Events are for tools, which are this user's: NFs of other domains must not hear them.
        path.chmod(0o600 if kind == zmq.XPUB else 0o666)
        return socket

    def _key_of(self, name: str) -> bytes | None:
        if name == REMOTE:
            return (self._network.key if self._network is not None else b"") or None
        return self.mesh.key_of(name) or self.options.keys.get(name)

    def _status(self) -> dict[str, Any]:
        """Makes a status; called by the metrics thread too."""
        with self._lock:
            return status(self.mesh, self.options.clock())

    # ---- what comes in -----------------------------------------------------------------------

    async def _receive(self) -> None:
        while True:
            await self._take(await self._router.recv_multipart(), is_near=True)

    async def _take(self, parts: Sequence[bytes], *, is_near: bool = False) -> None:
        """Takes a message: a connection over the network is `remote` and nobody else."""
        identity, *frames = parts
        try:
            message = self._opener.open(frames)
        except Refused as error:
            self._note(error)
            return
        if (message.name == REMOTE) == is_near:
            self.mesh.refused["role"] += 1
            return
        if isinstance(message.body, Piece):
            return
        with self._lock:
            actions = self.mesh.receive(identity, message, self.options.clock())
        await self._do(actions)

    def _note(self, error: Refused) -> None:
        """Says the first refusal of its kind, the second, the fourth, ...: anybody may knock.

        A process that makes a new connection may overtake what it said on the old one, so what
        seems to come again is counted only.
        """
        n = self.mesh.refused[error.reason]
        if error.reason is not Reason.REPLAY and n & (n - 1) == 0:
            log.warning("%s (%d times)", error, n)

    async def _watch(self) -> None:
        """Follows who subscribes to what: XPUB says the first and the last of each topic."""
        while True:
            frame = await self._events.recv()
            kind, topic = frame[:1], frame[1:].decode("utf-8", "replace").rstrip(".")
            if kind == b"\x01":
                self._watched.add(topic)
            elif kind == b"\x00":
                self._watched.discard(topic)
            with self._lock:
                actions = self.mesh.watch(frozenset(self._watched), self.options.clock())
            await self._do(actions)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._save_late()
            with self._lock:
                if self._network is not None:
                    self.mesh.listening = self._network.statistics()
                actions = self.mesh.tick(self.options.clock())
                self._save_history()
            await self._do(actions)

    def _save_history(self) -> None:
        if self.mesh.history.is_fresh:
            save_history(self.options.run, self.mesh.history)

    # ---- what goes out -----------------------------------------------------------------------

    async def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                await self._send(action)
            elif isinstance(action, Publish):
                await self._events.send_multipart([action.topic, action.payload])
            elif isinstance(action, Save):
                await self._do(self._save(action.desired))
            elif isinstance(action, Compose):
                self._tasks.create_task(self._compose(action.desired))

    def _save(self, desired: Desired) -> list[Action]:
        path = self.options.run / DESIRED
        self._unsaved = None
        try:
            save_desired(self.options.run, desired)
        except OSError as error:
            refused = CapacityError(f"{path}: {system_text(error)}; nothing has changed")
            with self._lock:
                actions = self.mesh.not_saved(refused, self.options.clock())
                self._unsaved = desired if self.mesh.desired is desired else None
            return actions
        with self._lock:
            return self.mesh.saved(self.options.clock())

    def _save_late(self) -> None:
        """Tries again to save what runs."""
        if self._unsaved is not None:
            with contextlib.suppress(OSError):
                save_desired(self.options.run, self._unsaved)
                self._unsaved = None

    async def _send(self, action: Send) -> None:
        key = self._key_of(action.name)
        if key is None:
            return
        try:
            for frames in self._sealer.seal(action.body, key):
                if action.name == REMOTE and self._network is not None:
                    await self._network.send([action.identity, *frames])
                    continue
                await self._router.send_multipart([action.identity, *frames], zmq.NOBLOCK)
        except (Refused, zmq.ZMQError) as error:
            self.mesh.refused["unsent"] += 1
            log.warning("%s to %s: %s", action.body.TYPE, action.name, error)

    async def _compose(self, desired: Desired) -> None:
        found = await asyncio.to_thread(_composed, desired, self.options.registry)
        with self._lock:
            now = self.options.clock()
            if isinstance(found, MeshError):
                actions = self.mesh.not_composed(found, now)
            else:
                actions = self.mesh.composed(found, now)
        await self._do(actions)


def _composed(desired: Desired, registry: Registry) -> Composed | MeshError:
    """Composes; whatever the code of an NF raises is an error of the plan."""
    try:
        made = compose_desired(desired, registry)
        if desired.then is not None:  # what follows has to be possible before anybody leaves
            after = replace(finished(made.desired), leaving={})
            compose_desired(after, registry)
        return made
    except MeshError as error:
        return error
    except Exception as error:
        log.exception("composing")
        return SpecError("", f"{type(error).__name__}: {error}")


def _read_keys(fd: int) -> dict[str, bytes]:
    with os.fdopen(fd, "rb") as pipe:
        raw = pipe.read(MAX_KEYS_BYTES)
    try:
        keys = msgpack.unpackb(raw, raw=False)
        found = {str(name): bytes(key) for name, key in dict(keys).items()}
        if not found.keys() >= {"supervisor", "tool"}:
            raise ValueError("a key is missing")
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise SpecError("--key-fd", f"no keys come from descriptor {fd}") from error
    return found


async def _run(options: Options) -> None:
    controller = Controller(options)
    task = asyncio.ensure_future(controller.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the controller; returns the exit status."""
    parser = argparse.ArgumentParser(prog="mesh.control.controller", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run directory")
    parser.add_argument("--key-fd", type=int, required=True, help="descriptor with the keys")
    parser.add_argument("--parent", type=int, help="pid of the supervisor, to die with it")
    parser.add_argument("--metrics-port", type=int, help="Prometheus endpoint on 127.0.0.1")
    parser.add_argument("--listen", help="tcp://ADDRESS:PORT for orders over the network")
    parser.add_argument("--keys", type=Path, help="folder with the keys for that")
    parser.add_argument("--again", action="store_true", help="one ran before")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="nfmesh: controller: %(message)s", level=logging.WARNING)
    try:
        if given.parent is not None:
            confine(given.parent, is_private=True)
        keys = _read_keys(given.key_fd)
        listen = None if given.listen is None else (given.listen, given.keys or given.run)
        options = Options(given.run, keys, given.metrics_port, listen, is_again=given.again)
        asyncio.run(_run(options))
    except (MeshError, OSError) as error:
        sys.stderr.write(f"nfmesh: controller: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
