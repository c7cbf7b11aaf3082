# SPDX-License-Identifier: Apache-2.0
"""What all commands share: consoles, JSON lines, tables, the progress bar.

rich is loaded where something is drawn: who asks for JSON does not wait for it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from mesh.errors import MeshError, NFError, system_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mesh.report import Progress

__all__ = [
    "AsJson",
    "complain",
    "dump",
    "explain",
    "fitted",
    "heading",
    "prints_to_stderr",
    "progress_bar",
    "stdout",
    "table",
    "warn",
]

EMPTY: tuple[Any, ...] = (None, "", [], {})
WIDEST = 60
"""Characters of a cell; --json has the whole text."""
DEEPEST = 32
"""Containers within each other that are written."""
NARROW = 14
"""Characters to which texts are cut, when a table would be wider than the terminal."""
GAP = 2
"""Blanks between the columns of a table."""
PROSE = frozenset({"what", "doc", "hears", "needs", "emits", "message"})
"""Columns that are wrapped instead."""
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable: JSON and nothing else.")]


def stdout() -> Console:
    """Returns the console of standard output; in a pipe, lines are not cut at 80 columns."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def complain(text: str) -> None:
    """Writes one error line."""
    sys.stderr.write(f"nfmesh: {' '.join(text.split())}\n")


def explain(error: BaseException) -> str:
    """Returns an error as people read it: files first, no error numbers."""
    if isinstance(error, NFError) and isinstance(error.cause, MeshError | OSError):
        return explain(error.cause)
    if isinstance(error, OSError) and error.strerror:
        text = system_text(error)
        return f"{error.filename}: {text}" if error.filename else text
    return str(error)


def warn(text: str) -> None:
    """Writes one warning line."""
    sys.stderr.write(f"nfmesh: warning: {' '.join(text.split())}\n")


def dump(value: Any) -> None:
    """Writes one line of JSON, also for what JSON has no word for."""
    try:
        text = _json(value)
    except (TypeError, ValueError, RecursionError):
        text = _json(plain(value))
    sys.stdout.write(text + "\n")


def _json(value: Any) -> str:
    return json.dumps(
        value,
        separators=(",", ":"),
        ensure_ascii=not is_unicode(sys.stdout),
        allow_nan=False,
        default=str,
    )


def is_unicode(stream: TextIO) -> bool:
    """True when any text may be written to `stream`."""
    return (stream.encoding or "").lower().replace("-", "") == "utf8"


def accept_all_text() -> None:
    """Makes the standard streams escape what they have no character for, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def plain(value: Any, depth: int = DEEPEST) -> Any:
    """Turns any value into one that JSON has: keys and strangers become text, NaN null.

    What lies deeper than DEEPEST, perhaps in itself, becomes "...".

    >>> plain({(1, 2): float("inf"), "tags": ("a", b"b")})
    {'(1, 2)': None, 'tags': ['a', "b'b'"]}
    """
    if depth < 0:
        return "..."
    if isinstance(value, Mapping):
        return {str(key): plain(inner, depth - 1) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner, depth - 1) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


@contextmanager
def prints_to_stderr(wanted: bool) -> Iterator[None]:
    """Sends what NFs print to standard error, so that standard output is JSON and nothing else."""
    with redirect_stdout(sys.stderr) if wanted else nullcontext():
        yield


def table(title: str, rows: Sequence[Mapping[str, Any]], columns: Iterable[str] = ()) -> Table:
    """Makes a table of records.

    Args:
        title: above it.
        rows: records with the same keys; one named "time" is seconds since the epoch.
        columns: keys to show; default all that some record has a value for.
    """
    from rich.table import Table

    names = list(columns) or [k for k in rows[0] if any(r.get(k) not in EMPTY for r in rows)]
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in names:
        numbers = all(isinstance(row.get(name), int | float | None) for row in rows)
        made.add_column(
            name.replace("_", " "),
            justify="right" if numbers and name != "time" else "left",
            no_wrap=name not in PROSE,
        )
    for row in rows:
        made.add_row(*(_written(name, row.get(name)) for name in names))
    return made


def heading(console: Console, text: str) -> None:
    """Prints a line with a title, not longer than lines of text are."""
    from rich.markup import escape
    from rich.rule import Rule

    console.print(Rule(f"[bold]{escape(text)}", align="left", style="dim"), width=79)


def fitted(rows: Sequence[Mapping[str, Any]], room: int) -> tuple[Table, list[str]]:
    """Makes a table of records that is no wider than `room`, and names the columns left out.

    Columns come in the order of the records' keys, the most telling first: those to the right are
    left out. Texts are cut down to NARROW characters before that.
    """
    made = table("", rows)
    full = {}
    for column in made.columns:
        cells = [str(column.header), *map(str, column.cells)]
        full[str(column.header)] = max(map(len, cells))
    left = room + GAP
    kept: dict[str, int] = {}
    for column in made.columns:
        name, is_text = str(column.header), column.justify == "left" and column.header != "time"
        least = min(full[name], max(NARROW, len(name))) if is_text else full[name]
        if kept and least + GAP > left:
            break
        kept[name] = least
        left -= least + GAP
    made.columns = made.columns[: len(kept)]
    for column in made.columns:
        name = str(column.header)
        more = min(left, full[name] - kept[name])
        column.max_width = kept[name] + more
        left -= more
    return made, list(full)[len(kept) :]


def _written(name: str, value: Any) -> str:
    if name == "time" and isinstance(value, int | float):
        return clock(value)
    text = cell(value)
    return text if name in PROSE or len(text) <= WIDEST else text[: WIDEST - 3] + "..."


def cell(value: Any, depth: int = DEEPEST) -> str:
    """Writes one value for people.

    >>> cell(1234567), cell(0.25), cell(None), cell(True), cell(["A 192.0.2.1", "A 192.0.2.2"])
    ('1,234,567', '0.25', '-', 'yes', 'A 192.0.2.1, A 192.0.2.2')
    """
    if value in EMPTY:
        return "-"
    if depth < 0:
        return "..."
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 100_000 else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {cell(inner, depth - 1)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(cell(inner, depth - 1) for inner in value)
    from rich.markup import escape

    return escape(str(value))


def clock(seconds: float) -> str:
    """Writes the time of day of a moment, in UTC.

    >>> clock(0.0015)
    '00:00:00.001500'
    """
    return f"{datetime.fromtimestamp(seconds, UTC):%H:%M:%S.%f}"


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[Progress], None] | None]:
    """Shows how far a run is, on a terminal only; yields what `mesh.replay` calls, or None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress
    from rich.console import Console
    from rich.markup import escape

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[packets]} packets, {task.fields[rate]}/s"),
        progress.TimeRemainingColumn(compact=True),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(label), total=None, packets="0", rate="0")

        def show(now: Progress) -> None:
            rate = now.packets / now.seconds if now.seconds > 0 else 0
            bar.update(
                task,
                total=now.size or None,
                completed=now.position,
                packets=f"{now.packets:,}",
                rate=f"{rate:,.0f}",
            )

        yield show
