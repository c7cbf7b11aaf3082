# SPDX-License-Identifier: Apache-2.0
"""Delivers TCP payload in order, without copying; the code is C, this is its handle."""

from __future__ import annotations

from mesh.module import ModuleInfo

__all__ = ["INFO"]

INFO = ModuleInfo.builtin("tcp_stream")
