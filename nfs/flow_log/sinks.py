# SPDX-License-Identifier: Apache-2.0
"""Where connection records go: JSON lines, CSV or Parquet, into a file or nowhere."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Literal, Protocol

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


def open_sink(file: IO[Any] | None, form: Format) -> Sink:
    """Makes what writes records.

    Args:
        file: open, for Parquet in binary; the sink closes it. None is standard output.
        form: how records are written.

    Raises:
        ValueError: Parquet without pyarrow, or on standard output.
    """
    if form == "parquet":
        return _Parquet(file)
    return (_JsonLines if form == "json" else _Csv)(file)


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

    def __init__(self, file: IO[Any] | None) -> None:
        self.file: IO[Any] = sys.stdout if file is None else file

    def close(self) -> None:
        """Flushes; closes the file."""
        self.file.flush()
        if self.file is not sys.stdout:
            self.file.close()


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

    def __init__(self, file: IO[Any] | None) -> None:
        if file is None:
            raise ValueError("Parquet needs a file: set path")
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ValueError("Parquet needs pyarrow: pip install 'nfmesh[parquet]'") from error
        self._arrow = pyarrow
        self._file = file
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
