# SPDX-License-Identifier: Apache-2.0
"""Words for the numbers of enumerations, as the C library declares them."""

from __future__ import annotations

import functools

from mesh._ffi import native

__all__ = ["MAX_WORKERS", "OWN_DOMAIN", "enumeration"]

OWN_DOMAIN = "default"
"""The domain of NFs that map the worker's memory."""
MAX_WORKERS = 32
"""Of one mesh: an NF's event log knows 64 rings by their worker, and each has a quarter of a core.
"""

_ENUMERATIONS = {
    "conn_state": ("enum nfm_conn_state", "NFM_CS_"),
    "tcp_state": ("enum nfm_tcp_state", "NFM_TCP_"),
    "end_reason": ("enum nfm_end_reason", "NFM_END_"),
    "gap_reason": ("enum nfm_gap_reason", "NFM_GAP_"),
    "tunnel": ("enum nfm_tunnel", "NFM_TUNNEL_"),
}


@functools.cache
def enumeration(unit: str) -> tuple[str, ...] | None:
    """Returns the words of an enumeration by number, None when `unit` is none.

    Connection states are Zeek's words ("SF"), all others are in lower case ("fin").
    """
    if unit not in _ENUMERATIONS:
        return None
    ctype, prefix = _ENUMERATIONS[unit]
    names: dict[int, str] = native().ffi.typeof(ctype).elements
    words = [names[number].removeprefix(prefix) for number in range(len(names))]
    if unit == "conn_state":
        words[0] = ""
        return tuple(words)
    return tuple(word.lower() for word in words)
