# SPDX-License-Identifier: Apache-2.0
"""Raises udp.datagram and follows UDP flows; the code is C, this is its handle."""

from __future__ import annotations

from mesh.module import ModuleInfo

__all__ = ["INFO"]

INFO = ModuleInfo.builtin("udp")
