# SPDX-License-Identifier: Apache-2.0
"""Ports as the command line names them: `--in eth0 --out eth1`, `--in a.pcap --out b.pcapng`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from mesh.errors import SpecError
from mesh.port_spec import FILES, KINDS

__all__ = ["ports_from"]

_PCI = re.compile(r"(?:[0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]")
_CAPTURES = {".pcap", ".pcapng", ".cap", ".gz"}


def ports_from(enter: str | None, leave: str | None) -> list[dict[str, Any]]:
    """Turns the words of --in and --out into ports of a spec; between interfaces, both ways.

    Args:
        enter: an interface, KIND:WHAT, a PCI address, or a capture to read.
        leave: the same; a capture is written.

    Raises:
        SpecError: a word that makes no sense where it stands.
    """
    if enter is None:
        if leave is not None:
            text = "says where packets leave: name where they enter, too, with --in"
            raise SpecError("--out", f"{text} (files that NFs write go to --folder)")
        return []
    first = _port(enter, "--in")
    if leave is None:
        return [first]
    second = _port(leave, "--out")
    first["out"] = 1
    if set(second) & set(FILES):
        return [first, second]
    if set(first) & set(FILES):
        second["send_only"] = True  # the run ends with the capture
    else:
        second["out"] = 0
    return [first, second]


def _port(word: str, flag: Literal["--in", "--out"]) -> dict[str, Any]:
    kind, colon, what = word.partition(":")
    if not (colon and kind in KINDS):
        kind, what = _guessed(word, flag), word
    wrong = {"--in": "record", "--out": "pcap"}
    if kind == wrong[flag]:
        text = "a record port is written" if flag == "--in" else "a pcap port is read"
        raise SpecError(
            flag, f"{word}: {text}; it belongs to {'--out' if flag == '--in' else '--in'}"
        )
    if not what:
        raise SpecError(flag, f"{word!r} names nothing: write an interface, a capture or KIND:WHAT")
    return {kind: what}


def _guessed(word: str, flag: str) -> str:
    path = Path(word)
    if "/" in word or path.suffix.lower() in _CAPTURES or (flag == "--in" and path.is_file()):
        return "pcap" if flag == "--in" else "record"
    return "dpdk" if _PCI.fullmatch(word) else "afpacket"
