# SPDX-License-Identifier: Apache-2.0
"""The supervisor of one mesh on one host: owns the shared memory, keeps the processes running.

Theory of operation. It starts the controller, which composes and says in its part of the plan which
processes there shall be and which shared objects. The supervisor makes the objects, starts each
process on its cores and as its own user, and hands out descriptors to whoever proves to be one of
them. One thread waits for everything at once: ends of processes (pidfd), requests for descriptors,
signals, messages of the controller, and time. Whoever dies is started again as its policy says; the
objects stay, so nobody else notices. The controller is no exception: without it the mesh runs on.
A first SIGINT or SIGTERM ends the flows as at the end of a capture, and all NFs get their totals; a
second one kills. As PID 1 it also reaps what others leave behind.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import zmq

from mesh._ffi import native
from mesh.child import Child, Patience
from mesh.confine import keep_private
from mesh.control import messages as m
from mesh.control.client import Control, Settings
from mesh.control.desired import load_desired
from mesh.control.stats import HostStats, ObjectStats
from mesh.control.wire import ChildPart, HostPart, from_wire
from mesh.cores import CoreRequest
from mesh.drainer import Drainer
from mesh.errors import MeshError, ProcessError, SpecError, system_text
from mesh.fdpass import SOCKET, DescriptorService, Handle, make_token
from mesh.forks import ForkServer
from mesh.guests import Guest, Guests
from mesh.host_objects import create_objects, grants_of, journal_name
from mesh.journal import Journal
from mesh.mailbox import Mailbox
from mesh.objects import Objects
from mesh.outputs import Outputs
from mesh.pinning import Pinning
from mesh.process import Identity
from mesh.reconcile import host_changes
from mesh.room import check_room
from mesh.rundir import RunFolder
from mesh.signals import signals_as_calls
from mesh.users import MAX_NFS, Users, closed_to_others, find_users

__all__ = ["TOOL_KEY", "Outcome", "Supervisor", "SupervisorSettings", "mesh_gid"]

TOOL_KEY = "tool.key"
"""File in the run folder with the key that tools speak to the controller with."""
DESCRIPTORS = 48
"""That even a small mesh takes here or in its controller, which has the same limit."""
TICK_S = 0.1
PAUSE_S = 1.0
"""A longer time between two ticks means that the host stood still."""
LEAVE_S = 3.0
"""How long children may take to leave when the run is over."""
_FOR_ONE = 2 / 3
"""Of the time for an orderly end: so much one child may hang, the rest is for the others."""
_LOG = logging.getLogger("nfmesh.supervisor")


def mesh_gid() -> int | None:
    """Returns the group of NFs that are users of their own; None when they are this user."""
    return find_users().group


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """How a supervisor works.

    Attributes:
        users: whom NFs run as; default is what this host allows.
        patience: before a child that gives no sign of life is killed.
        stop_s: how long an orderly end may take; who hangs for two thirds of it is killed.
        metrics_port: of the controller's Prometheus endpoint; None: none, 0: any.
        listen: where the controller takes orders over the network, and the folder with its keys.
        is_open: NFs join from other containers, whoever they run as: their tokens decide.
        forks: a fork server that loads already, and that the supervisor closes; None: it starts
            one.
        on_tick: called about ten times a second.
    """

    users: Users = field(default_factory=find_users)
    patience: Patience = field(default_factory=Patience)
    stop_s: float = 30.0
    metrics_port: int | None = None
    listen: tuple[str, Path] | None = None
    is_open: bool = False
    forks: ForkServer | None = None
    on_tick: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        report: Report.to_json(), or None when it did not come to one.
        start_failed: NFs that did not start.
        error: why there is no whole report, or "".
        restarts: process → starts after the first.
    """

    report: Mapping[str, Any] | None
    start_failed: tuple[str, ...] = ()
    error: str = ""
    restarts: Mapping[str, int] = field(default_factory=dict)


class Supervisor:
    """Runs a mesh until it is over. Use it in a `with`, or call `close`.

    Args:
        folder: locked, with what shall run in it; removed at the end.
        settings: how.
        first: what the controller is going to say first, when that is known: processes then load
            their code while it loads its own.

    Raises:
        ProcessError: the sockets cannot be made.
    """

    def __init__(
        self,
        folder: RunFolder,
        settings: SupervisorSettings | None = None,
        first: m.PlanPart | None = None,
    ) -> None:
        self.folder, self.settings = folder, settings or SupervisorSettings()
        self._forks = self.settings.forks or ForkServer()
        users = self.settings.users
        self.objects, self.outputs = Objects(users.owner), Outputs()
        self.children: dict[str, Child] = {}
        self.notices: list[str] = list(folder.notices)
        if users.notice:
            self.notices.append(users.notice)
        self._part, self._first = HostPart((), (), {}), first
        self._drainer = Drainer(self.objects)
        self._pinning = Pinning(folder.path)
        self._finished: m.Finished | None = None
        self._late: m.PlanPart | None = None
        self._revision = 0
        self._stop_at = self._ending_at = 0.0
        self._patience = self.settings.patience
        self._ticked_at = self._awake_since = 0.0
        self._signals = 0
        self._problem = ""
        self._key = make_token()
        self._users = 0
        try:
            self._open()
        except (OSError, zmq.ZMQError) as error:
            self._forks.close()
            text = system_text(OSError(error.errno, error.strerror))
            raise ProcessError(f"{folder.path}: {text}") from error
        self._was_private = keep_private(True)

    def _open(self) -> None:
        """Makes the sockets, all or none."""
        check_room(DESCRIPTORS)
        with ExitStack() as made:
            self._selector = made.enter_context(selectors.DefaultSelector())
            settings = self.settings
            self.service = DescriptorService(
                self.folder.path / SOCKET, settings.users.group, is_open=settings.is_open
            )
            made.callback(self.service.close)
            self._selector.register(self.service.fileno(), selectors.EVENT_READ, self.service.serve)
            self._control = made.enter_context(self._connect())
            self._guests = Guests(
                self.service, self._drainer, self._grants, self._control.send, self._send_keys
            )
            self._mail = Mailbox(self._control)
            self._selector.register(self._mail.fd, selectors.EVENT_READ, self._read_mail)
            made.pop_all()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _connect(self) -> Control:
        register = m.Register(
            role="supervisor", pid=os.getpid(), abi=int(native().lib.nfm_abi_version())
        )
        address = f"ipc://{self.folder.path}/control"
        return Control(Settings(address, "supervisor", self._key, register, self.stats))

    def run(self) -> Outcome:
        """Starts the mesh and keeps it running until it is over.

        Returns:
            Its outcome; what went wrong inside the mesh is in there.
        """
        with signals_as_calls(self._selector, self.stop):
            if self._first is not None:
                self._apply(self._first)
            if not self._ending_at:
                self._start_controller()
            while not self._is_over():
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                self._tick(time.monotonic())
        return self._outcome()

    def _start_controller(self) -> None:
        keys = {name: child.key for name, child in self.children.items()}
        keys |= {"supervisor": self._key, "tool": self._write_tool_key()}
        port = self.settings.metrics_port
        arguments: tuple[str, ...] = () if port is None else ("--metrics-port", str(port))
        if self.settings.listen is not None:
            address, folder = self.settings.listen
            arguments += ("--listen", address, "--keys", str(folder))
        child = Child(
            "controller",
            "controller",
            Identity(),
            secret=msgpack.packb(keys),
            arguments=arguments,
        )
        self.children["controller"] = child
        self._start(child)

    def _write_tool_key(self) -> bytes:
        """Leaves the key of tools where only this user finds it."""
        key = make_token()
        path = self.folder.path / TOOL_KEY
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key)
        return key

    def stop(self) -> None:
        """Ends the run in order, called again at once: also what a signal does."""
        self._signals += 1
        if self._signals > 1:
            self._kill()
            return
        self._stop_at = time.monotonic() + self.settings.stop_s
        self._patience = self.settings.patience.within(self.settings.stop_s * _FOR_ONE)
        self._guests.close()
        self._control.send(m.Stop())
        for child in self.children.values():
            if child.role == "worker":
                child.signal(signal.SIGTERM)

    def close(self) -> None:
        """Kills what still runs and leaves nothing behind."""
        self._kill()
        self._forks.close()
        for child in self.children.values():
            while child.process is not None:
                self._reap(child)
            if child.journal is not None:
                child.journal.close()
        self._pinning.close()
        self._mail.close()
        self._control.close(0.0)
        keep_private(self._was_private)
        self._drainer.close()
        self.service.close()
        self._selector.close()
        self.objects.close()
        self.outputs.close()
        self.folder.close()

    def stats(self) -> HostStats:
        """Returns a heartbeat: processes, objects, notices. Called in the control thread."""
        return HostStats(
            processes=[c.stats(self._patience) for c in list(self.children.values())],
            objects=[
                ObjectStats(name=o.name, size=o.size, backing=o.backing) for o in list(self.objects)
            ],
            notices=[*self.notices, *self._forks.notices, *self.objects.notices],
            refused=dict(self.service.refused),
            pinning=self._pinning.tier,
        )

    # ---- the loop ------------------------------------------------------------------------

    def _timeout(self) -> float:
        waiting = [c.restart_at for c in self.children.values() if c.state == "waiting"]
        soonest = min(waiting, default=float("inf")) - time.monotonic()
        return max(0.0, min(TICK_S, soonest, self._drainer.pause_s))

    def _tick(self, now: float) -> None:
        if now - self._ticked_at > PAUSE_S:
            self._awake_since = now
        self._ticked_at = now
        for child in list(self.children.values()):
            child.check_life(self._patience, now, self._awake_since)
            if child.state == "waiting" and now >= child.restart_at and not self._ending_at:
                self._start(child)
        self._guests.send_away_hanging()
        self._drainer.drain()
        self._drop_unused()
        late, self._late = self._late, None
        if late is not None:
            self._apply(late)
        if os.getpid() == 1:
            self._reap_orphans()
        if self._stop_at and now > self._stop_at and not self._ending_at:
            self._problem = self._problem or "the mesh did not end in time and was killed"
            self._kill()
        if self._ending_at:
            self._hurry(now)
        if self.settings.on_tick is not None:
            self.settings.on_tick()

    def _is_over(self) -> bool:
        return bool(self._ending_at) and not any(c.process for c in self.children.values())

    def _hurry(self, now: float) -> None:
        """Sees that everybody leaves: the controller last, since it tells the others to."""
        late = now - self._ending_at
        others = [c for c in self.children.values() if c.role != "controller" and c.process]
        leaving = others or list(self.children.values())
        for child in leaving:
            child.is_unwanted = True
            if late > 2 * LEAVE_S:
                child.signal(signal.SIGKILL)
            elif not child.was_told and (not others or late > LEAVE_S):
                child.was_told = True
                child.signal(signal.SIGTERM)

    def _kill(self) -> None:
        for child in self.children.values():
            child.is_unwanted = True
            child.signal(signal.SIGKILL)
        self._ending_at = self._ending_at or time.monotonic()

    def _outcome(self) -> Outcome:
        restarts = {c.name: c.starts - 1 for c in self.children.values() if c.starts > 1}
        found = self._finished
        if found is None:
            return Outcome(None, (), self._problem or "the run was ended", restarts)
        error = found.error or self._problem  # the controller may have been faster than its end
        return Outcome(found.report, tuple(found.start_failed), error, restarts)

    # ---- what the controller says --------------------------------------------------------

    def _read_mail(self) -> None:
        for message in self._mail.take():
            if isinstance(message, m.PlanPart):
                self._apply(message)
            elif isinstance(message, m.Finished):
                self._finished = message
                self._guests.close()
                self._ending_at = self._ending_at or time.monotonic()

    def _apply(self, message: m.PlanPart) -> None:
        is_first, self._late = not self._part.children, None
        try:
            part = from_wire(HostPart, message.part)
            if any(self._is_leaving(child.name) for child in part.children):
                self._late = message
                return
            self._revision = message.revision
            self._change(part)
        except (MeshError, OSError) as error:
            if isinstance(error, SpecError) and self._frees_cores():
                self._late = message
                return
            text = system_text(error) if isinstance(error, OSError) else str(error)
            failed = m.Failed(where="host", text=text, fatal=is_first)
            if isinstance(error, SpecError) and error.nf:
                said = {"text": error.text, "path": error.path, "name": error.nf}
                failed = failed.model_copy(update=said)
            self._control.send(failed)
            if is_first:
                self._problem = text
                self._kill()
            return
        self._part = part
        self._control.send(m.Ready(revision=message.revision))

    def _is_leaving(self, name: str) -> bool:
        """True when the last child of this name has still to end: the next waits for it."""
        child = self.children.get(name)
        return child is not None and child.is_unwanted and not self._ending_at

    def _frees_cores(self) -> bool:
        """True while somebody ends who has cores: there may be enough in a moment."""
        leaving = (c for c in self.children.values() if c.is_unwanted and c.process is not None)
        return any(child.cores and not child.shares for child in leaving)

    def _change(self, part: HostPart) -> None:
        kept = {c.name: c.part for c in self.children.values() if c.part and not c.is_unwanted}
        planned = {o.name for o in self._part.objects if o.name in self.objects}
        changes = host_changes(part, kept, planned)
        cores = self._place(part, [child.name for child in changes.start])
        for name in [o.name for o in part.objects if o.name in self.objects]:
            if name not in planned:  # of a namesake that has left: this one gets its own
                self._remove_object(name)
        create_objects(self.objects, part)
        for child in part.children:
            self.outputs.open(child.writes)
        for wanted in changes.start:
            self._add(wanted, cores.get(wanted.name, ()))
        self._pinning.share(self.children.values())
        parts = {child.name: child for child in part.children}
        for name in changes.regrant:
            self._regrant(self.children[name], parts[name])
        for name in changes.stop:
            self.children[name].is_unwanted = True
            self._drainer.forget(name)

    def _place(self, part: HostPart, starting: list[str]) -> dict[str, tuple[int, ...]]:
        """Finds cores for children that start.

        Raises:
            SpecError: a core is given twice or is not there, or there are too few.
        """
        order = sorted(part.children, key=lambda child: child.role != "worker")
        here = [child for child in order if child.name in starting and child.place == "process"]
        requests = [CoreRequest(c.name, c.cores, count=c.n_cores) for c in here]
        others = [c for c in self.children.values() if c.name not in starting]
        found = self._pinning.place(requests, others, part.reserved)
        self.notices += self._pinning.notices
        self._pinning.notices.clear()
        return found

    def _drop_unused(self) -> None:
        """Lets go of children that have left, and of objects that the plan no longer has."""
        for name in [n for n, c in self.children.items() if c.is_unwanted and c.process is None]:
            if name == "controller" or self._ending_at:
                continue
            child = self.children.pop(name)
            self._guests.drop(name)
            self._pinning.forget(name)
            self._pinning.share(self.children.values())
            self.service.withdraw(name)
            if child.journal is not None:
                child.journal.close()
        if any(child.is_unwanted for child in self.children.values()) or self._ending_at:
            return
        self.outputs.keep({name for child in self._part.children for name in child.writes})
        wanted = {o.name for o in self._part.objects}
        wanted |= {journal_name(name) for name in self.children}
        for name in [o.name for o in self.objects if o.name not in wanted]:
            self._remove_object(name)

    def _remove_object(self, name: str) -> None:
        self.service.revoke(name)
        self.objects.remove(name)

    # ---- children ------------------------------------------------------------------------

    def _regrant(self, child: Child, part: ChildPart) -> None:
        if isinstance(child, Guest):
            self._guests.regrant(child, part)
            return
        child.part = part
        self.service.extend(child.name, self._grants(part))

    def _add(self, part: ChildPart, cores: tuple[int, ...]) -> None:
        if part.place == "pod":
            journal = Journal(self.objects[journal_name(part.name)].fd)
            guest = self.children[part.name] = self._guests.make(part, journal)
            self._guests.expect(guest)
            return
        identity = self._identity(part) if part.role in ("nf", "module") else Identity()
        journal = Journal(self.objects[journal_name(part.name)].fd)
        child = Child(part.name, part.role, identity, part, cores, journal)
        self.children[part.name] = child
        self._start(child)

    def _identity(self, part: ChildPart) -> Identity:
        """Finds a user for an NF or a module; no two have the same within 1000."""
        users = self.settings.users
        if users.first is None:
            return Identity()
        closed = closed_to_others(_files_of(self.folder.path, part))
        if closed is not None:
            text = (
                f"{part.name} runs as root without capabilities: other users cannot read {closed}"
            )
            self.notices.append(text)
            return Identity()
        self._users += 1
        uid = users.first + (self._users - 1) % MAX_NFS
        return Identity(uid, users.group, is_late=users.is_late)

    def _start(self, child: Child) -> None:
        if child.part is not None:
            self._drainer.forget(child.name)
            child.key = make_token()
            uid = child.identity.effective_uid
            self.service.offer(child.name, child.key, uid, self._grants(child.part))
            self._send_keys()
        try:
            child.start(self.folder.path, self._forks)
        except ProcessError as error:
            child.refused(error.text, time.monotonic())
            self._lost(child)
            return
        process = child.process
        self._pinning.hold(child)
        if process is not None:
            self._selector.register(process.pidfd, selectors.EVENT_READ, lambda: self._reap(child))

    def _grants(self, part: ChildPart) -> dict[str, Handle]:
        return grants_of(self.objects, part, self.outputs)

    def _send_keys(self) -> None:
        keys = {c.name: c.key for c in self.children.values() if c.part is not None}
        self._control.send(m.Keys(keys=keys))

    def _reap(self, child: Child) -> None:
        process = child.process
        if process is None:
            return
        status = process.reap()
        if status is None:
            return
        self._selector.unregister(process.pidfd)
        child.ended(status, time.monotonic())
        if child.state == "done":
            return
        if self._stop_at and child.hang:
            child.state = "failed"  # the others are to give their totals: nobody waits for it again
        self._lost(child)

    def _lost(self, child: Child) -> None:
        """Says that a child has no process, and sees that nobody waits for one given up."""
        _LOG.warning("%s: %s", child.name, child.last_exit)
        is_final = child.state == "failed"
        if child.part is None and is_final:
            self._problem = f"{child.name}: {child.last_exit}"
            self._kill()
        if child.part is not None:
            name, where = child.name, "exit" if child.had_begun else "start"
            failed = m.Failed(where=where, text=child.last_exit, fatal=is_final, name=name)
            self._control.send(failed.model_copy(update={"revision": self._revision}))
            if is_final or not child.part.is_waited_for:
                self._drainer.add(name, [w for w in child.part.writes if w.startswith("ring/")])

    def _reap_orphans(self) -> None:
        """As PID 1: takes the status of processes that lost their parent."""
        own = {c.process.pid for c in self.children.values() if c.process is not None}
        own.add(self._forks.pid)
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in own:
                return
            os.waitpid(found.si_pid, os.WNOHANG)


def _files_of(folder: Path, part: ChildPart) -> list[Path]:
    """Returns the file with a child's code, when it is one by itself."""
    if part.module is not None:
        return [Path(part.module.library)] if part.module.library else []
    uses = [entry.use for entry in load_desired(folder).parsed.nfs if entry.name == part.name]
    return [Path(use[: use.index(".py") + 3]) for use in uses if ".py" in use]
