# SPDX-License-Identifier: Apache-2.0
"""Records that an NF finds: all of them in a file as JSON lines, the first ones kept to show."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from mesh.nf import Context

__all__ = ["Records"]


class Records:
    """Takes records one by one.

    Args:
        path: file, relative to the folder for output; "" writes none, "-" standard output.
        keep: how many are kept.

    Attributes:
        kept: the first ones.
    """

    def __init__(self, path: str, keep: int) -> None:
        self.path, self.keep = path, keep
        self.kept: list[Mapping[str, Any]] = []
        self._file: TextIO | None = None

    def open(self, ctx: Context) -> None:
        """Opens the file: in `NF.start`.

        Raises:
            OSError: it cannot be written.
        """
        if self.path == "-":
            self._file = sys.stdout
        elif self.path:
            self._file = ctx.open(self.path)  # type: ignore[assignment]

    def write(self, record: Mapping[str, Any]) -> None:
        """Takes a record."""
        if self._file is not None:
            self._file.write(json.dumps(record, separators=(",", ":")) + "\n")
        if len(self.kept) < self.keep:
            self.kept.append(record)

    def close(self) -> None:
        """Closes the file: in `NF.stop`. A second time does nothing."""
        file, self._file = self._file, None
        if file is sys.stdout:
            file.flush()
        elif file is not None:
            file.close()
