# SPDX-License-Identifier: Apache-2.0
"""Every error that nfmesh raises, as one tree.

MeshError
├── SpecError          a spec file or an option is wrong: .path names the place
├── FilterError        a filter does not parse or does not fit: .expression, .position
├── PlanError          what was asked for cannot be composed: .nf, .subscription, .path
│   ├── UnknownEvent   no event type has this name
│   ├── UnknownField   the event type has no such field
│   ├── UnraisedEvent  nobody in the plan raises this event
│   ├── NeedCycle      modules or NFs wait for each other's events
│   ├── ModuleMissing  a stack module is not installed
│   ├── NFMissing      a network function is not installed or cannot be loaded
│   └── StageConflict  two editors share a stage
├── NativeError        the C library refused: .code, .where
├── CapacityError      a plan or a run asks for more memory than there is
├── StateError         a method was called in the wrong order
├── ProcessError       a process of the mesh did not start or went wrong: .process
│   └── AttachError    a process was not given the shared memory that it asked for
├── ApiError           a Kubernetes API server refused or does not answer: .status, .reason
└── NFError            an exception inside a network function: .nf, .event, .cause
"""

from __future__ import annotations

import difflib
import errno
import traceback
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "ApiError",
    "AttachError",
    "CapacityError",
    "FilterError",
    "MeshError",
    "ModuleMissing",
    "NFError",
    "NFMissing",
    "NativeError",
    "NeedCycle",
    "PlanError",
    "ProcessError",
    "SpecError",
    "StageConflict",
    "StateError",
    "UnknownEvent",
    "UnknownField",
    "UnraisedEvent",
    "did_you_mean",
    "place_of",
    "place_text",
    "system_text",
]


_FILES = "raise the limit of open files (ulimit -n)"
_REMEDIES = {
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EAGAIN: "raise the limit of processes (ulimit -u)",
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EROFS: "name a folder that is not read-only",
}


class MeshError(Exception):
    """The root of the tree; its text is one line fit for a terminal."""


class SpecError(MeshError):
    """The user's file or option is wrong.

    Attributes:
        path: where, as in `nfs[2].where`; empty for the whole file.
        text: what is wrong and how to mend it.
        nf: name of the network function that `nfs[2]` is, where that is known.
    """

    def __init__(self, path: str, text: str, *, nf: str = "") -> None:
        super().__init__(f"{path}: {text}" if path else text)
        self.path, self.text, self.nf = path, text, nf


class FilterError(MeshError):
    """A filter does not parse, or names what its event does not have.

    Attributes:
        text: what is wrong.
        expression: the whole filter as the user wrote it.
        position: offset of the offending word in `expression`, or None.
    """

    def __init__(self, text: str, expression: str = "", position: int | None = None) -> None:
        super().__init__(f"{text} (in filter {expression!r})" if expression else text)
        self.text, self.expression, self.position = text, expression, position


class PlanError(MeshError):
    """What was asked for cannot be composed.

    Attributes:
        text: what is wrong.
        nf: name of the network function that asked, or "".
        subscription: name of its subscription, or "".
        path: place in the spec, or "".
    """

    def __init__(self, text: str, *, nf: str = "", subscription: str = "", path: str = "") -> None:
        who = f"NF {nf!r}" if nf else ""
        if subscription:
            who = f"{who}, subscription {subscription!r}" if who else f"{subscription!r}"
        super().__init__(": ".join(part for part in (path, who, text) if part))
        self.text, self.nf, self.subscription, self.path = text, nf, subscription, path


class UnknownEvent(PlanError):
    """No event type has this name."""


class UnknownField(PlanError):
    """The event type has no such field."""


class UnraisedEvent(PlanError):
    """Nobody in the plan raises this event."""


class NeedCycle(PlanError):
    """Modules or network functions wait for each other's events."""


class ModuleMissing(PlanError):
    """A stack module that somebody needs is not installed."""


class NFMissing(PlanError):
    """A network function is not installed or cannot be loaded."""


class StageConflict(PlanError):
    """Two network functions want to edit packets in the same stage."""


class NativeError(MeshError):
    """The C library refused.

    Attributes:
        code: a negative `enum nfm_status`.
        where: the call that failed, or the file it was about.
        text: the library's own words.
    """

    def __init__(self, code: int, where: str, text: str) -> None:
        super().__init__(f"{where}: {text}" if where else text)
        self.code, self.where, self.text = code, where, text


class CapacityError(MeshError):
    """A plan or a run asks for more memory than there is."""


class StateError(MeshError):
    """A method was called in the wrong order, or after the object was closed."""


class ProcessError(MeshError):
    """A process of the mesh did not start, or did what it must not.

    Attributes:
        process: its name, or "".
        text: what is wrong.
    """

    def __init__(self, text: str, process: str = "") -> None:
        super().__init__(f"{process}: {text}" if process else text)
        self.process, self.text = process, text


class AttachError(ProcessError):
    """A process was not given the shared memory that it asked for.

    Attributes:
        reason: the word that it was refused with (`token`, `twice`), or "".
    """

    def __init__(self, text: str, process: str = "", reason: str = "") -> None:
        super().__init__(text, process)
        self.reason = reason


class ApiError(MeshError):
    """A Kubernetes API server refused, or does not answer.

    Attributes:
        status: of HTTP; 0 when there was no answer.
        reason: the server's word (`Conflict`, `Expired`), or "".
        text: what is wrong.
        retry_after_s: seconds that the server wants to be left alone for; 0 none said.
    """

    def __init__(
        self, text: str, *, status: int = 0, reason: str = "", retry_after_s: float = 0.0
    ) -> None:
        super().__init__(f"API server: {text}")
        self.text, self.status, self.reason = text, status, reason
        self.retry_after_s = retry_after_s


class NFError(MeshError):
    """An exception inside a network function; the others went on.

    Attributes:
        nf: name of the network function.
        event: the handler or event that was being handled, or the life-cycle hook.
        cause: the original exception, traceback included.
    """

    def __init__(self, nf: str, event: str, cause: BaseException) -> None:
        text = f"NF {nf!r} failed in {event}: {type(cause).__name__}: {cause}{place_of(cause)}"
        super().__init__(text)
        self.nf, self.event, self.cause = nf, event, cause
        self.__cause__ = cause


def system_text(error: OSError) -> str:
    """Says what the system refused, and how to mend it where that is known.

    >>> system_text(OSError(errno.EMFILE, "Too many open files"))
    'Too many open files; raise the limit of open files (ulimit -n)'
    """
    text = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{text}; {remedy}" if remedy else text


def place_of(error: BaseException) -> str:
    """Says in which line of whose code an error was raised, as in `" (mine.py:12)"`.

    The innermost line of a file that belongs neither to nfmesh nor to Python is meant.
    """
    own, python = str(Path(__file__).parent), str(Path(traceback.__file__).parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = frame.filename
        is_python = file.startswith(python) and "-packages" not in file
        if not (is_python or file.startswith((own, "<"))):
            return f" ({file}:{frame.lineno})"
    return ""


def place_text(place: Iterable[int | str], text: str = "") -> str:
    """Writes a place in a file as users read it, behind `text`.

    >>> place_text(("nfs", 2, "where"))
    'nfs[2].where'
    """
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Says what the user probably meant.

    Returns:
        `"; did you mean 'proto'?"`, or an empty string when nothing is close.

    >>> did_you_mean("prot", ["proto", "port"])
    "; did you mean 'proto'?"
    >>> did_you_mean("xyz", ["proto"])
    ''
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
