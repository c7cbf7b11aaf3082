# SPDX-License-Identifier: Apache-2.0
"""Every message between the controller, its processes and tools: one model each.

A message on the wire is two frames, a msgpack map {v, type, name, session, seq, body} and its
HMAC-SHA256 under the key of the process that it comes from or goes to. `mesh/control/seal.py`
makes and opens them; whatever does not open is refused with a reason and counted. What is longer
than a message may be, the report of an NF that found much, goes in pieces.

    process → controller            controller → process          tool ↔ controller
    register                        plan (its part)               status, stop, apply
    ready     plan applied          go        data may flow       nf_add, nf_put, nf_remove
    attached  data flows            drain     finish what is there  subscribe, unsubscribe
    heartbeat every 500 ms          hold      a change comes      functions, record, record_end
    held      I wait for it         seen      I am here           ok, error
                                    record, record_end: a tool's, handed on
    published (when watched)        who       register again
    eof, result, drained, failed    watch, leave, stats_request
    away      an NF that had joined is gone, says the supervisor

The life of a process: register → plan → ready → go → attached → heartbeats … → drain → drained
(an NF: result, then drained) → leave. Another plan may come at any time, to a running NF between
hold and its end, and is answered with ready. What is lost when a connection breaks is said again
over the next one, by both sides: talk.py says how.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from mesh.control.stats import Count, Counts, Stats, Strict, Text

__all__ = [
    "BODIES",
    "NAME",
    "VERSION",
    "Apply",
    "Attached",
    "Away",
    "Body",
    "Drain",
    "Drained",
    "Eof",
    "Error",
    "Failed",
    "Finished",
    "Functions",
    "Go",
    "Heartbeat",
    "Held",
    "Hold",
    "Keys",
    "Leave",
    "NfAdd",
    "NfPut",
    "NfRemove",
    "Ok",
    "Piece",
    "PlanPart",
    "Published",
    "PublishedEvent",
    "Ready",
    "Record",
    "RecordEnd",
    "Register",
    "Result",
    "Seen",
    "StatsRequest",
    "Status",
    "Stop",
    "Subscribe",
    "Unsubscribe",
    "Watch",
    "Who",
]

VERSION = 1
NAME = r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]
Data = dict[str, Any]
"""Plain data that another module checks: a part of the plan, a report, an entry of a spec."""
Cores = Annotated[list[Annotated[int, Field(ge=0, lt=65536)]], Field(max_length=4096)]
Events = Annotated[list[Text], Field(max_length=256)]


class Body(Strict):
    """Base of all messages; `TYPE` is its name on the wire."""

    TYPE: ClassVar[str] = ""


class Piece(Body):
    """Part of a message that is too long for one: `data` joined is its packed body.

    Attributes:
        of: type of the whole message.
        index: from 0, in order; total: how many there are.
    """

    TYPE = "piece"
    of: Text
    index: Count
    total: Annotated[int, Field(ge=1, le=128)]
    data: Annotated[bytes, Field(max_length=1 << 20)]


# ---- process → controller ----------------------------------------------------------------------


class Register(Body):
    """A process is there; also after it lost the controller, with the same session.

    Attributes:
        abi: nfm_abi_version() of its library; 0 for a process that has none.
        cores: those that it may run on.
        revision: of the plan that it has applied; 0 none.
        declares: an NF that joins: what its class subscribes to, as mesh.declared has it.
    """

    TYPE = "register"
    role: Literal["worker", "nf", "supervisor"]
    pid: Count
    abi: Count = 0
    cores: Cores = Field(default=[])
    revision: Count = 0
    declares: Data | None = None


class Keys(Body):
    """The supervisor tells the keys (tokens) of the processes it started: name → 32 bytes."""

    TYPE = "keys"
    keys: Annotated[
        dict[Name, Annotated[bytes, Field(min_length=16, max_length=64)]], Field(max_length=1024)
    ]


class Ready(Body):
    """A plan has been applied.

    Attributes:
        revision: of that plan.
        effective_from: a worker: number of the first packet that the plan holds for.
        positions: a worker: ring name → entries pushed when it took effect.
    """

    TYPE = "ready"
    revision: Count
    effective_from: Count | None = None
    positions: Counts = Field(default={})


class Attached(Body):
    """An NF has mapped everything, has started and takes events; a worker takes packets.

    Attributes:
        cpus: Cpus_allowed_list of its process.
        uid: its user, as it knows it.
        backing: object that it maps → what memory that lies on.
    """

    TYPE = "attached"
    revision: Count
    cpus: Text = ""
    uid: Count | None = None
    backing: Annotated[dict[Text, Text], Field(max_length=4096)] = Field(default={})


class Away(Body):
    """The supervisor says that an NF that had joined is gone; it may come again.

    Attributes:
        text: how it left; "" when it had finished.
        failed: it could not begin, and the text says why: its own message may come too late.
    """

    TYPE = "away"
    name: Name
    text: Text = ""
    failed: bool = False


class Held(Body):
    """Answers `hold`: nothing is taken from rings until the next part of the plan."""

    TYPE = "held"
    revision: Count


class Heartbeat(Body):
    """A sign of life."""

    TYPE = "heartbeat"
    revision: Count = 0
    stats: Stats | None = None


class Drained(Body):
    """Nothing is left to do: ring name → position of the next entry."""

    TYPE = "drained"
    position: Counts = Field(default={})


class Eof(Body):
    """A worker is at the end of its ports; the fields are those of mesh.report.Report."""

    TYPE = "eof"
    source: Text
    seconds: Annotated[float, Field(ge=0)]
    statistics: Counts
    counters: Counts
    warnings: list[Text] = Field(default=[], max_length=64)
    interrupted: bool = False


class Result(Body):
    """An NF's report, as one of Report.to_json()["nfs"].

    Attributes:
        start_failed: it did not start, which ends `nfmesh run` as wrong use does.
    """

    TYPE = "result"
    report: Data
    start_failed: bool = False


class Failed(Body):
    """Something went wrong.

    Attributes:
        where: "import", "plan", "attach", "start", a handler, "exit", ...
        fatal: the process gives up and starting it again is of no use.
        path: place in the spec, when that is what is wrong.
        revision: that the supervisor has applied: a later process of that name is another; 0: any.
    """

    TYPE = "failed"
    where: Text
    text: Annotated[str, Field(max_length=65536)]
    fatal: bool = False
    path: Text = ""
    revision: Count = 0
    name: Annotated[str, Field(pattern=NAME)] | None = None
    """Of the process, when its supervisor says it."""


class PublishedEvent(Strict):
    """One event that an NF published."""

    event: Text
    ts_ns: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
    flow: Count = 0
    fields: Data


class Published(Body):
    """Published events that somebody watches; `missed` were too many to send."""

    TYPE = "published"
    events: Annotated[list[PublishedEvent], Field(max_length=1024)]
    missed: Count = 0


# ---- controller → process ----------------------------------------------------------------------


class PlanPart(Body):
    """What a process has to do from now on: see mesh/control/wire.py for the parts.

    Attributes:
        after: a running NF: ring name → position from which on the part holds; entries before it
            were pushed for the part it has.
    """

    TYPE = "plan"
    revision: Count
    part: Data
    after: Counts = Field(default={})


class Go(Body):
    """NF: the worker's rings are there, attach. Worker: receivers are attached, take packets."""

    TYPE = "go"
    revision: Count


class Hold(Body):
    """A running NF's part will change: take nothing from rings until the next part comes.

    The worker changes meanwhile; the part that follows says from which positions it holds, so that
    no entry is read by the tables of another revision.
    """

    TYPE = "hold"
    revision: Count


class Drain(Body):
    """Finish what is there, then say `drained`. A worker ends its flows and its rings first."""

    TYPE = "drain"
    reason: Text


class Leave(Body):
    """Nothing more is wanted of this process."""

    TYPE = "leave"


class StatsRequest(Body):
    """Send a heartbeat now."""

    TYPE = "stats_request"


class Watch(Body):
    """Published event types that somebody watches; a node means everything below it."""

    TYPE = "watch"
    events: Events


class Seen(Body):
    """Answers `register` and `heartbeat`.

    Attributes:
        revision: of the plan that the process' part holds for; it registers with that.
    """

    TYPE = "seen"
    revision: Count = 0


class Who(Body):
    """Answers whatever a process sends before the controller knows it: register again."""

    TYPE = "who"


class Finished(Body):
    """To the supervisor: the run is over.

    Attributes:
        report: Report.to_json().
        start_failed: NFs that did not start.
        error: why there is no whole report: the worker failed.
    """

    TYPE = "finished"
    report: Data
    start_failed: Events = Field(default=[])
    error: Text = ""


# ---- tools -------------------------------------------------------------------------------------


class Status(Body):
    """Asks for all that is known; answered with `ok`."""

    TYPE = "status"


class Functions(Body):
    """Asks for all NFs as the objects that they would be in a cluster, and what happened to them.

    Answered with `ok`: {functions, events}.
    """

    TYPE = "functions"


class Stop(Body):
    """Ends the run: flows end, NFs get their totals. `now` does not wait for NFs."""

    TYPE = "stop"
    now: bool = False


class Record(Body):
    """Records frames into a pipe: from a tool by way of the controller to a process.

    It begins when the pipe has its header; what is wrong is said by `failed` where "record".

    Attributes:
        process: a worker, whose port `port` is meant, or an NF.
        path: of a named pipe that the tool reads.
        where: filter over packets, "" all.
        direction: "rx" came in, or the NF was handed; "tx" went out, or the NF let pass.
    """

    TYPE = "record"
    process: Name
    path: Text
    port: Annotated[int, Field(ge=0, lt=256)] = 0
    where: Text = ""
    snaplen: Annotated[int, Field(ge=0, lt=1 << 20)] = 0
    direction: Literal["rx", "tx", "both"] = "both"


class RecordEnd(Body):
    """Ends a recording: the pipe gets what is left, and its end."""

    TYPE = "record_end"
    process: Name
    path: Text


class Apply(Body):
    """Replaces the whole spec; a dry run says what would change, and changes nothing."""

    TYPE = "apply"
    spec: Data
    dry_run: bool = False


class NfAdd(Body):
    """Adds an NF: an entry as in a spec's `nfs`."""

    TYPE = "nf_add"
    entry: Data


class NfPut(Body):
    """Adds NFs, or changes those of their names, all or none: entries as in a spec's `nfs`.

    A dry run says what would change, and changes nothing.
    """

    TYPE = "nf_put"
    entries: Annotated[list[Data], Field(min_length=1, max_length=1024)]
    dry_run: bool = False


class NfRemove(Body):
    """Removes an NF after it has handled what it was sent; `missing_ok`: or was not there."""

    TYPE = "nf_remove"
    nf: Name
    missing_ok: bool = False


class Subscribe(Body):
    """Adds events to what an NF's subscription hears, or changes its filter.

    Attributes:
        subscription: its name; may be left out where an NF has one only.
        where: a new filter; None leaves it.
    """

    TYPE = "subscribe"
    nf: Name
    events: Events = Field(default=[])
    subscription: Text | None = None
    where: Text | None = None


class Unsubscribe(Body):
    """Takes events from what an NF's subscription hears; no events: all of them."""

    TYPE = "unsubscribe"
    nf: Name
    events: Events = Field(default=[])
    subscription: Text | None = None


class Ok(Body):
    """A request was done; `request` is its seq."""

    TYPE = "ok"
    request: Count
    result: Data = Field(default={})


class Error(Body):
    """A request was refused.

    Attributes:
        path: place in the spec, or "".
    """

    TYPE = "error"
    request: Count
    text: Annotated[str, Field(max_length=65536)]
    path: Text = ""


BODIES: Mapping[str, type[Body]] = {
    body.TYPE: body
    for body in (
        *(Piece, Register, Keys, Ready, Attached, Held, Heartbeat, Drained, Eof, Result, Failed),
        *(Published, PlanPart, Go, Hold, Drain, Leave, StatsRequest, Watch, Seen, Who, Finished),
        *(
            Record,
            RecordEnd,
            Away,
            Status,
            Functions,
            Stop,
            Apply,
            NfAdd,
            NfPut,
            NfRemove,
            Subscribe,
            Unsubscribe,
            Ok,
            Error,
        ),
    )
}
"""Every message by its type on the wire."""
