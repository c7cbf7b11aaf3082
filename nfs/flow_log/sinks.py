# SPDX-License-Identifier: Apache-2.0
"""Where connection records go: JSON lines, CSV or Parquet, into a file or nowhere."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

Format = Literal["json", "csv", "parquet"]
Record = Mapping[str, Any]


class Sink(Protocol):
    """Takes records as flows end."""

    def write(self, records: Iterable[Record]) -> None:
        """Writes some records."""

    def close(self) -> None:
        """Completes the file."""


def format_of(path: str) -> Format:
    """Returns the format that the name of a file asks for: json unless it is .csv or .parquet.

    >>> format_of("day.csv"), format_of("day.jsonl")
    ('csv', 'json')
    """
    suffix = Path(path).suffix.lower()
    return "csv" if suffix == ".csv" else "parquet" if suffix == ".parquet" else "json"


def open_sink(path: Path | None, form: Format) -> Sink:
    """Opens a file for records; None is standard output (not for Parquet).

    Raises:
        OSError: the file cannot be written.
        ValueError: Parquet without pyarrow, or on standard output.
    """
    if form == "parquet":
        return _Parquet(path)
    return (_JsonLines if form == "json" else _Csv)(path)


def flat(record: Record) -> dict[str, Any]:
    """Returns a record without nesting: c2s_packets, c2s_payload_bytes, ...

    >>> flat({"proto": "tcp", "c2s": {"packets": 1}})
    {'proto': 'tcp', 'c2s_packets': 1}
    """
    found: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= {f"{name}_{inner}": item for inner, item in value.items()}
        else:
            found[name] = value
    return found


class _Text:
    """A text file, or standard output, which stays open."""

    def __init__(self, path: Path | None) -> None:
        self._stack = ExitStack()
        self.file: TextIO = sys.stdout
        if path is not None:
            self.file = self._stack.enter_context(path.open("w", encoding="utf-8", newline=""))

    def close(self) -> None:
        """Flushes; closes what was opened."""
        self.file.flush()
        self._stack.close()


class _JsonLines(_Text):
    def write(self, records: Iterable[Record]) -> None:
        """Writes an object per line."""
        for record in records:
            self.file.write(json.dumps(record, separators=(",", ":")) + "\n")


class _Csv(_Text):
    _writer: csv.DictWriter[str] | None = None

    def write(self, records: Iterable[Record]) -> None:
        """Writes a line per record, with the names in front of the first."""
        for record in map(flat, records):
            if self._writer is None:
                self._writer = csv.DictWriter(self.file, list(record), lineterminator="\n")
                self._writer.writeheader()
            self._writer.writerow(record)


class _Parquet:
    """A Parquet file, one row group per batch of records."""

    def __init__(self, path: Path | None) -> None:
        if path is None:
            raise ValueError("Parquet needs a file: set path")
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ValueError("Parquet needs pyarrow: pip install 'nfmesh[parquet]'") from error
        self._arrow = pyarrow
        self._file = path.open("wb")
        self._schema = _parquet_schema(pyarrow)
        self._writer = pyarrow.parquet.ParquetWriter(self._file, self._schema)

    def write(self, records: Iterable[Record]) -> None:
        """Writes a row group."""
        rows = [flat(record) for record in records]
        if rows:
            self._writer.write_table(self._arrow.Table.from_pylist(rows, schema=self._schema))

    def close(self) -> None:
        """Writes the footer."""
        self._writer.close()
        self._file.close()


def _parquet_schema(arrow: Any) -> Any:
    text, real, count = arrow.string(), arrow.float64(), arrow.int64()
    fields = [(name, text) for name in ("proto", "client", "server", "client_basis", "state")]
    fields += [("start", real), ("duration", real)]
    for way in ("c2s", "s2c"):
        for name in ("packets", "payload_bytes", "stream_bytes", "gap_bytes"):
            fields.append((f"{way}_{name}", count))
        fields.append((f"{way}_sha256", text))
        fields += [(f"{way}_retransmitted", count), (f"{way}_out_of_order", count)]
    return arrow.schema(fields)
