# SPDX-License-Identifier: Apache-2.0
"""What an inline NF says of packets: a column of verdicts beside each run of entries.

Every entry passes at first; the last word of the NF counts. Of several NFs' words the most
restrictive holds; mirroring, rewriting and redirecting add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mesh._ffi import native
from mesh.errors import CapacityError, StateError
from mesh.memory import Memory

__all__ = ["DROP", "EDIT", "KEEP", "MIRROR", "PASS", "REDIRECT", "REJECT", "REST", "REWRITE"]
__all__ += ["Verdicts", "fill_edit", "fitting", "word"]

PASS, MIRROR, REWRITE, REDIRECT, KEEP, DROP, REJECT = range(7)
"""enum nfm_action."""
REST: Final = 1 << 31
ARG_SHIFT: Final = 8
ARG_MASK: Final = 0x7FFFFF

EDIT = np.dtype(
    [
        ("fields", "<u4"),
        ("seq_add", "<u4"),
        ("ack_add", "<u4"),
        ("src_port", "<u2"),
        ("dst_port", "<u2"),
        ("src", "u1", 16),
        ("dst", "u1", 16),
        ("src_mac", "u1", 6),
        ("dst_mac", "u1", 6),
        ("vlan", "<u2"),
        ("ttl", "u1"),
        ("out", "u1"),
    ]
)
"""nfm_edit."""
_FIELDS: Final = {
    "src_ip": 1,
    "dst_ip": 2,
    "src_port": 4,
    "dst_port": 8,
    "src_mac": 16,
    "dst_mac": 32,
    "ttl": 64,
    "ttl_down": 128,
    "vlan_push": 256,
    "vlan_pop": 512,
    "seq_add": 1024,
    "ack_add": 2048,
    "out": 8192,
}
"""Keyword of `rewrite` → enum nfm_edit_field."""
_PAYLOAD: Final = 32768
"""NFM_EDIT_PAYLOAD: seq_add and ack_add say where the bytes are, and how many."""
_LIMIT: Final = 1 << 17
"""Half of NFM_PAYLOAD_BYTES."""
_COLUMNS: Final = {
    "src_ip": "src",
    "dst_ip": "dst",
    "ttl_down": "ttl",
    "vlan_push": "vlan",
}

Rows = npt.NDArray[np.intp]


class Verdicts:
    """The verdicts of one run of entries.

    Args:
        words: u32[n], written in place.
        edits: EDIT[n], likewise.
        ring: `nfm_ring *` that they belong to, or None.
    """

    __slots__ = ("edits", "ring", "words")

    def __init__(
        self, words: npt.NDArray[np.uint32], edits: npt.NDArray[Any], ring: Any = None
    ) -> None:
        self.words, self.edits, self.ring = words, edits, ring

    @classmethod
    def of_ring(cls, ring: Any, n: int) -> Verdicts:
        """Takes the verdicts of the next `n` entries of a `nfm_ring *`; all pass."""
        ffi, lib = native()
        words = ffi.buffer(lib.nfm_ring_verdicts(ring, n), 4 * n)
        edits = ffi.buffer(lib.nfm_ring_edits(ring), EDIT.itemsize * n)
        return cls(np.frombuffer(words, np.uint32), np.frombuffer(edits, EDIT), ring)

    @classmethod
    def empty(cls, n: int) -> Verdicts:
        """Makes verdicts of no ring: `scatter` takes them over."""
        return cls(np.zeros(n, np.uint32), np.zeros(n, EDIT))

    def scatter(self, rows: Rows, part: Verdicts) -> None:
        """Enters the verdicts of some of the run's entries."""
        self.words[rows] = part.words
        edited = (part.words & 0xFF) == REWRITE
        self.edits[rows[edited]] = part.edits[edited]

    def replace(self, row: int, payload: bytes | bytearray | memoryview) -> None:
        """Enters a verdict that puts other bytes in the place of an entry's own.

        Raises:
            CapacityError: too long, or too many in one batch.
            StateError: these verdicts belong to no ring.
        """
        if self.ring is None:
            raise StateError("only Python handlers replace payloads by `replace`")
        ffi, lib = native()
        offset = ffi.new("uint32_t *")
        room = lib.nfm_ring_payload(self.ring, len(payload), offset)
        if room == ffi.NULL:
            text = f"no room for {len(payload)} bytes in an entry's place: {_LIMIT} at most, and as"
            raise CapacityError(f"{text} many at once as `edits=True` of the subscription allows")
        ffi.memmove(room, payload, len(payload))
        self.edits[row] = np.zeros(1, EDIT)[0]
        self.edits[row]["fields"] = _PAYLOAD
        self.edits[row]["seq_add"], self.edits[row]["ack_add"] = offset[0], len(payload)
        self.words[row] = REWRITE

    def fail(self, rows: Rows | slice, *, is_open: bool) -> None:
        """Enters what the NF's policy says of entries that it did not judge."""
        self.words[rows] = PASS if is_open else DROP


def fitting(ring: Any, memory: Memory, desc: Any, n: int) -> int:
    """Returns how many of a run's first entries may get other payloads now."""
    return int(native().lib.nfm_ring_payloads_fit(ring, memory.mem, desc, n))


def word(action: int, argument: int = 0, *, rest: bool = False) -> int:
    """Makes a verdict.

    Raises:
        ValueError: the argument is no port number.
    """
    if not 0 <= argument <= ARG_MASK:
        raise ValueError(f"{argument} is no number of a port")
    return action | argument << ARG_SHIFT | (REST if rest else 0)


def fill_edit(edits: npt.NDArray[Any], what: dict[str, Any]) -> npt.NDArray[Any]:
    """Writes what `rewrite` was asked for into rows of EDIT; returns them.

    Raises:
        ValueError: a value is no address, port, MAC address or number; or nothing is rewritten.
        StateError: no such field.
    """
    unknown = set(what) - set(_FIELDS)
    if unknown or not what:
        known = ", ".join(_FIELDS)
        raise StateError(f"rewrite knows {known}; not {', '.join(sorted(unknown)) or 'nothing'}")
    if "ttl" in what and "ttl_down" in what:
        raise StateError("rewrite sets the TTL or takes from it, not both")
    edits[:] = np.zeros(1, EDIT)
    for name, value in what.items():
        if name == "vlan_pop" and not value:
            continue
        edits["fields"] |= _FIELDS[name]
        if name in ("src_ip", "dst_ip"):
            edits[_COLUMNS[name]] = _addresses(value, len(edits))
        elif name in ("src_mac", "dst_mac"):
            edits[name] = _mac(value)
        elif name != "vlan_pop":
            edits[_COLUMNS.get(name, name)] = np.asarray(value)
    return edits


def _addresses(value: Any, n: int) -> npt.NDArray[np.uint8]:
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        return value
    if isinstance(value, str | IPv4Address | IPv6Address):
        return _address(value)
    if isinstance(value, Sequence) and len(value) == n:
        return np.stack([_address(each) for each in value])
    raise ValueError(f"{value!r} is no address, and not one for each event")


def _address(value: str | IPv4Address | IPv6Address) -> npt.NDArray[np.uint8]:
    packed = ip_address(value).packed
    return np.frombuffer(packed.ljust(16, b"\0"), np.uint8)


def _mac(value: Any) -> npt.NDArray[np.uint8]:
    raw = bytes.fromhex(value.replace(":", "")) if isinstance(value, str) else bytes(value)
    if len(raw) != 6:
        raise ValueError(f"{value!r} is no MAC address")
    return np.frombuffer(raw, np.uint8)
