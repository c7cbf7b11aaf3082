# SPDX-License-Identifier: Apache-2.0
"""The Python half of a native NF: what it hears, and what it found.

nfmesh run --pcap tests/captures/office.pcap --nf examples/port_bytes/nf.py
"""

from __future__ import annotations

import ctypes

from mesh import NF, NativeCode, on


class PortBytes(NF):
    """Counts TCP payload by server port, in C."""

    subscribes = (on("packet.tcp"),)
    native = NativeCode("port_bytes", "port_bytes_process", "port_bytes_init", "port_bytes_fini")

    def results(self) -> dict[str, int]:
        assert self.native_handle is not None
        counts = (ctypes.c_uint64 * 65536).from_address(self.native_handle.state)
        return {str(port): n for port, n in enumerate(counts) if n}
