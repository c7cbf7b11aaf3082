# SPDX-License-Identifier: Apache-2.0
"""Parses HTTP/1.x requests and responses; the code is C, this is its handle."""

from __future__ import annotations

from mesh.module import ModuleInfo

__all__ = ["INFO"]

INFO = ModuleInfo.builtin("http")
