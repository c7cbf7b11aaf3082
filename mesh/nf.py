# SPDX-License-Identifier: Apache-2.0
"""Network functions: the base class, its subscriptions as class data, and configuration.

class SynScan(NF):
    '''Reports sources that open many connections.'''

    publishes = (PortScan,)

    def __init__(self, limit: int = 20) -> None:
        self.limit, self.seen = limit, Counter()

    @on("tcp.handshake.syn", where="not src net 10.0.0.0/8")
    def opened(self, batch: EventBatch) -> None:
        self.seen.update(batch.src_ip)
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from mesh.commands import Flow, FlowControl
from mesh.declare import Event, Origin
from mesh.errors import StateError, did_you_mean
from mesh.field_record import raise_about

if TYPE_CHECKING:
    from mesh.batch import EventBatch, EventView

__all__ = ["NF", "Context", "NativeCode", "NativeHandle", "Option", "Subscription", "on"]

Mode = Literal["observe", "inline"]
_Handler = TypeVar("_Handler", bound=Callable[..., None])


_NOT_CALLED = (
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
)
"""Functions of which a call alone does nothing."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What one handler wants to hear.

    Attributes:
        events: names of event types; a node means everything below it.
        where: a filter that all of the events' types can answer, or None.
        mode: "observe" (beside the packets) or "inline" (packets wait for the verdict; on bytes and
            on what modules find in them, the packets that brought these).
        name: for messages and plans; the handler's name unless given.
        handler: method of the NF; "" for the native function.
        stage: inline only: the packets' place in line.
        edits: inline only: the NF changes packets, so it is alone in its stage.
        per_flow: hears nothing until the NF subscribes it on a flow (`NF.flow`).
        beside: observes whatever mode a spec gives the NF: its events are none to wait for.
    """

    events: tuple[str, ...]
    where: str | None = None
    mode: Mode = "observe"
    name: str = ""
    handler: str = ""
    stage: int = 0
    edits: bool = False
    per_flow: bool = False
    beside: bool = False

    def __call__(self, method: _Handler) -> _Handler:
        """Marks `method` as the handler of this subscription."""
        if any(is_other(method) for is_other in _NOT_CALLED):
            raise TypeError(f"{method.__name__} is async or a generator: a handler is called")
        marked: tuple[Subscription, ...] = getattr(method, "__nf_on__", ())
        method.__nf_on__ = (self, *marked)  # type: ignore[attr-defined]
        return method


def on(
    *events: str,
    where: str | None = None,
    mode: Mode = "observe",
    name: str | None = None,
    stage: int = 0,
    edits: bool = False,
    per_flow: bool = False,
    beside: bool = False,
) -> Subscription:
    """Subscribes a handler to events: a decorator, or an entry of `NF.subscribes`.

    Args:
        events: one or more names of event types; `"tcp.anomaly"` means all below it.
        where: filter in pcap syntax or over event fields: `"tcp.retransmits > 3 and port 443"`.
        mode: "observe" or "inline".
        name: the subscription's name in plans and messages; default is the handler's.
        stage: place of an inline NF, small numbers first.
        edits: the inline NF changes packets.
        per_flow: nothing is heard until `self.flow(event.flow).subscribe("tcp.data")`.
        beside: stays an observer when a spec says `mode: inline` of the NF.
    """
    if not events or not all(isinstance(event, str) for event in events):
        raise TypeError('name the events: @on("tcp.handshake.syn")')
    return Subscription(events, where, mode, name or "", "", stage, edits, per_flow, beside)


@dataclass(frozen=True, slots=True)
class NativeCode:
    """The C part of an NF: a shared library of its own, called once per batch.

    Attributes:
        library: file without ".so" beside the NF's Python file, or a path.
        process: symbol of type nfm_process_fn.
        init: `void *init(const char *config_json)`, or None: the state is NULL.
        fini: `void fini(void *state)`, or None.
    """

    library: str
    process: str
    init: str | None = None
    fini: str | None = None


@dataclass(frozen=True, slots=True)
class NativeHandle:
    """A loaded native NF, for its Python half: `lib` is a ctypes.CDLL, `state` an address."""

    lib: Any
    state: int


@dataclass(frozen=True, slots=True)
class Context:
    """What an NF learns when it starts.

    Attributes:
        name: of this instance in the plan.
        source: what the packets come from, as text: a file name or "memory".
        out: folder for files that the NF writes.
        files: descriptors of files that were opened for it.
        ports: by number, what each port may be called.
        types: name of an event type → its number in descriptors, for native code.
        workers: that share the packets; the upper byte of a flow's id says whose it is.
    """

    name: str
    source: str
    out: Path = field(default_factory=Path)
    files: Mapping[str, int] = field(default_factory=dict)
    ports: tuple[tuple[str, ...], ...] = ()
    types: Mapping[str, int] = field(default_factory=dict)
    workers: int = 1

    def port(self, said: str | int) -> int:
        """Returns the number of a port: as verdicts and `NF.inject` take it.

        Args:
            said: its name in the spec, its interface, or its number.

        Raises:
            StateError: there is no such port.
        """
        wanted = int(said) if isinstance(said, str) and said.isdecimal() else said
        for number, names in enumerate(self.ports):
            if wanted == number or wanted in names:
                return number
        known = [names[0] for names in self.ports if names]
        hint = did_you_mean(str(said), known) or f"; there are: {', '.join(known)}"
        raise StateError(f"no port {said!r}{hint}")

    def open(self, path: str | Path, mode: Literal["w", "wb"] = "w") -> IO[Any]:
        """Opens a file to write; the NF closes it.

        An NF that is a process may be a user who has no right to the file: name the option that
        holds the path in `NF.writes`, and the file is opened by the user who runs the mesh. An NF
        that is started again writes behind what is there.

        Args:
            path: relative to `out`.
            mode: text in UTF-8, or bytes.

        Raises:
            OSError: it cannot be written.
        """
        full = str(Path(self.out, path))
        fd = self.files.get(full)
        target = full if fd is None else os.dup(fd)
        if mode == "wb":
            return open(target, mode)
        return open(target, mode, encoding="utf-8", newline="")


class NF:
    """Base of all network functions. State lives on `self`; subscriptions are class data.

    Class attributes:
        name: in plans, specs and on the command line; default is the class name in snake case.
        publishes: event classes that `publish` may be given.
        raises: event classes that `raise_event` may be given; others than those in `publishes`.
        subscribes: subscriptions of `handle`, or of the native function when `native` is set.
        native: C code that handles `subscribes`.
        holds: entries that it may keep past a batch at once.
        writes: options that are files to be written.
        needs_order: several workers' entries of a capture come in the order of packets, in short
            batches; otherwise they may be 10 ms of event time apart from it. Inline NFs have it.
    """

    name: ClassVar[str] = "nf"
    publishes: ClassVar[tuple[type[Event], ...]] = ()
    raises: ClassVar[tuple[type[Event], ...]] = ()
    subscribes: ClassVar[tuple[Subscription, ...]] = ()
    native: ClassVar[NativeCode | None] = None
    holds: ClassVar[int] = 0
    writes: ClassVar[tuple[str, ...]] = ()
    needs_order: ClassVar[bool] = False

    log: logging.Logger
    native_handle: NativeHandle | None
    _published: list[tuple[Event, EventView | Origin | None]]
    _raised: list[tuple[Event, EventView]] | None
    _flows: FlowControl | None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "name" not in cls.__dict__:
            cls.name = snake_case(cls.__name__)

    def __new__(cls, *args: Any, **kwargs: Any) -> typing.Self:
        """Sets what the base needs, so that a subclass need not call `super().__init__`."""
        self = super().__new__(cls)
        self.log = logging.getLogger(f"nfmesh.nf.{cls.name}")
        self.native_handle = None
        self._published = []
        self._raised = None
        self._flows = None
        return self

    def start(self, ctx: Context) -> None:
        """Runs once before the first batch. Open files here, not in `__init__`."""

    def stop(self) -> None:
        """Runs once after the last batch, also when the NF failed. Close files here."""

    def handle(self, batch: EventBatch) -> None:
        """Handles what `subscribes` names; the batch is valid until this returns."""
        raise NotImplementedError(f"{type(self).__name__} subscribes but has no handle(batch)")

    def poll(self) -> None:
        """Runs after every round of batches, and some times a second when nothing comes.

        An NF with native code takes its findings here, and does what is due by the clock. If its
        process is killed, an observer's findings are neither lost nor published twice, apart from
        what its own state knew. An inline one passes packets before it is polled: what it found in
        the last 20 ms may be lost, unless it has `checkpoint`, which serves it run by run.
        """

    def lost(self, entries: int) -> None:
        """Runs where a lossy ring had no room: so many entries are missing before what follows."""

    def checkpoint(self) -> Any:
        """Returns the NF's state as msgpack can write it, or None: nothing is kept.

        Where NFs are processes this is asked before handled entries are passed; after a crash
        `restore` gets it back, and no entry is counted twice or left out.
        """
        return None

    def restore(self, state: Any) -> None:
        """Takes the state that `checkpoint` returned, before `start`."""

    def results(self) -> Mapping[str, Any] | None:
        """Returns what the command line prints at the end (JSON values), or None."""
        return None

    def flow(self, flow: int) -> Flow:
        """Returns a handle on a flow: `self.flow(event.flow).unsubscribe("tcp.data")`.

        Args:
            flow: id, as in events.

        Raises:
            StateError: the NF does not run yet.
        """
        if self._flows is None:
            raise StateError(f"{self.name} has no flows before its first event")
        return Flow(int(flow), self._flows)

    def inject(self, frame: bytes, port: int) -> None:
        """Sends a frame of the NF's own: whole, with checksums; it passes no NF. For inline NFs.

        Args:
            frame: link layer and all, up to 69568 bytes.
            port: number of the port by which it leaves (`Context.port`).

        Raises:
            StateError: the NF does not run yet, or decides over no packets.
            ValueError: too long, or empty.
        """
        if self._flows is None:
            raise StateError(f"{self.name} can send nothing before its first event")
        self._flows.inject(frame, port)

    def publish(self, event: Event, about: EventView | Origin | None = None) -> None:
        """Publishes an event; its subscribers get it in the same run, after this handler.

        Args:
            event: one of the classes in `publishes`.
            about: the event that caused it: gives time, flow and inherited fields; an Origin, which
                native code has copied, gives time and flow.

        Raises:
            StateError: the class is not in `publishes`.
        """
        if type(event) not in self.publishes:
            raise StateError(
                f"{self.name} may not publish {type(event).__name__}: add it to `publishes`"
            )
        self._published.append((event, about))

    def raise_event(self, event: Event, about: EventView) -> None:
        """Raises an event with the verdict on the packet that it is about. For inline NFs.

        Inline NFs of later stages that subscribe to it decide on it while the packet still waits;
        all others get it as they get the events of the stack. It does not go into the NF's log, so
        when the NF is killed and handles its batch again, it is raised again.

        Args:
            event: one of the classes in `raises`.
            about: of the inline handler's batch: gives time, flow, packet and inherited fields.

        Raises:
            StateError: the class is not in `raises`, or no packet waits for `about`.
            ValueError: its fields take more than 64 KiB.
        """
        if type(event) not in self.raises:
            raise StateError(
                f"{self.name} may not raise {type(event).__name__}: add it to `raises`"
            )
        raise_about(event, about)
        if self._raised is not None:  # somebody watches
            self._raised.append((event, about))

    @classmethod
    def subscriptions(cls) -> tuple[Subscription, ...]:
        """Returns all subscriptions: those of `subscribes`, then the handlers' in source order."""
        default = "" if cls.native is not None else "handle"
        found = [_named(sub, default) for sub in cls.subscribes]
        for method in handlers(cls):
            found += [_named(sub, method.__name__) for sub in method.__nf_on__]
        return tuple(found)

    @classmethod
    def options(cls) -> tuple[Option, ...]:
        """Returns the configuration options: the typed arguments of `__init__`."""
        if cls.__init__ is object.__init__:
            return ()
        hints = typing.get_type_hints(cls.__init__, include_extras=True)
        docs = _argument_docs(inspect.cleandoc(cls.__init__.__doc__ or cls.__doc__ or ""))
        found: list[Option] = []
        for arg in list(inspect.signature(cls.__init__).parameters.values())[1:]:
            if arg.kind in (arg.VAR_POSITIONAL, arg.VAR_KEYWORD):
                continue
            required = arg.default is arg.empty
            found.append(
                Option(
                    arg.name,
                    hints.get(arg.name, Any),
                    None if required else arg.default,
                    required,
                    docs.get(arg.name, ""),
                )
            )
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Option:
    """One configuration option of an NF: an argument of its `__init__`."""

    name: str
    type: Any
    default: Any
    required: bool
    doc: str


def handlers(cls: type[NF]) -> tuple[Any, ...]:
    """Returns the methods that `@on` marked, base classes first, in source order."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if hasattr(value, "__nf_on__"):
                found[name] = value
            elif name in found:
                del found[name]
    return tuple(found.values())


def snake_case(name: str) -> str:
    """Turns a class name into an NF name.

    >>> snake_case("SynScan"), snake_case("HTTPLog")
    ('syn_scan', 'http_log')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _named(sub: Subscription, handler: str) -> Subscription:
    name = sub.name or handler or "native"
    return replace(sub, name=name, handler=handler)


def _argument_docs(text: str) -> dict[str, str]:
    """Reads the Args section of a Google docstring: name → first line."""
    found: dict[str, str] = {}
    inside = False
    for line in text.splitlines():
        if line.strip() == "Args:":
            inside = True
        elif inside and line and not line.startswith(" "):
            inside = False
        elif inside and (match := re.match(r"\s{4}(\w+): (.*)", line)):
            found[match[1]] = match[2]
    return found
