# SPDX-License-Identifier: Apache-2.0
"""A port whose frames are written to files from the start of the mesh: `capture` of a port's spec.

Theory of operation. It is a tee that nobody has to ask. When its file fails, the disk full, the
recording is over and the port goes on: the reason is the port's warning, and what is missed from
then on is counted. Files that an earlier worker left are put aside like full ones.
"""

from __future__ import annotations

from typing import Any

from mesh.control.port_parts import CapturePart
from mesh.errors import FilterError, NativeError, SpecError, UnknownField
from mesh.port_wrappers import Tee, Wrapper
from mesh.ports import Port
from mesh.recording import packet_filter

__all__ = ["Captured", "finish_captures", "look_at_captures"]


class Captured(Tee):
    """Such a port.

    Args:
        inner: which it takes over.
        part: of the plan.
        is_again: a worker was here before, so packets matter more than their capture.

    Raises:
        NativeError: the file cannot be written; not if `is_again`.
        SpecError: the filter is none.
    """

    def __init__(self, inner: Port, part: CapturePart, *, is_again: bool) -> None:
        super().__init__(inner)
        self._is_over = False
        try:
            self._begin(part, is_again=is_again)
        except BaseException:
            self.close()
            raise

    def _begin(self, part: CapturePart, *, is_again: bool) -> None:
        try:
            self.start(
                part.path,
                _filter_of(part),
                snaplen=part.snaplen,
                direction=part.direction,
                max_file=part.max_file,
                max_files=part.files,
            )
        except NativeError as error:
            if not is_again:
                raise
            self._give_up(error)

    def look(self) -> str:
        """Returns why the recording has ended by itself, once; else ""."""
        if self._is_over or not self.recording().failed:
            return ""
        self.finish()
        return self.trouble

    def finish(self) -> None:
        """Writes what is left and closes the file; what is wrong is the port's `trouble`."""
        if self._is_over:
            return
        self._is_over = True
        try:
            self.stop()
        except NativeError as error:
            self._give_up(error)

    def own_counters(self) -> dict[str, int]:
        """Returns what became of the frames; those of a file that failed are lost."""
        found = self.recording()
        unwritten = found.recorded - found.written if found.failed else 0
        return {
            "capture.written": found.written,
            "capture.lost": found.lost + unwritten,
            "capture.files": found.files,
            "capture.failed": int(bool(self.trouble)),
        }

    def _give_up(self, error: NativeError) -> None:
        self._is_over = True
        self.trouble = f"its capture is over, packets pass: {error}"


def look_at_captures(port: Port) -> str:
    """Returns why a recording at the port has ended by itself, once; else ""."""
    return " ".join(filter(None, [layer.look() for layer in _captured(port)]))


def finish_captures(port: Port) -> None:
    """Closes the files of the port's captures."""
    for layer in _captured(port):
        layer.finish()


def _filter_of(part: CapturePart) -> Any:
    try:
        return packet_filter(part.where)
    except (FilterError, UnknownField) as error:
        raise SpecError(f"capture of {part.path}: filter", str(error)) from error


def _captured(port: Port) -> list[Captured]:
    layers = port.layers() if isinstance(port, Wrapper) else []
    return [layer for layer in layers if isinstance(layer, Captured)]
