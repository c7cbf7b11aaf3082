# SPDX-License-Identifier: Apache-2.0
"""Reassembles IP fragments before flows are looked up; the code is C, this is its handle."""

from __future__ import annotations

from mesh.module import ModuleInfo

__all__ = ["INFO"]

INFO = ModuleInfo.builtin("ip_defrag")
